//! The router: what becomes of each leg that begins to wait here, on a relay of more than one node.
//!
//! It claims the leg's name in the directory. Mostly that is all: the name is its own for as long as
//! the leg waits. Where another node has it, the two meet: `Peers` hands the leg over. It owns no
//! leg: all of them wait in the room meanwhile, and meet who comes there. So nothing is lost when
//! the directory is away or a node cannot be reached; what has not been claimed is claimed later.
//!
//! What is under way at one time is bounded. What does not fit is found in the room again.

mod around;
mod known;
mod meetings;
mod pause;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep},
};

pub use self::around::{Met, Peers, Room};
use self::{
    known::{Known, Pursued, Release},
    meetings::Meetings,
};
use super::directory::{Claimed, Directory, DirectoryError, Event, Holder, Node};
use crate::{
    metrics::Metrics,
    relay::{
        plane::LightTasks,
        route::{Route, WaitId, Waits},
    },
};

/// Legs that have come and are not yet looked at. Who does not fit is found in the room.
const QUEUE: usize = 1024;

/// First claims under way.
const CLAIMS: usize = 256;

/// The same for those that are found in the room: nobody is waiting for all of them at once, and a
/// directory that has just come back has others to serve.
const CLAIMS_ANEW: usize = 16;

/// Names to be given back, and how many are at one time.
const RELEASES: usize = 8192;
const RELEASES_AT_ONCE: usize = 64;

/// Within which all nodes have begun to claim anew what the directory has forgotten.
const SPREAD: Duration = Duration::from_millis(100);

/// How often it is looked whether all is given back.
const LOOK: Duration = Duration::from_millis(5);

/// Whom the room tells of each leg that begins to wait. It is there before the router is.
pub struct Intake {
    queue: mpsc::Sender<(Waits, Instant)>,
    look: Arc<Notify>,
}

/// What has come in, for the router.
pub struct Come {
    queue: mpsc::Receiver<(Waits, Instant)>,
    look: Arc<Notify>,
}

/// The two ends of one.
pub fn intake() -> (Arc<Intake>, Come) {
    let (queue, come) = mpsc::channel(QUEUE);
    let look = Arc::<Notify>::default();
    (Arc::new(Intake { queue, look: Arc::clone(&look) }), Come { queue: come, look })
}

/// The router of one node.
pub struct Router<D, P, R> {
    me: Arc<Node>,
    directory: D,
    peers: P,
    room: R,
    metrics: Arc<Metrics>,
    known: Arc<Known>,
    /// Set when the room has to be looked through.
    look: Arc<Notify>,
    /// The same, and at once.
    look_now: Notify,
    /// How often the directory has forgotten.
    generation: AtomicU64,
    /// How often it could not be asked.
    faults: AtomicU64,
    claims: Arc<Semaphore>,
    meetings: Meetings,
    tasks: LightTasks,
}

/// What drives a router; `events` are those of its directory.
pub struct Drive<D, P, R> {
    router: Arc<Router<D, P, R>>,
    queue: mpsc::Receiver<(Waits, Instant)>,
    releases: mpsc::Receiver<Release>,
}

impl<D: Directory, P: Peers, R: Room> Router<D, P, R> {
    /// The router of the node `me`, for what comes in by an [`intake`], and what drives it. What
    /// becomes of each leg is one of `tasks`.
    pub fn new(
        come: Come,
        me: Arc<Node>,
        directory: D,
        peers: P,
        room: R,
        metrics: Arc<Metrics>,
        tasks: LightTasks,
    ) -> (Arc<Self>, Drive<D, P, R>) {
        let Come { queue, look } = come;
        let (releases, to_release) = mpsc::channel(RELEASES);
        let router = Arc::new(Self {
            me,
            directory,
            peers,
            room,
            metrics,
            known: Known::new(releases),
            look,
            look_now: Notify::new(),
            generation: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            claims: Arc::new(Semaphore::new(CLAIMS)),
            meetings: Meetings::new(),
            tasks,
        });
        let drive = Drive { router: Arc::clone(&router), queue, releases: to_release };
        (router, drive)
    }

