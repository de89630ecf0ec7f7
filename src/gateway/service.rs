//! The gateway as a service: that it lives, what it does, and how long its drain may take, told to
//! the service manager.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{http::AdminState, relay::Parts, service_manager};

/// How often the drain asks for more time, and for how much each time.
const DRAIN_PACE: Duration = Duration::from_secs(5);
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// How often the status line is written anew.
const STATUS_PACE: Duration = Duration::from_secs(5);

/// The pulse of the light threads: each notes now and then that it still turns.
#[derive(Clone)]
pub(super) struct Pulse {
    since: Instant,
    /// When each last did, in milliseconds after `since`.
    beats: Arc<[AtomicU64]>,
    /// Within which each must; none when nobody watches.
    within: Option<Duration>,
}

impl Pulse {
    /// Of so many threads.
    pub(super) fn new(threads: usize) -> Self {
        let beats = (0..threads).map(|_| AtomicU64::new(0)).collect();
        let within = service_manager::watchdog().map(|interval| interval / 2);
        Self { since: Instant::now(), beats, within }
    }

    /// The beat of one thread, on whose runtime this is, until `stop`.
    pub(super) async fn beat(self, thread: usize, stop: CancellationToken) {
        let Some(within) = self.within else { return };
        let mut ticks = paced(within / 4);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.beats[thread].store(self.now(), Ordering::Relaxed);
        }
    }

    /// Tells the service manager that the process lives, for as long as every thread does.
    pub(super) async fn watch(self, stop: CancellationToken) {
        let Some(within) = self.within else { return };
        let mut ticks = paced(within);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.still(within) {
                None => service_manager::alive(),
                Some(thread) => {
                    tracing::error!(
                        thread,
                        "a light thread does not turn: the watchdog is not told that all is well"
                    );
                }
            }
        }
    }

    /// A thread that there is not is not waited for.
    pub(super) fn excuse(&self, thread: usize) {
        self.beats[thread].store(u64::MAX, Ordering::Relaxed);
    }

    /// A thread that has not turned for longer than this.
    fn still(&self, within: Duration) -> Option<usize> {
        let limit = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let now = self.now();
        self.beats.iter().position(|beat| now.saturating_sub(beat.load(Ordering::Relaxed)) > limit)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Keeps the status line true.
pub(super) async fn tell_status(admin: Arc<AdminState>, stop: CancellationToken) {
    let mut ticks = paced(STATUS_PACE);
    let mut told = String::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let line = status(&admin);
        if line != told {
            service_manager::status(&line);
            told = line;
        }
    }
}

fn status(admin: &AdminState) -> String {
    let Parts { relays, room, .. } = &admin.parts;
    let does = if admin.is_draining() { "draining" } else { "serving" };
    let (relays, waiting, open) = (relays.count(), room.len(), admin.connections.open());
    format!("{does}: {relays} relays, {waiting} legs waiting, {open} connections")
}

/// Asks for time, again and again, while `work` is done.
pub(super) async fn with_time<T>(work: impl Future<Output = T>) -> T {
    let asking = async {
        let mut ticks = paced(DRAIN_PACE);
        loop {
            ticks.tick().await;
            service_manager::needs(DRAIN_TIME);
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = asking => unreachable!("it asks for ever"),
    }
}

fn paced(pace: Duration) -> tokio::time::Interval {
    let mut ticks = interval(pace.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_stands_still_is_found() {
        let within = Duration::from_secs(1);
        let pulse = Pulse { within: Some(within), ..Pulse::new(2) };
        let stop = CancellationToken::new();
        let beating = tokio::spawn(pulse.clone().beat(0, stop.clone()));
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(pulse.still(within), None);
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(pulse.still(within), Some(1));
        stop.cancel();
        beating.await.unwrap();
    }
}
