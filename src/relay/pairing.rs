//! The waiting room and the pairing service: two legs that name one uuid meet, in one step.
//!
//! A leg that waits is a plain socket in a map: no task, no timer. A sweep drops those that hung
//! up, whose time is over or whose key is no longer valid; a leg that finds its peer dead waits in
//! its place.
//!
//! Once another process has taken over, legs wait in its room (`passage`): those that are here
//! leave, and so does every one that comes. One that cannot leave is waited for there.

// The path is said for `tests/race`, which compiles this file elsewhere.
#[path = "pairing/onward.rs"]
mod onward;

use std::{
    collections::{HashMap, hash_map::RandomState},
    future::{Ready, ready},
    hash::BuildHasher as _,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tower::Service;

use self::onward::Elsewhere;
use super::passage::Way;
use super::request::{Match, Paired, RelayError, RelayRequest};
use crate::{
    config::{Live, PairingConfig},
    key_ring::{Grant, KeyRing, Seats},
    metrics::Metrics,
    net::leg::{ParkedLeg, gone},
    wire::{
        Transport,
        rendezvous::{ConnType, RelayUuid, Text},
    },
};

/// So that a sweep of one part does not hold up the others.
const SHARDS: usize = 16;

/// A leg that hung up is gone within a second: two sweeps.
const SWEEP: Duration = Duration::from_millis(500);

/// The legs that wait for their peers.
pub struct WaitingRoom {
    // Held for map operations and calls to the kernel that do not block; never across an await.
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    waiting: AtomicUsize,
    closed: AtomicBool,
    limits: Live<PairingConfig>,
    ring: Arc<KeyRing>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Shard {
    waiting: HashMap<RelayUuid, Waiting>,
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
struct Ticket(Arc<WaitingRoom>);

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
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            limits,
            ring,
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
            let Some((uuid, mut first)) = shard.waiting.remove_entry(&request.hello.uuid) else {
                return self.park(shard, request, since);
            };
            // Not under the lock: another leg of this uuid may come in between, and is then met
            // by the next turn of the loop.
            drop(shard);
            if !first.leg.is_alive() {
                self.left(&uuid, first, "hung_up");
                continue;
            }
            // The key of the leg that comes has just been checked; this one's was when it came.
            if let Err(denied) = self.ring.still_grants(&first.grant) {
                self.left(&uuid, first, denied.label());
                continue;
            }
            return match Seats::take([&first.grant, &request.grant]) {
                Ok(seats) => pair(uuid, first, request, seats),
                Err(denied) => {
                    // Both are told at once: neither could be paired.
                    self.left(&uuid, first, denied.label());
                    Err(denied.into())
                }
            };
        }
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
        let ticket = self.ticket().ok_or(RelayError::WaitingRoomFull)?;
        let RelayRequest { hello, leg, grant } = request;
        let leg = leg.park()?;
        let peer = leg.peer();
        let waiting =
            Waiting { leg, target: hello.target, conn_type: hello.conn_type, grant, since, ticket };
        if self.stays(&mut shard, &hello.uuid, waiting) {
            drop(shard);
            tracing::info!("New relay request {} from {peer}", hello.uuid);
        }
        Ok(Match::Parked)
    }

    /// Sweeps until `stop` is cancelled, then closes the room: nobody's peer can come any more.
    pub async fn sweep_until(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.pace()) => self.sweep().await,
            }
        }
        self.close();
    }

    /// Until the next sweep: a quarter of what legs may wait, if that is little.
    fn pace(&self) -> Duration {
        SWEEP.min(self.timeout() / 4).max(Duration::from_millis(1))
    }

    fn timeout(&self) -> Duration {
        self.limits.get().timeout.get()
    }

    async fn sweep(&self) {
        if self.is_empty() {
            return;
        }
        for shard in &self.shards {
            self.sweep_shard(shard);
            // Thousands that wait are no reason to let a relay wait.
            tokio::task::yield_now().await;
        }
    }

    fn sweep_shard(&self, shard: &Mutex<Shard>) {
        let timeout = self.timeout();
        let mut shard = lock(shard);
        shard.elsewhere.retain(|_, leg| leg.still_waits());
        let waiting = &mut shard.waiting;
        let gone = gone(waiting.values_mut().map(|one| &mut one.leg));
        let hung_up: Vec<_> = waiting
            .keys()
            .enumerate()
            .filter(|(index, _)| gone.binary_search(index).is_ok())
            .map(|(_, uuid)| uuid.clone())
            .collect();
        let mut left: Vec<_> = hung_up
            .into_iter()
            .filter_map(|uuid| waiting.remove_entry(&uuid))
            .map(|(uuid, one)| (uuid, one, "hung_up"))
            .collect();
        let late = waiting.extract_if(|_, one| one.since.elapsed() >= timeout);
        left.extend(late.map(|(uuid, one)| (uuid, one, "timeout")));
        let denied = |one: &Waiting| self.ring.still_grants(&one.grant).err();
        let unwelcome = waiting.extract_if(|_, one| denied(one).is_some());
        let unwelcome = unwelcome.map(|(uuid, one)| {
            let reason = denied(&one).map_or("key_revoked", |denied| denied.label());
            (uuid, one, reason)
        });
        left.extend(unwelcome);
        // A flood's room is given back.
        if waiting.capacity() > 64 && waiting.len() < waiting.capacity() / 4 {
            let len = waiting.len();
            waiting.shrink_to(2 * len);
        }
        drop(shard);
        for (uuid, waiting, reason) in left {
            self.left(&uuid, waiting, reason);
        }
    }

    /// Turns out the legs that come from where `is_unwanted` says.
    pub fn turn_out(&self, is_unwanted: impl Fn(IpAddr) -> bool) {
        for shard in &self.shards {
            let unwanted = |waiting: &Waiting| is_unwanted(waiting.leg.peer().ip());
            let out: Vec<_> = lock(shard).waiting.extract_if(|_, one| unwanted(one)).collect();
            for (uuid, waiting) in out {
                self.left(&uuid, waiting, "blocked");
            }
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for shard in &self.shards {
            let left = std::mem::take(&mut lock(shard).waiting);
            for (uuid, waiting) in left {
                self.left(&uuid, waiting, "draining");
            }
        }
    }

    /// Records, and drops, a leg whose peer did not come.
    fn left(&self, uuid: &RelayUuid, waiting: Waiting, reason: &'static str) {
        self.metrics.unpaired(reason);
        let (peer, waited_ms) = (waiting.leg.peer(), waiting.since.elapsed().as_millis() as u64);
        if reason == "hung_up" {
            tracing::debug!(%uuid, waited_ms, reason, "Relay request from {peer} got no peer");
        } else {
            tracing::info!(%uuid, waited_ms, reason, "Relay request from {peer} got no peer");
        }
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

    fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        // Counted first: the ticket gives its place back also when there was none.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        self.metrics.waiting.increment(1.0);
        let ticket = Ticket(Arc::clone(self));
        (before < self.limits.get().max_waiting).then_some(ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.waiting.decrement(1.0);
    }
}

fn pair(
    uuid: RelayUuid,
    first: Waiting,
    second: RelayRequest,
    seats: Seats,
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
        waited: first.since.elapsed(),
    })))
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A map operation that panicked left the map as it was.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{key_ring::tests::ring, metrics, relay::tests::request};

    fn room() -> Arc<WaitingRoom> {
        let metrics = Arc::new(metrics::start().unwrap().0);
        WaitingRoom::new(Live::default(), Arc::new(ring("")), metrics)
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
