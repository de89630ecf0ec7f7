//! From serving to the end: the drain, and before it, where somebody asks for that, the hand-over
//! to another process.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Control, FAREWELL,
    control::UpgradeRequest,
    handover::{Link, Successor},
    keys,
    service::with_time,
    share,
};
use crate::{
    http::{AdminState, UpgradeError, Upgraded},
    relay::{Core, Parts},
    service_manager,
    shutdown::Shutdown,
};

/// How much longer than it may take strangers are waited for, since one may have come last.
const MARGIN: Duration = Duration::from_secs(2);

/// What goes down, and in which order, is here.
pub(super) struct WayDown {
    pub(super) shutdown: Shutdown,
    pub(super) admin: Arc<AdminState>,
    pub(super) control: Arc<Control>,
    pub(super) core: Core,
    /// The relays.
    pub(super) legs: TaskTracker,
    /// Those who let people in, and whoever has not said who it is.
    pub(super) strangers: TaskTracker,
    /// The processes from which legs still come.
    pub(super) links: TaskTracker,
    /// Ends accepting at the front door.
    pub(super) front: CancellationToken,
    /// The same for the admin API, which is open until the very end unless another process has it.
    pub(super) back: CancellationToken,
    pub(super) upgrades: mpsc::Receiver<UpgradeRequest>,
}

impl WayDown {
    /// Serves until it is told to drain or has handed over, and drains.
    pub(super) async fn go(mut self) {
        let soft = self.shutdown.soft().clone();
        let succeeded = soft.run_until_cancelled(self.hand_over()).await.is_some();
        if succeeded {
            self.shutdown.retire();
        } else {
            service_manager::stopping();
        }
        self.upgrades.close();
        self.close_front_door();
        self.legs.close();
        if succeeded {
            self.drain(succeeded).await;
        } else {
            with_time(self.drain(succeeded)).await;
        }
        self.shutdown.end();
        let tracker = self.shutdown.tracker();
        tracker.close();
        // Those that are cut short say so; what does not end by itself ends with the runtime.
        let over = async { tokio::join!(self.legs.wait(), self.strangers.wait(), tracker.wait()) };
        let _ = timeout(FAREWELL, over).await;
        self.admin.parts.refusals.tell_all();
        keys::save_all(&self.admin.parts).await;
    }

    fn close_front_door(&self) {
        self.front.cancel();
        self.control.reloader().listeners().clear();
        self.strangers.close();
    }

    /// Waits until it is asked to hand over, and has: only its active relays are left.
    async fn hand_over(&mut self) {
        let successor = loop {
            let Some(request) = self.upgrades.recv().await else {
                // Nobody can ask any more.
                return std::future::pending().await;
            };
            match self.successor().await {
                Ok(successor) => {
                    let pid = successor.pid;
                    tracing::info!(pid, "another process has taken over");
                    // Who asked may have gone.
                    let _ = request.send(Ok(Upgraded { pid }));
                    break successor;
                }
                Err(error) => drop(request.send(Err(error))),
            }
        };
        self.give_way(successor).await;
    }

    async fn successor(&self) -> Result<Successor, UpgradeError> {
        tracing::info!("starting a process that takes over");
        let listeners = share(self.control.reloader().listeners().iter());
        let listeners =
            listeners.map_err(|error| UpgradeError::Io(std::io::Error::other(error)))?;
        Successor::start(&listeners).await
    }

    async fn give_way(&self, successor: Successor) {
        let Successor { pid, channel } = successor;
        let parts = &self.admin.parts;
        let (way, departures) = mpsc::unbounded_channel();
        let finished = CancellationToken::new();
        let link = Link::new(channel, &self.core, &parts.room, &self.admin.connections);
        service_manager::succeeded_by(pid);
        let link = tokio::spawn(link.lead(way.clone(), departures, finished.clone()));
        // It accepts already: from here on legs meet there, and no door here has to be open.
        parts.room.hand_over(&way);
        self.shutdown.succeed();
        self.close_front_door();
        self.back.cancel();
        let patience = self.admin.patience() + MARGIN;
        let _ = timeout(patience, self.strangers.wait()).await;
        // What still comes from a process before this one is led on.
        self.links.close();
        let _ = timeout(patience, self.links.wait()).await;
        // Who cannot leave is waited for, as long as it waits for its peer.
        let longest = parts.room.limits().get().timeout.get() + MARGIN;
        let _ = timeout(longest, parts.room.until_empty()).await;
        finished.cancel();
        let _ = timeout(MARGIN, link).await;
        let (active, carried) = (parts.relays.count(), self.carried());
        tracing::info!(
            active,
            carried,
            "everybody is handed over: active relays go on here to their end"
        );
    }

    async fn drain(&self, succeeded: bool) {
        let Parts { relays, room, route, .. } = &self.admin.parts;
        let limit =
            if succeeded { self.control.handover_timeout() } else { self.control.drain_timeout() };
        let (active, carried) = (relays.count(), self.carried());
        tracing::info!(
            active,
            carried,
            timeout_s = limit.as_secs(),
            "draining: no new connections"
        );
        let over = async {
            if route.is_some() {
                // Those who wait may still be met, and are relays or carried then.
                room.until_empty().await;
            }
            tokio::join!(self.legs.wait(), self.strangers.wait())
        };
        let drained = tokio::select! {
            _ = over => true,
            () = self.patience(succeeded) => false,
            () = self.shutdown.hard().cancelled() => false,
        };
        match (relays.count(), self.carried()) {
            (0, None | Some(0)) if drained => tracing::info!("drained"),
            (0, None | Some(0)) => tracing::warn!("closing the connections that are still open"),
            (cut, carried) => {
                tracing::warn!(cut, carried, "closing the relays that are still active");
            }
        }
    }

    /// How many legs are carried to other nodes; `None` where there are none.
    fn carried(&self) -> Option<usize> {
        let Parts { carried, route, .. } = &self.admin.parts;
        route.as_ref().map(|_| carried.count())
    }

    /// As long as relays may go on. Who has handed over has more time, until somebody asks.
    async fn patience(&self, succeeded: bool) {
        if succeeded {
            tokio::select! {
                () = sleep(self.control.handover_timeout()) => return,
                () = self.shutdown.asked().cancelled() => {}
            }
        }
        sleep(self.control.drain_timeout()).await;
    }
}