    /// How many legs it knows of: those that wait here, and none besides.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it knows of none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nobody waits here, and all that was claimed is given back.
    pub async fn until_idle(&self) {
        while !self.known.is_idle() {
            sleep(LOOK).await;
        }
    }

    /// Takes a leg up once there is room for its claim.
    async fn take_up_in_turn(self: &Arc<Self>, leg: &Waits, until: Instant) {
        // Never closed.
        if let Ok(permit) = Arc::clone(&self.claims).acquire_owned().await {
            self.take_up(leg, until, permit);
        }
    }

    /// Takes a leg up by a task of its own, unless somebody has.
    fn take_up(self: &Arc<Self>, leg: &Waits, until: Instant, permit: OwnedSemaphorePermit) {
        let keep = |claim| self.room.keep(&leg.uuid, leg.id, claim);
        if let Some(pursued) = self.known.take_up(leg, self.generation(), keep) {
            let router = Arc::clone(self);
            self.tasks.spawn(async move { router.pursue(pursued, until, permit).await });
        }
    }

    /// Claims, and hands over, until the leg holds its name or waits no more.
    async fn pursue(&self, mut pursued: Pursued, until: Instant, permit: OwnedSemaphorePermit) {
        let mut permit = Some(permit);
        let mut stale = None;
        while pursued.still_waits() && Instant::now() < until {
            let generation = self.generation();
            let claimed = self.claim(&pursued.leg, stale.take(), until).await;
            // Those that come after are not held up by what the first claim led to.
            permit.take();
            match claimed {
                Ok(Claimed::Mine) if pursued.holds(generation, || self.generation()) => {
                    return self.leaves_to_the_next(&pursued);
                }
                Ok(Claimed::Mine) => {}
                Ok(Claimed::HeldBy(holder)) => match self.meet(&holder, &pursued.leg).await {
                    Met::HandedOver | Met::Refused => return,
                    Met::Gone => self.rest(&pursued, until).await,
                    Met::Nobody | Met::Unreachable => {
                        stale = Some(holder);
                        self.rest(&pursued, until).await;
                    }
                },
                Err(error) => {
                    tracing::debug!(uuid = %pursued.leg.uuid, %error, "a leg is not claimed");
                    pursued.may_hold();
                    drop(pursued);
                    self.faults.fetch_add(1, Ordering::Relaxed);
                    return self.look.notify_one();
                }
            }
        }
    }

    /// A claim that came to its end after its leg has gone may have taken the name from the next of
    /// this room, whose claim was quicker: that one claims anew.
    fn leaves_to_the_next(&self, pursued: &Pursued) {
        if !pursued.still_waits()
            && let Some(next) = self.room.find(&pursued.leg.uuid)
            && self.known.loses(next.id)
        {
            self.look.notify_one();
        }
    }

    /// One claim.
    async fn claim(
        &self,
        leg: &Waits,
        stale: Option<Holder>,
        until: Instant,
    ) -> Result<Claimed, DirectoryError> {
        let began = Instant::now();
        let me = self.holder(leg.id);
        let ttl = until.saturating_duration_since(began).max(Duration::from_millis(1));
        let claimed = self.directory.claim(&leg.uuid, &me, stale.as_ref(), ttl).await;
        let outcome = match &claimed {
            Ok(Claimed::Mine) if stale.is_some() => "taken_over",
            Ok(Claimed::Mine) => "mine",
            Ok(Claimed::HeldBy(_)) => "held",
            Err(_) => "error",
        };
        self.metrics.cluster.claimed(outcome, began.elapsed());
        claimed
    }

    async fn meet(&self, holder: &Holder, leg: &Waits) -> Met {
        let _place = self.meetings.place(holder.node.instance).await;
        let began = Instant::now();
        let met = self.peers.meet(holder, leg).await;
        self.metrics.cluster.went_out(met.label(), began.elapsed());
        let node = &holder.node.name;
        match met {
            Met::HandedOver => {}
            _ => tracing::debug!(uuid = %leg.uuid, %node, met = met.label(), "no hand-over"),
        }
        met
    }

