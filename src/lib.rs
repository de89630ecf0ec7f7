//! The relay that RustDesk-family remote desktops fall back to when two machines behind NATs
//! cannot reach each other: it pairs the two connections that name one uuid and moves their bytes.
#![forbid(unsafe_code)]

pub mod acme;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod front_door;
pub mod gateway;
pub mod http;
pub mod key;
pub mod key_ring;
pub mod metrics;
pub mod net;
pub mod relay;
pub mod service_manager;
pub mod shutdown;
pub mod telemetry;
pub mod wire;
