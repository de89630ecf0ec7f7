//! What a relay of more than one node counts besides.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::{Labelled, counter, counters, gauge, seconds};

/// What came of a claim in the directory of waiting legs.
const CLAIMS: [&str; 4] = ["mine", "held", "taken_over", "error"];

/// What came of a hand-over.
const HANDOVERS: [&str; 5] = ["handed_over", "nobody", "unreachable", "refused", "gone"];

/// What a relay of more than one node counts besides; all of it stays at zero on a single node.
pub struct Cluster {
    /// Legs whose peer is with another node, and whose bytes go there: those open now.
    pub carried: Gauge,
    /// Bytes of such legs, both ways.
    pub carried_bytes: Counter,
    /// Relays that are active here with a leg that another node carries.
    pub handed_in: Gauge,
    /// 1 while the directory cannot be asked.
    pub degraded: Gauge,
    /// The nodes there are, this one included.
    pub nodes: Gauge,
    claims: Labelled<Counter>,
    claim_seconds: Histogram,
    went: Labelled<Counter>,
    came: Labelled<Counter>,
    handover_seconds: Histogram,
}

impl Cluster {
    pub(super) fn register() -> Self {
        Self {
            carried: gauge(
                "relay_cluster_carried_legs",
                "Legs that are relayed by another node and carried there by this one, now",
            ),
            carried_bytes: counter(
                "relay_cluster_carried_bytes_total",
                "Bytes of legs that this node carries to another, both ways",
            ),
            handed_in: gauge(
                "relay_cluster_handed_in_relays",
                "Relays active now with a leg that another node carries here",
            ),
            degraded: gauge(
                "relay_cluster_degraded",
                "1 while the directory of waiting legs cannot be asked, so that two sides meet only on one node",
            ),
            nodes: gauge("relay_cluster_nodes", "Nodes of the cluster, this one included"),
            claims: counters(
                "relay_cluster_claims_total",
                "outcome",
                &CLAIMS,
                "Claims of a name in the directory of waiting legs, by what came of them",
            ),
            claim_seconds: seconds("relay_cluster_claim_seconds", "How long claims of a name took"),
            went: counters(
                "relay_cluster_handovers_out_total",
                "outcome",
                &HANDOVERS,
                "Legs that were to be handed over to another node, by what came of it",
            ),
            came: counters(
                "relay_cluster_handovers_in_total",
                "outcome",
                &HANDOVERS,
                "Legs that another node wanted to hand over to this one, by what came of it",
            ),
            handover_seconds: seconds(
                "relay_cluster_handover_seconds",
                "How long it took to hand a leg over, or to find that it cannot be",
            ),
        }
    }

    /// Counts a claim, by one of `CLAIMS`.
    pub fn claimed(&self, outcome: &str, took: Duration) {
        self.claims.get(outcome).increment(1);
        self.claim_seconds.record(took);
    }

    /// Counts a hand-over to another node, by one of `HANDOVERS`.
    pub fn went_out(&self, outcome: &str, took: Duration) {
        self.went.get(outcome).increment(1);
        self.handover_seconds.record(took);
    }

    /// Counts a hand-over from another node, by one of `HANDOVERS`.
    pub fn came_in(&self, outcome: &str) {
        self.came.get(outcome).increment(1);
    }
}
