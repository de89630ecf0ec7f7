//! How long a WebSocket that was sent a Close is waited for: it owes us one.

use std::time::Duration;

use tokio::time::Instant;

use super::flow::Flow;
use crate::relay::request::LegIndex;

/// How long it may be silent, at most.
const SILENCE: Duration = Duration::from_secs(10);

/// So many times as long it is waited for in all, whatever it still sends: what was on its way is
/// its peer's, and then it has been told.
const IN_ALL: u32 = 6;

/// Until when a Close is waited for, once one is owed.
#[derive(Debug, Default)]
pub(super) struct CloseWait {
    until: Option<Instant>,
}

impl CloseWait {
    /// How long the legs may be silent where that is `usual`: not as long if one of them owes a Close,
    /// unless it is we who do not read, since what it sent before has still to go to a slow leg.
    pub(super) fn silence(flows: &[Flow; 2], usual: Duration) -> Duration {
        let is_to_speak = |from: LegIndex| {
            flows[from.other().at()].has_closed() && !flows[from.at()].is_held_up()
        };
        if LegIndex::BOTH.into_iter().any(is_to_speak) { usual.min(SILENCE) } else { usual }
    }

    /// Whether a Close that is owed is too late.
    pub(super) fn is_over(&mut self, now: Instant, flows: &[Flow; 2], usual: Duration) -> bool {
        let owes =
            |from: LegIndex| flows[from.other().at()].has_closed() && !flows[from.at()].is_done();
        if !LegIndex::BOTH.into_iter().any(owes) {
            self.until = None;
            return false;
        }
        now >= *self.until.get_or_insert_with(|| now + IN_ALL * usual.min(SILENCE))
    }

    /// When that must be looked at.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.until
    }
}
