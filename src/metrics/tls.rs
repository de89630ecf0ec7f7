//! The metrics of TLS.

use jiff::Timestamp;
use metrics::{Counter, Gauge};

use super::{Labelled, counters, gauge};

/// How handshakes end: in full, by a ticket, or how they failed. (`refused_by_peer`: most often a
/// client that does not trust the certificate.)
const HANDSHAKES: [&str; 8] =
    ["full", "resumed", "refused_by_peer", "incompatible", "protocol", "hung_up", "timeout", "io"];

/// The handles.
pub struct Tls {
    /// Seconds until the certificate that is shown expires.
    pub certificate_expiry: Gauge,
    acme_orders: Labelled<Counter>,
    acme_issued: Gauge,
    acme_failed: Gauge,
    handshakes: Labelled<Counter>,
    reloads: Labelled<Counter>,
}

impl Tls {
    pub(super) fn register() -> Self {
        Self {
            certificate_expiry: gauge(
                "relay_tls_certificate_expiry_seconds",
                "Until the certificate that is shown expires; 0 without TLS, negative once it has",
            ),
            acme_orders: counters(
                "relay_acme_orders_total",
                "outcome",
                &["issued", "failed"],
                "Certificates ordered by ACME",
            ),
            acme_issued: gauge(
                "relay_acme_last_issued_timestamp_seconds",
                "When a certificate was last issued by ACME; 0: not since the start",
            ),
            acme_failed: gauge(
                "relay_acme_last_failed_timestamp_seconds",
                "When an order by ACME last failed; 0: not since the start",
            ),
            handshakes: counters(
                "relay_tls_handshakes_total",
                "outcome",
                &HANDSHAKES,
                "TLS handshakes by how they ended; refused_by_peer is mostly a client without trust",
            ),
            reloads: counters(
                "relay_tls_reloads_total",
                "outcome",
                &["ok", "failed"],
                "Certificates that changed on disk: shown from then on, or refused",
            ),
        }
    }

    /// Counts a handshake by how it ended.
    pub fn handshake(&self, outcome: &str) {
        self.handshakes.get(outcome).increment(1);
    }

    /// Counts an order of a certificate by ACME.
    pub fn acme_ordered(&self, issued: bool) {
        let (outcome, last) = match issued {
            true => ("issued", &self.acme_issued),
            false => ("failed", &self.acme_failed),
        };
        self.acme_orders.get(outcome).increment(1);
        last.set(Timestamp::now().as_second() as f64);
    }

    /// Counts a certificate that changed on disk.
    pub fn reloaded(&self, ok: bool) {
        self.reloads.get(if ok { "ok" } else { "failed" }).increment(1);
    }
}
