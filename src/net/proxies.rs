//! Which peers are proxies whose word on a client's address is taken, and which word. It can
//! change at any time.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, Guard};

use crate::config::{ProxyConfig, ProxyProtocol};

/// The proxies that are trusted.
pub struct Proxies(ArcSwap<ProxyConfig>);

impl Proxies {
    /// Those of `config`.
    pub fn new(config: &ProxyConfig) -> Self {
        Self(ArcSwap::from_pointee(config.clone()))
    }

    /// Trusts those of `config` from now on, and no others. What a proxy said of a connection
    /// before stands.
    pub fn replace(&self, config: &ProxyConfig) {
        self.0.store(Arc::new(config.clone()));
    }

    /// Whom to trust now.
    pub fn now(&self) -> Guard<Arc<ProxyConfig>> {
        self.0.load()
    }

    /// Whether a connection from `peer` begins with a PROXY header.
    pub fn protocol_from(&self, peer: SocketAddr) -> ProxyProtocol {
        let now = self.0.load();
        // The usual case is that nobody is in the list.
        if now.trusts(peer.ip()) { now.protocol } else { ProxyProtocol::Off }
    }
}
