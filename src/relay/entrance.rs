//! The last step before the stack: a connection says its first message, or is refused.
//!
//! Both transports come in here, so that refusals are counted and logged in one place, and
//! nothing is ever sent to who is refused.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service as _, ServiceExt as _};

use super::{RelayStack, request::RelayRequest};
use crate::{
    config::{FrontDoorConfig, Live},
    key_ring::Grant,
    metrics::Metrics,
    net::{
        access::{Access, Denial},
        first_message,
        leg::{Arriving, Leg},
        listener::Connection,
        refusals::Refusals,
        strangers::{SentAway, Stranger},
        stream::{PlainStream, Stream},
    },
    wire::{Transport, rendezvous::Hello},
};

/// Leads connections into the stack.
#[derive(Clone)]
pub struct Entrance {
    /// Where they go.
    pub stack: RelayStack,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Counts and logs who is refused.
    pub refusals: Arc<Refusals>,
    /// Who may come in.
    pub access: Arc<Access>,
    /// Cancelled when no new leg is taken.
    pub draining: CancellationToken,
    /// How large a first message may be, and how long in coming.
    pub limits: Live<FrontDoorConfig>,
    /// Every connection that has to be waited for is a task on it.
    pub legs: TaskTracker,
}

/// When a connection came, and until when it may say who it is.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Whence.
    pub peer: SocketAddr,
    /// When.
    pub accepted: Instant,
    /// Until when its first message must be whole.
    pub deadline: Instant,
}

impl Entrance {
    /// Leads a TCP leg into the stack at once, if its first message is whole in `head`: without a
    /// task, and without its socket on a runtime. It is given back if more of it has to come.
    pub fn enter_at_once(
        &mut self,
        connection: Connection<PlainStream>,
        head: &[u8],
        arrival: Arrival,
    ) -> Option<Connection<PlainStream>> {
        let mut now = Context::from_waker(Waker::noop());
        if !self.stack.poll_ready(&mut now).is_ready() {
            return Some(connection);
        }
        let (hello, end) = match first_message::of(head, self.max_first_frame()) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Some(connection),
            Err(fault) => {
                self.metrics.connection("relay");
                self.refuse(arrival.peer, fault.label(), &fault);
                return None;
            }
        };
        self.metrics.connection("relay");
        self.metrics.first_frame.record(arrival.accepted.elapsed());
        let connection = connection.with_socket(Arriving::Plain);
        let leg = Leg { connection, transport: Transport::Tcp, early: head[end..].into() };
        let mut passing = self.stack.call(RelayRequest { hello, leg, grant: Grant::default() });
        // A layer may have to wait; those that there are do not.
        if (&mut passing).now_or_never().is_none() {
            self.legs.spawn(passing);
        }
        None
    }

    /// Reads the first message of a relay connection, `head` first, and leads the leg into the
    /// stack.
    pub async fn enter(
        self,
        mut connection: Connection,
        mut head: BytesMut,
        transport: Transport,
        arrival: Arrival,
    ) {
        let stream = &mut connection.socket;
        let said = self.first_message(stream, &mut head, transport, arrival).await;
        let Some(hello) = said else { return };
        if let Err(why) = connection.permit.let_in() {
            return self.sent_away(arrival.peer, why);
        }
        let connection = connection.with_socket(Arriving::Watched);
        let leg = Leg { connection, transport, early: head[..].into() };
        self.metrics.first_frame.record(arrival.accepted.elapsed());
        let request = RelayRequest { hello, leg, grant: Grant::default() };
        // What the stack refuses, it has recorded itself. Boxed, so that who has said nothing yet
        // has no room for it.
        let _ = Box::pin(self.stack.oneshot(request)).await;
    }

    async fn first_message(
        &self,
        stream: &mut Stream,
        head: &mut BytesMut,
        transport: Transport,
        arrival: Arrival,
    ) -> Option<Hello> {
        // Pinned once: what is moved from one future into the next has room in both.
        let bounded = pin!(timeout_at(
            arrival.deadline,
            first_message::read(stream, head, transport, self.max_first_frame())
        ));
        match self.draining.run_until_cancelled(bounded).await {
            Some(Ok(Ok(hello))) => return Some(hello),
            Some(Ok(Err(fault))) => self.refuse(arrival.peer, fault.label(), &fault),
            Some(Err(_)) => {
                self.refuse(arrival.peer, "timeout", &"its first message took too long");
            }
            None => self.refuse(arrival.peer, "draining", &"this relay is shutting down"),
        }
        None
    }

    /// Drives what is done for a connection that has to be waited for, and drops it when the
    /// connection gives way to another, or nobody is wanted any more from where it comes.
    pub async fn unless_sent_away(
        &self,
        stranger: &Stranger,
        peer: SocketAddr,
        work: impl Future<Output = ()>,
    ) {
        stranger.comes_from(peer.ip());
        if let Err(why) = stranger.unless_sent_away(work).await {
            self.sent_away(peer, why);
        }
    }

    fn sent_away(&self, peer: SocketAddr, why: SentAway) {
        match why {
            SentAway::Displaced => {
                let reason = "it had not said who it is, and there was no room for one more";
                self.refuse(peer, "displaced", &reason);
            }
            SentAway::TurnedOut => self.deny(peer, Denial::Blocked),
        }
    }

    /// How long a connection may take to say who it is.
    pub fn patience(&self) -> Duration {
        self.limits.get().first_frame_timeout.get()
    }

    fn max_first_frame(&self) -> usize {
        self.limits.get().max_first_frame.get()
    }

    /// Counts and logs a connection that is not let in because of its address.
    pub fn deny(&self, peer: SocketAddr, denial: Denial) {
        self.refuse(peer, denial.label(), &denial);
    }

    /// Counts and logs a connection that does not become a leg.
    pub fn refuse(&self, peer: SocketAddr, label: &str, reason: &dyn std::fmt::Display) {
        self.refusals.refuse(peer, label, reason);
    }
}
