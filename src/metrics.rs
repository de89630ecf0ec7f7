//! The metrics: every name, unit and description in one table, and the handles that count.
//!
//! Each gateway has a recorder of its own rather than the process's global one, so that several
//! can run in one process, and every series exists from the start, at zero.

mod cluster;
mod keys;
mod tls;

use metrics::{Counter, Gauge, Histogram, Unit, with_local_recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use metrics_process::Collector;

pub use self::{cluster::Cluster, keys::KeyFigures, tls::Tls};
use crate::{key::KeyFault, wire::Transport};

/// Why a connection or a leg is refused, apart from wrong keys.
pub const REJECTIONS: &[&str] = &[
    "connection_limit",
    "displaced",
    "blocked",
    "address_connections",
    "address_rate",
    "address_waiting",
    "address_back_off",
    "relay_limit",
    "silent",
    "timeout",
    "hung_up",
    "unknown_protocol",
    "proxy_header",
    "proxy_header_missing",
    "forwarding_headers",
    "tls",
    "tls_handshake",
    "frame_too_long",
    "malformed",
    "not_a_relay_request",
    "bad_handshake",
    "websocket_protocol",
    "waiting_room_full",
    "key_expired",
    "key_revoked",
    "key_quota_relays",
    "key_quota_traffic",
    "node_secret",
    "node_mismatch",
    "draining",
    "io",
];

/// Every reason for which a connection or a leg is refused.
pub fn rejections() -> impl Iterator<Item = &'static str> {
    REJECTIONS.iter().copied().chain(KeyFault::ALL.map(KeyFault::label))
}

/// Why a leg left the waiting room without a peer.
pub const UNPAIRED: &[&str] = &[
    "timeout",
    "hung_up",
    "blocked",
    "relay_limit",
    "draining",
    "key_expired",
    "key_revoked",
    "key_quota_relays",
];

/// Why a relay ended.
pub const ENDS: [&str; 10] = [
    "closed",
    "reset",
    "idle",
    "write_timeout",
    "message_too_long",
    "websocket_protocol",
    "admin",
    "blocked",
    "draining",
    "aborted",
];

/// What the first bytes of a connection turned out to be.
/// (`none`: it closed without a byte, as hbbs does to see whether a relay is there.)
pub const PROTOCOLS: [&str; 5] = ["relay", "http", "tls", "unknown", "none"];

const PAIRINGS: [&str; 3] = ["tcp", "websocket", "mixed"];

/// From a loopback pairing to a working day.
const SECONDS: [f64; 19] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0, 7200.0, 28800.0,
];

/// The handles. Cheap to use from anywhere: each is an atomic.
pub struct Metrics {
    /// Connections open now.
    pub connections_open: Gauge,
    /// Accept calls that failed.
    pub accept_errors: Counter,
    /// Log lines that were dropped since the start.
    pub log_lines_lost: Counter,
    /// What bandwidth limits do.
    pub bandwidth: Bandwidth,
    /// Legs waiting now.
    pub waiting: Gauge,
    /// From accept to a complete first message, in seconds.
    pub first_frame: Histogram,
    /// How long the first leg of a pair had waited, in seconds.
    pub wait: Histogram,
    /// TLS, and the certificate for it.
    pub tls: Tls,
    /// More than one node.
    pub cluster: Cluster,
    duration: Histogram,
    connections: Labelled<Counter>,
    rejected: Labelled<Counter>,
    unpaired: Labelled<Counter>,
    ends: Labelled<Counter>,
    pairs: Labelled<Counter>,
    active: Labelled<Gauge>,
    received: Labelled<Counter>,
    sent: Labelled<Counter>,
}

/// What bandwidth limits do.
pub struct Bandwidth {
    /// Bytes that had to wait for one.
    pub delayed: Counter,
    total: Gauge,
}

