//! Between nodes: a leg that another node hands in becomes one of a relay here, and one that leaves
//! is carried to where it is relayed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Core, Parts,
    pairing::{Comer, Lent, Reserved},
    request::{Paired, Via},
    route::Details,
    splice::Splicer,
};
use crate::{
    config::{Duration as Lasting, Live, RelayConfig},
    key_ring::Grant,
    net::{
        leg::Leg,
        listener::{Connection, ConnectionPermit},
        stream::Stream,
    },
    wire::Transport,
};

/// A leg that another node has handed over.
pub struct HandedIn {
    /// What that node says of it.
    pub details: Details,
    /// What its key gives it here.
    pub grant: Grant,
    /// Its bytes, whatever they are in at that node.
    pub stream: Stream,
    /// What has come of them already.
    pub early: Bytes,
    /// The place of `stream` among the nodes' connections.
    pub permit: ConnectionPermit,
    /// What that node is called.
    pub node: Arc<str>,
}

/// Makes pipes between clients and other nodes.
#[derive(Clone)]
pub(super) struct Carrier {
    splicer: Splicer,
    /// Of these are `splicer`'s.
    limits: Live<RelayConfig>,
    made_of: Arc<Mutex<Arc<RelayConfig>>>,
}

/// In seconds, longer than anybody is silent: ending who is idle is for the node that relays.
const EVER: u64 = 10 * 365 * 24 * 60 * 60;

/// How much longer than the node that relays a leg is given that takes nothing.
const MARGIN: Duration = Duration::from_secs(5);

impl Core {
    /// Relays a leg that waited here and one that another node has handed over.
    pub fn hand_in(&self, reserved: Reserved, guest: HandedIn) {
        let HandedIn { details, grant, stream, early, permit, node } = guest;
        let Details { target, conn_type, peer, transport, tls, .. } = details;
        let connection = Connection { socket: stream, peer, permit };
        let leg = Leg { connection, transport, early: early[..].into() };
        let via = Some(Via { node, tls });
        match reserved.meet(Comer { leg, target, conn_type, grant, via }) {
            Ok(matched) => self.settle(matched),
            Err(refusal) => self.parts.refusals.refuse(peer, refusal.label(), &refusal),
        }
    }

    /// Carries a leg that waited here to `node`, by `stream`; `early` has come from there already.
    pub fn carry(&self, lent: Lent, stream: Stream, early: Bytes, node: &Arc<str>) {
        let Some(peer) = lent.peer() else { return };
        match pipe(lent, stream, early, node) {
            Ok(pipe) => drop(self.parts.legs.spawn(self.carrier.splicer().splice(pipe))),
            Err(error) => self.parts.refusals.refuse(peer, "io", &error),
        }
    }
}

impl Carrier {
    pub(super) fn new(parts: &Parts, relays: &Splicer) -> Self {
        let limits = parts.limits.share();
        let registry = Arc::clone(&parts.carried);
        let splicer = Splicer { registry, limits: Live::new(unlimited(&limits)), ..relays.clone() };
        let made_of = Arc::new(Mutex::new(limits));
        Self { splicer, limits: parts.limits.clone(), made_of }
    }

    /// By the limits that are in force now.
    fn splicer(&self) -> &Splicer {
        let now = self.limits.share();
        // Whatever panicked left it as it was.
        let mut made_of = self.made_of.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&made_of, &now) {
            self.splicer.limits.replace(unlimited(&now));
            *made_of = now;
        }
        &self.splicer
    }
}

/// Only a bound is left, of what is not taken: and beyond that of the node that relays, whose it is
/// to say that a leg takes nothing.
fn unlimited(limits: &RelayConfig) -> RelayConfig {
    let longest = limits.write_timeout.get().saturating_add(MARGIN).as_millis();
    RelayConfig {
        idle_timeout: Lasting::from_secs(EVER),
        port_forward_idle_timeout: Lasting::from_secs(EVER),
        write_timeout: Lasting::from_millis(u64::try_from(longest).unwrap_or(u64::MAX)),
        ..limits.clone()
    }
}

fn pipe(lent: Lent, stream: Stream, early: Bytes, node: &Arc<str>) -> std::io::Result<Paired> {
    let (uuid, leg, conn_type, waited) = lent.leave()?;
    let via = Some(Via { node: Arc::clone(node), tls: stream.is_tls() });
    let (peer, permit) = (stream.peer_addr()?, ConnectionPermit::uncounted());
    let connection = Connection { socket: stream, peer, permit };
    let there = Leg { connection, transport: Transport::Tcp, early: early[..].into() };
    Ok(Paired {
        uuid,
        target: None,
        conn_type,
        legs: [leg, there],
        via,
        grants: Default::default(),
        seats: Default::default(),
        place: Default::default(),
        waited,
    })
}
