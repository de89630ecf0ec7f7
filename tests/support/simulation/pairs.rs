//! What became of every pair.

use mini_rust_desk_relay_server::wire::rendezvous::RelayUuid;

/// Has not happened.
pub(super) const NEVER: u32 = u32::MAX;

/// Every pair, by its number.
#[derive(Default)]
pub(super) struct Pairs {
    pub(super) all: Vec<Pair>,
    /// How many are neither met nor lost.
    pub(super) open: usize,
    /// Names that were given back.
    pub(super) releases: u64,
    /// Hand-overs that were tried, and those of them that failed.
    pub(super) attempts: u64,
    pub(super) failures: u64,
}

/// One. Times are in milliseconds from the beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    /// When the first side came.
    pub(super) began: u32,
    /// When the later of the two did.
    pub(super) came: u32,
    pub(super) met: u32,
    pub(super) crossed: bool,
    /// Claims, until it met.
    pub(super) claims: u16,
    /// Hand-overs that failed.
    pub(super) failures: u16,
    /// How often a side was cut off and came again.
    pub(super) again: u8,
    pub(super) lost: bool,
    /// Whether each side has come.
    pub(super) sides: [bool; 2],
}

impl Pairs {
    /// One more; its number.
    pub(super) fn begin(&mut self) -> u32 {
        self.all.push(Pair {
            began: NEVER,
            came: NEVER,
            met: NEVER,
            crossed: false,
            claims: 0,
            failures: 0,
            again: 0,
            lost: false,
            sides: [false; 2],
        });
        self.open += 1;
        (self.all.len() - 1) as u32
    }

    pub(super) fn one(&mut self, number: u32) -> &mut Pair {
        &mut self.all[number as usize]
    }

    pub(super) fn comes(&mut self, number: u32, side: usize, now: u32) {
        let pair = self.one(number);
        pair.sides[side] = true;
        pair.began = pair.began.min(now);
        if pair.came == NEVER && pair.sides == [true; 2] {
            pair.came = now;
        }
    }

    pub(super) fn asked(&mut self, number: u32) {
        let pair = self.one(number);
        if pair.met == NEVER {
            pair.claims = pair.claims.saturating_add(1);
        }
    }

    pub(super) fn meets(&mut self, number: u32, now: u32, crossed: bool) {
        let pair = self.one(number);
        assert!(pair.met == NEVER, "pair {number} meets twice");
        (pair.met, pair.crossed) = (now, crossed);
        // One that was given up as lost and meets all the same is lost.
        if !pair.lost {
            self.open -= 1;
        }
    }

    pub(super) fn fails(&mut self, number: u32) {
        self.failures += 1;
        let pair = self.one(number);
        pair.failures = pair.failures.saturating_add(1);
    }

    /// A side is cut off.
    pub(super) fn cut_off(&mut self, number: u32) {
        let pair = self.one(number);
        pair.again = pair.again.saturating_add(1);
    }

    /// A side has waited in vain.
    pub(super) fn loses(&mut self, number: u32) {
        let pair = self.one(number);
        if pair.met == NEVER && !pair.lost {
            pair.lost = true;
            self.open -= 1;
        }
    }
}

/// The name of a pair.
pub(super) fn name(number: u32) -> RelayUuid {
    RelayUuid::from(number.to_string().as_str())
}

/// The pair of that name.
pub(super) fn number(name: &RelayUuid) -> u32 {
    name.as_str().parse().expect("a number")
}