/// The recorder behind a gateway's [`Metrics`], and how it is shown.
pub struct Exposition {
    recorder: PrometheusRecorder,
    process: Collector,
}

/// One metric with a label: a handle for each of the label's values.
struct Labelled<T>(Vec<(&'static str, T)>);

impl<T> Labelled<T> {
    fn new(values: &[&'static str], handle: impl Fn(&'static str) -> T) -> Self {
        Self(values.iter().map(|&value| (value, handle(value))).collect())
    }

    fn get(&self, value: &str) -> &T {
        let found = self.0.iter().find(|(name, _)| *name == value);
        debug_assert!(found.is_some(), "{value} is not in the metrics' table");
        // A label that the table lacks is counted under the last one rather than lost.
        &found.unwrap_or(&self.0[self.0.len() - 1]).1
    }
}

/// A recorder of its own for one gateway, and its handles, every series at zero.
///
/// # Errors
/// When a histogram's buckets are refused; they are constants.
pub fn start() -> Result<(Metrics, Exposition), BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .build_recorder();
    let process = Collector::default();
    let metrics = with_local_recorder(&recorder, || {
        process.describe();
        build_info();
        Metrics::register()
    });
    Ok((metrics, Exposition { recorder, process }))
}

impl Exposition {
    /// Everything, with the figures of the keys there are, in Prometheus' text format.
    pub fn render(&self, keys: &[KeyFigures]) -> String {
        with_local_recorder(&self.recorder, || self.process.collect());
        let mut text = self.recorder.handle().render();
        keys::render(keys, &mut text);
        text
    }

    /// Folds what histograms have gathered; to be called every few seconds, or they grow.
    pub fn upkeep(&self) {
        self.recorder.handle().run_upkeep();
    }
}

impl Metrics {
    fn register() -> Self {
        let reasons: Vec<_> = rejections().collect();
        let transports = [Transport::Tcp, Transport::WebSocket].map(Transport::label);
        Self {
            connections_open: gauge("relay_connections_open", "Connections open now"),
            accept_errors: counter("relay_accept_errors_total", "Accept calls that failed"),
            log_lines_lost: counter("relay_log_lines_lost_total", "Log lines nobody took in time"),
            bandwidth: Bandwidth::register(),
            waiting: gauge("relay_waiting_legs", "Legs that wait for their peer now"),
            first_frame: seconds(
                "relay_first_frame_seconds",
                "From accept to a complete first message",
            ),
            wait: seconds("relay_wait_seconds", "How long the first leg of a pair had waited"),
            tls: Tls::register(),
            cluster: Cluster::register(),
            duration: seconds("relay_duration_seconds", "How long relays lasted, from pairing on"),
            connections: counters(
                "relay_connections_total",
                "protocol",
                &PROTOCOLS,
                "Connections by what their first bytes were; what is said in TLS counts as tls alone",
            ),
            rejected: counters(
                "relay_rejected_total",
                "reason",
                &reasons,
                "Connections and legs refused; a key_ reason tells which mistake a wrong key is",
            ),
            unpaired: counters(
                "relay_unpaired_total",
                "reason",
                UNPAIRED,
                "Legs that left the waiting room without a peer",
            ),
            ends: counters("relay_ends_total", "reason", &ENDS, "Relays ended, by the reason"),
            pairs: counters(
                "relay_pairs_total",
                "transport",
                &PAIRINGS,
                "Pairs made, by the transports of their legs",
            ),
            active: gauges(
                "relay_active_relays",
                "transport",
                &PAIRINGS,
                "Relays active now, by the transports of their legs",
            ),
            received: counters(
                "relay_received_bytes_total",
                "transport",
                &transports,
                "Bytes that paired legs sent to the relay, framing included",
            ),
            sent: counters(
                "relay_sent_bytes_total",
                "transport",
                &transports,
                "Bytes that the relay passed on, by the transport of the leg they went to",
            ),
        }
    }

    /// Counts a connection by what its first bytes were.
    pub fn connection(&self, protocol: &str) {
        self.connections.get(protocol).increment(1);
    }

    /// Counts a refusal, by one of [`REJECTIONS`] or a [`KeyFault`]'s label.
    pub fn reject(&self, reason: &str) {
        self.rejected.get(reason).increment(1);
    }

    /// Counts a leg that left the waiting room without a peer.
    pub fn unpaired(&self, reason: &str) {
        self.unpaired.get(reason).increment(1);
    }

    /// Counts a relay that begins.
    pub fn relay_begins(&self, legs: [Transport; 2]) {
        let pairing = pairing(legs);
        self.pairs.get(pairing).increment(1);
        self.active.get(pairing).increment(1.0);
    }

    /// Counts a relay that ended, by one of [`ENDS`].
    pub fn relay_ends(&self, legs: [Transport; 2], reason: &str, lasted: std::time::Duration) {
        self.active.get(pairing(legs)).decrement(1.0);
        self.ends.get(reason).increment(1);
        self.duration.record(lasted);
    }

    /// Counts bytes that came from one leg and went to another.
    pub fn bytes(&self, from: Transport, to: Transport, bytes: u64) {
        self.received.get(from.label()).increment(bytes);
        self.sent.get(to.label()).increment(bytes);
    }
}

impl Bandwidth {
    fn register() -> Self {
        Self {
            delayed: counter(
                "relay_delayed_bytes_total",
                "Bytes that had to wait for a bandwidth limit",
            ),
            total: gauge(
                "relay_bandwidth_limit_bytes_per_second",
                "bandwidth.total, as it is in force now; 0 for none",
            ),
        }
    }

    /// Shows the limit of all relays together, in bytes a second.
    pub fn show_total(&self, limit: Option<u64>) {
        self.total.set(limit.unwrap_or(0) as f64);
    }
}

fn build_info() {
    let version = [env!("CARGO_PKG_VERSION")];
    gauges("relay_build_info", "version", &version, "1, with the running version as a label")
        .get(version[0])
        .set(1.0);
}

fn counter(name: &'static str, description: &'static str) -> Counter {
    metrics::describe_counter!(name, Unit::Count, description);
    metrics::counter!(name)
}

fn counters(
    name: &'static str,
    label: &'static str,
    values: &[&'static str],
    description: &'static str,
) -> Labelled<Counter> {
    metrics::describe_counter!(name, Unit::Count, description);
    Labelled::new(values, |value| metrics::counter!(name, label => value))
}

fn gauge(name: &'static str, description: &'static str) -> Gauge {
    metrics::describe_gauge!(name, Unit::Count, description);
    metrics::gauge!(name)
}

fn gauges(
    name: &'static str,
    label: &'static str,
    values: &[&'static str],
    description: &'static str,
) -> Labelled<Gauge> {
    metrics::describe_gauge!(name, Unit::Count, description);
    Labelled::new(values, |value| metrics::gauge!(name, label => value))
}

fn seconds(name: &'static str, description: &'static str) -> Histogram {
    metrics::describe_histogram!(name, Unit::Seconds, description);
    metrics::histogram!(name)
}

fn pairing(legs: [Transport; 2]) -> &'static str {
    match legs {
        [Transport::Tcp, Transport::Tcp] => "tcp",
        [Transport::WebSocket, Transport::WebSocket] => "websocket",
        _ => "mixed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_readmes_explain_every_refusal() {
        for (readme, heading) in [
            (include_str!("../README.md"), "\n## When a client cannot connect\n"),
            (include_str!("../deploy/docs/README.zh-CN.md"), "\n## 客户端连不上时\n"),
        ] {
            let (_, section) = readme.split_once(heading).unwrap();
            let section = section.split("\n## ").next().unwrap();
            for reason in rejections() {
                assert!(section.contains(&format!("`{reason}`")), "{heading}{reason}");
            }
        }
    }
}