    /// The pause after a hand-over that failed; none after the first, which mostly is an entry that
    /// somebody left behind.
    async fn rest(&self, pursued: &Pursued, until: Instant) {
        if let Some(again @ 1..) = pursued.failed().checked_sub(1) {
            let left = until.saturating_duration_since(Instant::now());
            let whose = (self.me.instance, pursued.leg.id);
            sleep(pause::after(again, whose).min(left)).await;
        }
    }

    /// Claims whatever waits in the room and holds no name. `false` when the directory could not be
    /// asked.
    async fn look_through(self: &Arc<Self>) -> bool {
        let faults = self.faults.load(Ordering::Relaxed);
        let is_well = || self.faults.load(Ordering::Relaxed) == faults;
        let pace = Arc::new(Semaphore::new(CLAIMS_ANEW));
        for leg in self.room.waiting() {
            let Ok(permit) = Arc::clone(&pace).acquire_owned().await else { break };
            if !is_well() {
                return false;
            }
            self.take_up(&leg, Instant::now() + leg.remaining, permit);
        }
        // Those that are still under way.
        let _all = pace.acquire_many(CLAIMS_ANEW as u32).await;
        is_well()
    }

    async fn hear(self: &Arc<Self>, event: Event) {
        match event {
            Event::Lost(uuid) => {
                let Some(leg) = self.room.find(&uuid) else { return };
                tracing::debug!(%uuid, "another node has taken over the name of a leg");
                if self.known.loses(leg.id) {
                    self.take_up_in_turn(&leg, Instant::now() + leg.remaining).await;
                }
            }
            Event::Forgotten => {
                self.generation.fetch_add(1, Ordering::Relaxed);
                self.known.release_again();
                self.look_now.notify_one();
            }
        }
    }

    async fn release(&self, release: Release) {
        let (uuid, generation) = (&release.uuid, self.generation());
        // What is not given back expires.
        match self.directory.release(uuid, &self.holder(release.id)).await {
            Ok(()) => self.known.released(),
            Err(error) => {
                tracing::debug!(%uuid, %error, "a name is not given back");
                self.known.not_released(release, || self.generation() != generation);
            }
        }
    }

