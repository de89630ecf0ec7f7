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
#[path = "pairing/onward.rs"]
mod onward;

use std::{
    collections::{HashMap, hash_map::RandomState},
    future::{Ready, ready},
    hash::BuildHasher as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tower::Service;

use self::onward::Elsewhere;
use super::{
    capacity::{ActivePlace, Capacity},
    passage::Way,
    request::{Match, Paired, RelayError, RelayRequest},
};
use crate::{
    config::{Live, PairingConfig},
    key_ring::{Grant, KeyRing, Seats},
    metrics::Metrics,
    net::{
        access::{Access, AddressPermit, WaitingPlace},
        leg::ParkedLeg,
    },
    wire::{
        Transport,
        rendezvous::{ConnType, RelayUuid, Text},
    },
};

/// So that a sweep of one part does not hold up the others.
const SHARDS: usize = 16;

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
}

#[derive(Default)]
struct Shard {
    // Boxed: a map has more places than legs, and moves them when it grows.
    waiting: HashMap<RelayUuid, Box<Waiting>>,
    /// Of these a leg waits in another process, and cannot leave it.
    elsewhere: HashMap<RelayUuid, Elsewhere>,
    /// Where legs wait since another process has taken over.
    onward: Option<Way>,
}

/// A leg in the room.
struct Waiting {
    leg: ParkedLeg,
    target: Option<Text>,
    conn_type: ConnType,
    grant: Grant,
    since: Instant,
    ticket: Ticket,
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
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            limits,
            ring,
            access,
            capacity,
            metrics,
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
            let mut first = *first;
            if !first.leg.is_alive() {
                self.left(&uuid, first, "hung_up");
                continue;
            }
            // The key of the leg that comes has just been checked; this one's was when it came.
            if let Err(denied) = self.ring.still_grants(&first.grant) {
                self.left(&uuid, first, denied.label());
                continue;
            }
            return match self.places([&first.grant, &request.grant]) {
                Ok(places) => pair(uuid, first, request, places),
                Err(refusal) => {
                    // Both are told at once: neither could be paired.
                    self.left(&uuid, first, refusal.label());
                    Err(refusal)
                }
            };
        }
    }

    /// A place for one more relay, and on the keys of its legs.
    fn places(&self, grants: [&Grant; 2]) -> Result<(ActivePlace, Seats), RelayError> {
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
        let peer = leg.peer();
        let waiting =
            Waiting { leg, target: hello.target, conn_type: hello.conn_type, grant, since, ticket };
        if self.stays(&mut shard, &hello.uuid, Box::new(waiting)) {
            drop(shard);
            tracing::info!("New relay request {} from {peer}", hello.uuid);
        }
        Ok(Match::Parked)
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

fn pair(
    uuid: RelayUuid,
    first: Waiting,
    second: RelayRequest,
    (place, seats): (ActivePlace, Seats),
) -> Result<Match, RelayError> {
    let RelayRequest { hello, leg, grant } = second;
    let legs = [first.leg.wake()?, leg.wake()?];
    tracing::info!(
        first_key = first.grant.label(),
        second_key = grant.label(),
        "Relayrequest {uuid} from {} got paired",
        legs[1].connection.peer
    );
    Ok(Match::Paired(Box::new(Paired {
        uuid,
        target: first.target.or(hello.target),
        conn_type: match first.conn_type {
            ConnType::Default => hello.conn_type,
            said => said,
        },
        legs,
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
        assert!(matches!(room.arrive(dead, Instant::now()), Ok(Match::Parked)));
        let (alive, _client) = request("another", "").await;
        assert!(matches!(room.arrive(alive, Instant::now()), Ok(Match::Parked)));
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
            assert!(matches!(room.arrive(dead, Instant::now()), Ok(Match::Parked)));
            drop(client);
        }
        let (first, _client) = request("uuid", "").await;
        assert!(matches!(room.arrive(first, Instant::now()), Ok(Match::Parked)));
        assert_eq!(room.len(), 1);
        let (second, _other) = request("uuid", "").await;
        assert!(matches!(room.arrive(second, Instant::now()), Ok(Match::Paired(_))));
        assert_eq!(room.len(), 0);
    }
}
