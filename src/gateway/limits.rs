//! Limits that hold for all nodes together: what this one says of itself with each heartbeat, and
//! what others have said, which counts here.
//!
//! So a limit is kept but for what the others began since their last heartbeat. While Redis is away
//! relays of others count as they last did, for a while; the month's traffic does to its end.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::members::{Counts, Others, Says, Usage},
    relay::Parts,
};

/// For so many heartbeats that did not come, others count as they last did.
const BEATS: u32 = 10;

/// What this node says of itself.
pub(super) fn says(parts: &Parts) -> Says {
    let counts = parts.ring.counts();
    let labels = counts.keys.into_iter().map(|key| {
        let usage = Usage { active: key.active.into(), month_bytes: key.month_bytes };
        (key.label, usage)
    });
    Says {
        draining: parts.draining.is_cancelled() || parts.room.is_handed_over(),
        counts: Counts {
            active: parts.capacity.taken() as u64,
            waiting: parts.room.len() as u64,
            carried: parts.carried.count() as u64,
            bytes_per_second: parts.relays.all().iter().map(|relay| relay.rate()).sum(),
        },
        month: counts.month,
        labels: labels.collect(),
    }
}

/// Has the limits count what the others say, for as long as anything is said.
pub(super) async fn keep(
    parts: Parts,
    mut others: watch::Receiver<Arc<Others>>,
    heartbeat: Duration,
) {
    let lapse = heartbeat.saturating_mul(BEATS);
    loop {
        let said = tokio::select! {
            changed = others.changed() => changed.is_ok(),
            () = sleep_until(Instant::now() + lapse) => {
                tracing::debug!("the other nodes have said nothing for too long: they count no more");
                count(&parts, &Others::default());
                others.changed().await.is_ok()
            }
        };
        if !said {
            return;
        }
        let said = Arc::clone(&others.borrow_and_update());
        count(&parts, &said);
    }
}

fn count(parts: &Parts, others: &Others) {
    let relays = usize::try_from(others.counts.active).unwrap_or(usize::MAX);
    parts.capacity.hear_of_others(relays);
    let nothing = Usage::default();
    // Without a month nothing was said of keys: their relays count no more.
    let month =
        if others.month.is_empty() { parts.ring.counts().month } else { others.month.clone() };
    parts.ring.hear_of_others(&month, |label| {
        let usage = others.labels.get(label).unwrap_or(&nothing);
        (u32::try_from(usage.active).unwrap_or(u32::MAX), usage.month_bytes)
    });
}
