//! The relays that are active: the one source of truth for the admin API, logs and metrics.
//!
//! A relay is in the registry from pairing until its [`RelayGuard`] drops, which writes the one
//! closing record, whatever ended it. The bytes themselves are `splice`'s.
//!
//! A leg that is carried to another node is relayed there, and limited and charged there. Here it is
//! in a registry of its own, which counts its bytes and nothing else.

mod bandwidth;
mod closing;
mod record;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::closing::ClosedBy;
pub use self::record::RelayGuard;
use super::{
    request::{End, LegIndex, Paired},
    throttle::{Allowance, Throttle},
};
use crate::{
    key_ring::{Grant, charge},
    metrics::Metrics,
    wire::{
        Transport,
        rendezvous::{ConnType, RelayUuid, Text},
    },
};

/// Every active relay.
pub struct ActiveRelays {
    // Held for a map operation only, never across an await.
    relays: Mutex<HashMap<u64, Arc<ActiveRelay>>>,
    next_id: AtomicU64,
    /// Bytes of the relays that are over.
    closed_bytes: AtomicU64,
    end_all: CancellationToken,
    throttle: Arc<Throttle>,
    metrics: Arc<Metrics>,
    carries: bool,
    // Not with each relay: on a single node none has one.
    vias: Mutex<HashMap<u64, Arc<str>>>,
}

/// One active relay: what is known of it, and what it counts. There are thousands, and eight bytes
/// more would push each into the allocator's next size: so times are numbers here.
pub struct ActiveRelay {
    /// Unique while the process lives; uuids may repeat.
    pub id: u64,
    /// The name that both legs gave.
    pub uuid: RelayUuid,
    /// The machine that the controlling side claims to reach.
    pub target: Option<Text>,
    /// What the session is for.
    pub conn_type: ConnType,
    /// The leg that waited, and the one that came.
    pub legs: [ActiveLeg; 2],
    /// When the pair was made, in microseconds after 1970.
    started: i64,
    /// In milliseconds.
    waited: u32,
    since: Instant,
    /// When bytes last came, in milliseconds after `since`.
    last_activity: AtomicU64,
    /// A child of the gateway's hard token: cancelled with it, or on its own by an operator.
    close: CancellationToken,
    closed_by: ClosedBy,
    in_bulk: AtomicBool,
    /// Whether another node has to do with it.
    has_via: bool,
    /// How fast it may go.
    allowance: Allowance,
}

/// One leg of an active relay.
pub struct ActiveLeg {
    /// Whence it came.
    pub address: SocketAddr,
    /// How its messages travel.
    pub transport: Transport,
    /// Whether that is within TLS.
    pub tls: bool,
    /// What its key gives it.
    pub grant: Grant,
    received: AtomicU64,
    /// What of `received` the last sample had seen.
    sampled: AtomicU64,
    /// Bytes a second between the last two samples, as an `f32`.
    rate: AtomicU32,
}

