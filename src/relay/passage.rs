//! Legs on their way between the waiting rooms of two processes, as messages.
//!
//! A message is a line of JSON, what the leg had sent beyond its first message, and its socket.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    net::{leg::Leg, listener::ConnectionPermit, stream::PlainStream},
    wire::{
        Transport,
        rendezvous::{ConnType, RelayUuid, Text},
    },
};

/// Where legs go that are to wait in another process' room. Bounded by the room that they leave:
/// each keeps its ticket until it has gone.
pub type Way = mpsc::UnboundedSender<Departure>;

/// What another process is told.
pub enum Departure {
    /// This leg is to wait with it.
    Leg(Box<Traveller>),
    /// A leg of this name cannot leave (it speaks TLS): its peer is to be sent here.
    Kept {
        /// The name.
        uuid: RelayUuid,
        /// How long it will wait.
        remaining: Duration,
    },
}

/// A leg that has left the room.
pub struct Traveller {
    /// The name that its peer must give.
    pub uuid: RelayUuid,
    /// The machine that it claims to reach.
    pub target: Option<Text>,
    /// What the session is for.
    pub conn_type: ConnType,
    /// The label of its key.
    pub label: Option<String>,
    /// The leg itself.
    pub leg: Leg<PlainStream>,
    /// How long it has waited.
    pub waited: Duration,
    /// Its place in the room, kept until it has gone.
    pub place: Box<dyn Send>,
}

/// A leg that has come from another process' room.
pub struct Newcomer {
    /// The name that its peer must give.
    pub uuid: RelayUuid,
    /// The machine that it claims to reach.
    pub target: Option<Text>,
    /// What the session is for.
    pub conn_type: ConnType,
    /// The label of its key.
    pub label: Option<String>,
    /// Whence it came.
    pub peer: SocketAddr,
    /// How its messages travel.
    pub transport: Transport,
    /// What it had sent beyond its first message.
    pub early: Box<[u8]>,
    /// How long it has waited.
    pub waited: Duration,
    /// Its socket.
    pub socket: PlainStream,
}

/// What another process said.
pub enum Arrived {
    /// A leg that is to wait here.
    Leg(Box<Newcomer>),
    /// See [`Departure::Kept`].
    Kept {
        /// The name.
        uuid: RelayUuid,
        /// How long it will wait.
        remaining: Duration,
    },
}

/// A message, and what is to be kept until it has gone.
pub struct Parcel {
    /// The message.
    pub bytes: Vec<u8>,
    /// The leg's socket.
    pub socket: Option<PlainStream>,
    _place: Option<(Box<dyn Send>, ConnectionPermit)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Leg {
        uuid: String,
        target: Option<String>,
        conn_type: i32,
        label: Option<String>,
        peer: SocketAddr,
        websocket: bool,
        waited_ms: u64,
    },
    Kept {
        uuid: String,
        remaining_ms: u64,
    },
}

impl Departure {
    /// As a message.
    pub fn pack(self) -> Parcel {
        match self {
            Self::Kept { uuid, remaining } => {
                let remaining_ms = millis(remaining);
                let bytes = line(&Line::Kept { uuid: uuid.as_str().to_owned(), remaining_ms });
                Parcel { bytes, socket: None, _place: None }
            }
            Self::Leg(traveller) => traveller.pack(),
        }
    }
}

impl Traveller {
    fn pack(self) -> Parcel {
        let Leg { connection, transport, early } = self.leg;
        let mut bytes = line(&Line::Leg {
            uuid: self.uuid.as_str().to_owned(),
            target: self.target.map(|target| target.as_str().to_owned()),
            conn_type: self.conn_type.to_wire(),
            label: self.label,
            peer: connection.peer,
            websocket: transport == Transport::WebSocket,
            waited_ms: millis(self.waited),
        });
        bytes.extend_from_slice(&early);
        let place = (self.place, connection.permit);
        Parcel { bytes, socket: Some(connection.socket), _place: Some(place) }
    }
}

impl Arrived {
    /// What a message says; `None` if it is none of ours.
    pub fn unpack(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let (line, early) = (&bytes[..end], &bytes[end + 1..]);
        let mut descriptors = descriptors.into_iter();
        match serde_json::from_slice(line).ok()? {
            Line::Kept { uuid, remaining_ms } => {
                let remaining = Duration::from_millis(remaining_ms);
                Some(Self::Kept { uuid: uuid.as_str().into(), remaining })
            }
            Line::Leg { uuid, target, conn_type, label, peer, websocket, waited_ms } => {
                let socket = PlainStream::from(descriptors.next()?);
                let transport = if websocket { Transport::WebSocket } else { Transport::Tcp };
                Some(Self::Leg(Box::new(Newcomer {
                    uuid: uuid.as_str().into(),
                    target: target.as_deref().map(Text::from),
                    conn_type: ConnType::from_wire(conn_type),
                    label,
                    peer,
                    transport,
                    early: early.into(),
                    waited: Duration::from_millis(waited_ms),
                    socket,
                })))
            }
        }
    }
}

fn line(line: &Line) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
