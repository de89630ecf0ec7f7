//! What an operator may ask of a gateway that runs: by signals, and through the admin API.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::reload::{Reloader, Rooms};
use crate::{
    config::{Config, Live, ShutdownConfig},
    http::{self, Draining, ReloadError, Reloaded},
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
}

impl Control {
    pub(super) fn new(
        config: &Config,
        dir: &Path,
        rooms: Rooms,
        shutdown: &Shutdown,
        relays: &Arc<ActiveRelays>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits: rooms.shutdown.clone(),
            reloader: Reloader::new(config, dir, rooms),
            shutdown: shutdown.clone(),
            relays: Arc::clone(relays),
            drain_timeout: Mutex::default(),
        })
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

    /// Reloads at every SIGHUP, which is listened for from here on and acted upon by the future,
    /// which runs until the hard token is cancelled.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    #[cfg(unix)]
    pub fn on_signals(self: &Arc<Self>) -> std::io::Result<impl Future<Output = ()> + use<>> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hang_ups = signal(SignalKind::hangup())?;
        let control = Arc::clone(self);
        Ok(async move {
            let hard = control.shutdown.hard().clone();
            while let Some(Some(())) = hard.run_until_cancelled(hang_ups.recv()).await {
                let control = Arc::clone(&control);
                // Its answer is in the log.
                let _ = tokio::task::spawn_blocking(move || http::Control::reload(&*control)).await;
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
        let already = self.shutdown.is_draining();
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
}