impl ActiveRelays {
    /// None yet. All that come end with `end_all`, and are held to `throttle`'s limits.
    pub fn new(
        end_all: CancellationToken,
        throttle: Arc<Throttle>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self::of(end_all, throttle, metrics, false))
    }

    /// The same for legs that are carried to other nodes: the first leg of each is the client's, the
    /// second the connection to the node. No limit is theirs.
    pub fn carrying(
        end_all: CancellationToken,
        throttle: Arc<Throttle>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self::of(end_all, throttle, metrics, true))
    }

    fn of(
        end_all: CancellationToken,
        throttle: Arc<Throttle>,
        metrics: Arc<Metrics>,
        carries: bool,
    ) -> Self {
        Self {
            relays: Mutex::default(),
            next_id: AtomicU64::new(1),
            closed_bytes: AtomicU64::new(0),
            end_all,
            throttle,
            metrics,
            carries,
            vias: Mutex::default(),
        }
    }

    /// Whether these are legs that are carried to other nodes.
    pub const fn carries(&self) -> bool {
        self.carries
    }

    /// By which node its second leg came; of a leg that is carried, to which it goes. `None` where
    /// no other node has to do with it.
    pub fn via(&self, relay: &ActiveRelay) -> Option<Arc<str>> {
        relay.has_via.then(|| self.vias().get(&relay.id).cloned()).flatten()
    }

    /// Enters a pair; it stays until the guard drops, which has its places on its keys.
    pub fn enter(self: &Arc<Self>, paired: &mut Paired) -> RelayGuard {
        let leg = |index: LegIndex| {
            let leg = &paired.legs[index.at()];
            let via = paired.via.as_ref().filter(|_| index == LegIndex::Second);
            ActiveLeg {
                address: leg.connection.peer,
                transport: leg.transport,
                // A leg's own, and not that of the way between two nodes.
                tls: via.map_or_else(|| leg.connection.socket.is_tls(), |via| via.tls),
                grant: paired.grants[index.at()].clone(),
                received: AtomicU64::new(0),
                sampled: AtomicU64::new(0),
                rate: AtomicU32::new(0),
            }
        };
        let relay = Arc::new(ActiveRelay {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            uuid: paired.uuid.clone(),
            target: paired.target.clone(),
            conn_type: paired.conn_type,
            legs: LegIndex::BOTH.map(leg),
            started: Timestamp::now().as_microsecond(),
            waited: u32::try_from(paired.waited.as_millis()).unwrap_or(u32::MAX),
            since: Instant::now(),
            last_activity: AtomicU64::new(0),
            close: self.end_all.child_token(),
            closed_by: ClosedBy::default(),
            in_bulk: AtomicBool::new(false),
            has_via: paired.via.is_some(),
            allowance: Allowance::default(),
        });
        if let Some(via) = &paired.via {
            self.vias().insert(relay.id, Arc::clone(&via.node));
        }
        self.count_begin(&relay, paired.waited);
        self.lock().insert(relay.id, Arc::clone(&relay));
        if !self.carries {
            // Behind that: should the limits change now, the relay is found, or finds the new ones.
            self.limit(&relay);
        }
        let places = (std::mem::take(&mut paired.place), std::mem::take(&mut paired.seats));
        RelayGuard::new(relay, Arc::clone(self), places)
    }

    /// A snapshot, in no order.
    pub fn all(&self) -> Vec<Arc<ActiveRelay>> {
        self.lock().values().cloned().collect()
    }

    /// Ends those with a leg that comes from where `is_unwanted` says.
    pub fn turn_out(&self, is_unwanted: impl Fn(IpAddr) -> bool) {
        // A node is nobody's address.
        let clients = if self.carries { 1 } else { 2 };
        for relay in self.all() {
            if relay.legs[..clients].iter().any(|leg| is_unwanted(leg.address.ip())) {
                relay.closed_by.block();
                relay.close.cancel();
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// How many there have been.
    pub fn total(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed) - 1
    }

    /// Bytes relayed since the start, both ways, active relays included.
    pub fn total_bytes(&self) -> u64 {
        // Under the lock a relay is either in the map or in the sum.
        let relays = self.lock();
        let active: u64 = relays.values().map(|relay| relay.bytes()).sum();
        active + self.closed_bytes.load(Ordering::Relaxed)
    }

    /// Takes the rates of all, and brings the metrics' byte counts up to date. To be called at an
    /// even interval, which `elapsed` is.
    pub fn sample(&self, elapsed: Duration) {
        let downgrade = self.throttle.limits().downgrade().filter(|_| !self.carries);
        for relay in self.all() {
            for leg in LegIndex::BOTH {
                self.count_bytes(&relay, leg, Some(elapsed));
            }
            if let Some((after, most)) = downgrade {
                self.downgrade(&relay, after, most);
            }
        }
    }

    fn count_bytes(&self, relay: &ActiveRelay, from: LegIndex, elapsed: Option<Duration>) {
        let leg = &relay.legs[from.at()];
        let received = leg.received.load(Ordering::Relaxed);
        let fresh = received.saturating_sub(leg.sampled.fetch_max(received, Ordering::Relaxed));
        if let Some(elapsed) = elapsed {
            let rate = fresh as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
            leg.rate.store((rate as f32).to_bits(), Ordering::Relaxed);
        }
        if fresh > 0 && self.carries {
            self.metrics.cluster.carried_bytes.increment(fresh);
        } else if fresh > 0 {
            self.metrics.bytes(leg.transport, relay.legs[from.other().at()].transport, fresh);
            charge(relay.grants(), fresh);
        }
    }

    fn vias(&self) -> MutexGuard<'_, HashMap<u64, Arc<str>>> {
        // The same.
        self.vias.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<ActiveRelay>>> {
        // A map operation that panicked left the map as it was.
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRelay {
    /// Whether another node has to do with it.
    pub const fn is_guest(&self) -> bool {
        self.has_via
    }

    /// When the pair was made.
    pub fn started(&self) -> Timestamp {
        // It was one.
        Timestamp::from_microsecond(self.started).unwrap_or_default()
    }

    /// How long the first leg had waited.
    pub const fn waited(&self) -> Duration {
        Duration::from_millis(self.waited as u64)
    }

    /// How long it has lasted.
    pub fn age(&self) -> Duration {
        self.age_at(Instant::now())
    }

    /// How long it has lasted at this time: for who compares several.
    pub fn age_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// How long no byte has come.
    pub fn idle(&self) -> Duration {
        self.idle_at(Instant::now())
    }

    /// How long no byte has come at this time.
    pub fn idle_at(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last_activity.load(Ordering::Relaxed));
        self.age_at(now).saturating_sub(last)
    }

    /// Bytes received from both legs.
    pub fn bytes(&self) -> u64 {
        self.legs.iter().map(ActiveLeg::received).sum()
    }

    /// Bytes a second received from both legs.
    pub fn rate(&self) -> u64 {
        self.legs.iter().map(ActiveLeg::rate).sum()
    }

    /// Ends it, as an operator's act.
    pub fn close(&self) {
        self.closed_by.admin();
        self.close.cancel();
    }

    /// Who cancelled [`ActiveRelay::closing`].
    pub fn closed_by(&self) -> End {
        self.closed_by.end()
    }

    /// Cancelled when the relay must end: by an operator, or because the gateway does.
    pub const fn closing(&self) -> &CancellationToken {
        &self.close
    }

    /// Whether the bulk plane has it.
    pub fn is_in_bulk(&self) -> bool {
        self.in_bulk.load(Ordering::Relaxed)
    }

    /// Says whether the bulk plane has it.
    pub fn set_in_bulk(&self, in_bulk: bool) {
        self.in_bulk.store(in_bulk, Ordering::Relaxed);
    }

    /// Notes activity, and counts the bytes that came from a leg.
    pub fn received(&self, from: LegIndex, bytes: u64) {
        self.legs[from.at()].received.fetch_add(bytes, Ordering::Relaxed);
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_activity.store(now, Ordering::Relaxed);
    }

    fn grants(&self) -> [&Grant; 2] {
        [&self.legs[0].grant, &self.legs[1].grant]
    }

    fn transports(&self) -> [Transport; 2] {
        [self.legs[0].transport, self.legs[1].transport]
    }
}

impl ActiveLeg {
    /// Bytes received from it.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes a second received from it, over the last sample.
    pub fn rate(&self) -> u64 {
        f32::from_bits(self.rate.load(Ordering::Relaxed)) as u64
    }
}
