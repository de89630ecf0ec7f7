//! What came of a simulation.

use super::{
    Plan,
    pairs::{NEVER, Pair, Pairs},
    weather::What,
};

/// How long a trouble is felt after it is over, in milliseconds.
const FELT: u32 = 5_000;

/// Times in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) pairs: usize,
    pub(crate) met: usize,
    /// Met, of which a side was cut off by a node that died and came again.
    pub(crate) met_again: usize,
    /// A side has waited for 30 s in vain, though both had come …
    pub(crate) lost: usize,
    /// … and one of them was cut off before.
    pub(crate) lost_again: usize,
    /// Some of the lost, to see why.
    pub(crate) examples: Vec<String>,
    /// The share of the met that met across two nodes.
    pub(crate) cross_share: f64,
    /// From the later side's coming until they met, of those that no trouble touched.
    pub(crate) quiet: Delays,
    /// The same of all.
    pub(crate) all: Delays,
    /// Claims until they met, for each that no trouble touched: on average, and at most.
    pub(crate) quiet_claims: (f64, u16),
    /// Claims until they met, for each of all.
    pub(crate) claims: f64,
    /// Names that were given back, for each.
    pub(crate) releases: f64,
    /// Hand-overs that were tried for each that crossed.
    pub(crate) attempts: f64,
    /// Names in the directory at once, at most.
    pub(crate) peak: usize,
}

/// Shares of delays.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Delays {
    pub(crate) p50: u32,
    pub(crate) p99: u32,
    pub(crate) p999: u32,
    pub(crate) most: u32,
}

impl Report {
    pub(super) fn of(plan: &Plan, pairs: &Pairs, peak: usize) -> Self {
        let all = &pairs.all;
        let count = all.len() as f64;
        let met: Vec<_> = all.iter().filter(|pair| pair.met != NEVER && !pair.lost).collect();
        let quiet: Vec<_> = met.iter().copied().filter(|pair| plan.spares(pair)).collect();
        let crossed = met.iter().filter(|pair| pair.crossed).count();
        let lost = || all.iter().enumerate().filter(|(_, pair)| pair.lost);
        let claims = |pairs: &[&Pair]| pairs.iter().map(|pair| f64::from(pair.claims)).sum::<f64>();
        Self {
            pairs: all.len(),
            met: met.len(),
            met_again: met.iter().filter(|pair| pair.again > 0).count(),
            lost: lost().count(),
            lost_again: lost().filter(|(_, pair)| pair.again > 0).count(),
            examples: lost().take(5).map(|(number, pair)| format!("{number}: {pair:?}")).collect(),
            cross_share: crossed as f64 / met.len() as f64,
            quiet: Delays::of(&quiet),
            all: Delays::of(&met),
            quiet_claims: (
                claims(&quiet) / quiet.len() as f64,
                quiet.iter().map(|pair| pair.claims).max().unwrap_or(0),
            ),
            claims: claims(&all.iter().collect::<Vec<_>>()) / count,
            releases: pairs.releases as f64 / count,
            attempts: pairs.attempts as f64 / crossed as f64,
            peak,
        }
    }
}

impl Plan {
    /// Whether nothing that goes wrong was near this pair.
    fn spares(&self, pair: &Pair) -> bool {
        let is_far = |at: u32, lasts: u32| pair.met < at || pair.began > at + lasts + FELT;
        let troubles = self.troubles.iter().filter(|one| !matches!(one.what, What::Killed(_)));
        let mut troubles = troubles.map(|one| (one.at.as_millis(), one.lasts.as_millis()));
        pair.failures == 0
            && pair.again == 0
            && troubles.all(|(at, lasts)| is_far(at as u32, lasts as u32))
    }
}

impl Delays {
    fn of(met: &[&Pair]) -> Self {
        let mut delays: Vec<_> = met.iter().map(|pair| pair.met - pair.came).collect();
        delays.sort_unstable();
        let at = |share: f64| {
            delays.get((delays.len() as f64 * share) as usize).copied().unwrap_or_default()
        };
        let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
        Self { p50, p99, p999, most: delays.last().copied().unwrap_or_default() }
    }
}
