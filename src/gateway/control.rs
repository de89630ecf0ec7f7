//! What an operator may ask of a gateway that runs: by signals, and through the admin API.

use std::{
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::reload::{Reloader, Rooms};
use crate::{
    config::{Config, Live, ShutdownConfig},
    http::{self, Draining, ReloadError, Reloaded, UpgradeError, Upgraded},
    relay::registry::ActiveRelays,
    shutdown::Shutdown,
};

/// One gateway's.
pub struct Control {
    reloader: Reloader,
    shutdown: Shutdown,
    relays: Arc<ActiveRelays>,
    limits: Live<ShutdownConfig>,
    /// What the drain was given, if it was asked for with one.
    drain_timeout: Mutex<Option<Duration>>,
    upgrades: mpsc::Sender<UpgradeRequest>,
}

/// Somebody waits for what comes of an upgrade.
pub(super) type UpgradeRequest = oneshot::Sender<Result<Upgraded, UpgradeError>>;

impl Control {
    pub(super) fn new(
        config: &Config,
        dir: &Path,
        rooms: Rooms,
        shutdown: &Shutdown,
        relays: &Arc<ActiveRelays>,
    ) -> (Arc<Self>, mpsc::Receiver<UpgradeRequest>) {
        let (upgrades, requests) = mpsc::channel(1);
        let control = Arc::new(Self {
            limits: rooms.shutdown.clone(),
            reloader: Reloader::new(config, dir, rooms),
            shutdown: shutdown.clone(),
            relays: Arc::clone(relays),
            drain_timeout: Mutex::default(),
            upgrades,
        });
        (control, requests)
    }

    /// Where a reload finds the configuration, and changes what is logged.
    pub const fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// How long relays may go on once the drain has begun.
    pub(super) fn drain_timeout(&self) -> Duration {
        let asked = *self.drain_timeout.lock().unwrap_or_else(PoisonError::into_inner);
        asked.unwrap_or_else(|| self.limits.get().drain_timeout.get())
    }

    /// How long they may go on once another process has taken over.
    pub(super) fn handover_timeout(&self) -> Duration {
        self.limits.get().handover_timeout.get()
    }

    /// Reloads at every SIGHUP, and hands over at SIGUSR2. They are listened for from here on, and
    /// acted upon by the future, which runs until the hard token is cancelled.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    #[cfg(unix)]
    pub fn on_signals(self: &Arc<Self>) -> std::io::Result<impl Future<Output = ()> + use<>> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut reloads = signal(SignalKind::hangup())?;
        let mut upgrades = signal(SignalKind::user_defined2())?;
        let control = Arc::clone(self);
        Ok(async move {
            loop {
                let control = Arc::clone(&control);
                // What comes of either is in the log.
                tokio::select! {
                    () = control.shutdown.hard().cancelled() => return,
                    _ = reloads.recv() => {
                        let control = Arc::clone(&control);
                        let reload = move || http::Control::reload(&*control);
                        let _ = tokio::task::spawn_blocking(reload).await;
                    }
                    // Not waited for: a reload may come meanwhile.
                    _ = upgrades.recv() => drop(tokio::spawn(http::Control::upgrade(&*control))),
                }
            }
        })
    }

    /// There are no such signals here.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub fn on_signals(self: &Arc<Self>) -> std::io::Result<impl Future<Output = ()> + use<>> {
        Ok(std::future::ready(()))
    }
}

impl http::Control for Control {
    fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.reloader.reload(&self.shutdown)
    }

    fn drain(&self, timeout: Option<Duration>) -> Draining {
        let already = self.shutdown.asked().is_cancelled();
        if !already {
            *self.drain_timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
            tracing::info!("asked to drain: relays may finish");
            self.shutdown.drain();
        }
        Draining {
            relays_active: self.relays.count(),
            timeout_seconds: self.drain_timeout().as_secs_f64(),
            already,
        }
    }

    fn upgrade(&self) -> Pin<Box<dyn Future<Output = Result<Upgraded, UpgradeError>> + Send>> {
        let (request, answer) = oneshot::channel();
        let sent = self.upgrades.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => UpgradeError::Busy,
            TrySendError::Closed(_) => UpgradeError::Draining,
        });
        Box::pin(async move {
            let done = match sent {
                Ok(()) => answer.await.unwrap_or(Err(UpgradeError::Draining)),
                Err(error) => Err(error),
            };
            if let Err(error) = &done {
                tracing::error!("no upgrade: {error}; this process goes on as before");
            }
            done
        })
    }
}
