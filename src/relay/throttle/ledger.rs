//! The books: every direction that is limited, the pools that it draws on, and who gets how much.
//!
//! A direction draws what it needs at once, as long as its pools have that and it is due: what is
//! due to it grows as the fair share of its pools does, up to a message. Beyond that it waits for
//! the next round, which divides what the pools have by max-min fairness among those that wait.
//! Half of a pool is kept from those who wait, for those who come with little.
//!
//! Arithmetic under one lock that its owner holds: it reads no clock and wakes nobody itself.

mod round;

use std::{collections::HashMap, task::Waker, time::Instant};

use slab::Slab;

use super::bucket::{Bucket, SHALLOWEST};

/// What may be due to a direction at most: so much of its share it can use at a time of its own
/// choosing.
const MOST_DUE: f64 = SHALLOWEST;

/// Less than this is not worth a read, if there is to be more.
const PORTION: u64 = 4 << 10;

/// The same for one that has taken little: what it has to move is most likely no more.
const LITTLE: u64 = 512;

/// How many pools nobody draws on may be kept without looking whether they are worth it.
const SPARE: usize = 64;

/// A direction's place in the books.
pub(super) type LaneId = usize;

/// A pool's name: whose it is, and whether it is for what they send or for what they receive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolName {
    pub(super) whose: Whose,
    pub(super) way: Way,
}

/// Who shares a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    /// All relays. What they send is what they receive, so that there is one pool.
    All,
    /// The legs from one address, or from one network of IPv6.
    Address(std::net::IpAddr),
    /// The legs with one key, by its label.
    Key(Box<str>),
}

/// Which of what its legs move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Sent,
    Received,
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    lanes: Slab<Lane>,
    pools: Slab<Pool>,
    named: HashMap<PoolName, usize>,
    /// Those that wait, in the order in which they came.
    queue: Vec<LaneId>,
    /// Those that ran dry in the last round.
    dry: Vec<usize>,
    /// How many pools there were room for when those that are spare were last looked at.
    kept: usize,
    /// Bytes that had to wait.
    delayed: u64,
}

/// What limits a direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// In bytes a second, for itself alone.
    pub(super) own: Option<u64>,
    /// In bytes a second, shared with all that name the same.
    pub(super) shared: Vec<(PoolName, u64)>,
}

#[derive(Debug)]
struct Pool {
    name: PoolName,
    bucket: Bucket,
    /// The sum of fair shares since the beginning, in bytes: what somebody who always waited here,
    /// and was held back by nothing else, would have got.
    share: f64,
    /// Whether the last round divided all there was.
    dry: bool,
    lanes: usize,
}

#[derive(Debug, Default)]
struct Lane {
    own: Option<Bucket>,
    pools: Vec<u32>,
    /// The share of each pool, when it was last looked at.
    seen: Vec<f64>,
    due: f64,
    /// Drawn for it already, and not yet fetched.
    granted: u64,
    wait: Option<Wait>,
    /// Whether the queue names it, which may be so though it waits no more.
    queued: bool,
    /// Whether its relay is over. The queue still names it.
    over: bool,
    waited: Option<Instant>,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    waker: Waker,
    /// It was woken.
    served: bool,
}

/// What a direction gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) bytes: u64,
    /// Whether it waited for them.
    pub(super) waited: bool,
}

impl Pool {
    /// While there is enough for all, each may have all of it.
    fn refill(&mut self, now: Instant) {
        let came = self.bucket.refill(now);
        if !self.dry {
            self.share += came;
        }
    }

    /// Not for those who wait.
    fn reserve(&self) -> f64 {
        self.bucket.depth() / 2.0
    }
}

impl Lane {
    /// Whether it took less than was due to it.
    fn is_modest(&self) -> bool {
        self.due > MOST_DUE / 2.0
    }
}

impl Ledger {
    /// Opens a direction; nothing limits it yet.
    pub(super) fn open(&mut self) -> LaneId {
        self.lanes.insert(Lane { due: MOST_DUE, ..Lane::default() })
    }

    /// Closes one, and returns what was drawn for it.
    pub(super) fn close(&mut self, id: LaneId, now: Instant) {
        // Nobody is there to be woken.
        drop(self.bind(id, &Bounds::default(), now));
        let lane = &mut self.lanes[id];
        lane.over = true;
        if !lane.queued {
            self.lanes.remove(id);
        }
    }

