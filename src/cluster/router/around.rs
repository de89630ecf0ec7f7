//! What is around a router: the room whose legs it cares for, and the other nodes.

use std::sync::Arc;

use crate::{
    cluster::directory::Holder,
    relay::{
        pairing::WaitingRoom,
        route::{Claim, WaitId, Waits},
    },
    wire::rendezvous::RelayUuid,
};

/// The legs that wait here.
pub trait Room: Send + Sync + 'static {
    /// Keeps something with a leg until that leaves. `false`: it has left, and the claim is dropped.
    fn keep(&self, uuid: &RelayUuid, id: WaitId, claim: Claim) -> bool;

    /// All that wait.
    fn waiting(&self) -> Vec<Waits>;

    /// The one that waits under this name.
    fn find(&self, uuid: &RelayUuid) -> Option<Waits>;
}

/// The other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Hands a leg over to the node whose leg holds its name. It leaves the room only once the other
    /// has its peer in hand. Must end in bounded time.
    fn meet(&self, holder: &Holder, leg: &Waits) -> impl Future<Output = Met> + Send;
}

/// What came of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// The leg is with its peer.
    HandedOver,
    /// Nobody waits there under that name.
    Nobody,
    /// The other node was not reached, did not answer in time, or is not what it should be.
    Unreachable,
    /// Both have been told that they cannot be relayed.
    Refused,
    /// The leg has left the room meanwhile.
    Gone,
}

impl Met {
    /// Its name as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::HandedOver => "handed_over",
            Self::Nobody => "nobody",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

impl Room for Arc<WaitingRoom> {
    fn keep(&self, uuid: &RelayUuid, id: WaitId, claim: Claim) -> bool {
        WaitingRoom::keep(self, uuid, id, || claim)
    }

    fn waiting(&self) -> Vec<Waits> {
        WaitingRoom::waiting(self)
    }

    fn find(&self, uuid: &RelayUuid) -> Option<Waits> {
        WaitingRoom::find(self, uuid)
    }
}
