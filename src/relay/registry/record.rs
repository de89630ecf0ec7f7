//! A relay's time in the registry: what is counted and logged of its begin and end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{ActiveRelay, ActiveRelays};
use crate::{
    key_ring::Seats,
    relay::{
        capacity::ActivePlace,
        request::{End, LegIndex, span},
    },
};

/// Keeps a relay in the registry, and reports its end exactly once.
pub struct RelayGuard {
    relay: Arc<ActiveRelay>,
    registry: Arc<ActiveRelays>,
    end: End,
    _places: (ActivePlace, Seats),
}

impl RelayGuard {
    pub(super) const fn new(
        relay: Arc<ActiveRelay>,
        registry: Arc<ActiveRelays>,
        places: (ActivePlace, Seats),
    ) -> Self {
        Self { relay, registry, end: End::Aborted, _places: places }
    }

    /// The relay that it keeps.
    pub const fn relay(&self) -> &Arc<ActiveRelay> {
        &self.relay
    }

    /// Says why the relay ended.
    pub fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for RelayGuard {
    fn drop(&mut self) {
        let (relay, registry) = (&self.relay, &self.registry);
        {
            let mut relays = registry.lock();
            relays.remove(&relay.id);
            registry.closed_bytes.fetch_add(relay.bytes(), Ordering::Relaxed);
        }
        for leg in LegIndex::BOTH {
            registry.count_bytes(relay, leg, None);
        }
        registry.record_end(relay, self.end);
        if relay.has_via {
            registry.vias().remove(&relay.id);
        }
    }
}

impl ActiveRelays {
    pub(super) fn count_begin(&self, relay: &ActiveRelay, waited: Duration) {
        if self.carries {
            return self.metrics.cluster.carried.increment(1.0);
        }
        self.metrics.relay_begins(relay.transports());
        self.metrics.wait.record(waited);
        if relay.has_via {
            self.metrics.cluster.handed_in.increment(1.0);
        }
    }

    pub(super) fn record_end(&self, relay: &ActiveRelay, end: End) {
        let lasted = relay.age();
        let via = self.via(relay);
        if self.carries {
            self.metrics.cluster.carried.decrement(1.0);
            return span(&relay.uuid).in_scope(|| log_carried(relay, via.as_deref(), lasted, end));
        }
        if relay.has_via {
            self.metrics.cluster.handed_in.decrement(1.0);
        }
        self.metrics.relay_ends(relay.transports(), end.label(), lasted);
        span(&relay.uuid).in_scope(|| log_end(relay, via.as_deref(), lasted, end));
    }
}

/// The one line of a relay.
fn log_end(relay: &ActiveRelay, via: Option<&str>, lasted: Duration, end: End) {
    let [first, second] = &relay.legs;
    // The address after "Relay of" is the second leg's, as hbbr's own line has it.
    tracing::info!(
        uuid = %relay.uuid,
        target_id = relay.target.as_ref().map(tracing::field::display),
        conn_type = %relay.conn_type,
        first = %first.address,
        first_transport = first.transport.label(),
        // Said of those that have it.
        first_tls = first.tls.then_some(true),
        first_bytes = first.received(),
        first_key = first.grant.label(),
        second = %second.address,
        second_transport = second.transport.label(),
        second_tls = second.tls.then_some(true),
        second_bytes = second.received(),
        second_key = second.grant.label(),
        // The node that it came to.
        via,
        waited_ms = relay.waited().as_millis() as u64,
        duration_ms = lasted.as_millis() as u64,
        end = %end,
        "Relay of {} closed", second.address
    );
}

/// The one line of a leg that was carried to another node. What it was part of is told there.
fn log_carried(relay: &ActiveRelay, node: Option<&str>, lasted: Duration, end: End) {
    let [leg, cluster] = &relay.legs;
    tracing::info!(
        uuid = %relay.uuid,
        node,
        leg = %leg.address,
        transport = leg.transport.label(),
        tls = leg.tls.then_some(true),
        bytes_out = leg.received(),
        bytes_in = cluster.received(),
        duration_ms = lasted.as_millis() as u64,
        end = %end,
        "Leg {} was carried to another node, and is closed", leg.address
    );
}
