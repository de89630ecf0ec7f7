//! The world: who comes when, what goes wrong, and the clock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mini_rust_desk_relay_server::{
    cluster::directory::{Holder, Instance, memory::MemoryDirectory},
    metrics::{self, Metrics},
    relay::route::WaitId,
};
use tokio::time::{Instant, sleep_until};

use super::{
    Plan, Report,
    dice::Dice,
    node::{Leg, SimulatedNode},
    pairs::Pairs,
    weather::{Weather, What},
};

/// How long a leg may wait.
const WAIT: Duration = Duration::from_secs(30);

/// How long the second side of most pairs takes longer than the first, on average; one in
/// `ONE_IN` takes up to `LONG`.
const BETWEEN: Duration = Duration::from_millis(40);
const ONE_IN: usize = 20;
const LONG: Duration = Duration::from_secs(10);

/// After how long the place of a node that was killed is taken.
const REPLACED: Duration = Duration::from_secs(2);

/// After how long a client that was cut off comes again.
const AGAIN: Duration = Duration::from_millis(100);

/// Within which the nodes know that the directory is back.
const KNOWN: Duration = Duration::from_secs(1);

/// How often the directory's entries are counted, in milliseconds.
const COUNTED: u64 = 50;

pub(super) struct World {
    began: Instant,
    dice: Mutex<Dice>,
    weather: Mutex<Weather>,
    pub(super) directory: MemoryDirectory,
    pub(super) metrics: Arc<Metrics>,
    pairs: Mutex<Pairs>,
    places: Mutex<Vec<Option<Arc<SimulatedNode>>>>,
    /// Where each process is, or was.
    known: Mutex<HashMap<Instance, usize>>,
    agenda: Mutex<BTreeMap<u64, Vec<Due>>>,
    failing_dials: f64,
    breaking: f64,
    /// The last that was given.
    id: AtomicU64,
}

/// What happens at some time.
enum Due {
    /// A side of a pair comes.
    Comes(u32, usize),
    /// A leg has waited long enough.
    Expires(Arc<SimulatedNode>, u32, WaitId),
    Begins(What, Duration),
    /// A node takes an empty place.
    Starts(usize),
    /// A node finds that the directory is back.
    Returns(Arc<SimulatedNode>),
}

/// From the first pair until all are met or lost.
pub(super) async fn run(plan: Plan) -> Report {
    let world = World::new(&plan);
    (0..plan.nodes).for_each(|place| world.start(place));
    for trouble in &plan.troubles {
        world.at_time(trouble.at, Due::Begins(trouble.what, trouble.lasts));
    }
    let end = Duration::from_secs(60).mul_f64(f64::from(plan.pairs) / f64::from(plan.a_minute));
    let kills = plan.killing.map_or(0, |every| (end.as_secs_f64() / every.as_secs_f64()) as u32);
    for (number, every) in (1..=kills).zip(plan.killing.into_iter().cycle()) {
        world.at_time(every * number, Due::Begins(What::Killed(1), Duration::ZERO));
    }
    let (mut now, mut peak) = (0, 0);
    loop {
        let due = now.min(end.as_millis() as u64) as f64 / end.as_millis() as f64;
        world.begin((due * f64::from(plan.pairs)) as u32);
        world.turn(now, plan.nodes);
        if now.is_multiple_of(COUNTED) {
            peak = peak.max(world.directory.len());
        }
        if now > end.as_millis() as u64 && world.pairs().open == 0 {
            break;
        }
        now += 1;
        sleep_until(world.began + Duration::from_millis(now)).await;
    }
    Report::of(&plan, &world.pairs(), peak)
}