    /// Limits a direction anew. One that waits is woken, to draw under the new bounds.
    #[must_use]
    pub(super) fn bind(&mut self, id: LaneId, bounds: &Bounds, now: Instant) -> Option<Waker> {
        let granted = std::mem::take(&mut self.lanes[id].granted);
        self.put_back(id, granted);
        let pools: Vec<_> =
            bounds.shared.iter().map(|(name, rate)| self.pool(name, *rate, now) as u32).collect();
        let lane = &mut self.lanes[id];
        lane.own = match (lane.own.take(), bounds.own) {
            (Some(mut bucket), Some(rate)) => {
                bucket.set_rate(rate, now);
                Some(bucket)
            }
            (_, rate) => rate.map(|rate| Bucket::new(rate, now)),
        };
        lane.seen = pools.iter().map(|&pool| self.pools[pool as usize].share).collect();
        for pool in std::mem::replace(&mut lane.pools, pools) {
            self.pools[pool as usize].lanes -= 1;
        }
        lane.wait.take().map(|wait| wait.waker)
    }

    /// The pool of a name, entered by one more. A full one is as good as one that was forgotten.
    fn pool(&mut self, name: &PoolName, rate: u64, now: Instant) -> usize {
        if let Some(&at) = self.named.get(name) {
            let pool = &mut self.pools[at];
            pool.bucket.set_rate(rate, now);
            pool.lanes += 1;
            return at;
        }
        self.forget_spare_pools(now);
        let bucket = Bucket::new(rate, now);
        let pool = Pool { name: name.clone(), bucket, share: 0.0, dry: false, lanes: 1 };
        let at = self.pools.insert(pool);
        self.named.insert(name.clone(), at);
        at
    }

    fn forget_spare_pools(&mut self, now: Instant) {
        if self.pools.len() < 2 * self.kept + SPARE {
            return;
        }
        let Self { pools, named, dry, .. } = self;
        pools.retain(|_, pool| {
            pool.refill(now);
            let keep = pool.lanes > 0 || !pool.bucket.is_full();
            if !keep {
                named.remove(&pool.name);
            }
            keep
        });
        dry.retain(|&pool| pools.contains(pool));
        self.kept = pools.len();
    }

    /// Draws up to `most` for a direction, or lets it wait for a round.
    pub(super) fn draw(
        &mut self,
        id: LaneId,
        most: u64,
        now: Instant,
        waker: &Waker,
    ) -> Option<Grant> {
        let lane = &mut self.lanes[id];
        let waited = lane.wait.is_some();
        if let Some(wait) = &mut lane.wait {
            if !wait.served {
                wait.waker.clone_from(waker);
                return None;
            }
            lane.wait = None;
        }
        if lane.granted > 0 {
            return Some(Grant { bytes: std::mem::take(&mut lane.granted), waited });
        }
        self.refresh(id, now);
        let at_hand = self.at_hand(id).min(most);
        let worthwhile = if self.lanes[id].is_modest() { LITTLE } else { PORTION };
        if at_hand >= most.min(worthwhile) {
            self.take(id, at_hand);
            return Some(Grant { bytes: at_hand, waited: false });
        }
        let lane = &mut self.lanes[id];
        lane.wait = Some(Wait { since: now, waker: waker.clone(), served: false });
        if !std::mem::replace(&mut lane.queued, true) {
            self.queue.push(id);
        }
        None
    }

    /// Takes back what a direction drew and did not use, and notes what it used after a wait.
    pub(super) fn settle(&mut self, id: LaneId, left: u64, delayed: u64) {
        self.put_back(id, left);
        self.delayed += delayed;
    }

    /// Whether there is to be another round: somebody waits, or the last one has to be undone.
    pub(super) fn wants_round(&self) -> bool {
        !self.queue.is_empty() || !self.dry.is_empty()
    }

    /// Whether a direction waits.
    pub(super) fn waits(&self, id: LaneId) -> bool {
        self.lanes[id].wait.is_some()
    }