    fn holder(&self, leg: WaitId) -> Holder {
        Holder { node: Arc::clone(&self.me), leg }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

impl Route for Intake {
    fn waits(&self, leg: Waits) {
        let until = Instant::now() + leg.remaining;
        if self.queue.try_send((leg, until)).is_err() {
            self.look.notify_one();
        }
    }
}

impl<D: Directory, P: Peers, R: Room> Drive<D, P, R> {
    /// Drives the router for as long as it is polled. What is claimed is given back by this too, so
    /// that it has to go on until the room is empty.
    pub async fn run(self, events: mpsc::Receiver<Event>) {
        let Self { router, mut queue, mut releases } = self;
        let claiming = async {
            while let Some((leg, until)) = queue.recv().await {
                // One that is known has been out of the room, lent for a hand-over that came to
                // nothing. Was its name taken over meanwhile, it was not there to be told.
                router.known.loses(leg.id);
                router.take_up_in_turn(&leg, until).await;
            }
        };
        let hearing = async {
            let mut events = events;
            while let Some(event) = events.recv().await {
                router.hear(event).await;
            }
        };
        let releases = futures_util::stream::poll_fn(move |cx| releases.poll_recv(cx));
        let releasing = releases.for_each_concurrent(RELEASES_AT_ONCE, |release| {
            let router = Arc::clone(&router);
            async move { router.release(release).await }
        });
        tokio::join!(claiming, hearing, releasing, looking(&router));
    }
}

/// Looks through the room whenever there is a reason, and the more seldom the longer the directory
/// cannot be asked.
async fn looking<D: Directory, P: Peers, R: Room>(router: &Arc<Router<D, P, R>>) {
    let mut failures = 0;
    loop {
        let pause = async {
            router.look.notified().await;
            sleep(pause::after(failures, router.me.instance)).await;
        };
        tokio::select! {
            biased;
            () = router.look_now.notified() => {
                failures = 0;
                let whose = (router.me.instance, router.generation());
                sleep(pause::part_of(SPREAD, whose)).await;
            }
            () = pause => {}
        }
        failures = if router.look_through().await { 0 } else { failures.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{Mutex, atomic::AtomicBool},
    };

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::{
        cluster::directory::{Instance, memory::MemoryDirectory},
        relay::route::Claim,
        wire::rendezvous::RelayUuid,
    };

    type Waiting = HashMap<RelayUuid, (WaitId, Instant, Vec<Claim>)>;

    /// A room without sockets.
    #[derive(Default)]
    struct Seats {
        waiting: Mutex<Waiting>,
        next: AtomicU64,
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    /// How long it takes to find out that a node does not answer.
    const FROZEN: Duration = Duration::from_secs(2);

    impl Seats {
        /// Somebody comes: `None` when that makes a pair.
        fn arrive(&self, uuid: &RelayUuid) -> Option<Waits> {
            let mut waiting = self.waiting.lock().unwrap();
            if waiting.remove(uuid).is_some() {
                return None;
            }
            let id = WaitId(self.next.fetch_add(1, Ordering::Relaxed));
            waiting.insert(uuid.clone(), (id, Instant::now() + PATIENCE, Vec::new()));
            Some(Waits { uuid: uuid.clone(), id, remaining: PATIENCE })
        }

        fn leave(&self, uuid: &RelayUuid, id: Option<WaitId>) -> bool {
            let mut waiting = self.waiting.lock().unwrap();
            let fits = waiting.get(uuid).is_some_and(|(own, ..)| id.is_none_or(|id| id == *own));
            let left = fits.then(|| waiting.remove(uuid));
            drop(waiting);
            left.is_some()
        }
    }

    impl Room for Arc<Seats> {
        fn keep(&self, uuid: &RelayUuid, id: WaitId, claim: Claim) -> bool {
            let mut waiting = self.waiting.lock().unwrap();
            let leg = waiting.get_mut(uuid).filter(|(own, ..)| *own == id);
            let Some((_, _, claims)) = leg else { return false };
            claims.push(claim);
            true
        }

        fn waiting(&self) -> Vec<Waits> {
            let uuids: Vec<_> = self.waiting.lock().unwrap().keys().cloned().collect();
            uuids.iter().filter_map(|uuid| self.find(uuid)).collect()
        }

        fn find(&self, uuid: &RelayUuid) -> Option<Waits> {
            let waiting = self.waiting.lock().unwrap();
            let (id, until, _) = waiting.get(uuid)?;
            let remaining = until.saturating_duration_since(Instant::now());
            Some(Waits { uuid: uuid.clone(), id: *id, remaining })
        }
    }

    /// All nodes' rooms, and who reaches whom.
    #[derive(Default)]
    struct World {
        rooms: Mutex<HashMap<Instance, Arc<Seats>>>,
        cut: Mutex<Vec<(Instance, Instance)>>,
        frozen: Mutex<Vec<Instance>>,
        met: AtomicU64,
    }

    struct Neighbours {
        me: Instance,
        world: Arc<World>,
    }

    impl Peers for Neighbours {
        async fn meet(&self, holder: &Holder, leg: &Waits) -> Met {
            sleep(Duration::from_millis(1)).await;
            let there = holder.node.instance;
            if self.world.frozen.lock().unwrap().contains(&there) {
                sleep(FROZEN).await;
                return Met::Unreachable;
            }
            if self.world.cut.lock().unwrap().contains(&(self.me, there)) {
                return Met::Unreachable;
            }
            let rooms = self.world.rooms.lock().unwrap().clone();
            let Some(theirs) = rooms.get(&there) else { return Met::Unreachable };
            if theirs.find(&leg.uuid).is_none() {
                return Met::Nobody;
            }
            if !rooms[&self.me].leave(&leg.uuid, Some(leg.id)) {
                return Met::Gone;
            }
            assert!(theirs.leave(&leg.uuid, None), "nobody came in between");
            self.world.met.fetch_add(1, Ordering::Relaxed);
            Met::HandedOver
        }
    }

    /// A directory that can be away, or out of earshot: it does as it is told, and is not heard.
    #[derive(Clone, Default)]
    struct Remote {
        memory: MemoryDirectory,
        away: Arc<AtomicBool>,
        unheard: Arc<AtomicBool>,
        slow: Arc<AtomicBool>,
    }

    impl Remote {
        async fn reach(&self) -> Result<(), DirectoryError> {
            let slow = self.slow.load(Ordering::Relaxed);
            sleep(Duration::from_millis(if slow { 10 } else { 1 })).await;
            Self::unless(&self.away)
        }

        fn unless(fault: &AtomicBool) -> Result<(), DirectoryError> {
            let is_so = fault.load(Ordering::Relaxed);
            if is_so { Err(DirectoryError("away".into())) } else { Ok(()) }
        }
    }

    impl Directory for Remote {
        async fn claim(
            &self,
            uuid: &RelayUuid,
            me: &Holder,
            stale: Option<&Holder>,
            ttl: Duration,
        ) -> Result<Claimed, DirectoryError> {
            self.reach().await?;
            let claimed = self.memory.claim(uuid, me, stale, ttl).await;
            Self::unless(&self.unheard).and(claimed)
        }

        async fn release(&self, uuid: &RelayUuid, me: &Holder) -> Result<(), DirectoryError> {
            self.reach().await?;
            self.memory.release(uuid, me).await
        }
    }

    type Simulated = Router<Remote, Neighbours, Arc<Seats>>;

    struct Cluster {
        world: Arc<World>,
        directory: Remote,
        nodes: Vec<(Arc<Seats>, Arc<Intake>, Arc<Simulated>)>,
    }

    impl Cluster {
        fn of(nodes: u64) -> Self {
            let world = Arc::new(World::default());
            let directory = Remote::default();
            let metrics = Arc::new(crate::metrics::start().unwrap().0);
            let nodes = (1..=nodes).map(Instance).map(|me| {
                let seats = Arc::<Seats>::default();
                world.rooms.lock().unwrap().insert(me, Arc::clone(&seats));
                let node = Node { instance: me, name: "n".into(), address: "h:1".into() };
                let mut told = directory.memory.events(me);
                let (events, heard) = mpsc::channel(16);
                tokio::spawn(async move {
                    while let Some(event) = told.recv().await {
                        events.send(event).await.unwrap();
                    }
                });
                let peers = Neighbours { me, world: Arc::clone(&world) };
                let (intake, come) = intake();
                let (router, drive) = Router::new(
                    come,
                    Arc::new(node),
                    directory.clone(),
                    peers,
                    Arc::clone(&seats),
                    Arc::clone(&metrics),
                    TaskTracker::new().into(),
                );
                tokio::spawn(drive.run(heard));
                (seats, intake, router)
            });
            let nodes = nodes.collect();
            Self { nodes, world, directory }
        }

        fn arrive(&self, node: usize, uuid: &RelayUuid) {
            let (seats, intake, _) = &self.nodes[node];
            if let Some(leg) = seats.arrive(uuid) {
                intake.waits(leg);
            }
        }

        fn cut(&self, from: usize, to: usize) {
            let instance = |node| Instance(node as u64 + 1);
            self.world.cut.lock().unwrap().push((instance(from), instance(to)));
        }

        fn met(&self) -> u64 {
            self.world.met.load(Ordering::Relaxed)
        }

        fn waiting(&self) -> usize {
            self.nodes.iter().map(|(seats, ..)| seats.waiting.lock().unwrap().len()).sum()
        }

        fn is_forgotten(&self) -> bool {
            self.directory.memory.is_empty()
                && self.nodes.iter().all(|(.., router)| router.is_empty())
        }
    }

    async fn settle() {
        sleep(Duration::from_secs(5)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn two_sides_that_land_anywhere_meet_and_nothing_is_left_of_them() {
        let cluster = Cluster::of(5);
        let pairs = 4 * QUEUE as u64;
        for pair in 0..pairs {
            let uuid = RelayUuid::from(pair.to_string().as_str());
            cluster.arrive((pair % 5) as usize, &uuid);
            cluster.arrive((pair / 5 % 5) as usize, &uuid);
        }
        settle().await;
        assert_eq!(cluster.waiting(), 0);
        assert!(cluster.met() > pairs / 2, "{}", cluster.met());
        assert!(cluster.is_forgotten());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leg_that_goes_gives_its_name_back_and_one_that_was_left_behind_is_taken_over() {
        let (cluster, uuid) = (Cluster::of(2), RelayUuid::from("uuid"));
        cluster.arrive(0, &uuid);
        settle().await;
        assert_eq!(cluster.directory.memory.len(), 1);
        assert!(cluster.nodes[0].0.leave(&uuid, None));
        settle().await;
        assert!(cluster.is_forgotten());
        // A node that died.
        let node = Node { instance: Instance(9), name: "x".into(), address: "h:1".into() };
        let dead = Holder { node: Arc::new(node), leg: WaitId(1) };
        cluster.directory.claim(&uuid, &dead, None, PATIENCE).await.unwrap();
        cluster.arrive(0, &uuid);
        sleep(Duration::from_millis(10)).await;
        cluster.arrive(1, &uuid);
        sleep(Duration::from_millis(10)).await;
        assert_eq!(cluster.met(), 1, "at once");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_while_the_directory_was_away_or_forgot_meets_once_it_is_back() {
        let cluster = Cluster::of(2);
        let uuids: Vec<_> = (0..300).map(|n| RelayUuid::from(n.to_string().as_str())).collect();
        cluster.directory.away.store(true, Ordering::Relaxed);
        for uuid in &uuids[..200] {
            cluster.arrive(0, uuid);
            cluster.arrive(1, uuid);
        }
        settle().await;
        assert_eq!(cluster.waiting(), 400);
        cluster.directory.away.store(false, Ordering::Relaxed);
        settle().await;
        assert_eq!((cluster.waiting(), cluster.met()), (0, 200));
        for uuid in &uuids[200..] {
            cluster.arrive(0, uuid);
        }
        settle().await;
        cluster.directory.memory.forget();
        settle().await;
        assert_eq!(cluster.directory.memory.len(), 100, "claimed anew");
        for uuid in &uuids[200..] {
            cluster.arrive(1, uuid);
        }
        settle().await;
        assert_eq!((cluster.waiting(), cluster.met()), (0, 300));
        assert!(cluster.is_forgotten());
    }

    #[tokio::test(start_paused = true)]
    async fn a_one_way_partition_heals_itself_and_a_whole_one_costs_only_its_pairs() {
        let (cluster, uuid) = (Cluster::of(3), RelayUuid::from("uuid"));
        // The second node does not reach the first, but is reached by it.
        cluster.cut(1, 0);
        cluster.arrive(0, &uuid);
        settle().await;
        cluster.arrive(1, &uuid);
        settle().await;
        assert_eq!((cluster.waiting(), cluster.met()), (0, 1));
        cluster.cut(0, 1);
        for node in 0..2 {
            cluster.arrive(node, &uuid);
            cluster.arrive(node, &uuid);
            cluster.arrive(node, &uuid);
        }
        let operations = cluster.directory.memory.clone();
        settle().await;
        assert_eq!((cluster.waiting(), cluster.met()), (2, 1), "they wait");
        assert_eq!(operations.len(), 1);
        cluster.world.cut.lock().unwrap().clear();
        settle().await;
        assert_eq!((cluster.waiting(), cluster.met()), (0, 2), "once it is over they meet");
        assert!(cluster.is_forgotten());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_holds_up_only_the_legs_for_itself() {
        let cluster = Cluster::of(3);
        let uuids: Vec<_> = (0..500).map(|n| RelayUuid::from(n.to_string().as_str())).collect();
        let (frozen, well) = uuids.split_at(400);
        frozen.iter().for_each(|uuid| cluster.arrive(1, uuid));
        well.iter().for_each(|uuid| cluster.arrive(2, uuid));
        settle().await;
        cluster.world.frozen.lock().unwrap().push(Instance(2));
        cluster.cut(1, 0);
        uuids.iter().for_each(|uuid| cluster.arrive(0, uuid));
        sleep(FROZEN / 4).await;
        assert_eq!(cluster.met(), well.len() as u64, "at once");
        cluster.world.frozen.lock().unwrap().clear();
        cluster.world.cut.lock().unwrap().clear();
        settle().await;
        assert_eq!((cluster.waiting(), cluster.met()), (0, uuids.len() as u64));
        assert!(cluster.is_forgotten());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leg_that_is_back_and_goes_before_it_is_claimed_anew_gives_its_name_back() {
        let (cluster, uuid) = (Cluster::of(2), RelayUuid::from("uuid"));
        cluster.arrive(0, &uuid);
        settle().await;
        let (seats, intake, router) = &cluster.nodes[0];
        let busy = router.claims.acquire_many(CLAIMS as u32).await.unwrap();
        // It was lent, and nothing came of that.
        intake.waits(seats.find(&uuid).unwrap());
        sleep(Duration::from_millis(1)).await;
        assert!(seats.leave(&uuid, None));
        drop(busy);
        settle().await;
        assert!(cluster.is_forgotten());
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_given_back_though_nothing_is_heard_of_their_claim_or_of_that() {
        let (cluster, uuid) = (Cluster::of(1), RelayUuid::from("uuid"));
        let (seats, _, router) = &cluster.nodes[0];
        let back = || router.hear(Event::Forgotten);
        for goes_first in [true, false] {
            cluster.directory.unheard.store(true, Ordering::Relaxed);
            cluster.arrive(0, &uuid);
            if goes_first {
                // While it is claimed.
                tokio::task::yield_now().await;
                assert!(seats.leave(&uuid, None));
            }
            sleep(Duration::from_millis(20)).await;
            assert!(goes_first || seats.leave(&uuid, None));
            settle().await;
            assert!(cluster.is_forgotten(), "{goes_first}");
        }
        cluster.directory.unheard.store(false, Ordering::Relaxed);
        cluster.arrive(0, &uuid);
        settle().await;
        cluster.directory.away.store(true, Ordering::Relaxed);
        assert!(seats.leave(&uuid, None));
        settle().await;
        assert_eq!(cluster.directory.memory.len(), 1);
        router.until_idle().await;
        // Not heard once more, and then no more.
        for (away, left) in [(false, 0), (true, 1)] {
            cluster.directory.away.store(away, Ordering::Relaxed);
            back().await;
            settle().await;
            assert_eq!(cluster.directory.memory.len(), left);
            if !away {
                cluster.arrive(0, &uuid);
                settle().await;
                cluster.directory.away.store(true, Ordering::Relaxed);
                assert!(seats.leave(&uuid, None));
                settle().await;
            }
        }
        cluster.directory.away.store(false, Ordering::Relaxed);
        back().await;
        settle().await;
        assert_eq!(cluster.directory.memory.len(), 1, "it expires");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_claim_for_one_who_has_gone_costs_the_next_nothing() {
        let (cluster, uuid) = (Cluster::of(2), RelayUuid::from("uuid"));
        cluster.directory.slow.store(true, Ordering::Relaxed);
        cluster.arrive(0, &uuid);
        sleep(Duration::from_millis(1)).await;
        cluster.directory.slow.store(false, Ordering::Relaxed);
        assert!(cluster.nodes[0].0.leave(&uuid, None));
        cluster.arrive(0, &uuid);
        settle().await;
        assert_eq!(cluster.directory.memory.len(), 1, "its name is its own");
        cluster.arrive(1, &uuid);
        settle().await;
        assert_eq!((cluster.waiting(), cluster.met()), (0, 1));
        assert!(cluster.is_forgotten());
    }
}
