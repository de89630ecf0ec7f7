//! The way down: two tokens and the tracker of every task.
//!
//! The soft token stops what is new (accepting, waiting); the hard one ends what is under way. A
//! third one stops accepting alone: another process has taken over.
//! Signals are turned into them by [`Shutdown::on_signals`]; draining is `gateway`'s.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shared by everything that a gateway runs.
#[derive(Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    succeeded: CancellationToken,
    asked: CancellationToken,
    tracker: TaskTracker,
}

impl Shutdown {
    /// Begins the drain: no new connection, no new leg.
    pub fn drain(&self) {
        self.asked.cancel();
        self.soft.cancel();
    }

    /// The same, of itself: another process has taken over, and whoever was on the way is through.
    pub fn retire(&self) {
        self.soft.cancel();
    }

    /// Cancelled when somebody asked for the drain.
    pub const fn asked(&self) -> &CancellationToken {
        &self.asked
    }

    /// Ends everything, drained or not.
    pub fn end(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Accepts nothing more, here or for the admin API: another process does. What is here goes on.
    pub fn succeed(&self) {
        self.succeeded.cancel();
    }

    /// Cancelled when another process has taken over.
    pub const fn succeeded(&self) -> &CancellationToken {
        &self.succeeded
    }

    /// Cancelled when the drain begins.
    pub const fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when relays must end.
    pub const fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Every task is spawned on it.
    pub const fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Drains at the first SIGTERM or SIGINT (Ctrl-C), ends at the second. They are listened for
    /// from here on, and acted upon by the future, which runs until the hard token is cancelled.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub fn on_signals(&self) -> std::io::Result<impl Future<Output = ()> + use<>> {
        let signals = Signals::new()?;
        Ok(self.clone().obey(signals))
    }

    async fn obey(self, mut signals: Signals) {
        tokio::select! {
            () = signals.next() => {}
            () = self.hard.cancelled() => return,
        }
        tracing::info!("shutting down: relays may finish; a second signal ends them at once");
        self.drain();
        tokio::select! {
            () = signals.next() => {
                tracing::warn!("second signal: ending at once");
                self.end();
            }
            () = self.hard.cancelled() => {}
        }
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a console there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
