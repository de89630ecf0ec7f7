//! What goes through the relay stack and what comes out: requests, matches, outcomes, refusals.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use super::capacity::ActivePlace;
use crate::{
    key::KeyFault,
    key_ring::{Denied, Grant, Refusal, Seats},
    net::{
        access::Denial,
        leg::{Arriving, Leg},
    },
    wire::{
        Transport,
        rendezvous::{ConnType, Hello, RelayUuid, Text},
    },
};

/// A leg that asks to be paired.
#[derive(Debug)]
pub struct RelayRequest {
    /// What it said.
    pub hello: Hello,
    /// The leg itself.
    pub leg: Leg<Arriving>,
    /// What its key gives it, once that has been checked.
    pub grant: Grant,
}

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

/// What the pairing service did with a leg.
#[derive(Debug)]
pub enum Match {
    /// It waits for its peer, and nothing is left to do here; `None` where it waits in another
    /// process, which has taken over from this one.
    Parked(Option<Waits>),
    /// It met its peer.
    Paired(Box<Paired>),
}

/// Two legs that named the same uuid.
#[derive(Debug)]
pub struct Paired {
    /// The name that they share.
    pub uuid: RelayUuid,
    /// What the controlling side claims to reach, if either leg said.
    pub target: Option<Text>,
    /// What the session is for: of the two, the one that says more than the default.
    pub conn_type: ConnType,
    /// The leg that waited, and the one that came.
    pub legs: [Leg; 2],
    /// By which node the second came, if it came to another.
    pub via: Option<Via>,
    /// What the key of each gives it.
    pub grants: [Grant; 2],
    /// Its places on these keys.
    pub seats: Seats,
    /// Its place among the relays that may be active.
    pub place: ActivePlace,
    /// How long the first had waited.
    pub waited: Duration,
}

/// How a leg came that another node has handed over.
#[derive(Debug, Clone)]
pub struct Via {
    /// What that node is called.
    pub node: Arc<str>,
    /// Whether the leg speaks TLS with it.
    pub tls: bool,
}

/// What became of a leg that the stack took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It waits; its peer's arrival goes on with it.
    Parked,
    /// It is relayed, by a task that has nothing else to do.
    Relayed,
}

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A leg ended in good order.
    Closed(LegIndex),
    /// A leg's connection broke.
    Reset(LegIndex),
    /// Neither leg sent a byte for the time allowed.
    Idle,
    /// A leg took none of the bytes waiting for it for the time allowed.
    WriteTimeout(LegIndex),
    /// A leg sent a message longer than may cross.
    MessageTooLong(LegIndex),
    /// A leg broke the WebSocket protocol.
    WebSocketProtocol(LegIndex),
    /// An operator closed it.
    Admin,
    /// An operator blocked the address of a leg.
    Blocked,
    /// The gateway went down.
    Draining,
    /// The task ended without saying why: a fault of ours.
    Aborted,
}

/// Which leg of a pair: the one that waited, or the one that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegIndex {
    /// It waited.
    First,
    /// It came.
    Second,
}

/// Why a leg is refused.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Its key is none of ours.
    #[error("invalid key")]
    Key(#[source] KeyFault),
    /// Its key is, or was, one of ours, and grants nothing now.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Its address is not to have it.
    #[error(transparent)]
    Address(#[from] Denial),
    /// No more legs may wait.
    #[error("the waiting room is full")]
    WaitingRoomFull,
    /// No more relays may be active.
    #[error("{limit} relays are active")]
    TooManyRelays {
        /// As many as may be.
        limit: usize,
    },
    /// The gateway is going down.
    #[error("this relay is shutting down")]
    Draining,
    /// The leg's socket failed on the way.
    #[error("the leg's socket failed")]
    Io(#[from] io::Error),
}

/// Why there is nobody to be lent.
#[derive(Debug, thiserror::Error)]
pub enum NotReserved {
    /// Nobody of this name waits here.
    #[error("nobody of this name waits here")]
    Nobody,
    /// Whoever wants it is refused; and so was the leg that waited, if no relay could be made of
    /// the two.
    #[error(transparent)]
    Refused(#[from] RelayError),
}

/// The span that everything which is logged of a leg stands in. It is not held for as long as the
/// relay lives: what a subscriber keeps for each open span would stay among the relays' memory, and
/// pin it long after they are over.
pub fn span(uuid: &RelayUuid) -> tracing::Span {
    tracing::info_span!("leg", %uuid)
}

impl RelayRequest {
    /// Who asks.
    pub const fn peer(&self) -> SocketAddr {
        self.leg.connection.peer
    }

    /// How it asks.
    pub const fn transport(&self) -> Transport {
        self.leg.transport
    }
}

impl End {
    /// Its name in logs, metrics and the admin API.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::Reset(_) => "reset",
            Self::Idle => "idle",
            Self::WriteTimeout(_) => "write_timeout",
            Self::MessageTooLong(_) => "message_too_long",
            Self::WebSocketProtocol(_) => "websocket_protocol",
            Self::Admin => "admin",
            Self::Blocked => "blocked",
            Self::Draining => "draining",
            Self::Aborted => "aborted",
        }
    }

    /// Which leg it was about.
    pub const fn leg(self) -> Option<LegIndex> {
        match self {
            Self::Closed(leg)
            | Self::Reset(leg)
            | Self::WriteTimeout(leg)
            | Self::MessageTooLong(leg)
            | Self::WebSocketProtocol(leg) => Some(leg),
            Self::Idle | Self::Admin | Self::Blocked | Self::Draining | Self::Aborted => None,
        }
    }
}

impl LegIndex {
    /// Both, in the order of the arrays that they index.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// Where it is in an array of two.
    pub const fn at(self) -> usize {
        self as usize
    }

    /// The one across.
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        match self.leg() {
            Some(LegIndex::First) => f.write_str(" by the first leg"),
            Some(LegIndex::Second) => f.write_str(" by the second leg"),
            None => Ok(()),
        }
    }
}

impl From<Refusal> for RelayError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Wrong(fault) => Self::Key(fault),
            Refusal::Denied(denied) => Self::Denied(denied),
        }
    }
}

impl RelayError {
    /// Its name as a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Key(fault) => fault.label(),
            Self::Denied(denied) => denied.label(),
            Self::Address(denial) => denial.label(),
            Self::TooManyRelays { .. } => "relay_limit",
            Self::WaitingRoomFull => "waiting_room_full",
            Self::Draining => "draining",
            Self::Io(_) => "io",
        }
    }
}
