//! How fast active relays may go: what `throttle` has to know of them, and what is asked of it for
//! them.

use std::time::Duration;

use super::{ActiveRelay, ActiveRelays};
use crate::{
    config::BitRate,
    relay::{
        request::LegIndex,
        throttle::{Allowance, Subject},
    },
};

impl ActiveRelays {
    /// The limits in force now are put on a relay.
    pub fn limit(&self, relay: &ActiveRelay) {
        relay.allowance.limit(&self.throttle, &relay.subject());
    }

    /// The limits in force now are put on all that are active.
    pub fn limit_all(&self) {
        self.all().iter().for_each(|relay| self.limit(relay));
    }

    /// Sets what one relay may move one way; `None` for what the others may.
    pub fn set_bandwidth(&self, relay: &ActiveRelay, rate: Option<BitRate>) {
        relay.allowance.set_own(&self.throttle, rate);
        self.limit(relay);
    }

    /// What it may move one way, shared limits aside.
    pub fn bandwidth(&self, relay: &ActiveRelay) -> BitRate {
        relay.allowance.own_rate(&self.throttle)
    }

    /// Slows a relay down that has lasted so long, and of which a leg has sent more than so many
    /// bytes a second on average.
    pub(super) fn downgrade(&self, relay: &ActiveRelay, after: Duration, most: f64) {
        let age = relay.age();
        let most = (most * age.as_secs_f64()) as u64;
        let is_due = age >= after && relay.legs.iter().any(|leg| leg.received() > most);
        if is_due && relay.allowance.downgrade(&self.throttle) {
            self.limit(relay);
            tracing::info!(uuid = %relay.uuid, "a relay that takes much for long is slowed down");
        }
    }
}

impl ActiveRelay {
    /// How fast it may go.
    pub const fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            addresses: LegIndex::BOTH.map(|leg| self.legs[leg.at()].address.ip()),
            keys: self.grants().map(|grant| Some((grant.label()?, grant.bandwidth()))),
        }
    }
}
