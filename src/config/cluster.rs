//! `[cluster]`: the nodes among which a leg may land, and how they find and trust each other.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Duration, RedisUrl, Secret, rules::Rules};

/// In characters: what nobody guesses, be it from what two nodes say to each other.
const SHORTEST_SECRET: usize = 32;

/// The longest name of a node, or of a cluster.
const LONGEST_NAME: usize = 64;

/// The `[cluster]` section. There is no cluster unless `redis` is set.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Where the directory of waiting legs is; empty for a single node. A secret: it may have a
    /// password.
    pub redis: Secret,
    /// A PEM file with the roots by which a Redis that speaks TLS is checked; empty for the web's.
    pub redis_ca: PathBuf,
    /// How long Redis may take to answer.
    pub redis_timeout: Duration,
    /// What every key in Redis begins with: clusters with different ones do not know each other.
    pub prefix: String,
    /// Where the other nodes connect to.
    #[serde(deserialize_with = "super::units::listeners")]
    pub listen: Vec<SocketAddr>,
    /// As what they reach it: a host or an address, with a port. Empty: the first of `listen`.
    pub advertise: String,
    /// What this node is called, unique in the cluster; empty for the host's name.
    pub node: String,
    /// What all nodes know and nobody else does.
    pub secret: Secret,
    /// A file that holds it; empty for none.
    pub secret_file: PathBuf,
    /// How often a node says that it lives, and what it counts.
    pub heartbeat: Duration,
    /// How long it may take to hand a leg over.
    pub handover_timeout: Duration,
    /// The certificates that nodes show each other, instead of plain TCP.
    pub tls: ClusterTlsConfig,
}

/// The `[cluster.tls]` section.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTlsConfig {
    /// A PEM file with this node's certificate; empty for no TLS.
    pub cert: PathBuf,
    /// A PEM file with its private key.
    pub key: PathBuf,
    /// A PEM file with the authority that has signed the certificates of all nodes.
    pub ca: PathBuf,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            redis: Secret::default(),
            redis_ca: PathBuf::new(),
            redis_timeout: Duration::from_secs(1),
            prefix: "relay:".to_owned(),
            listen: vec![SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 21127))],
            advertise: String::new(),
            node: String::new(),
            secret: Secret::default(),
            secret_file: PathBuf::new(),
            heartbeat: Duration::from_secs(1),
            handover_timeout: Duration::from_secs(2),
            tls: ClusterTlsConfig::default(),
        }
    }
}

impl ClusterConfig {
    /// Whether there are other nodes.
    pub fn is_on(&self) -> bool {
        !self.redis.is_empty()
    }

    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.apart("cluster.listen", &self.listen);
        rules.require(
            self.secret.is_empty() || self.secret_file.as_os_str().is_empty(),
            &["cluster.secret", "cluster.secret_file"],
            "secret and secret_file are both set in one place: leave one of them empty",
        );
        let long_enough = self.secret.expose().chars().count() >= SHORTEST_SECRET;
        rules.require(
            self.secret.is_empty() || long_enough,
            &["cluster.secret"],
            format!("shorter than {SHORTEST_SECRET} characters: choose a longer one"),
        );
        for (key, name) in [("cluster.node", &self.node), ("cluster.prefix", &self.prefix)] {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
            rules.require(
                name.len() <= LONGEST_NAME && name.chars().all(is_plain),
                &[key],
                format!("expected at most {LONGEST_NAME} letters, digits and any of - _ . :"),
            );
        }
        rules.timeout("cluster.redis_timeout", self.redis_timeout);
        rules.timeout("cluster.heartbeat", self.heartbeat);
        rules.timeout("cluster.handover_timeout", self.handover_timeout);
        self.tls.validate(rules);
        if self.is_on() {
            self.validate_cluster(rules);
        }
    }

    /// What a cluster needs.
    fn validate_cluster(&self, rules: &mut Rules) {
        let url = self.redis.expose().parse::<RedisUrl>();
        let is_tls = url.as_ref().is_ok_and(RedisUrl::is_tls);
        rules.require(url.is_ok(), &["cluster.redis"], url.err().unwrap_or_default());
        rules.require(
            is_tls || self.redis_ca.as_os_str().is_empty(),
            &["cluster.redis_ca", "cluster.redis"],
            "set, but cluster.redis speaks no TLS: its URL should begin with rediss",
        );
        rules.require(
            !self.listen.is_empty(),
            &["cluster.listen"],
            "empty, expected at least one address for the other nodes to connect to",
        );
        rules.require(
            !self.secret.is_empty() || !self.secret_file.as_os_str().is_empty(),
            &["cluster.secret"],
            "empty, expected what all nodes know: `openssl rand -base64 32` makes one",
        );
        let is_reachable = self.listen.first().is_some_and(|listen| !listen.ip().is_unspecified());
        rules.require(
            !self.advertise.is_empty() || is_reachable,
            &["cluster.advertise"],
            "empty, and cluster.listen is every address: expected the one, with its port, by which \
             the other nodes reach this one",
        );
        let has_port = self.advertise.rsplit_once(':').is_some_and(|(host, port)| {
            let is_plain = host.bytes().all(|byte| byte.is_ascii_graphic());
            !host.is_empty() && is_plain && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        rules.require(
            self.advertise.is_empty() || has_port,
            &["cluster.advertise"],
            "expected a host or an address, and a port: \"10.0.0.7:21127\"",
        );
    }
}

impl ClusterTlsConfig {
    /// Whether nodes speak TLS with each other.
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }

    fn validate(&self, rules: &mut Rules) {
        let set = [&self.cert, &self.key, &self.ca].map(|file| !file.as_os_str().is_empty());
        rules.require(
            set == [true; 3] || set == [false; 3],
            &["cluster.tls.cert", "cluster.tls.key", "cluster.tls.ca"],
            "of cert, key and ca some are set: TLS between nodes needs all three",
        );
    }
}
