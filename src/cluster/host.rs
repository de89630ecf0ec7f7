//! The node where the first leg waits: it lends that to a leg that another node has, and relays the
//! two once that has come.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::link::{Go, Link, LinkError, Peer, Transport, Verdict, Want};
use crate::{
    key_ring::{Denied, Grant},
    net::{access::Denial, listener::ConnectionPermit},
    relay::{
        Core, Parts, guests::HandedIn, pairing::Reserved, request::NotReserved, route::Details,
    },
    wire::{
        self,
        rendezvous::{ConnType, RelayUuid, Text},
    },
};

/// Nodes whose keys differ are told of once in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What takes legs in.
pub struct Host {
    core: Core,
    parts: Parts,
    told: Mutex<Option<Instant>>,
}

/// What the other node said of its leg, and what its key gives it here.
struct Wanted {
    uuid: RelayUuid,
    details: Details,
}

impl Host {
    /// The legs that wait are those of `parts`.
    pub fn new(core: &Core, parts: &Parts) -> Self {
        Self { core: core.clone(), parts: parts.clone(), told: Mutex::default() }
    }

    /// Takes in the leg that `node` has.
    pub async fn take_in(&self, link: Link, node: &Peer, permit: ConnectionPermit) {
        let outcome = match self.relay(link, node, permit).await {
            Ok(outcome) => outcome,
            Err(fault) => {
                tracing::debug!(node = %node.name, "no leg is taken in: {fault}");
                "unreachable"
            }
        };
        self.parts.metrics.cluster.came_in(outcome);
    }

    async fn relay(
        &self,
        mut link: Link,
        node: &Peer,
        permit: ConnectionPermit,
    ) -> Result<&'static str, LinkError> {
        let want: Want = link.receive().await?;
        let Wanted { uuid, details } = Wanted::read(want).ok_or(LinkError::Malformed)?;
        let (reserved, grant) = match self.reserve(&uuid, &details, node) {
            Ok(reserved) => reserved,
            Err(NotReserved::Nobody) => {
                link.send(&Verdict::nobody()).await?;
                return Ok("nobody");
            }
            Err(NotReserved::Refused(refusal)) => {
                tracing::debug!(%uuid, node = %node.name, "a leg of another node is refused: {refusal}");
                link.send(&Verdict::refused(refusal.label())).await?;
                return Ok("refused");
            }
        };
        // If the second does not come, the first is back in the room.
        comes(&mut link).await?;
        let (stream, early) = link.into_stream();
        let (node, early) = (Arc::from(&*node.name), early.freeze());
        let leg = HandedIn { details, grant, stream, early, permit, node };
        self.core.hand_in(reserved, leg);
        Ok("handed_over")
    }

    fn reserve(
        &self,
        uuid: &RelayUuid,
        details: &Details,
        node: &Peer,
    ) -> Result<(Reserved, Grant), NotReserved> {
        let Parts { access, ring, room, .. } = &self.parts;
        if access.is_blocked(details.peer.ip()) {
            return Err(NotReserved::Refused(Denial::Blocked.into()));
        }
        let grant = ring.verify_label(details.label.as_deref());
        let grant = grant.map_err(|denied| self.turn_away(uuid, details, node, denied))?;
        Ok((room.reserve(uuid, &grant)?, grant))
    }

    /// The key by which the other node has let its leg in is none here: no relay can be made of the
    /// two, and whoever waits is told at once.
    fn turn_away(
        &self,
        uuid: &RelayUuid,
        details: &Details,
        node: &Peer,
        denied: Denied,
    ) -> NotReserved {
        let room = &self.parts.room;
        let first = room.find(uuid).and_then(|first| room.depart(uuid, first.id));
        let Some(first) = first else { return NotReserved::Nobody };
        first.refuse(denied.label());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            let (node, key) = (&node.name, key_of(details));
            tracing::warn!(
                %node, key, %uuid,
                "the key by which another node let a leg in is none here ({denied}): give all nodes the same keys"
            );
        }
        NotReserved::Refused(denied.into())
    }
}

/// What the key is called by which a leg was let in.
pub(super) fn key_of(details: &Details) -> &str {
    details.label.as_deref().unwrap_or("none: that node is open")
}

/// Says that the first leg is kept for the second, which comes or not.
async fn comes(link: &mut Link) -> Result<Go, LinkError> {
    link.send(&Verdict::here()).await?;
    link.receive().await
}

impl Wanted {
    /// `None` if it makes no sense.
    fn read(want: Want) -> Option<Self> {
        let transport = match want.transport() {
            Transport::Tcp => wire::Transport::Tcp,
            Transport::Websocket => wire::Transport::WebSocket,
        };
        let details = Details {
            target: want.target.as_deref().map(Text::from),
            conn_type: ConnType::from_wire(want.conn_type),
            label: want.label,
            peer: want.peer.parse::<SocketAddr>().ok()?,
            transport,
            tls: want.tls,
            waited: Duration::from_millis(want.waited_ms),
        };
        Some(Self { uuid: RelayUuid::from(&*want.uuid), details })
    }
}
