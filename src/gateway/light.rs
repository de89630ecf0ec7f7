//! The light plane: the threads that accept, pair, and turn the relays that came to them. Each has
//! a runtime of its own, so that none wakes another, and all accept from the same listeners; the
//! first is the one that the gateway runs on.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::service::Pulse;
use crate::{
    front_door::FrontDoor,
    net::{
        listener::{Connection, ConnectionLimit, Listener},
        stream::PlainStream,
    },
    shutdown::Shutdown,
};

/// What every thread of the plane has a copy of.
#[derive(Clone)]
pub(super) struct Light {
    pub(super) door: Arc<FrontDoor>,
    pub(super) connections: Arc<ConnectionLimit>,
    pub(super) shutdown: Shutdown,
    /// The relays.
    pub(super) legs: TaskTracker,
    /// Cancelled when nobody is let in any more.
    pub(super) stop: CancellationToken,
    /// Those who let people in, and whoever has not said who it is.
    pub(super) strangers: TaskTracker,
    /// That each turns.
    pub(super) pulse: Pulse,
}

impl Light {
    /// Accepts on this thread until the drain begins.
    pub(super) fn accept(&self, thread: usize, listeners: Vec<Listener>) {
        let beating = self.pulse.clone().beat(thread, self.shutdown.hard().clone());
        self.shutdown.tracker().spawn(beating);
        for listener in listeners {
            let door = Arc::clone(&self.door);
            let mut entrance = door.entrance.clone();
            let serve = move |connection| door.open(&mut entrance, connection);
            let limit = Arc::clone(&self.connections);
            let accepting = accept(listener, self.stop.clone(), limit, serve);
            self.strangers.spawn(accepting);
        }
    }

    /// Accepts on as many further threads as there are sets of listeners. All threads of the plane
    /// that turn, this one first.
    pub(super) fn start(&self, shared: Vec<Vec<Listener>>, farewell: Duration) -> Vec<Handle> {
        let mut threads = vec![Handle::current()];
        for (listeners, thread) in shared.into_iter().zip(1..) {
            match self.start_one(thread, listeners, farewell) {
                Ok(runtime) => threads.push(runtime),
                Err(error) => {
                    self.pulse.excuse(thread);
                    tracing::error!(%error, "a thread of the light plane does not start: the others serve");
                }
            }
        }
        threads
    }

    /// Accepts on a further thread. It ends with the gateway, which waits for it.
    ///
    /// # Errors
    /// When there is no thread or no runtime to be had.
    fn start_one(
        &self,
        index: usize,
        listeners: Vec<Listener>,
        farewell: Duration,
    ) -> io::Result<Handle> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ended, over) = oneshot::channel();
        let light = self.clone();
        thread::Builder::new().name(format!("light-{index}")).spawn(move || {
            light.run(runtime, index, listeners, farewell);
            // Nobody listens any more when the gateway was dropped.
            let _ = ended.send(());
        })?;
        self.shutdown.tracker().spawn(over);
        Ok(handle)
    }

    fn run(self, runtime: Runtime, index: usize, listeners: Vec<Listener>, farewell: Duration) {
        runtime.block_on(async {
            self.accept(index, listeners);
            self.shutdown.hard().cancelled().await;
            // Relays that are cut short say so; what does not end by itself ends with the runtime.
            let over = async { tokio::join!(self.legs.wait(), self.strangers.wait()) };
            let _ = timeout(farewell, over).await;
        });
    }
}

/// Accepts until `stop` is cancelled.
pub(super) async fn accept(
    listener: Listener,
    stop: CancellationToken,
    limit: Arc<ConnectionLimit>,
    serve: impl FnMut(Connection<PlainStream>),
) {
    let addr = listener.addr();
    if let Err(error) = listener.accept_until(stop, limit, serve).await {
        tracing::error!(%error, listener = %addr, "cannot wait for connections");
    }
}
