//! The waiting room and the pairing service: two legs that name one uuid meet, in one step.
//!
//! A leg that waits is a plain socket in a map: no task, no timer. A sweep drops those that hung
//! up, whose time is over or whose key is no longer valid; a leg that finds its peer dead waits in
//! its place.
//!
//! Once another process has taken over, legs wait in its room (`passage`): those that are here
//! leave, and so does every one that comes. One that cannot leave is waited for there.

// The paths are said for `tests/race`, which compiles this file elsewhere.
#[path = "pairing/leaving.rs"]
mod leaving;
#[path = "pairing/lent.rs"]
mod lent;
#[path = "pairing/onward.rs"]
mod onward;

use std::{
    collections::{HashMap, hash_map::RandomState},
    future::{Ready, ready},
    hash::BuildHasher as _,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tower::Service;

pub use self::lent::{Lent, Reserved, Return};
use self::{lent::Away, onward::Elsewhere};
use super::{
    capacity::{ActivePlace, Capacity},
    passage::Way,
    request::{Match, Paired, RelayError, RelayRequest, Via, WaitId},
    route::Claim,
};
use crate::{
    config::{Live, PairingConfig},
    key_ring::{Grant, KeyRing, Seats},
    metrics::Metrics,
    net::{
        access::{Access, AddressPermit, WaitingPlace},
        leg::{Leg, ParkedLeg},
    },
    wire::{
        Transport,
        rendezvous::{ConnType, Hello, RelayUuid, Text},
    },
};

/// So that a sweep of one part does not hold up the others.
const SHARDS: usize = 16;

/// A relay's place among those that may be active, and on the keys of its legs.
pub type Places = (ActivePlace, Seats);

/// The legs that wait for their peers.
pub struct WaitingRoom {
    // Held for map operations and calls to the kernel that do not block; never across an await.
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    waiting: AtomicUsize,
    closed: AtomicBool,
    limits: Live<PairingConfig>,
    ring: Arc<KeyRing>,
    access: Arc<Access>,
    capacity: Capacity,
    metrics: Arc<Metrics>,
    on_return: OnceLock<Return>,
}

#[derive(Default)]
struct Shard {
    // Boxed: a map has more places than legs, and moves them when it grows.
    waiting: HashMap<RelayUuid, Box<Waiting>>,
    /// Of these a leg waits in another process, and cannot leave it.
    elsewhere: HashMap<RelayUuid, Elsewhere>,
    /// Where legs wait since another process has taken over.
    onward: Option<Way>,
    /// Those who are out of the room for a moment.
    lent: Away,
    /// The last that was given; a multiple of `SHARDS` before this part's own number.
    last_id: u64,
}

/// A leg in the room.
struct Waiting {
    leg: ParkedLeg,
    target: Option<Text>,
    conn_type: ConnType,
    grant: Grant,
    since: Instant,
    ticket: Ticket,
    id: WaitId,
    // Boxed once more: on a single node nobody has one, and all would pay for its place.
    claim: Option<Box<Claim>>,
}

/// A leg that meets one that waits.
pub struct Comer {
    /// The leg.
    pub leg: Leg,
    /// The machine that it claims to reach.
    pub target: Option<Text>,
    /// What the session is for.
    pub conn_type: ConnType,
    /// What its key gives it.
    pub grant: Grant,
    /// By which node it came, if it came to another.
    pub via: Option<Via>,
}

/// A leg's place in the room; given back when dropped.
struct Ticket {
    room: Arc<WaitingRoom>,
    /// The one among those of its address.
    _place: WaitingPlace,
}

/// What the admin API tells of a leg that waits.
#[derive(Debug, Clone)]
pub struct WaitingLeg {
    /// The name that its peer must give.
    pub uuid: RelayUuid,
    /// Whence it came.
    pub address: SocketAddr,
    /// How its messages travel.
    pub transport: Transport,
    /// Whether that is within TLS.
    pub tls: bool,
    /// The machine that it claims to reach.
    pub target: Option<Text>,
    /// What the session is for.
    pub conn_type: ConnType,
    /// What its key gives it.
    pub grant: Grant,
    /// How long it has waited.
    pub age: Duration,
    /// How long it may still wait.
    pub remaining: Duration,
}

/// The service at the stack's core.
#[derive(Clone)]
pub struct Pairing {
    room: Arc<WaitingRoom>,
}

impl Pairing {
    /// Pairs in `room`.
    pub const fn new(room: Arc<WaitingRoom>) -> Self {
        Self { room }
    }
}

impl Service<RelayRequest> for Pairing {
    type Response = Match;
    type Error = RelayError;
    type Future = Ready<Result<Match, RelayError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RelayRequest) -> Self::Future {
        ready(self.room.arrive(request, Instant::now()))
    }
}

