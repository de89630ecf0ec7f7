//! TLS on the relay's own port: whatever a client may say plainly it may say in TLS.

mod certificates;
mod client;
mod handshake;
mod relaying;

pub(crate) use client::{Identity, Io, Kind, Peer, TlsGateway, shake_hands};
