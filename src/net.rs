//! Sockets, up to the point where a leg has said who it is: accepting, who stands in front, telling
//! protocols apart, reading the first message, and a leg's two states, awake and parked.

pub mod access;
pub mod first_message;
pub mod handover;
pub mod http_head;
pub mod inherited;
pub mod leg;
pub mod listener;
pub mod liveness;
pub mod proxy_protocol;
pub mod read;
pub mod refusals;
pub mod rewind;
pub mod sniff;
pub mod strangers;
pub mod stream;
pub mod tls;
pub mod write_deadline;
