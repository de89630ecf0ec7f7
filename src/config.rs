//! What the operator asked for: one struct a section, newtypes for units, and the layers that
//! they are read from. The only room that knows figment.
//!
//! It does not act on a setting, and opens no file but the configuration itself.

mod access;
mod acme;
mod admin;
mod bandwidth;
mod change;
mod cluster;
mod command_line;
mod describe;
mod dotenv;
mod environment;
mod front_door;
mod hbbr;
mod keys;
mod keys_file;
mod live;
mod load;
mod log;
mod network;
mod pairing;
mod problem;
mod proxy;
mod redis;
mod relay;
mod rules;
mod schema;
mod setting;
mod shutdown;
mod tables;
mod threads;
mod tls;
mod toml_file;
mod units;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use self::rules::Rules;
pub use self::{
    access::AccessConfig,
    acme::AcmeConfig,
    admin::AdminConfig,
    bandwidth::BandwidthConfig,
    change::{Changes, Effect, effect_of},
    cluster::{ClusterConfig, ClusterTlsConfig},
    command_line::Overrides,
    front_door::FrontDoorConfig,
    keys::{DEFAULT_LABEL, KeyConfig},
    keys_file::read as read_keys_file,
    live::Live,
    load::{Loaded, Origins, Sources, load},
    log::{LogConfig, LogFormat},
    network::Network,
    pairing::PairingConfig,
    problem::{Origin, Problem, Problems},
    proxy::{ForwardingHeader, ProxyConfig, ProxyProtocol},
    redis::RedisUrl,
    relay::RelayConfig,
    shutdown::ShutdownConfig,
    tables::is_label,
    threads::{ThreadCount, ThreadsConfig},
    tls::TlsConfig,
    units::{BitRate, Duration, Expiry, Secret, Size},
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
    /// Further keys that clients may send instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyConfig>,
    /// A file with more of these tables, read again when it changes; empty for none.
    pub keys_file: PathBuf,
    /// Where the traffic of each key is kept over a restart; empty for nowhere.
    pub usage_file: PathBuf,
    /// The front door: first bytes, deadlines, how many connections.
    pub front_door: FrontDoorConfig,
    /// The certificate for wss and https.
    pub tls: TlsConfig,
    /// Who stands in front of it.
    pub proxy: ProxyConfig,
    /// Who may come in, and how much one address may have.
    pub access: AccessConfig,
    /// The waiting room.
    pub pairing: PairingConfig,
    /// Paired legs.
    pub relay: RelayConfig,
    /// How fast they may go.
    pub bandwidth: BandwidthConfig,
    /// The admin API and metrics.
    pub admin: AdminConfig,
    /// The other nodes.
    pub cluster: ClusterConfig,
    /// Logging.
    pub log: LogConfig,
    /// Which threads there are.
    pub threads: ThreadsConfig,
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
            keys: Vec::new(),
            keys_file: PathBuf::new(),
            usage_file: PathBuf::new(),
            front_door: FrontDoorConfig::default(),
            tls: TlsConfig::default(),
            proxy: ProxyConfig::default(),
            access: AccessConfig::default(),
            pairing: PairingConfig::default(),
            relay: RelayConfig::default(),
            bandwidth: BandwidthConfig::default(),
            threads: ThreadsConfig::default(),
            admin: AdminConfig::default(),
            cluster: ClusterConfig::default(),
            log: LogConfig::default(),
            shutdown: ShutdownConfig::default(),
        }
    }
}

impl Config {
    /// What the types do not say. Every rule is tried, none stops the next.
    fn validate(&self, rules: &mut Rules) {
        rules.require(!self.listen.is_empty(), &["listen"], "empty, expected at least one address");
        rules.apart("listen", &self.listen);
        rules.require(
            self.key.is_empty() || self.key_file.as_os_str().is_empty(),
            &["key", "key_file"],
            "key and key_file are both set in one place: leave one of them empty",
        );
        keys::validate(&self.keys, self.has_single_key(), rules);
        rules.apart_from(("admin.listen", &self.admin.listen), ("listen", &self.listen));
        self.front_door.validate(rules);
        self.tls.validate(rules);
        self.proxy.validate(rules);
        self.access.validate(rules);
        self.pairing.validate(rules);
        self.relay.validate(rules);
        self.bandwidth.validate(rules);
        self.threads.validate(rules);
        self.admin.validate(rules);
        self.cluster.validate(rules);
        if self.cluster.is_on() {
            let cluster = ("cluster.listen", &*self.cluster.listen);
            rules.apart_from(cluster, ("listen", &self.listen));
            rules.apart_from(cluster, ("admin.listen", &self.admin.listen));
        }
        self.log.validate(rules);
        self.shutdown.validate(rules);
    }

    /// Whether there is a key without a table, which then has the label [`DEFAULT_LABEL`].
    pub fn has_single_key(&self) -> bool {
        !self.key.is_empty() || !self.key_file.as_os_str().is_empty()
    }
}
