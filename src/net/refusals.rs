//! Refusals: each is counted by its reason, and a flood of them is told of in a few lines.
//!
//! Of one reason so many are logged in a window; the rest of the window is counted, and told of in
//! one line when it is over, whether or not the flood is.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::Level;

use crate::metrics::{Metrics, rejections};

/// How long one window is.
const WINDOW: Duration = Duration::from_secs(10);

/// How many refusals of one reason are logged in a window.
const LINES: u32 = 10;

/// The same for wrong keys, of which programs such as fail2ban want each with its address. How many
/// of one address are, its own bound says.
const KEY_LINES: u32 = 500;

/// Counts and logs who is refused.
pub struct Refusals {
    metrics: Arc<Metrics>,
    gates: Vec<Gate>,
}

/// The refusals of one reason.
struct Gate {
    reason: &'static str,
    total: AtomicU64,
    // Held to look at a clock and to count, never while logging.
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

/// What may be said of a refusal.
struct Verdict {
    /// How many the window before had left out.
    suppressed: u64,
    /// Whether this one may be logged.
    may_log: bool,
}

impl Refusals {
    /// Counts on `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let gate = |reason| Gate { reason, total: AtomicU64::new(0), window: Mutex::default() };
        Arc::new(Self { metrics, gates: rejections().map(gate).collect() })
    }

    /// Counts a refusal, and logs it at its reason's level unless too many are.
    pub fn refuse(&self, peer: SocketAddr, reason: &str, why: &dyn fmt::Display) {
        if !self.count(reason) {
            return;
        }
        match level(reason) {
            Level::WARN => tracing::warn!(reason, "refused {peer}: {why}"),
            // hbbr's own line.
            Level::INFO => tracing::info!(reason, "{} blocked", peer.ip()),
            _ => tracing::debug!(reason, "refused {peer}: {why}"),
        }
    }

    /// Counts a refusal, and says whether its line may be written: for who has words of their own.
    pub fn count(&self, reason: &str) -> bool {
        self.count_if(reason, true)
    }

    /// The same for who has a bound of their own, too.
    pub fn count_if(&self, reason: &str, may_log: bool) -> bool {
        self.metrics.reject(reason);
        let Some(gate) = self.gates.iter().find(|gate| gate.reason == reason) else {
            // The metric has it under another reason, and so it is not lost.
            return may_log;
        };
        gate.total.fetch_add(1, Ordering::Relaxed);
        let verdict = lock(&gate.window).refusal(Instant::now(), lines(reason), may_log);
        gate.tell(verdict.suppressed);
        verdict.may_log
    }

    /// Tells of what was left out in windows that are over; to be called every second.
    pub fn tell(&self) {
        let now = Instant::now();
        for gate in &self.gates {
            let suppressed = lock(&gate.window).over(now);
            gate.tell(suppressed);
        }
    }

    /// Tells of everything that was left out: there will be no other time.
    pub fn tell_all(&self) {
        for gate in &self.gates {
            let suppressed = std::mem::take(&mut *lock(&gate.window)).suppressed;
            gate.tell(suppressed);
        }
    }

    /// How many were refused since the start, by reason.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.gates.iter().map(|gate| (gate.reason, gate.total.load(Ordering::Relaxed)))
    }
}

impl Gate {
    fn tell(&self, suppressed: u64) {
        if suppressed == 0 {
            return;
        }
        let reason = self.reason;
        match level(reason) {
            Level::WARN => tracing::warn!(reason, suppressed, "more were refused, and not logged"),
            Level::INFO => tracing::info!(reason, suppressed, "more were refused, and not logged"),
            _ => tracing::debug!(reason, suppressed, "more were refused, and not logged"),
        }
    }
}

impl Window {
    /// One more, in this window or in a new one.
    fn refusal(&mut self, now: Instant, lines: u32, may_log: bool) -> Verdict {
        let suppressed = self.over(now);
        self.began.get_or_insert(now);
        let may_log = may_log && self.logged < lines;
        if may_log {
            self.logged += 1;
        } else {
            self.suppressed += 1;
        }
        Verdict { suppressed, may_log }
    }

    /// Ends the window if its time is over: how many it left out.
    fn over(&mut self, now: Instant) -> u64 {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) < WINDOW) {
            return 0;
        }
        std::mem::take(self).suppressed
    }
}

/// How loudly a refusal is told of: clients' faults are for who looks for them, what an operator
/// asked for is to be seen, and what an operator may have to do something about is a warning.
fn level(reason: &str) -> Level {
    match reason {
        "blocked" => Level::INFO,
        "connection_limit"
        | "displaced"
        | "address_connections"
        | "address_rate"
        | "address_waiting"
        | "address_back_off"
        | "relay_limit"
        | "waiting_room_full"
        | "node_secret"
        | "node_mismatch" => Level::WARN,
        key if is_key(key) => Level::WARN,
        _ => Level::DEBUG,
    }
}

fn lines(reason: &str) -> u32 {
    if is_key(reason) { KEY_LINES } else { LINES }
}

fn is_key(reason: &str) -> bool {
    reason.starts_with("key_")
}

fn lock(window: &Mutex<Window>) -> MutexGuard<'_, Window> {
    // What a panic left is still counts.
    window.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many at once are logged, and how many were told of as left out before.
    fn flood(window: &mut Window, now: Instant, count: u32) -> (u64, u64) {
        let (mut logged, mut told) = (0, 0);
        for _ in 0..count {
            let verdict = window.refusal(now, LINES, true);
            logged += u64::from(verdict.may_log);
            told += verdict.suppressed;
        }
        (logged, told)
    }

    #[test]
    fn a_window_logs_the_first_and_tells_of_the_rest_once() {
        let (mut window, start) = (Window::default(), Instant::now());
        assert_eq!(flood(&mut window, start, 1000), (10, 0));
        assert_eq!(flood(&mut window, start + WINDOW / 2, 5), (0, 0));
        assert_eq!(flood(&mut window, start + WINDOW, 12), (10, 995));
        assert_eq!(window.over(start + WINDOW), 0, "not over yet");
        assert_eq!(window.over(start + 2 * WINDOW), 2);
        assert_eq!(window.over(start + 9 * WINDOW), 0);
        assert_eq!(flood(&mut window, start + 9 * WINDOW, 3), (3, 0));
    }

    #[test]
    fn what_another_bound_keeps_back_is_told_of_too() {
        let (mut window, now) = (Window::default(), Instant::now());
        for _ in 0..7 {
            assert!(!window.refusal(now, LINES, false).may_log);
        }
        assert_eq!(flood(&mut window, now, LINES), (10, 0));
        assert_eq!(window.over(now + WINDOW), 7);
    }

    #[test]
    fn every_reason_is_counted_by_itself() {
        let metrics = Arc::new(crate::metrics::start().unwrap().0);
        let refusals = Refusals::new(metrics);
        let reasons: Vec<_> = refusals.totals().collect();
        for (n, (reason, before)) in reasons.into_iter().enumerate() {
            assert_eq!(before, 0);
            for _ in 0..n {
                refusals.count(reason);
            }
        }
        assert!(refusals.totals().enumerate().all(|(n, (_, total))| total == n as u64));
    }
}
