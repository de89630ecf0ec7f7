//! On a relay of more than one node: somebody who knows the others is told of each leg that begins
//! to wait here, and finds out whether its peer waits elsewhere.
//!
//! What a node is, and how a leg gets to another, is `cluster`'s. On a single node there is no
//! [`Route`], and nothing of this.

use std::time::Duration;

use crate::wire::rendezvous::RelayUuid;

/// Which leg of all that have waited in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaitId(pub u64);

/// A leg that waits here.
#[derive(Debug, Clone)]
pub struct Waits {
    /// The name that its peer must give.
    pub uuid: RelayUuid,
    /// Which it is, should there be several of that name, one after the other.
    pub id: WaitId,
    /// How long it may still wait.
    pub remaining: Duration,
}

/// Kept for as long as a leg waits, and dropped with its waiting, whatever ends that: what a
/// [`Route`] gives back then.
pub type Claim = Box<dyn Send + Sync>;

/// Who knows the other nodes.
pub trait Route: Send + Sync + 'static {
    /// A leg waits here from now on. Must not block; what comes of it comes in its own time.
    fn waits(&self, leg: Waits);
}
