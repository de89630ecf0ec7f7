//! The other nodes: how a leg gets to the one where its peer waits.
//!
//! The leg waits here until the other node says that it has the peer in hand. Only then does it
//! leave the room, for good, and from there on the connection is its own byte stream.

mod silent;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use self::silent::Silent;
use super::{
    directory::Holder,
    host::key_of,
    link::{Go, Link, LinkError, Links, Purpose, Transport, Verdict, Want, verdict},
    router::{Met, Peers},
};
use crate::{
    metrics,
    relay::{
        Core, Parts,
        route::{Details, Waits},
    },
    wire,
};

/// A fault that an operator may have to mend is told of once in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The other nodes, reached by links.
pub struct Others {
    links: Arc<Links>,
    core: Core,
    parts: Parts,
    silent: Silent,
    told: Mutex<Option<Instant>>,
}

impl Others {
    /// Reached by `links`; the legs are those of `parts`.
    pub fn new(links: Arc<Links>, core: &Core, parts: &Parts) -> Self {
        let (core, parts) = (core.clone(), parts.clone());
        Self { links, core, parts, silent: Silent::default(), told: Mutex::default() }
    }

    async fn hand_over(
        &self,
        holder: &Holder,
        leg: &Waits,
        details: &Details,
    ) -> Result<Met, LinkError> {
        let mut link = self.links.dial(&holder.node, Purpose::Leg).await?;
        link.send(&want(holder, leg, details)).await?;
        let said: Verdict = link.receive().await?;
        match said.verdict {
            Some(verdict::Verdict::Here(_)) => self.go(holder, leg, link).await,
            Some(verdict::Verdict::Nobody(_)) => Ok(Met::Nobody),
            Some(verdict::Verdict::Refused(refused)) => {
                Ok(self.refused(leg, details, &refused.reason))
            }
            None => Err(LinkError::Malformed),
        }
    }

    /// The other node has the peer in hand: the leg leaves.
    async fn go(&self, holder: &Holder, leg: &Waits, mut link: Link) -> Result<Met, LinkError> {
        let Some(lent) = self.parts.room.depart(&leg.uuid, leg.id) else { return Ok(Met::Gone) };
        // If that fails, it is back in the room.
        link.send(&Go {}).await?;
        let (node, peer) = (&holder.node.name, lent.peer());
        let (stream, early) = link.into_stream();
        if !self.core.carry(lent, stream, early.freeze(), node) {
            return Ok(Met::Unreachable);
        }
        if let Some(peer) = peer {
            tracing::info!(uuid = %leg.uuid, %node, "Relay request from {peer} is handed over");
        }
        Ok(Met::HandedOver)
    }

    /// No relay can be made of the two, and the other has been told.
    fn refused(&self, leg: &Waits, details: &Details, reason: &str) -> Met {
        // A reason that only a later release knows is none to end a leg here.
        let Some(reason) = metrics::UNPAIRED.iter().find(|known| **known == reason) else {
            return Met::Unreachable;
        };
        match self.parts.room.depart(&leg.uuid, leg.id) {
            Some(lent) => {
                let key = key_of(details);
                let why = format!("the node where its peer waits refuses it, by its key {key:?}");
                if let Some(peer) = lent.peer() {
                    self.parts.refusals.refuse(peer, reason, &why);
                }
                lent.refuse(reason);
                Met::Refused
            }
            None => Met::Gone,
        }
    }

    fn tell(&self, holder: &Holder, fault: &LinkError) {
        let (node, address) = (&holder.node.name, &holder.node.address);
        tracing::debug!(%node, %address, "no leg is handed over: {fault}");
        // One that has just gone, or come anew, is no affair of an operator's.
        let is_wrong = match fault {
            LinkError::Unreachable(_) | LinkError::TimedOut => false,
            LinkError::NoVersion { .. } | LinkError::Tls(_) => true,
            fault if fault.label() == Some("node_secret") => true,
            _ => return,
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        *told = Some(Instant::now());
        if is_wrong {
            tracing::error!(%node, %address, "no leg can be handed over to this node: {fault}");
        } else {
            tracing::warn!(%node, %address, "a leg was not handed over to this node: {fault}");
        }
    }
}

impl Peers for Others {
    async fn meet(&self, holder: &Holder, leg: &Waits) -> Met {
        let Some(details) = self.parts.room.details(&leg.uuid, leg.id) else { return Met::Gone };
        let node = holder.node.instance;
        if self.silent.is_silent(node) {
            return Met::Unreachable;
        }
        // Boxed: most legs never need one.
        let met = Box::pin(self.hand_over(holder, leg, &details)).await;
        match &met {
            Err(LinkError::TimedOut) => self.silent.timed_out(node),
            _ => self.silent.answered(node),
        }
        match met {
            Ok(met) => met,
            Err(fault) => {
                self.tell(holder, &fault);
                Met::Unreachable
            }
        }
    }
}

fn want(holder: &Holder, leg: &Waits, details: &Details) -> Want {
    let Details { target, conn_type, label, peer, transport, tls, waited } = details;
    let transport = match transport {
        wire::Transport::Tcp => Transport::Tcp,
        wire::Transport::WebSocket => Transport::Websocket,
    };
    Want {
        uuid: leg.uuid.as_str().to_owned(),
        leg: holder.leg.0,
        peer: peer.to_string(),
        transport: transport.into(),
        tls: *tls,
        conn_type: conn_type.to_wire(),
        target: target.as_ref().map(|target| target.as_str().to_owned()),
        label: label.clone(),
        waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
    }
}
