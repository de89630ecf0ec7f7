//! What clients put on the wire before and between the bytes that a relay moves: frames on TCP,
//! frames on a WebSocket, and the first message. Pure functions over bytes, no I/O.
//!
//! | first byte & 3 | header bytes | payload length, at most |
//! |---|---|---|
//! | 0 | 1 | 0x3F |
//! | 1 | 2 | 0x3FFF |
//! | 2 | 3 | 0x3FFFFF |
//! | 3 | 4 | 0x3FFFFFFF |
//!
//! A frame's header is a little-endian integer; shifted right by 2 it is the payload's length. A
//! sender uses the shortest header that fits, a receiver takes any.
//!
//! Both decoders work on whatever bytes have arrived and hold none of the payload, so a large
//! message can be passed on while it is still arriving.

pub mod frame;
pub mod rendezvous;
pub mod websocket;

use self::websocket::{ControlPayload, Mask};

/// What a decoder found at the start of its input.
#[derive(Debug)]
pub enum Event<'a> {
    /// Nothing whole: the input was taken, more is needed.
    More,
    /// A frame of a message begins.
    Frame(FrameStart),
    /// The next bytes of the frame that began last, still masked.
    Payload(&'a [u8], Mask),
    /// A Ping: to be answered with a Pong of the same payload. Never on TCP.
    Ping(ControlPayload),
    /// A Pong: nothing to do. Never on TCP.
    Pong,
    /// The end of what the peer sends. Never on TCP.
    Close(ControlPayload),
}

/// The beginning of a frame. On TCP every frame is a whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameStart {
    /// Bytes of payload in this frame.
    pub len: usize,
    /// Whether it begins a message.
    pub first: bool,
    /// Whether it ends its message.
    pub last: bool,
}

/// A frame's header, as it goes out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Header {
    /// The longest is a WebSocket's, unmasked and with an 8-byte length.
    bytes: [u8; 10],
    len: u8,
}

impl Header {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// How a leg's messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Frames on TCP.
    Tcp,
    /// Messages on a WebSocket.
    WebSocket,
}

impl Transport {
    /// Its name in logs, metrics and the admin API.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
        }
    }
}