    /// Whether a direction has waited since then.
    pub(super) fn waited_since(&self, id: LaneId, then: Instant) -> bool {
        self.waits(id) || self.lanes[id].waited.is_some_and(|waited| waited >= then)
    }

    /// Bytes that had to wait, since this was last asked.
    pub(super) fn take_delayed(&mut self) -> u64 {
        std::mem::take(&mut self.delayed)
    }

    /// Brings a direction's own bucket, its pools and what is due to it up to now.
    fn refresh(&mut self, id: LaneId, now: Instant) {
        let Self { lanes, pools, .. } = self;
        let lane = &mut lanes[id];
        if let Some(own) = &mut lane.own {
            own.refill(now);
        }
        let mut gained = MOST_DUE;
        for (&pool, seen) in lane.pools.iter().zip(&mut lane.seen) {
            let pool = &mut pools[pool as usize];
            pool.refill(now);
            gained = gained.min(pool.share - *seen);
            *seen = pool.share;
        }
        lane.due = (lane.due + gained).min(MOST_DUE);
    }

    /// What a direction may have without a round. The reserve is for those who took little, and
    /// none takes more than half of it, so that there is some for the next.
    fn at_hand(&self, id: LaneId) -> u64 {
        let lane = &self.lanes[id];
        let own = lane.own.as_ref().map_or(f64::MAX, Bucket::level);
        if lane.pools.is_empty() {
            return own as u64;
        }
        let modest = lane.is_modest();
        let pools = lane.pools.iter().map(|&pool| {
            let pool = &self.pools[pool as usize];
            let (level, free) = (pool.bucket.level(), pool.bucket.level() - pool.reserve());
            if modest { free.max(level / 2.0) } else { free }
        });
        pools.fold(own.min(lane.due), f64::min).max(0.0) as u64
    }

    fn take(&mut self, id: LaneId, bytes: u64) {
        let Self { lanes, pools, .. } = self;
        let lane = &mut lanes[id];
        lane.due = (lane.due - bytes as f64).max(0.0);
        if let Some(own) = &mut lane.own {
            own.take(bytes);
        }
        for &pool in &lane.pools {
            pools[pool as usize].bucket.take(bytes);
        }
    }

