//! The relay stack: what happens to a leg, as one [`tower`] stack read from top to bottom.

pub mod admission;
pub mod auth;
pub mod capacity;
pub mod entrance;
pub mod guests;
pub mod pairing;
pub mod passage;
pub mod plane;
pub mod record;
pub mod registry;
pub mod request;
pub mod route;
pub mod splice;
pub mod throttle;

use std::{future::ready, sync::Arc, time::Instant};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use self::{
    admission::AdmissionLayer,
    auth::RequireKeyLayer,
    capacity::Capacity,
    guests::Carrier,
    pairing::{Pairing, WaitingRoom},
    passage::Newcomer,
    plane::BulkPlane,
    record::RecordLayer,
    registry::ActiveRelays,
    request::{Match, Outcome, RelayError, RelayRequest},
    route::{Route, RouteLayer},
    splice::{
        Splicer,
        pipes::{self, Pipes},
    },
    throttle::Throttle,
};
use crate::{
    config::{Live, ProxyConfig, RelayConfig},
    key_ring::KeyRing,
    metrics::Metrics,
    net::{
        access::{Access, Denial},
        leg::{Arriving, Leg},
        listener::ConnectionLimit,
        refusals::Refusals,
    },
    wire::rendezvous::Hello,
};

/// The whole way of a leg as one service, its type erased once.
pub type RelayStack = BoxCloneSyncService<RelayRequest, Outcome, RelayError>;

/// What the stack is made of; the admin API looks at the same.
#[derive(Clone)]
pub struct Parts {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Counts and logs who is refused.
    pub refusals: Arc<Refusals>,
    /// Who may come in.
    pub access: Arc<Access>,
    /// Who speaks for others.
    pub proxies: Live<ProxyConfig>,
    /// Cancelled when no new leg is taken.
    pub draining: CancellationToken,
    /// The keys that are accepted.
    pub ring: Arc<KeyRing>,
    /// How many relays there may be.
    pub capacity: Capacity,
    /// The legs that wait.
    pub room: Arc<WaitingRoom>,
    /// The relays that are active.
    pub relays: Arc<ActiveRelays>,
    /// The legs that are carried to other nodes.
    pub carried: Arc<ActiveRelays>,
    /// How fast relays may go.
    pub throttle: Arc<Throttle>,
    /// The limits of relays.
    pub limits: Live<RelayConfig>,
    /// The threads for those that move much.
    pub bulk: Arc<BulkPlane>,
    /// Every relay is a task on it.
    pub legs: TaskTracker,
    /// Who knows the other nodes; `None` on a single one.
    pub route: Option<Arc<dyn Route>>,
}

/// The stack's last two steps: a leg meets its peer, and the pair is relayed.
#[derive(Clone)]
pub struct Core {
    splicer: Splicer,
    carrier: Carrier,
    parts: Parts,
}

/// Puts the stack together.
pub fn stack(core: &Core) -> RelayStack {
    let Parts { refusals, access, draining, ring, room, route, .. } = core.parts.clone();
    let core = core.clone();
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(RecordLayer::new(refusals, Arc::clone(&access)))
            .layer(AdmissionLayer::new(draining, Arc::clone(&access)))
            .layer(RequireKeyLayer::new(ring, access))
            .and_then(move |matched| ready(Ok(core.splice(matched))))
            .option_layer(route.map(RouteLayer::new))
            .service(Pairing::new(room)),
    )
}

impl Core {
    /// Of these parts.
    pub fn new(parts: &Parts) -> Self {
        let parts = parts.clone();
        let pipes = Pipes::new(if parts.limits.get().kernel_splice { pipes::MOST } else { 0 });
        let (registry, limits) = (Arc::clone(&parts.relays), parts.limits.clone());
        let splicer = Splicer { registry, limits, pipes, bulk: Arc::clone(&parts.bulk) };
        let carrier = Carrier::new(&parts, &splicer);
        // Of the room itself nothing is kept there.
        let (relays, legs, route) = (splicer.clone(), parts.legs.clone(), parts.route.clone());
        let act = move |matched| settle(&relays, &legs, route.as_deref(), matched);
        parts.room.on_return(Box::new(act));
        Self { splicer, carrier, parts }
    }

