//! The directory as a node sees it: the one in memory, behind a network, with what goes wrong.

use std::{future::pending, sync::Arc, time::Duration};

use mini_rust_desk_relay_server::{
    cluster::directory::{Claimed, Directory, DirectoryError, Event, Holder},
    wire::rendezvous::RelayUuid,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{node::SimulatedNode, pairs::number, world::World};

/// How long a node waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How much longer everything takes while it is slow, on average.
const SLOWED: Duration = Duration::from_millis(250);

pub(super) struct FarDirectory {
    pub(super) world: Arc<World>,
    pub(super) me: Arc<SimulatedNode>,
}

impl FarDirectory {
    /// Asks: the request goes there, is answered, and the answer comes back; in time or not.
    async fn ask<T: Send + 'static>(
        &self,
        answer: impl Future<Output = Result<T, DirectoryError>> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let timeout = Instant::now() + TIMEOUT;
        let [there, back] = match self.world.way_to_the_directory() {
            Ok(ways) => ways,
            Err(after) => {
                sleep(after.min(TIMEOUT)).await;
                return self.unless_dead(Err(DirectoryError("away".to_owned()))).await;
            }
        };
        // Who asks may give up; what was asked is done all the same.
        let answered = tokio::spawn(async move {
            sleep(there).await;
            let answer = answer.await;
            sleep(back).await;
            answer
        });
        let result = tokio::select! {
            biased;
            answer = answered => answer.expect("it does not panic"),
            () = sleep_until(timeout) => Err(DirectoryError("slow".to_owned())),
        };
        self.unless_dead(result).await
    }

    async fn unless_dead<T>(&self, result: T) -> T {
        if self.me.is_dead() { pending().await } else { result }
    }
}

impl Directory for FarDirectory {
    async fn claim(
        &self,
        uuid: &RelayUuid,
        me: &Holder,
        stale: Option<&Holder>,
        ttl: Duration,
    ) -> Result<Claimed, DirectoryError> {
        self.world.pairs().asked(number(uuid));
        let (directory, uuid) = (self.world.directory.clone(), uuid.clone());
        let (me, stale) = (me.clone(), stale.cloned());
        self.ask(async move { directory.claim(&uuid, &me, stale.as_ref(), ttl).await }).await
    }

    async fn release(&self, uuid: &RelayUuid, me: &Holder) -> Result<(), DirectoryError> {
        self.world.pairs().releases += 1;
        let (directory, uuid, me) = (self.world.directory.clone(), uuid.clone(), me.clone());
        self.ask(async move { directory.release(&uuid, &me).await }).await
    }
}

/// What the directory tells a node, later, and not while it is away.
pub(super) async fn tell(
    world: Arc<World>,
    mut told: mpsc::UnboundedReceiver<Event>,
    node: mpsc::Sender<Event>,
) {
    while let Some(event) = told.recv().await {
        let Ok([_, back]) = world.way_to_the_directory() else { continue };
        let node = node.clone();
        tokio::spawn(async move {
            sleep(back).await;
            let _ = node.send(event).await;
        });
    }
}

impl World {
    /// How long there and back takes; or after how long it is known that there is no way.
    fn way_to_the_directory(&self) -> Result<[Duration; 2], Duration> {
        let (weather, mut dice) = (self.weather(), self.dice());
        if weather.is_away() {
            return Err(if dice.happens(0.5) { Duration::from_millis(1) } else { TIMEOUT });
        }
        let mut way = || {
            let slowed = if weather.is_slow() { dice.exponential(SLOWED) } else { Duration::ZERO };
            dice.trip() + slowed
        };
        Ok([way(), way()])
    }
}