impl WaitingRoom {
    /// An empty room.
    pub fn new(
        limits: Live<PairingConfig>,
        ring: Arc<KeyRing>,
        access: Arc<Access>,
        capacity: Capacity,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(Shard::numbered),
            hasher: RandomState::new(),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            limits,
            ring,
            access,
            capacity,
            metrics,
            on_return: OnceLock::new(),
        })
    }

    /// What may wait, and for how long.
    pub const fn limits(&self) -> &Live<PairingConfig> {
        &self.limits
    }

    /// Matches a leg with the one that waits for it, or lets it wait.
    pub(super) fn arrive(
        self: &Arc<Self>,
        request: RelayRequest,
        since: Instant,
    ) -> Result<Match, RelayError> {
        loop {
            let mut shard = self.shard(&request.hello.uuid);
            let Some((uuid, first)) = shard.waiting.remove_entry(&request.hello.uuid) else {
                return self.park(shard, request, since);
            };
            // Not under the lock: another leg of this uuid may come in between, and is then met
            // by the next turn of the loop.
            drop(shard);
            let Some(first) = self.if_fit(&uuid, first) else { continue };
            return match self.places([&first.grant, &request.grant]) {
                Ok(places) => pair(uuid, *first, request.try_into()?, places),
                Err(refusal) => {
                    // Both are told at once: neither could be paired.
                    self.left(&uuid, *first, refusal.label());
                    Err(refusal)
                }
            };
        }
    }

    /// A place for one more relay, and on the keys of its legs.
    fn places(&self, grants: [&Grant; 2]) -> Result<Places, RelayError> {
        let place = self.capacity.take().map_err(|limit| RelayError::TooManyRelays { limit })?;
        Ok((place, Seats::take(grants)?))
    }

    fn park(
        self: &Arc<Self>,
        mut shard: MutexGuard<'_, Shard>,
        request: RelayRequest,
        since: Instant,
    ) -> Result<Match, RelayError> {
        // Under the shard's lock, which `close` takes after it has set this.
        if self.closed.load(Ordering::Relaxed) {
            return Err(RelayError::Draining);
        }
        let RelayRequest { hello, leg, grant } = request;
        let ticket = self.ticket(&leg.connection.permit.address)?;
        let leg = leg.park()?;
        let (peer, id) = (leg.peer(), shard.next_id());
        let Hello { uuid, target, conn_type, .. } = hello;
        let waiting = Waiting { leg, target, conn_type, grant, since, ticket, id, claim: None };
        let waits = self.enter(shard, uuid, Box::new(waiting));
        if let Some(waits) = &waits {
            tracing::info!("New relay request {} from {peer}", waits.uuid);
        }
        Ok(Match::Parked(waits))
    }

    fn timeout(&self) -> Duration {
        self.limits.get().timeout.get()
    }

    /// How many legs wait.
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether no leg waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The legs that wait, in no order.
    pub fn list(&self) -> Vec<WaitingLeg> {
        let timeout = self.timeout();
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(lock(shard).waiting.iter().map(|(uuid, waiting)| {
                let age = waiting.since.elapsed();
                WaitingLeg {
                    uuid: uuid.clone(),
                    address: waiting.leg.peer(),
                    transport: waiting.leg.transport,
                    tls: waiting.leg.connection.socket.is_tls(),
                    target: waiting.target.clone(),
                    conn_type: waiting.conn_type,
                    grant: waiting.grant.clone(),
                    age,
                    remaining: timeout.saturating_sub(age),
                }
            }));
        }
        all
    }

    fn shard(&self, uuid: &RelayUuid) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(uuid) as usize % SHARDS])
    }

    fn ticket(self: &Arc<Self>, permit: &AddressPermit) -> Result<Ticket, RelayError> {
        let place = self.access.wait(permit)?;
        // Counted first: the ticket gives its place back also when there was none.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        self.metrics.waiting.increment(1.0);
        let ticket = Ticket { room: Arc::clone(self), _place: place };
        let has_room = before < self.limits.get().max_waiting;
        if has_room { Ok(ticket) } else { Err(RelayError::WaitingRoomFull) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.room.waiting.fetch_sub(1, Ordering::Relaxed);
        self.room.metrics.waiting.decrement(1.0);
    }
}

impl Shard {
    fn numbered(number: usize) -> Mutex<Self> {
        Mutex::new(Self { last_id: number as u64, ..Self::default() })
    }

    /// No two legs of a room have the same.
    const fn next_id(&mut self) -> WaitId {
        self.last_id += SHARDS as u64;
        WaitId(self.last_id)
    }
}

impl TryFrom<RelayRequest> for Comer {
    type Error = io::Error;

    fn try_from(request: RelayRequest) -> io::Result<Self> {
        let RelayRequest { hello, leg, grant } = request;
        let Hello { target, conn_type, .. } = hello;
        Ok(Self { leg: leg.wake()?, target, conn_type, grant, via: None })
    }
}

