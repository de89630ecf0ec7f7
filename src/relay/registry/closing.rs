//! By whose act a relay ends that did not end by itself.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::relay::request::End;

/// The gateway's, until somebody else says that it is theirs; who was first is who it was.
#[derive(Default)]
pub(super) struct ClosedBy(AtomicU8);

const GATEWAY: u8 = 0;
const ADMIN: u8 = 1;
const BLOCK: u8 = 2;

impl ClosedBy {
    /// An operator closes this relay.
    pub(super) fn admin(&self) {
        self.set(ADMIN);
    }

    /// An operator has blocked the address of a leg.
    pub(super) fn block(&self) {
        self.set(BLOCK);
    }

    /// What that makes of the relay's end.
    pub(super) fn end(&self) -> End {
        match self.0.load(Ordering::Relaxed) {
            ADMIN => End::Admin,
            BLOCK => End::Blocked,
            _ => End::Draining,
        }
    }

    fn set(&self, act: u8) {
        let _ = self.0.compare_exchange(GATEWAY, act, Ordering::Relaxed, Ordering::Relaxed);
    }
}
