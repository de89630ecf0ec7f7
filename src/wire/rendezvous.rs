//! The first message of a leg: [`Hello`], parsed from the protocol's `RequestRelay`.
//!
//! Parsing is strict about what a relay needs (a uuid) and tolerant about the rest: newer clients
//! add fields and connection types. Answers are never built here; a relay gives none.

use std::fmt;

use prost::Message as _;
use zeroize::Zeroizing;

use self::proto::{RendezvousMessage, RequestRelay, rendezvous_message::Union};

// prost writes these types from proto/rendezvous.proto.
mod proto {
    #![expect(unreachable_pub, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/rendezvous.rs"));
}

/// The longest uuid or id that is taken, in bytes. Clients send 36 and about 10.
const MAX_NAME: usize = 128;

/// How every relay request begins: the tag of field 18, length-delimited. A frame's header is
/// followed by these two bytes or it is not a relay's.
pub const REQUEST_RELAY_TAG: [u8; 2] = [0x92, 0x01];

/// What a leg said when it arrived.
pub struct Hello {
    /// The name that both legs share.
    pub uuid: RelayUuid,
    /// The id of the machine that the controlling side wants to reach, as it claims; `None` on
    /// the controlled side and from older web clients.
    pub target: Option<Text>,
    /// What the session is for.
    pub conn_type: ConnType,
    /// The relay's key, as the client knows it.
    pub licence_key: Zeroizing<String>,
}

/// Why a first message is not a relay request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not protobuf, or cut short.
    #[error("the first message is not valid protobuf")]
    Malformed,
    /// Some other message of the protocol: meant for hbbs, not for a relay.
    #[error("the first message is not a relay request")]
    NotARelayRequest,
    /// Nothing to pair by.
    #[error("the relay request names no uuid")]
    NoUuid,
    /// A uuid or id beyond any client's.
    #[error("the relay request's uuid or id is longer than {MAX_NAME} bytes")]
    NameTooLong,
}

impl Hello {
    /// Reads a first message: the payload of a frame, or a whole WebSocket message.
    ///
    /// # Errors
    /// When it is not a relay request that names a uuid.
    pub fn parse(payload: &[u8]) -> Result<Self, HelloError> {
        let message = RendezvousMessage::decode(payload).map_err(|_| HelloError::Malformed)?;
        let Some(Union::RequestRelay(request)) = message.union else {
            return Err(HelloError::NotARelayRequest);
        };
        // Taken over first, so that it is wiped whatever follows.
        let licence_key = Zeroizing::new(request.licence_key);
        if request.uuid.is_empty() {
            return Err(HelloError::NoUuid);
        }
        if request.uuid.len() > MAX_NAME || request.id.len() > MAX_NAME {
            return Err(HelloError::NameTooLong);
        }
        Ok(Self {
            uuid: Text(request.uuid.into()),
            target: (!request.id.is_empty()).then(|| Text(request.id.into())),
            conn_type: ConnType::from_wire(request.conn_type),
            licence_key,
        })
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("uuid", &self.uuid)
            .field("target", &self.target)
            .field("conn_type", &self.conn_type)
            .finish_non_exhaustive()
    }
}

/// A relay request's payload, as a client sends it.
pub fn request_relay(uuid: &str, target: &str, licence_key: &str, conn_type: ConnType) -> Vec<u8> {
    let request = RequestRelay {
        id: target.to_owned(),
        uuid: uuid.to_owned(),
        licence_key: licence_key.to_owned(),
        conn_type: conn_type.to_wire(),
        ..RequestRelay::default()
    };
    RendezvousMessage { union: Some(Union::RequestRelay(request)) }.encode_to_vec()
}

/// The name that two legs share. Any text: clients send a UUID, the relay only compares it.
pub type RelayUuid = Text;

/// Text that a peer chose. `Display` escapes what could forge a log line or upset a terminal, and
/// spaces: a filter that bans by a phrase in the log must not find that phrase in a name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Box<str>);

impl Text {
    /// As the peer sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(|byte| byte.is_ascii_graphic()) {
            return f.write_str(&self.0);
        }
        self.0.chars().try_for_each(|c| match c {
            ' ' => fmt::Display::fmt(&c.escape_unicode(), f),
            c => fmt::Display::fmt(&c.escape_default(), f),
        })
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a session is for, as the controlling side says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnType {
    /// A remote desktop; also what every controlled side sends.
    Default,
    /// Files.
    FileTransfer,
    /// A TCP port forward.
    PortForward,
    /// RDP through a port forward.
    Rdp,
    /// A camera.
    ViewCamera,
    /// A terminal.
    Terminal,
    /// A value newer than this relay.
    Other(i32),
}

impl ConnType {
    /// Of its number on the wire; any that is not known is [`ConnType::Other`].
    pub fn from_wire(value: i32) -> Self {
        match value {
            0 => Self::Default,
            1 => Self::FileTransfer,
            2 => Self::PortForward,
            3 => Self::Rdp,
            4 => Self::ViewCamera,
            5 => Self::Terminal,
            other => Self::Other(other),
        }
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> i32 {
        match self {
            Self::Default => 0,
            Self::FileTransfer => 1,
            Self::PortForward => 2,
            Self::Rdp => 3,
            Self::ViewCamera => 4,
            Self::Terminal => 5,
            Self::Other(other) => other,
        }
    }

    /// Whether silence is in its nature: the tunnelled program may have nothing to say.
    pub fn is_quiet(self) -> bool {
        matches!(self, Self::PortForward | Self::Rdp)
    }
}

impl fmt::Display for ConnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::FileTransfer => "file_transfer",
            Self::PortForward => "port_forward",
            Self::Rdp => "rdp",
            Self::ViewCamera => "view_camera",
            Self::Terminal => "terminal",
            Self::Other(value) => return write!(f, "other_{value}"),
        })
    }
}
