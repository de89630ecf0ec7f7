//! `[bandwidth]`: how fast relays may go.

use serde::{Deserialize, Serialize};

use super::{BitRate, Duration, rules::Rules};

/// The slowest limit: below it a relay would look dead to its clients.
const SLOWEST: BitRate = BitRate::from_bits(8_000);

/// The `[bandwidth]` section. Each limit is for each direction by itself.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BandwidthConfig {
    /// What each relay may move one way.
    pub per_relay: BitRate,
    /// What all legs from one address (of IPv6: one /64) may send together, and receive.
    pub per_address: BitRate,
    /// What all relays may move together.
    pub total: BitRate,
    /// What an address on the throttle list gets, instead of `per_address` if that is more.
    pub throttled: BitRate,
    /// When a relay is looked at whether it takes too much for too long; 0: never.
    pub downgrade_after: Duration,
    /// More than this part of `per_relay`, on average since it began, is too much: it gets
    /// `throttled` from then on.
    pub downgrade_threshold: f64,
}

impl Default for BandwidthConfig {
    fn default() -> Self {
        Self {
            per_relay: BitRate::UNLIMITED,
            per_address: BitRate::UNLIMITED,
            total: BitRate::UNLIMITED,
            throttled: BitRate::from_mbit(32),
            downgrade_after: Duration::from_secs(0),
            downgrade_threshold: 0.66,
        }
    }
}

impl BandwidthConfig {
    /// Each limit with its key.
    pub const fn limits(&self) -> [(&'static str, BitRate); 4] {
        [
            ("bandwidth.per_relay", self.per_relay),
            ("bandwidth.per_address", self.per_address),
            ("bandwidth.total", self.total),
            ("bandwidth.throttled", self.throttled),
        ]
    }

    /// From what age on how many bytes a second, on average, are too much; `None`: never.
    pub fn downgrade(&self) -> Option<(std::time::Duration, f64)> {
        let after = self.downgrade_after.get();
        let rate = self.per_relay.bytes_per_second().filter(|_| !after.is_zero())?;
        Some((after, rate as f64 * self.downgrade_threshold))
    }

    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.wait_or_none("bandwidth.downgrade_after", self.downgrade_after);
        rules.between("bandwidth.downgrade_threshold", self.downgrade_threshold, 0.01, 1.0);
        for (key, rate) in self.limits() {
            if let Err(what) = rate.check_limit() {
                rules.require(false, &[key], what);
            }
        }
    }
}

impl BitRate {
    /// Whether it is one that a relay can be held to.
    ///
    /// # Errors
    /// When it is so slow that the relay would look dead.
    pub fn check_limit(self) -> Result<(), String> {
        if self.is_unlimited() || self.bits_per_second() >= SLOWEST.bits_per_second() {
            return Ok(());
        }
        Err(format!("found {self}, expected {SLOWEST} or more, or {}", Self::UNLIMITED))
    }
}
