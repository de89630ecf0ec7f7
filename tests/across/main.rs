//! What is true of one node, of two: the same tests, and whoever comes while its peer waits lands on
//! the other node. What both count is added up, so that nothing may be counted twice.

#![expect(dead_code, reason = "what the tests need that are of one node only")]

/// Whether legs land on two nodes.
const ACROSS: bool = true;

#[path = "../behaviour/bandwidth.rs"]
mod bandwidth;
#[path = "../behaviour/bulk.rs"]
mod bulk;
#[path = "../behaviour/by_hand.rs"]
mod by_hand;
#[path = "../behaviour/early_bytes.rs"]
mod early_bytes;
#[path = "../behaviour/endings.rs"]
mod endings;
#[path = "../behaviour/far.rs"]
mod far;
#[path = "../behaviour/half_close.rs"]
mod half_close;
#[path = "../behaviour/halves.rs"]
mod halves;
#[path = "../behaviour/mixed_transports.rs"]
mod mixed_transports;
#[path = "../behaviour/pairing.rs"]
mod pairing;
#[path = "../behaviour/planes.rs"]
mod planes;
#[path = "../behaviour/raw_websocket.rs"]
mod raw_websocket;
#[path = "../support/requirement.rs"]
mod requirement;
#[path = "../behaviour/servers.rs"]
mod servers;
#[path = "../behaviour/slow_readers.rs"]
mod slow_readers;
#[path = "../behaviour/support.rs"]
mod support;
#[path = "../behaviour/websocket_frames.rs"]
mod websocket_frames;

#[path = "../behaviour/cluster"]
mod cluster {
    pub(crate) mod redis;
}

#[path = "../behaviour/tls"]
mod tls {
    mod client;
    mod relaying;

    pub(crate) use client::*;
}
