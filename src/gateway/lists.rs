//! Keeps the lists of networks, and turns out whom they do not want any more: a block closes what
//! is active, and who is to be slow is slow from then on.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{net::listener::ConnectionLimit, relay::Parts, shutdown::Shutdown};

/// How often it is looked whether something has lapsed.
const PACE: Duration = Duration::from_secs(1);

/// How many looks between two at the files.
const FILES_EVERY: u32 = 2;

/// Keeps the lists until the gateway ends.
pub(super) async fn keep(parts: Parts, connections: Arc<ConnectionLimit>, shutdown: Shutdown) {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut round, mut seen, mut again) = (0_u32, 0, false);
    let mut reading = None;
    loop {
        tokio::select! {
            biased;
            () = shutdown.hard().cancelled() => return,
            _ = ticks.tick() => {
                round = round.wrapping_add(1);
                parts.access.lapse();
                if round.is_multiple_of(FILES_EVERY) {
                    read_files(&parts, &mut reading);
                }
            }
            () = parts.access.changed() => {}
        }
        let changes = parts.access.changes();
        // And once more: whoever was asked about just before the change may only now be where
        // this looks.
        if changes != seen || again {
            turn_out(&parts, &connections);
            parts.relays.limit_all();
        }
        again = changes != seen;
        seen = changes;
    }
}

/// Reads the files on a thread that may wait; not while one still does.
fn read_files(parts: &Parts, reading: &mut Option<JoinHandle<()>>) {
    if reading.as_ref().is_none_or(JoinHandle::is_finished) {
        let access = Arc::clone(&parts.access);
        *reading = Some(tokio::task::spawn_blocking(move || access.read_files()));
    }
}

fn turn_out(parts: &Parts, connections: &ConnectionLimit) {
    let is_blocked = |ip| parts.access.is_blocked(ip);
    connections.turn_out(is_blocked);
    parts.room.turn_out(is_blocked);
    parts.relays.turn_out(is_blocked);
    parts.carried.turn_out(is_blocked);
}