    /// A pair gets a task of its own, on the thread that its second leg came to: what led it here
    /// is over, and keeps no memory while they are relayed.
    fn splice(&self, matched: Match) -> Outcome {
        match matched {
            Match::Parked(_) => Outcome::Parked,
            Match::Paired(paired) => {
                self.parts.legs.spawn(self.splicer.splice(*paired));
                Outcome::Relayed
            }
        }
    }

    /// The same for a leg that did not come by the stack.
    fn settle(&self, matched: Match) {
        settle(&self.splicer, &self.parts.legs, self.parts.route.as_deref(), matched);
    }

    /// Takes a leg on that waited in another process, if the key that let it in there is valid here
    /// too: this process' keys may be other ones, and its peer is held to them.
    pub fn welcome(&self, newcomer: Newcomer, connections: &Arc<ConnectionLimit>) {
        let Newcomer { uuid, target, conn_type, label, peer, transport, early, waited, socket } =
            newcomer;
        let Some(mut connection) = connections.admit(socket, peer) else { return };
        if let Err(denial @ Denial::Blocked) = self.parts.access.admit(&mut connection) {
            return self.parts.refusals.refuse(peer, denial.label(), &denial);
        }
        let grant = match self.parts.ring.verify_label(label.as_deref()) {
            Ok(grant) => grant,
            Err(denied) => return self.parts.refusals.refuse(peer, denied.label(), &denied),
        };
        let leg = Leg { connection: connection.with_socket(Arriving::Plain), transport, early };
        let licence_key = zeroize::Zeroizing::default();
        let hello = Hello { uuid, target, conn_type, licence_key };
        let now = Instant::now();
        let since = now.checked_sub(waited).unwrap_or(now);
        let request = RelayRequest { hello, leg, grant };
        match self.parts.room.arrive(request, since) {
            Ok(matched) => self.settle(matched),
            Err(refusal) => self.parts.refusals.refuse(peer, refusal.label(), &refusal),
        }
    }
}

/// What becomes of a leg that did not come by the stack.
fn settle(splicer: &Splicer, legs: &TaskTracker, route: Option<&dyn Route>, matched: Match) {
    match matched {
        Match::Parked(leg) => {
            if let Some((route, leg)) = route.zip(leg) {
                route.waits(leg);
            }
        }
        Match::Paired(paired) => drop(legs.spawn(splicer.splice(*paired))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpStream};

    use super::{request::Paired, *};
    use crate::{
        key_ring::Grant,
        metrics,
        net::first_message,
        wire::{
            Transport,
            rendezvous::{ConnType, request_relay},
        },
    };

    /// As nothing is configured.
    pub(crate) fn access() -> Arc<Access> {
        let (config, nowhere) =
            (crate::config::Config::default(), std::path::Path::new("/nonexistent"));
        Arc::new(Access::new(&config.access, &config.proxy, nowhere))
    }

    /// A request over a real socket, and the client's end of it.
    pub(crate) async fn request(uuid: &str, key: &str) -> (RelayRequest, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        let socket = socket.into_std().unwrap();
        let metrics = Arc::new(metrics::start().unwrap().0);
        let refusals = Refusals::new(Arc::clone(&metrics));
        let connection = ConnectionLimit::new(1, metrics, refusals).admit(socket, peer).unwrap();
        let payload = request_relay(uuid, "", key, ConnType::Default);
        let head = crate::wire::frame::encode(&payload).unwrap();
        let (hello, rest) = first_message::of(&head, 4096).unwrap().unwrap();
        let connection = connection.with_socket(Arriving::Plain);
        let leg = Leg { connection, transport: Transport::Tcp, early: head[rest..].into() };
        (RelayRequest { hello, leg, grant: Grant::default() }, client)
    }

    /// An idle relay is mostly its future: what it grows by, thousands of relays pay.
    #[test]
    fn the_future_of_a_relay_is_small() {
        fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
            size_of::<F>()
        }
        let relayed = size(|(splicer, paired): (Splicer, Paired)| splicer.splice(paired));
        assert!(relayed <= 1024, "splice: {relayed} bytes");
    }
}
