//! The bulk plane: threads of their own for the pairs that have much to move, so that nobody's
//! keystroke waits behind somebody's file.
//!
//! The light plane is the runtimes that accept and pair; a relay begins there. When one moves in
//! bulk it goes over to a thread here, at a lower priority, and back when it has calmed down. What
//! is bulk, `splice` knows.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    task::JoinHandle,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::config::ThreadsConfig;

/// The threads; started when the first pair comes.
pub struct BulkPlane {
    threads: usize,
    niceness: i32,
    workers: OnceLock<Vec<Worker>>,
    stop: CancellationToken,
    /// Ends the threads with the plane.
    _stop_all: DropGuard,
}

struct Worker {
    runtime: Handle,
    /// How many pairs are there.
    pairs: Arc<AtomicUsize>,
}

/// A place on the thread with the fewest pairs; given back when dropped.
pub struct Place {
    runtime: Handle,
    pairs: Arc<AtomicUsize>,
}

impl BulkPlane {
    /// As many threads as `config` asks for; none means that every pair stays where it began.
    pub fn new(config: &ThreadsConfig) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new(Self {
            threads: config.bulk(),
            niceness: config.bulk_niceness,
            workers: OnceLock::new(),
            _stop_all: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Whether there is such a plane at all.
    pub const fn is_there(&self) -> bool {
        self.threads > 0
    }

    /// A place for a pair; `None` when there is no such plane, or it could not be started.
    pub fn place(&self) -> Option<Place> {
        let workers = self.workers.get_or_init(|| self.start());
        let worker = workers.iter().min_by_key(|worker| worker.pairs.load(Ordering::Relaxed))?;
        worker.pairs.fetch_add(1, Ordering::Relaxed);
        Some(Place { runtime: worker.runtime.clone(), pairs: Arc::clone(&worker.pairs) })
    }

    fn start(&self) -> Vec<Worker> {
        let workers: io::Result<_> = (0..self.threads).map(|index| self.worker(index)).collect();
        workers.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot start the bulk threads: every relay stays on the light ones");
            Vec::new()
        })
    }

    fn worker(&self, index: usize) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, niceness) = (self.stop.clone(), self.niceness);
        thread::Builder::new().name(format!("bulk-{index}")).spawn(move || {
            be_nice(niceness);
            runtime.block_on(stop.cancelled());
        })?;
        Ok(Worker { runtime: handle, pairs: Arc::default() })
    }
}

impl Place {
    /// Runs a pair there.
    pub fn spawn<F>(&self, pair: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(pair)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pairs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tasks for the threads of the light plane in turn: for what has come to none of them.
#[derive(Clone)]
pub struct LightTasks {
    tracker: TaskTracker,
    threads: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

impl LightTasks {
    /// Tasks on `tracker`, for these threads; for whichever thread asks if there are none.
    pub fn new(tracker: TaskTracker, threads: &[Handle]) -> Self {
        Self { tracker, threads: threads.into(), turn: Arc::default() }
    }

    /// Runs a task on the thread whose turn it is. It ends with that thread at the latest.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match turn.checked_rem(self.threads.len()) {
            Some(thread) => drop(self.tracker.spawn_on(task, &self.threads[thread])),
            None => drop(self.tracker.spawn(task)),
        }
    }
}

impl From<TaskTracker> for LightTasks {
    fn from(tracker: TaskTracker) -> Self {
        Self::new(tracker, &[])
    }
}

/// Lowers this thread's priority, which nobody forbids.
fn be_nice(niceness: i32) {
    // On Linux a niceness is a thread's, elsewhere the whole process'.
    #[cfg(target_os = "linux")]
    if niceness != 0
        && let Err(error) = rustix::process::setpriority_process(None, niceness)
    {
        tracing::info!(%error, niceness, "the bulk threads keep the priority of the others");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}
