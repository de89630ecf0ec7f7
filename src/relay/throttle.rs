//! Bandwidth: how much each direction of a relay may move now.
//!
//! A relay that nothing limits has no place here, and costs nothing. One that something limits has
//! an [`Allowance`], which `splice` asks before it reads; without one it does not read, and the
//! sender is held back by the kernel. Limits are per relay, per address, per key and in total; what
//! is shared is shared by max-min fairness, which `ledger` and `fill` know.

mod bucket;
mod fill;
mod ledger;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use self::ledger::{Bounds, Grant, LaneId, Ledger, PoolName, Way, Whose};
use crate::{
    config::{BandwidthConfig, BitRate},
    metrics::Metrics,
    net::access::{Access, site},
};

/// How long those wait whose share is used up.
const ROUND: Duration = Duration::from_millis(10);

/// Rounds take no more than this part of a thread's time: with many that wait there are fewer.
const SHARE_OF_TIME: u32 = 10;

/// A direction that waited this lately is being limited.
const LATELY: Duration = Duration::from_secs(1);

/// The limits, and what is left of them.
pub struct Throttle {
    // Held for arithmetic only, never across an await.
    state: Mutex<State>,
    /// Somebody waits who found nobody waiting.
    waited_for: Notify,
    /// Who is on the throttle list.
    access: Arc<Access>,
    metrics: Arc<Metrics>,
}

struct State {
    limits: BandwidthConfig,
    ledger: Ledger,
}

/// What of a relay decides on its limits; by leg.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Whence the legs came.
    pub addresses: [IpAddr; 2],
    /// The keys that they have, by label, with their limits.
    pub keys: [Option<(&'a str, BitRate)>; 2],
}

/// A relay's place among those that are limited; empty for one that never was.
#[derive(Default)]
pub struct Allowance(OnceLock<Box<Place>>);

/// The place of a relay that is, or was, limited.
pub struct Place {
    throttle: Arc<Throttle>,
    /// By the leg that each comes from.
    lanes: [LaneId; 2],
    /// What the last turn of each has drawn for the next.
    kept: [AtomicU64; 2],
    /// Whether anything limits it now.
    limited: AtomicBool,
    /// What it has instead of `per_relay`.
    own: Mutex<Own>,
}

/// A relay's limit of its own.
#[derive(Debug, Clone, Copy, Default)]
enum Own {
    /// As configured.
    #[default]
    Configured,
    /// As an operator has set it.
    Set(BitRate),
    /// It took too much for too long.
    Downgraded,
}

/// What a direction may read in one turn.
pub struct Turn<'a> {
    place: &'a Place,
    from: usize,
    /// Drawn and not read yet.
    left: u64,
    /// Read after a wait.
    delayed: u64,
    waited: bool,
}

impl Throttle {
    /// With these limits, that of the throttle list for those whom `access` has on it.
    pub fn new(limits: BandwidthConfig, access: Arc<Access>, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.bandwidth.show_total(limits.total.bytes_per_second());
        let state = Mutex::new(State { limits, ledger: Ledger::default() });
        Arc::new(Self { state, waited_for: Notify::new(), access, metrics })
    }

    /// The limits in force.
    pub fn limits(&self) -> BandwidthConfig {
        self.lock().limits.clone()
    }

    /// Puts other limits in force: for relays that come, and for others once they are
    /// [limited](Allowance::limit) anew.
    pub fn replace(&self, limits: BandwidthConfig) {
        self.metrics.bandwidth.show_total(limits.total.bytes_per_second());
        self.lock().limits = limits;
    }

    /// Serves those that wait until `stop` is cancelled.
    pub async fn serve_until(&self, stop: CancellationToken) {
        let serve = async {
            loop {
                self.waited_for.notified().await;
                let mut pause = ROUND;
                loop {
                    sleep(pause).await;
                    let began = Instant::now();
                    if !self.round(began) {
                        break;
                    }
                    pause = ROUND.max(began.elapsed() * SHARE_OF_TIME);
                }
            }
        };
        stop.run_until_cancelled(serve).await;
    }

