//! The relay's behaviour, over real sockets against a started gateway.

mod admin;
mod by_hand;
mod drain;
mod front_door;
mod keys;
mod logs;
mod metrics;
mod pairing;
mod process;
#[path = "../support/requirement.rs"]
mod requirement;
mod support;
mod upgrade;
mod vectors;