impl World {
    fn new(plan: &Plan) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            dice: Mutex::new(Dice::new(plan.seed)),
            weather: Mutex::default(),
            directory: MemoryDirectory::default(),
            metrics: Arc::new(metrics::start().expect("metrics").0),
            pairs: Mutex::default(),
            places: Mutex::new(vec![None; plan.nodes]),
            known: Mutex::default(),
            agenda: Mutex::default(),
            failing_dials: plan.failing_dials,
            breaking: plan.breaking,
            id: AtomicU64::new(0),
        })
    }

    /// Begins as many pairs as have to have begun by now.
    fn begin(&self, pairs: u32) {
        while (self.pairs().all.len() as u32) < pairs {
            let number = self.pairs().begin();
            let mut dice = self.dice();
            let between = match dice.one_of(ONE_IN) {
                0 => LONG.mul_f64(dice.share()),
                _ => dice.exponential(BETWEEN).min(LONG),
            };
            drop(dice);
            self.later(Duration::ZERO, Due::Comes(number, 0));
            self.later(between, Due::Comes(number, 1));
        }
    }

    /// Whatever is due.
    fn turn(self: &Arc<Self>, now: u64, nodes: usize) {
        for over in self.weather().end(now) {
            if matches!(over, What::DirectoryAway | What::DirectoryLost) {
                for node in self.living() {
                    let known = KNOWN.mul_f64(self.dice().share());
                    self.later(known, Due::Returns(node));
                }
            }
        }
        loop {
            let due = {
                let mut agenda = self.agenda();
                let first = agenda.first_entry().filter(|first| *first.key() <= now);
                first.map(|first| first.remove())
            };
            let Some(due) = due else { break };
            due.into_iter().for_each(|due| self.happens(due, now, nodes));
        }
    }

    fn happens(self: &Arc<Self>, due: Due, now: u64, nodes: usize) {
        match due {
            Due::Comes(pair, side) => self.comes(pair, side),
            Due::Expires(node, pair, id) => {
                if node.expires(pair, id) {
                    self.pairs().loses(pair);
                }
            }
            Due::Begins(What::Killed(count), _) => (0..count).for_each(|_| self.kill(nodes)),
            Due::Begins(what, lasts) => {
                self.weather().begin(what, now + lasts.as_millis() as u64);
                if what == What::DirectoryLost {
                    self.directory.forget();
                }
            }
            Due::Starts(place) => self.start(place),
            Due::Returns(node) => node.forgotten(),
        }
    }

    fn start(self: &Arc<Self>, place: usize) {
        let instance = self.id.fetch_add(1, Ordering::Relaxed);
        self.known().insert(Instance(instance), place);
        let node = SimulatedNode::start(self, place, instance);
        self.places()[place] = Some(node);
    }

    /// Kills some node.
    fn kill(&self, nodes: usize) {
        let place = self.dice().one_of(nodes);
        let Some(node) = self.places()[place].take() else { return };
        for (pair, side) in node.kill() {
            self.comes_again(pair, side);
        }
        self.later(REPLACED, Due::Starts(place));
    }

    /// A side comes, to any node that lives.
    fn comes(&self, pair: u32, side: usize) {
        self.pairs().comes(pair, side, self.now() as u32);
        let node = {
            let (mut dice, places) = (self.dice(), self.places());
            loop {
                if let Some(node) = &places[dice.one_of(places.len())] {
                    break Arc::clone(node);
                }
            }
        };
        let id = WaitId(self.id.fetch_add(1, Ordering::Relaxed));
        if node.comes(pair, Leg::new(side, id, WAIT)) {
            self.meets(pair, false);
        } else {
            self.later(WAIT, Due::Expires(node, pair, id));
        }
    }

    /// A side whose node died comes again, unless the two have met.
    pub(super) fn comes_again(&self, pair: u32, side: usize) {
        self.pairs().cut_off(pair);
        self.later(AGAIN, Due::Comes(pair, side));
    }

    /// A leg is back in its room.
    pub(super) fn put_back(&self, node: &Arc<SimulatedNode>, pair: u32, leg: Leg) {
        if node.is_dead() {
            // Its client hears of that only now.
            return self.comes_again(pair, leg.side);
        }
        let (id, is_late) = (leg.id, leg.is_late());
        if node.put_back(pair, leg) {
            self.meets(pair, false);
        } else if is_late && node.expires(pair, id) {
            self.pairs().loses(pair);
        }
    }

    pub(super) fn meets(&self, pair: u32, crossed: bool) {
        self.pairs().meets(pair, self.now() as u32, crossed);
    }

    pub(super) fn cuts(&self, from: usize, to: usize) -> bool {
        let nodes = self.places().len();
        self.weather().cuts(from, to, nodes)
    }

    pub(super) fn bars(&self, from: usize, to: usize) -> bool {
        let nodes = self.places().len();
        self.weather().bars(from, to, nodes)
    }

    pub(super) fn place_of(&self, holder: &Holder) -> usize {
        self.known()[&holder.node.instance]
    }

    /// Who lives in that place.
    pub(super) fn at(&self, place: usize) -> Option<Arc<SimulatedNode>> {
        self.places()[place].clone()
    }

    pub(super) fn dial_fails(&self) -> bool {
        self.dice().happens(self.failing_dials)
    }

    pub(super) fn breaks(&self) -> bool {
        self.dice().happens(self.breaking)
    }

    pub(super) fn trip(&self) -> Duration {
        self.dice().trip()
    }

    pub(super) fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().expect("no panic")
    }

    pub(super) fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().expect("no panic")
    }

    pub(super) fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().expect("no panic")
    }

    fn places(&self) -> MutexGuard<'_, Vec<Option<Arc<SimulatedNode>>>> {
        self.places.lock().expect("no panic")
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Instance, usize>> {
        self.known.lock().expect("no panic")
    }

    fn agenda(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Due>>> {
        self.agenda.lock().expect("no panic")
    }

    fn living(&self) -> Vec<Arc<SimulatedNode>> {
        self.places().iter().flatten().cloned().collect()
    }

    /// In milliseconds since the beginning.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn later(&self, after: Duration, due: Due) {
        self.at_time(self.began.elapsed() + after, due);
    }

    fn at_time(&self, time: Duration, due: Due) {
        self.agenda().entry(time.as_millis() as u64).or_default().push(due);
    }
}
