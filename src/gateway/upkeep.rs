//! What has to be done now and then for as long as the gateway runs: sweeping, sampling, and
//! looking after what others may change.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    certificates::Certificates,
    keys, lists,
    service::{Pulse, tell_status},
};
use crate::{http::AdminState, metrics::Exposition, relay::Parts, shutdown::Shutdown, telemetry};

/// How often rates are taken.
const SAMPLE: Duration = Duration::from_secs(1);

/// How many samples between two upkeeps of the metrics.
const UPKEEP_EVERY: u32 = 5;

/// Starts it all, on this thread's runtime.
pub(super) fn start(
    admin: &Arc<AdminState>,
    certificates: Certificates,
    pulse: &Pulse,
    shutdown: &Shutdown,
) {
    let tracker = shutdown.tracker();
    tracker.spawn(pulse.clone().watch(shutdown.hard().clone()));
    certificates.look_after(shutdown);
    let (room, closing) = (Arc::clone(&admin.parts.room), closing(&admin.parts, shutdown));
    tracker.spawn(async move { room.sweep_until(closing).await });
    let throttle = Arc::clone(&admin.parts.throttle);
    let hard = shutdown.hard().clone();
    tracker.spawn(async move { throttle.serve_until(hard).await });
    tracker.spawn(sample(admin.parts.clone(), Arc::clone(&admin.exposition), shutdown.clone()));
    tracker.spawn(tell_status(Arc::clone(admin), shutdown.hard().clone()));
    tracker.spawn(keys::look_after(
        Arc::clone(&admin.parts.ring),
        Arc::clone(&admin.parts.relays),
        shutdown.clone(),
    ));
    let connections = Arc::clone(&admin.connections);
    tracker.spawn(lists::keep(admin.parts.clone(), connections, shutdown.clone()));
}

/// Cancelled when the room closes: with the drain, since nobody's peer can come any more. In a
/// cluster it can, by another node: there those who wait have the time that is left to them.
fn closing(parts: &Parts, shutdown: &Shutdown) -> CancellationToken {
    if parts.route.is_none() {
        return shutdown.soft().clone();
    }
    let (closing, room) = (shutdown.hard().child_token(), Arc::clone(&parts.room));
    let (soft, close) = (shutdown.soft().clone(), closing.clone());
    shutdown.tracker().spawn(closing.clone().run_until_cancelled_owned(async move {
        soft.cancelled().await;
        room.until_empty().await;
        close.cancel();
    }));
    closing
}

async fn sample(parts: Parts, exposition: Arc<Exposition>, shutdown: Shutdown) {
    let mut ticks = interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    for round in 0_u32.. {
        if shutdown.hard().run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        parts.relays.sample(last.elapsed());
        parts.carried.sample(last.elapsed());
        parts.refusals.tell();
        parts.metrics.log_lines_lost.absolute(telemetry::lost());
        last = Instant::now();
        if round.is_multiple_of(UPKEEP_EVERY) {
            exposition.upkeep();
            parts.access.sweep();
        }
    }
}
