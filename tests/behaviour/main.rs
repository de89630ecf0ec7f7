//! The relay's behaviour, over real sockets against a started gateway.

mod access;
mod admin;
mod arrivals;
mod autobahn;
mod bulk;
mod by_hand;
mod drain;
mod early_bytes;
mod endings;
mod forwarded;
mod front_door;
mod half_close;
mod halves;
mod in_front;
mod keys;
mod logs;
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
mod slow_readers;
mod strangers;
mod support;
mod upgrade;
mod vectors;
mod websocket_frames;
