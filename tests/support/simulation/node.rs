//! A node: its real router, and a room that is simulated.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mini_rust_desk_relay_server::{
    cluster::{
        directory::{Event, Instance, Node},
        router::{Room, Router, intake},
    },
    relay::route::{Claim, Route, WaitId, Waits},
    wire::rendezvous::RelayUuid,
};
use tokio::{sync::mpsc, task::AbortHandle, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    directory::{FarDirectory, tell},
    hand_over::Network,
    pairs::{name, number},
    world::World,
};

/// What is told to a node and not yet heard.
const EVENTS: usize = 1024;

/// A process that is a node, until it is killed.
pub(super) struct SimulatedNode {
    /// Which of the machines, so to say.
    pub(super) place: usize,
    pub(super) node: Arc<Node>,
    is_dead: AtomicBool,
    legs: Mutex<Legs>,
    running: OnceLock<Running>,
}

/// The legs of a room, by their pairs.
#[derive(Default)]
struct Legs {
    waiting: BTreeMap<u32, Leg>,
    /// The claims of those who are out of the room for a moment.
    lent: HashMap<WaitId, Option<Claim>>,
}

struct Running {
    router: Arc<dyn Route>,
    events: mpsc::Sender<Event>,
    drive: AbortHandle,
}

/// A leg that waits.
pub(super) struct Leg {
    pub(super) side: usize,
    pub(super) id: WaitId,
    until: Instant,
    claim: Option<Claim>,
}

impl SimulatedNode {
    pub(super) fn start(world: &Arc<World>, place: usize, instance: u64) -> Arc<Self> {
        let node = Arc::new(Node {
            instance: Instance(instance),
            name: format!("node-{place}").into(),
            address: format!("host-{place}:21127").into(),
        });
        let me = Arc::new(Self {
            place,
            node: Arc::clone(&node),
            is_dead: AtomicBool::new(false),
            legs: Mutex::default(),
            running: OnceLock::new(),
        });
        let told = world.directory.events(node.instance);
        let (events, heard) = mpsc::channel(EVENTS);
        tokio::spawn(tell(Arc::clone(world), told, events.clone()));
        let directory = FarDirectory { world: Arc::clone(world), me: Arc::clone(&me) };
        let network = Network { world: Arc::clone(world), me: Arc::clone(&me) };
        let room = SimulatedRoom(Arc::clone(&me));
        let (metrics, tasks) = (Arc::clone(&world.metrics), TaskTracker::new());
        let (router, come) = intake();
        let (_, drive) = Router::new(come, node, directory, network, room, metrics, tasks.into());
        let drive = tokio::spawn(drive.run(heard)).abort_handle();
        let running = Running { router, events, drive };
        assert!(me.running.set(running).is_ok(), "started once");
        me
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Ends it at once; returns the pairs, and the sides of them, that waited here.
    pub(super) fn kill(&self) -> Vec<(u32, usize)> {
        self.is_dead.store(true, Ordering::Relaxed);
        self.running().drive.abort();
        let legs = std::mem::take(&mut *self.room());
        legs.waiting.into_iter().map(|(pair, leg)| (pair, leg.side)).collect()
    }

    /// Tells its router that the directory may have forgotten.
    pub(super) fn forgotten(&self) {
        let _ = self.running().events.try_send(Event::Forgotten);
    }

    /// A leg comes. `true`: its peer waits here, and is no longer waiting.
    pub(super) fn comes(&self, pair: u32, leg: Leg) -> bool {
        let (id, remaining) = (leg.id, leg.until.saturating_duration_since(Instant::now()));
        let (met, displaced) = {
            let waiting = &mut self.room().waiting;
            match waiting.get(&pair).map(|waiting| waiting.side == leg.side) {
                Some(false) => (true, waiting.remove(&pair)),
                _ => (false, waiting.insert(pair, leg)),
            }
        };
        if !met {
            self.running().router.waits(Waits { uuid: name(pair), id, remaining });
        }
        // Not under the lock: a claim may be dropped with it.
        drop(displaced);
        met
    }

    /// Lends whoever waits under this name and is the peer of this side.
    pub(super) fn reserve(&self, pair: u32, side: usize) -> Option<Leg> {
        self.room().lend(pair, |leg| leg.side != side)
    }

    /// Lends this very leg.
    pub(super) fn depart(&self, pair: u32, id: WaitId) -> Option<Leg> {
        self.room().lend(pair, |leg| leg.id == id)
    }

    /// One that was lent has left for good.
    pub(super) fn leaves(&self, id: WaitId) {
        let claim = self.room().lent.remove(&id);
        drop(claim);
    }

    /// One that was lent is back. `true`: it meets who came meanwhile.
    pub(super) fn put_back(&self, pair: u32, mut leg: Leg) -> bool {
        leg.claim = self.room().lent.remove(&leg.id).flatten();
        self.comes(pair, leg)
    }

    /// Takes out a leg whose time is over; whether it was still here.
    pub(super) fn expires(&self, pair: u32, id: WaitId) -> bool {
        let leg = self.depart(pair, id);
        self.leaves(id);
        leg.is_some()
    }

    /// Which side of the pair this leg is.
    pub(super) fn side_of(&self, pair: u32, id: WaitId) -> Option<usize> {
        self.room().waiting.get(&pair).filter(|leg| leg.id == id).map(|leg| leg.side)
    }

    fn room(&self) -> MutexGuard<'_, Legs> {
        self.legs.lock().expect("no panic")
    }

    fn running(&self) -> &Running {
        self.running.get().expect("started")
    }
}

impl Leg {
    pub(super) fn new(side: usize, id: WaitId, wait: Duration) -> Self {
        Self { side, id, until: Instant::now() + wait, claim: None }
    }

    pub(super) fn is_late(&self) -> bool {
        self.until <= Instant::now()
    }
}

impl Legs {
    fn lend(&mut self, pair: u32, is_it: impl Fn(&Leg) -> bool) -> Option<Leg> {
        self.waiting.get(&pair).filter(|leg| is_it(leg))?;
        let mut leg = self.waiting.remove(&pair)?;
        self.lent.insert(leg.id, leg.claim.take());
        Some(leg)
    }
}

/// What the router sees of a node's legs.
struct SimulatedRoom(Arc<SimulatedNode>);

impl Room for SimulatedRoom {
    fn keep(&self, uuid: &RelayUuid, id: WaitId, claim: Claim) -> bool {
        let mut room = self.0.room();
        let Legs { waiting, lent } = &mut *room;
        let waiting = waiting.get_mut(&number(uuid)).filter(|leg| leg.id == id);
        let place = waiting.map(|leg| &mut leg.claim).or_else(|| lent.get_mut(&id));
        match place {
            Some(place) if place.is_none() => *place = Some(claim),
            Some(_) => {}
            None => {
                // Not under the lock.
                drop(room);
                drop(claim);
                return false;
            }
        }
        true
    }

    fn waiting(&self) -> Vec<Waits> {
        let now = Instant::now();
        let waits = |(pair, leg): (&u32, &Leg)| Waits {
            uuid: name(*pair),
            id: leg.id,
            remaining: leg.until.saturating_duration_since(now),
        };
        self.0.room().waiting.iter().map(waits).collect()
    }

    fn find(&self, uuid: &RelayUuid) -> Option<Waits> {
        let room = self.0.room();
        let leg = room.waiting.get(&number(uuid))?;
        let remaining = leg.until.saturating_duration_since(Instant::now());
        Some(Waits { uuid: uuid.clone(), id: leg.id, remaining })
    }
}