    fn put_back(&mut self, id: LaneId, bytes: u64) {
        let Self { lanes, pools, .. } = self;
        let (lane, bytes) = (&mut lanes[id], bytes as f64);
        lane.due = (lane.due + bytes).min(MOST_DUE);
        if let Some(own) = &mut lane.own {
            own.put_back(bytes);
        }
        for &pool in &lane.pools {
            pools[pool as usize].bucket.put_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(1);
    const MB: u64 = 1_000_000;

    /// A direction that has so many bytes to move every so many milliseconds, or always more.
    #[derive(Debug, Clone, Copy)]
    enum Load {
        Greedy,
        Every { millis: u64, bytes: u64 },
    }

    struct Direction {
        lane: LaneId,
        load: Load,
        /// Not moved yet.
        backlog: u64,
        since: Option<Duration>,
        moved: u64,
        /// The longest that something had to wait until all of it was moved.
        longest: Duration,
    }

    /// Time in steps of a millisecond, a round every ten.
    struct World {
        ledger: Ledger,
        start: Instant,
        passed: Duration,
        directions: Vec<Direction>,
    }

    impl World {
        fn new() -> Self {
            let (ledger, start) = (Ledger::default(), Instant::now());
            Self { ledger, start, passed: Duration::ZERO, directions: Vec::new() }
        }

        fn now(&self) -> Instant {
            self.start + self.passed
        }

        fn add(&mut self, load: Load, bounds: &Bounds) -> usize {
            let lane = self.ledger.open();
            assert!(self.ledger.bind(lane, bounds, self.now()).is_none());
            let longest = Duration::ZERO;
            self.directions.push(Direction {
                lane,
                load,
                backlog: 0,
                since: None,
                moved: 0,
                longest,
            });
            self.directions.len() - 1
        }

        fn run(&mut self, span: Duration) {
            let end = self.passed + span;
            while self.passed < end {
                self.passed += STEP;
                let millis = self.passed.as_millis() as u64;
                if millis.is_multiple_of(10) && self.ledger.wants_round() {
                    self.ledger.round(self.now(), &mut Vec::new());
                }
                for at in 0..self.directions.len() {
                    self.turn(at, millis);
                }
            }
        }

        fn turn(&mut self, at: usize, millis: u64) {
            let (now, passed) = (self.now(), self.passed);
            let direction = &mut self.directions[at];
            match direction.load {
                Load::Greedy => direction.backlog = 10 * MB,
                // Not all at the same time.
                Load::Every { millis: every, bytes }
                    if (millis + at as u64).is_multiple_of(every) =>
                {
                    direction.since.get_or_insert(passed);
                    direction.backlog += bytes;
                }
                Load::Every { .. } => {}
            }
            while direction.backlog > 0 {
                let drawn = self.ledger.draw(direction.lane, 256 << 10, now, Waker::noop());
                let Some(Grant { bytes, .. }) = drawn else { return };
                let moved = bytes.min(direction.backlog);
                direction.backlog -= moved;
                direction.moved += moved;
                self.ledger.settle(direction.lane, bytes - moved, 0);
            }
            if let Some(since) = direction.since.take() {
                direction.longest = direction.longest.max(passed - since);
            }
        }

        fn moved(&self) -> Vec<u64> {
            self.directions.iter().map(|direction| direction.moved).collect()
        }

        fn forget(&mut self) {
            for direction in &mut self.directions {
                direction.moved = 0;
                direction.longest = Duration::ZERO;
            }
        }
    }

    fn all(rate: u64) -> Bounds {
        named(Whose::All, rate)
    }

    fn named(whose: Whose, rate: u64) -> Bounds {
        Bounds { own: None, shared: vec![(PoolName { whose, way: Way::Sent }, rate)] }
    }

    #[test]
    fn the_greedy_share_alike_what_the_modest_leave_and_these_do_not_wait() {
        let mut world = World::new();
        // 50 screens of 30 frames of 20 KiB: 30.7 MB/s of 60.
        let screen = Load::Every { millis: 33, bytes: 20 << 10 };
        for _ in 0..50 {
            world.add(screen, &all(60 * MB));
        }
        let greedy = [0, 1].map(|_| world.add(Load::Greedy, &all(60 * MB)));
        world.run(Duration::from_secs(1));
        world.forget();
        world.run(Duration::from_secs(10));
        let moved = world.moved();
        for direction in &world.directions[..50] {
            let wanted = 10_000 / 33 * (20 << 10);
            assert!(direction.moved >= wanted - (20 << 10), "{}", direction.moved);
            assert!(direction.longest <= 2 * STEP, "a frame waited {:?}", direction.longest);
        }
        let left = 600 * MB - moved[..50].iter().sum::<u64>();
        for greedy in greedy {
            let share = moved[greedy] as f64 / (left as f64 / 2.0);
            assert!((0.97..1.03).contains(&share), "{share}");
        }
    }

    #[test]
    fn all_who_want_more_than_their_share_get_that() {
        let mut world = World::new();
        for _ in 0..9 {
            world.add(Load::Greedy, &all(10 * MB));
        }
        // 2 MB/s is more than the tenth part.
        let tenth = world.add(Load::Every { millis: 20, bytes: 40_000 }, &all(10 * MB));
        world.run(Duration::from_secs(1));
        world.forget();
        world.run(Duration::from_secs(10));
        for (at, moved) in world.moved().into_iter().enumerate() {
            assert!((950_000..1_050_000).contains(&(moved / 10)), "{at}: {moved}");
        }
        assert!(world.directions[tenth].backlog > 0);
    }

    #[test]
    fn one_alone_gets_all_there_is_and_a_limit_of_its_own_leaves_the_rest_to_others() {
        let mut world = World::new();
        let own = Bounds { own: Some(MB), ..all(20 * MB) };
        let (slow, fast) = (world.add(Load::Greedy, &own), world.add(Load::Greedy, &all(20 * MB)));
        world.run(Duration::from_secs(10));
        let moved = world.moved();
        assert!((9_900_000..=10_100_000).contains(&moved[slow]), "{}", moved[slow]);
        assert!((188 * MB..=191 * MB).contains(&moved[fast]), "{}", moved[fast]);
    }

    #[test]
    fn one_that_wakes_goes_at_once_though_all_is_taken() {
        let mut world = World::new();
        for _ in 0..20 {
            world.add(Load::Greedy, &all(10 * MB));
        }
        world.run(Duration::from_secs(2));
        let typist = world.add(Load::Every { millis: 500, bytes: 200 }, &all(10 * MB));
        world.run(Duration::from_secs(5));
        assert_eq!(world.directions[typist].longest, Duration::ZERO);
    }

    #[test]
    fn those_that_come_with_much_at_once_leave_some_for_one_that_comes_with_little() {
        let mut world = World::new();
        (0..4).for_each(|_| {
            world.add(Load::Every { millis: 1, bytes: MB }, &all(MB));
        });
        // All of them have taken nothing so far.
        world.run(STEP);
        let typist = world.add(Load::Every { millis: 1, bytes: 200 }, &all(MB));
        world.run(STEP);
        assert_eq!(world.directions[typist].moved, 200);
    }

    #[test]
    fn other_bounds_wake_who_waits_and_what_was_drawn_is_returned() {
        let mut world = World::new();
        let at = world.add(Load::Greedy, &all(MB));
        world.run(Duration::from_secs(1));
        let (lane, now) = (world.directions[at].lane, world.now());
        assert!(world.ledger.waits(lane));
        assert!(world.ledger.bind(lane, &Bounds::default(), now).is_some());
        assert!(!world.ledger.waits(lane));
        let drawn = world.ledger.draw(lane, 5 * MB, now, Waker::noop());
        assert_eq!(drawn.map(|grant| grant.bytes), Some(5 * MB));
    }

    #[test]
    fn nothing_is_left_of_those_that_are_over() {
        let mut world = World::new();
        for n in 0..1_000_u32 {
            let whose = Whose::Address(std::net::Ipv4Addr::from_bits(n).into());
            world.add(Load::Greedy, &named(whose, MB));
        }
        world.run(Duration::from_millis(20));
        let now = world.now();
        for direction in world.directions.drain(..) {
            world.ledger.close(direction.lane, now);
        }
        world.run(Duration::from_secs(1));
        while world.ledger.wants_round() {
            world.ledger.round(now, &mut Vec::new());
        }
        assert_eq!(world.ledger.lanes.len(), 0);
        // Pools go when there are many, and are full again.
        for n in 0..5_000_u32 {
            let whose = Whose::Address(std::net::Ipv4Addr::from_bits(n).into());
            let at = world.add(Load::Greedy, &named(whose, MB));
            world.ledger.close(world.directions[at].lane, world.now());
        }
        assert!(world.ledger.pools.len() <= 2_000, "{}", world.ledger.pools.len());
    }

    fn loads() -> impl Strategy<Value = Load> {
        let every = (1..100_u64, 1..200_000_u64);
        prop_oneof![
            Just(Load::Greedy),
            every.prop_map(|(millis, bytes)| Load::Every { millis, bytes })
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_pool_gives_more_than_it_has_and_nothing_is_left_while_somebody_wants(
            wanted in prop::collection::vec((loads(), 0..3_u32), 1..20),
            total in 100_000..50_000_000_u64,
        ) {
            let mut world = World::new();
            for (load, address) in wanted {
                let mut bounds = all(total);
                let whose = Whose::Address(std::net::Ipv4Addr::from_bits(address).into());
                let name = PoolName { whose, way: Way::Received };
                if address > 0 {
                    bounds.shared.push((name, total / 2));
                }
                world.add(load, &bounds);
            }
            world.run(Duration::from_millis(500));
            world.forget();
            world.run(Duration::from_secs(2));
            let sum: u64 = world.moved().iter().sum();
            let ahead = (total as f64 / 20.0).max(SHALLOWEST);
            prop_assert!(sum as f64 <= 2.0 * total as f64 + ahead, "{sum} of 2 × {total}");
            let hungry = world.directions.iter().any(|direction| {
                matches!(direction.load, Load::Greedy)
                    && world.ledger.lanes[direction.lane].pools.len() == 1
            });
            // Whom nothing but the total holds back takes all that others leave.
            if hungry {
                prop_assert!(sum as f64 >= 1.9 * total as f64 - ahead, "{sum} of 2 × {total}");
            }
        }
    }
}
