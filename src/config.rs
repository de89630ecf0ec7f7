//! What the operator asked for: one struct a section, newtypes for units, and the layers that
//! they are read from. The only room that knows figment.
//!
//! It does not act on a setting, and opens no file but the configuration itself.

mod admin;
mod front_door;
mod log;
mod pairing;
mod relay;
mod shutdown;
mod units;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    admin::AdminConfig,
    front_door::FrontDoorConfig,
    log::{LogConfig, LogFormat},
    pairing::PairingConfig,
    relay::RelayConfig,
    shutdown::ShutdownConfig,
    units::{Duration, Secret, Size},
};

/// Everything that can be set. `Config::default()` is what runs when nothing is.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the front door listens; every listener takes every protocol.
    #[serde(deserialize_with = "units::listeners")]
    pub listen: Vec<SocketAddr>,
    /// The key that clients must send. Empty: an open relay. `-` or `_`: `id_ed25519` in the
    /// working directory. A base64 Ed25519 secret key: its public half.
    pub key: Secret,
    /// A file that holds the key; empty for none.
    pub key_file: PathBuf,
    /// The front door: first bytes, deadlines, how many connections.
    pub front_door: FrontDoorConfig,
    /// The waiting room.
    pub pairing: PairingConfig,
    /// Paired legs.
    pub relay: RelayConfig,
    /// The admin API and metrics.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
    /// The way down.
    pub shutdown: ShutdownConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![
                SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 21117)),
                SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 21119)),
            ],
            key: Secret::default(),
            key_file: PathBuf::new(),
            front_door: FrontDoorConfig::default(),
            pairing: PairingConfig::default(),
            relay: RelayConfig::default(),
            admin: AdminConfig::default(),
            log: LogConfig::default(),
            shutdown: ShutdownConfig::default(),
        }
    }
}