    /// Whether there is to be another.
    fn round(&self, now: Instant) -> bool {
        let mut wake = Vec::new();
        let (more, delayed) = {
            let ledger = &mut self.lock().ledger;
            ledger.round(now, &mut wake);
            (ledger.wants_round(), ledger.take_delayed())
        };
        self.metrics.bandwidth.delayed.increment(delayed);
        wake.into_iter().for_each(Waker::wake);
        more
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Arithmetic that panicked is a fault of ours; relays that are limited wrongly are better
        // than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What limits the direction that comes from leg `from`.
    fn bounds(&self, subject: &Subject<'_>, access: &Access, from: usize, own: Own) -> Bounds {
        let mut shared = Vec::new();
        let mut share = |whose, way, rate: BitRate| {
            shared.extend(rate.bytes_per_second().map(|rate| (PoolName { whose, way }, rate)));
        };
        share(Whose::All, Way::Sent, self.limits.total);
        for (leg, way) in [(from, Way::Sent), (1 - from, Way::Received)] {
            let address = subject.addresses[leg];
            share(Whose::Address(site(address)), way, self.limits.of_address(address, access));
            if let Some((label, rate)) = subject.keys[leg].filter(|(_, rate)| !rate.is_unlimited())
            {
                share(Whose::Key(label.into()), way, rate);
            }
        }
        Bounds { own: own.rate(&self.limits).bytes_per_second(), shared }
    }
}

impl Own {
    const fn rate(self, limits: &BandwidthConfig) -> BitRate {
        match self {
            Self::Configured => limits.per_relay,
            Self::Set(rate) => rate,
            Self::Downgraded => limits.per_relay.min(limits.throttled),
        }
    }
}

impl BandwidthConfig {
    fn of_address(&self, address: IpAddr, access: &Access) -> BitRate {
        let exempt = access.is_exempt(address);
        let rate = if exempt { BitRate::UNLIMITED } else { self.per_address };
        if access.is_throttled(address) { rate.min(self.throttled) } else { rate }
    }
}

impl Allowance {
    /// The place of a relay that something limits.
    pub fn get(&self) -> Option<&Place> {
        self.0.get().map(Box::as_ref).filter(|place| place.limited.load(Ordering::Relaxed))
    }

