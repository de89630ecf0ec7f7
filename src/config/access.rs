//! `[access]`: who may come in, and how much of the relay one address may have.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Duration, Network, rules::Rules};

/// The `[access]` section. In all of it, an IPv6 address stands for its /64.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// Networks that are refused.
    pub blocklist: Vec<Network>,
    /// A file with more of them, in the working directory; empty for none.
    pub blocklist_file: PathBuf,
    /// Networks whose relays are slowed down.
    pub throttle_list: Vec<Network>,
    /// A file with more of them; empty for none.
    pub throttle_list_file: PathBuf,
    /// Networks to which the limits for one address do not apply; trusted proxies are never
    /// limited, the clients that they speak for are.
    pub exempt: Vec<Network>,
    /// How many connections one address may have open; 0 for any number.
    pub connections_per_address: u32,
    /// How many legs of one address may wait; 0 for any number.
    pub waiting_per_address: u32,
    /// How many new connections a second one address may make; 0 for any number.
    pub connection_rate: u32,
    /// How many of them may come at once, after a pause.
    pub connection_burst: u32,
    /// How many different wrong keys one address may send before it has to wait; 0 for any number.
    pub wrong_keys: u32,
    /// In which time.
    pub wrong_keys_within: Duration,
    /// The longest that it has to wait.
    pub max_back_off: Duration,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            blocklist: Vec::new(),
            blocklist_file: "blocklist.txt".into(),
            throttle_list: Vec::new(),
            // hbbr's name for it.
            throttle_list_file: "blacklist.txt".into(),
            exempt: Network::LOOPBACK.to_vec(),
            connections_per_address: 4096,
            waiting_per_address: 1024,
            connection_rate: 200,
            connection_burst: 4096,
            wrong_keys: 10,
            wrong_keys_within: Duration::from_secs(600),
            max_back_off: Duration::from_secs(300),
        }
    }
}

impl AccessConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.between("access.connection_rate", self.connection_rate, 0, 1_000_000);
        rules.between("access.connection_burst", self.connection_burst, 1, 1_000_000);
        rules.between("access.wrong_keys", self.wrong_keys, 0, 1_000_000);
        let day = Duration::from_secs(24 * 3600);
        rules.between(
            "access.wrong_keys_within",
            self.wrong_keys_within,
            Duration::from_secs(1),
            day,
        );
        rules.between("access.max_back_off", self.max_back_off, Duration::from_millis(1), day);
    }
}
