//! Whom a request's headers name, for `tests/fuzz`, which cannot see within. There only where
//! `cfg(fuzzing)` is.

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarded::{Asker, asker};
use crate::config::ProxyConfig;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Nobody but the connection's peer.
    Peer,
    /// Somebody for whom the peer speaks.
    Client(SocketAddr),
    /// The headers name different clients.
    Contradictory,
}

/// Who asks with these headers over a connection of `peer`; `None` where one cannot be a header.
pub fn named(headers: &[(&str, &[u8])], peer: SocketAddr, proxies: &ProxyConfig) -> Option<Named> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        map.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(match asker(&map, peer, proxies) {
        Asker::Peer => Named::Peer,
        Asker::Client(client) => Named::Client(client),
        Asker::Contradictory => Named::Contradictory,
    })
}
