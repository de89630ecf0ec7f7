//! `[bandwidth]`: how fast relays may go.

use serde::{Deserialize, Serialize};

use super::{BitRate, rules::Rules};

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
}

impl Default for BandwidthConfig {
    fn default() -> Self {
        Self {
            per_relay: BitRate::UNLIMITED,
            per_address: BitRate::UNLIMITED,
            total: BitRate::UNLIMITED,
            throttled: BitRate::from_mbit(32),
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

    pub(super) fn validate(&self, rules: &mut Rules) {
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
