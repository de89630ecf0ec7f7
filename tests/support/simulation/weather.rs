//! What goes wrong, and when.

use std::time::Duration;

/// Something that goes wrong for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    /// From the beginning of the run.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) what: What,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// It answers late, and some not in time.
    DirectorySlow,
    /// Nobody can ask it.
    DirectoryAway,
    /// The same, and it comes back empty.
    DirectoryLost,
    /// Half of the nodes do not reach the other half.
    Partition,
    /// The first half cannot connect to the second, which connects to the first as always.
    OneWay,
    /// So many nodes at once; others take their places.
    Killed(usize),
}

/// What is wrong now.
#[derive(Debug, Default)]
pub(super) struct Weather {
    now: Vec<(What, u64)>,
}

impl Weather {
    /// From now until that millisecond.
    pub(super) fn begin(&mut self, what: What, until: u64) {
        self.now.push((what, until));
    }

    /// Ends what is over; returns what that is.
    pub(super) fn end(&mut self, now: u64) -> Vec<What> {
        let over = self.now.iter().filter(|(_, until)| *until <= now).map(|(what, _)| *what);
        let over = over.collect();
        self.now.retain(|(_, until)| *until > now);
        over
    }

    pub(super) fn is_slow(&self) -> bool {
        self.is(What::DirectorySlow)
    }

    pub(super) fn is_away(&self) -> bool {
        self.is(What::DirectoryAway) || self.is(What::DirectoryLost)
    }

    /// Whether nothing gets from the node in one place to that in another.
    pub(super) fn cuts(&self, from: usize, to: usize, nodes: usize) -> bool {
        (from < nodes / 2) != (to < nodes / 2) && self.is(What::Partition)
    }

    /// Whether the one cannot connect to the other.
    pub(super) fn bars(&self, from: usize, to: usize, nodes: usize) -> bool {
        let is_barred = self.is(What::OneWay) && from < nodes / 2 && to >= nodes / 2;
        is_barred || self.cuts(from, to, nodes)
    }

    fn is(&self, what: What) -> bool {
        self.now.iter().any(|(now, _)| *now == what)
    }
}
