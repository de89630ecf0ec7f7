//! The relay's behaviour, over real sockets against a started gateway.

mod access;
mod acme;
mod admin;
mod arrivals;
mod autobahn;
mod balancers;
mod bandwidth;
mod bulk;
mod by_hand;
mod cluster;
mod descriptors;
mod drain;
mod early_bytes;
mod endings;
mod far;
mod faults;
mod forwarded;
mod front_door;
mod half_close;
mod halves;
mod handover;
mod in_front;
mod key_ring;
mod keys;
mod logs;
mod memory;
mod metrics;
mod mixed_transports;
mod pairing;
mod planes;
mod process;
mod proxy_header;
mod raw_websocket;
mod refusals;
mod reload;
#[path = "../support/requirement.rs"]
mod requirement;
mod servers;
mod service;
#[path = "../support"]
mod shared {
    pub(crate) mod simulation;
}
mod slow_readers;
mod strangers;
mod support;
mod tls;
mod upgrade;
mod vanishing;
mod vectors;
mod websocket_frames;

/// Whether legs land on two nodes.
const ACROSS: bool = false;
