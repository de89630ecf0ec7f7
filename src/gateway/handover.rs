//! One process hands over to another: its listening sockets, and every leg that waits or is still
//! to come. Its active relays live on in it to their end.
//!
//! The old process starts the new one and offers it the listeners ([`successor`]). The new one
//! sets itself up, accepts, and says that it is ready ([`predecessor`]); until then nothing has
//! changed, and if it never says so nothing will. Then the old one stops accepting and sends its
//! waiting legs over the [`Link`], and after them whoever was still about to say who it is.

mod predecessor;
mod successor;

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::predecessor::{Following, Predecessor, TakeoverError};
pub(super) use self::successor::Successor;
use crate::{
    http::AdminState,
    net::{
        handover::{Channel, Message},
        listener::ConnectionLimit,
    },
    relay::{
        Core,
        pairing::WaitingRoom,
        passage::{Arrived, Departure, Way},
    },
    service_manager,
};

/// Of the messages. A process that does not know the other's says so, and the old one goes on.
const VERSION: u32 = 1;

/// What the new process finds in its environment; the channel is its standard input then.
const VARIABLE: &str = "MINI_RUST_DESK_RELAY_TAKES_OVER";

/// What two processes say to each other, legs aside.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// The old one: these listeners come with this message, in their order.
    Offer {
        /// Read by itself before anything else is.
        version: u32,
        /// What they are.
        listeners: Vec<Offered>,
    },
    /// The new one: it accepts.
    Ready { version: u32 },
    /// The new one: it ends, and why.
    Failed { why: String },
    /// The old one: the new one is the service now.
    Go,
    /// The old one: it has nobody left to send, and wants nobody sent back.
    Done,
}

/// A listener on its way.
#[derive(Debug, Serialize, Deserialize)]
struct Offered {
    /// What its setting says, a port of 0 too.
    addr: std::net::SocketAddr,
    /// `relay` or `admin`, if a socket unit's name and no setting says what it is for.
    named: Option<String>,
}

impl Word {
    fn pack(&self) -> Vec<u8> {
        // Nothing in it can fail to be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn unpack(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Takes on the legs of the process that came before.
pub(super) async fn follow(
    following: Following,
    core: &Core,
    admin: &AdminState,
    links: &TaskTracker,
) {
    if let Err(error) = following.is_ready().await {
        tracing::warn!(%error, "the process before is gone: its waiting legs are lost");
    }
    let link = Link::new(following.0, core, &admin.parts.room, &admin.connections);
    links.spawn(link.follow());
}

/// What legs travel by, both ways.
pub(super) struct Link {
    channel: Channel,
    core: Core,
    room: Arc<WaitingRoom>,
    connections: Arc<ConnectionLimit>,
    /// Cancelled when nothing more goes out.
    closing: CancellationToken,
    /// The service manager was told that this process serves.
    serves: AtomicBool,
}

impl Link {
    pub(super) fn new(
        channel: Channel,
        core: &Core,
        room: &Arc<WaitingRoom>,
        connections: &Arc<ConnectionLimit>,
    ) -> Self {
        Self {
            channel,
            core: core.clone(),
            room: Arc::clone(room),
            connections: Arc::clone(connections),
            closing: CancellationToken::new(),
            serves: AtomicBool::new(false),
        }
    }

    /// The new process' end: takes what comes, until the old one has nobody left.
    pub(super) async fn follow(self) {
        let (way, departures) = mpsc::unbounded_channel();
        let never = CancellationToken::new();
        tokio::join!(self.receive(&way), self.send(departures, &never));
        if !self.serves.load(Ordering::Relaxed) {
            // The old one is gone, and said nothing to anybody.
            service_manager::ready();
        }
    }

    /// The old process' end: sends what departs, until `finished` and the new one has agreed.
    pub(super) async fn lead(
        self,
        way: Way,
        departures: UnboundedReceiver<Departure>,
        finished: CancellationToken,
    ) {
        if self.channel.send(&Word::Go.pack(), &[]).await.is_ok() {
            tokio::join!(self.receive(&way), self.send(departures, &finished));
        }
    }

    async fn send(
        &self,
        mut departures: UnboundedReceiver<Departure>,
        finished: &CancellationToken,
    ) {
        let mut told = false;
        let mut closed = false;
        loop {
            let sent = tokio::select! {
                biased;
                departure = departures.recv() => match departure {
                    Some(departure) => self.send_one(departure).await,
                    None => break,
                },
                () = finished.cancelled(), if !told => {
                    told = true;
                    self.channel.send(&Word::Done.pack(), &[]).await
                }
                () = self.closing.cancelled(), if !closed => {
                    // What is in the queue still goes; who comes now is told that nothing does.
                    closed = true;
                    departures.close();
                    Ok(())
                }
            };
            if let Err(error) = sent {
                tracing::error!(%error, "legs cannot be handed over any more: they stay here");
                departures.close();
                break;
            }
        }
        self.channel.finish();
    }

    async fn send_one(&self, departure: Departure) -> io::Result<()> {
        let parcel = departure.pack();
        let socket = parcel.socket.as_ref().map(|socket| socket.as_fd());
        self.channel.send(&parcel.bytes, socket.as_slice()).await
    }

    async fn receive(&self, way: &Way) {
        loop {
            match self.channel.receive().await {
                Ok(Some(message)) => self.hear(message, way),
                Ok(None) => break,
                // What was in it is lost, what follows need not be.
                Err(error) if error.kind() == io::ErrorKind::Other => {
                    tracing::error!(%error, "a leg was lost on its way here");
                }
                Err(error) => {
                    tracing::warn!(%error, "the process at the other end of the hand-over is gone");
                    break;
                }
            }
        }
        self.closing.cancel();
    }

    fn hear(&self, (bytes, descriptors): Message, way: &Way) {
        match Word::unpack(&bytes) {
            Some(Word::Go) => {
                self.serves.store(true, Ordering::Relaxed);
                service_manager::ready();
            }
            Some(Word::Done) => self.closing.cancel(),
            Some(word) => tracing::debug!(?word, "out of turn"),
            None => match Arrived::unpack(&bytes, descriptors) {
                Some(Arrived::Leg(newcomer)) => self.core.welcome(*newcomer, &self.connections),
                Some(Arrived::Kept { uuid, remaining }) => {
                    self.room.is_kept(&uuid, remaining, way);
                }
                None => tracing::error!("a message of the hand-over makes no sense"),
            },
        }
    }
}