    /// Holds the relay to the limits in force from now on.
    pub fn limit(&self, throttle: &Arc<Throttle>, subject: &Subject<'_>) {
        let now = Instant::now();
        let mut state = throttle.lock();
        let own = self.own();
        let bounds = [0, 1].map(|from| state.bounds(subject, &throttle.access, from, own));
        let limited = bounds.iter().any(|bounds| *bounds != Bounds::default());
        if !limited && self.0.get().is_none() {
            return;
        }
        let place = self.place(throttle, &mut state);
        let bind = |(lane, bounds): (&LaneId, &Bounds)| state.ledger.bind(*lane, bounds, now);
        let woken: Vec<_> = place.lanes.iter().zip(&bounds).filter_map(bind).collect();
        place.limited.store(limited, Ordering::Relaxed);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// What the relay may move one way, shared limits aside.
    pub fn own_rate(&self, throttle: &Throttle) -> BitRate {
        self.own().rate(&throttle.lock().limits)
    }

    /// Sets what this relay alone may move one way; `None` for what the configuration has. To be
    /// followed by [`Allowance::limit`].
    pub fn set_own(&self, throttle: &Arc<Throttle>, rate: Option<BitRate>) {
        self.put_own(throttle, rate.map_or(Own::Configured, Own::Set));
    }

    /// Holds a relay that took too much to the rate of the throttle list, unless it has a limit that
    /// an operator has set; whether it was not before. To be followed by [`Allowance::limit`].
    pub fn downgrade(&self, throttle: &Arc<Throttle>) -> bool {
        let is_new = matches!(self.own(), Own::Configured);
        if is_new {
            self.put_own(throttle, Own::Downgraded);
        }
        is_new
    }

    fn own(&self) -> Own {
        let own =
            self.0.get().map(|place| *place.own.lock().unwrap_or_else(PoisonError::into_inner));
        own.unwrap_or_default()
    }

    fn put_own(&self, throttle: &Arc<Throttle>, own: Own) {
        let place = self.place(throttle, &mut throttle.lock());
        *place.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// Holds the relay to nothing any more: it is cut short, and has little left to say.
    pub fn lift(&self) {
        if let Some(place) = self.0.get() {
            place.limited.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a direction was held back lately.
    pub fn was_held_back(&self) -> bool {
        let Some(place) = self.get() else { return false };
        let then = Instant::now().checked_sub(LATELY);
        let state = place.throttle.lock();
        let held = |lane: &LaneId| then.is_none_or(|then| state.ledger.waited_since(*lane, then));
        place.lanes.iter().any(held)
    }

    /// Whether a direction waits to be allowed to read.
    pub fn is_waited_for(&self) -> bool {
        let Some(place) = self.get() else { return false };
        let state = place.throttle.lock();
        place.lanes.iter().any(|lane| state.ledger.waits(*lane))
    }

    fn place(&self, throttle: &Arc<Throttle>, state: &mut State) -> &Place {
        self.0.get_or_init(|| {
            Box::new(Place {
                throttle: Arc::clone(throttle),
                lanes: [state.ledger.open(), state.ledger.open()],
                kept: Default::default(),
                limited: AtomicBool::new(false),
                own: Mutex::default(),
            })
        })
    }
}

impl Place {
    /// A turn of the direction that comes from leg `from`.
    pub fn turn(&self, from: usize) -> Turn<'_> {
        let left = self.kept[from].swap(0, Ordering::Relaxed);
        Turn { place: self, from, left, delayed: 0, waited: false }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (now, mut state) = (Instant::now(), self.throttle.lock());
        for (lane, kept) in self.lanes.into_iter().zip(&mut self.kept) {
            state.ledger.settle(lane, *kept.get_mut(), 0);
            state.ledger.close(lane, now);
        }
    }
}

impl Turn<'_> {
    /// How much may be read now, up to `most`; if nothing, the task is woken when there is
    /// something again. To be asked only when there is something to read.
    pub fn poll_draw(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<usize> {
        let most = most as u64;
        if self.left == 0 {
            let throttle = &self.place.throttle;
            let ledger = &mut throttle.lock().ledger;
            let nobody_waited = !ledger.wants_round();
            match ledger.draw(self.place.lanes[self.from], most, Instant::now(), cx.waker()) {
                Some(Grant { bytes, waited }) => {
                    self.left = bytes;
                    self.waited = waited;
                }
                None => {
                    if nobody_waited {
                        throttle.waited_for.notify_one();
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(self.left.min(most) as usize)
    }

    /// So much was read of what was drawn.
    pub fn read(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        debug_assert!(bytes <= self.left, "more was read than was allowed");
        self.left = self.left.saturating_sub(bytes);
        if self.waited {
            self.delayed += bytes;
        }
    }

    /// Ends a turn that another follows at once: what is left is kept for that one.
    pub fn go_on(mut self) {
        let left = std::mem::take(&mut self.left);
        self.place.kept[self.from].store(left, Ordering::Relaxed);
    }
}

/// What is left is given back.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.left > 0 || self.delayed > 0 {
            let lane = self.place.lanes[self.from];
            self.place.throttle.lock().ledger.settle(lane, self.left, self.delayed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{metrics, relay::tests::access};

    const SUBJECT: Subject<'_> =
        Subject { addresses: [IpAddr::V4(Ipv4Addr::LOCALHOST); 2], keys: [None; 2] };

    /// Relays that share so much.
    fn sharing<const N: usize>(total: BitRate) -> (Arc<Throttle>, [Allowance; N]) {
        let limits = BandwidthConfig { total, ..BandwidthConfig::default() };
        let metrics = Arc::new(metrics::start().unwrap().0);
        let throttle = Throttle::new(limits, access(), metrics);
        let allowances = std::array::from_fn(|_| Allowance::default());
        allowances.iter().for_each(|one| one.limit(&throttle, &SUBJECT));
        (throttle, allowances)
    }

    #[test]
    fn what_is_kept_for_the_next_turn_is_returned_if_that_has_nothing_to_read() {
        let (throttle, [greedy, other]) = sharing(BitRate::from_mbit(10));
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut turn = greedy.get().unwrap().turn(0);
            let Poll::Ready(most) = turn.poll_draw(&mut cx, 1 << 20) else { break };
            turn.read(most);
        }
        // Much later it gets all that the pool has by then, and needs little.
        throttle.round(Instant::now() + Duration::from_secs(10));
        let mut turn = greedy.get().unwrap().turn(0);
        assert_eq!(turn.poll_draw(&mut cx, 1_000), Poll::Ready(1_000));
        turn.read(1_000);
        turn.go_on();
        drop(greedy.get().unwrap().turn(0));
        let drawn = other.get().unwrap().turn(0).poll_draw(&mut cx, 1 << 20);
        assert!(matches!(drawn, Poll::Ready(30_000..)), "{drawn:?}");
    }
}