fn pair(
    uuid: RelayUuid,
    first: Waiting,
    second: Comer,
    (place, seats): Places,
) -> Result<Match, RelayError> {
    let Comer { leg, target, conn_type, grant, via } = second;
    let legs = [first.leg.wake()?, leg];
    tracing::info!(
        first_key = first.grant.label(),
        second_key = grant.label(),
        via = via.as_ref().map(|via| &*via.node),
        "Relayrequest {uuid} from {} got paired",
        legs[1].connection.peer
    );
    Ok(Match::Paired(Box::new(Paired {
        uuid,
        target: first.target.or(target),
        conn_type: match first.conn_type {
            ConnType::Default => conn_type,
            said => said,
        },
        legs,
        via,
        grants: [first.grant, grant],
        seats,
        place,
        waited: first.since.elapsed(),
    })))
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A map operation that panicked left the map as it was.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::net::TcpStream;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        key_ring::tests::ring,
        metrics,
        net::leg::Arriving,
        relay::{
            passage::Departure,
            tests::{access, request},
        },
    };

    fn room() -> Arc<WaitingRoom> {
        let metrics = Arc::new(metrics::start().unwrap().0);
        let capacity = Capacity::new(Live::default());
        WaitingRoom::new(Live::default(), Arc::new(ring("")), access(), capacity, metrics)
    }

    /// Brings legs in at once, from as many threads as there are.
    async fn race(room: &Arc<WaitingRoom>, requests: Vec<RelayRequest>) -> Vec<Match> {
        let start = Arc::new(tokio::sync::Barrier::new(requests.len()));
        let mut tasks = tokio::task::JoinSet::new();
        for request in requests {
            let (pairing, start) = (Pairing::new(Arc::clone(room)), Arc::clone(&start));
            tasks.spawn(async move {
                start.wait().await;
                pairing.oneshot(request).await.unwrap()
            });
        }
        tasks.join_all().await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_legs_that_come_at_once_all_are_paired_but_an_odd_one() {
        let room = room();
        for round in 0..300 {
            let (count, uuid) = (2 + round % 4, format!("uuid-{round}"));
            let mut clients: Vec<TcpStream> = Vec::new();
            let mut requests = Vec::new();
            for _ in 0..count {
                let (leg, client) = request(&uuid, "").await;
                requests.push(leg);
                clients.push(client);
            }
            let matches = race(&room, requests).await;
            let paired = matches.iter().filter(|one| matches!(one, Match::Paired(_))).count();
            assert_eq!(paired, count / 2, "of {count}");
            assert_eq!(
                room.list().iter().filter(|leg| leg.uuid.as_str() == uuid).count(),
                count % 2
            );
            drop((matches, clients));
            room.sweep().await;
            assert_eq!(room.len(), 0, "the odd one hung up");
        }
    }

    #[tokio::test]
    async fn who_has_hung_up_is_not_sent_to_another_process() {
        let room = room();
        let (dead, client) = request("uuid", "").await;
        let Arriving::Plain(socket) = &dead.leg.connection.socket else { panic!("not plain") };
        let socket = socket.try_clone().unwrap();
        assert!(matches!(room.arrive(dead, Instant::now()), Ok(Match::Parked(_))));
        let (alive, _client) = request("another", "").await;
        assert!(matches!(room.arrive(alive, Instant::now()), Ok(Match::Parked(_))));
        drop(client);
        // Until that is known here, too.
        socket.set_nonblocking(false).unwrap();
        assert_eq!((&socket).read(&mut [0]).unwrap(), 0);
        let (way, mut departures) = tokio::sync::mpsc::unbounded_channel();
        room.hand_over(&way);
        let Ok(Departure::Leg(traveller)) = departures.try_recv() else { panic!("one leaves") };
        assert_eq!(traveller.uuid.as_str(), "another");
        assert!(departures.try_recv().is_err());
        drop(traveller);
        assert_eq!(room.len(), 0);
    }

    #[tokio::test]
    async fn a_dead_leg_is_never_matched_and_its_place_is_taken() {
        let room = room();
        for _ in 0..50 {
            let (dead, client) = request("uuid", "").await;
            assert!(matches!(room.arrive(dead, Instant::now()), Ok(Match::Parked(_))));
            drop(client);
        }
        let (first, _client) = request("uuid", "").await;
        assert!(matches!(room.arrive(first, Instant::now()), Ok(Match::Parked(_))));
        assert_eq!(room.len(), 1);
        let (second, _other) = request("uuid", "").await;
        assert!(matches!(room.arrive(second, Instant::now()), Ok(Match::Paired(_))));
        assert_eq!(room.len(), 0);
    }
}
