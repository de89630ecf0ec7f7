//! Who holds the leg that waits under a name: one claim a name, the first that comes.
//!
//! A claim is one atomic step: 'insert me, or tell me who holds it'. It expires by itself with the
//! time that its leg may wait.

pub mod memory;
pub mod redis;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use crate::{relay::route::WaitId, wire::rendezvous::RelayUuid};

/// A process that is a node: a new number for every start, so that none answers for the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance(pub u64);

/// A node as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Which start of it.
    pub instance: Instance,
    /// What it is called.
    pub name: Arc<str>,
    /// Where its cluster listener is reached: a host or an address, and a port.
    pub address: Arc<str>,
}

/// Who holds a name: a leg that waits with a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The node.
    pub node: Arc<Node>,
    /// The leg.
    pub leg: WaitId,
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The name is the claimer's. So it is also where another leg of its own node had it before:
    /// these meet at home.
    Mine,
    /// Another node has it.
    HeldBy(Holder),
}

/// The directory could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the directory of waiting legs cannot be asked: {0}")]
pub struct DirectoryError(pub String);

/// What a directory tells a node unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another node took this name over from a leg of this one, which it could not reach.
    Lost(RelayUuid),
    /// What was claimed may be gone (it was away, or has lost what it knew): claim all anew.
    Forgotten,
}

/// The directory of waiting legs.
pub trait Directory: Send + Sync + 'static {
    /// Claims a name for `me`, for `ttl` at most. Where `stale` holds it, `me` takes it over, and
    /// the node of `stale` is told by [`Event::Lost`].
    fn claim(
        &self,
        uuid: &RelayUuid,
        me: &Holder,
        stale: Option<&Holder>,
        ttl: Duration,
    ) -> impl Future<Output = Result<Claimed, DirectoryError>> + Send;

    /// Gives a name back, if `me` still holds it.
    fn release(
        &self,
        uuid: &RelayUuid,
        me: &Holder,
    ) -> impl Future<Output = Result<(), DirectoryError>> + Send;
}

/// The version of a holder's text. A node that reads another one takes the entry for stale.
const VERSION: &str = "1";

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node { instance, name, address } = &*self.node;
        write!(f, "{VERSION} {:x} {:x} {address} {name}", instance.0, self.leg.0)
    }
}

/// An entry of the directory that no node of this release has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of the directory that this release can read")]
pub struct UnreadableHolder;

impl FromStr for Holder {
    type Err = UnreadableHolder;

    /// Further fields of a later release are passed over.
    fn from_str(text: &str) -> Result<Self, UnreadableHolder> {
        let mut fields = text.split(' ');
        let mut next = || fields.next().ok_or(UnreadableHolder);
        if next()? != VERSION {
            return Err(UnreadableHolder);
        }
        let number = |text| u64::from_str_radix(text, 16).map_err(|_| UnreadableHolder);
        let instance = Instance(number(next()?)?);
        let leg = WaitId(number(next()?)?);
        let (address, name) = (next()?.into(), next()?.into());
        Ok(Self { node: Arc::new(Node { instance, name, address }), leg })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_read_as_it_was_written_and_a_later_releases_fields_are_passed_over() {
        let node =
            Node { instance: Instance(u64::MAX), name: "a".into(), address: "[::1]:9".into() };
        let holder = Holder { node: Arc::new(node), leg: WaitId(7) };
        let text = holder.to_string();
        assert_eq!(text, "1 ffffffffffffffff 7 [::1]:9 a");
        assert_eq!(text.parse(), Ok(holder.clone()));
        assert_eq!(format!("{text} more").parse(), Ok(holder));
        for unreadable in ["", "2 1 1 h:1 a", "1 x 1 h:1 a", "1 1 1 h:1"] {
            assert_eq!(unreadable.parse::<Holder>(), Err(UnreadableHolder), "{unreadable}");
        }
    }
}
