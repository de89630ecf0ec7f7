//! The first message of a leg, over either transport: bounded, and what follows it kept.
//!
//! Neither reader has a deadline of its own, and neither sends a byte, save what a WebSocket's
//! control frames ask for.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWriteExt as _;

use super::{leg::Leg, listener::Connection, read::read_some};
use crate::wire::{
    Event, Transport,
    frame::{FrameHeader, FrameTooLong},
    rendezvous::{Hello, HelloError},
    websocket::{self, Fault},
};

/// Why a connection does not become a leg.
#[derive(Debug, thiserror::Error)]
pub enum FirstMessageError {
    /// The peer went before it had said anything whole.
    #[error("the peer hung up before its first message was whole")]
    HungUp,
    /// A first message beyond any client's.
    #[error("the first message is too long")]
    TooLong(#[from] FrameTooLong),
    /// Not a relay request.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// Not WebSocket frames.
    #[error("the peer breaks the WebSocket protocol: {0}")]
    WebSocket(#[from] Fault),
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

impl FirstMessageError {
    /// Its name as a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::HungUp => "hung_up",
            Self::TooLong(_) | Self::WebSocket(Fault::TooLong { .. }) => "frame_too_long",
            Self::Hello(HelloError::NotARelayRequest) => "not_a_relay_request",
            Self::Hello(_) => "malformed",
            Self::WebSocket(_) => "websocket_protocol",
            Self::Io(_) => "io",
        }
    }
}

/// The first message of a TCP leg, if `head` has the whole of it, and where what follows begins.
///
/// # Errors
/// When it is longer than `max`, or anything but a relay request.
pub fn of(head: &[u8], max: usize) -> Result<Option<(Hello, usize)>, FirstMessageError> {
    let Some(header) = FrameHeader::parse(head) else { return Ok(None) };
    let len = header.payload_len();
    if len > max {
        return Err(FrameTooLong { len, max }.into());
    }
    let end = header.header_len() + len;
    let Some(payload) = head.get(header.header_len()..end) else { return Ok(None) };
    Ok(Some((Hello::parse(payload)?, end)))
}

/// Reads one frame of at most `max` bytes, `head` first.
///
/// # Errors
/// When the peer hangs up, or sends anything but a relay request.
pub async fn from_tcp(
    mut connection: Connection,
    mut head: BytesMut,
    max: usize,
) -> Result<(Hello, Leg), FirstMessageError> {
    loop {
        if let Some((hello, end)) = of(&head, max)? {
            let early = head[end..].into();
            return Ok((hello, Leg { connection, transport: Transport::Tcp, early }));
        }
        read_more(&mut connection, &mut head).await?;
    }
}

/// Reads one message of at most `max` bytes, `head` first. Text will do, fragments too.
///
/// # Errors
/// When the peer hangs up or closes, or sends anything but a relay request.
pub async fn from_websocket(
    mut connection: Connection,
    mut head: BytesMut,
    max: usize,
) -> Result<(Hello, Leg), FirstMessageError> {
    let mut decoder = websocket::Decoder::new(max);
    let mut message = Vec::new();
    let mut whole = false;
    loop {
        while !whole && !head.is_empty() {
            let (taken, event) = decoder.next(&head)?;
            let mut reply = Vec::new();
            let mut closed = false;
            match event {
                Event::More | Event::Pong => {}
                Event::Frame(start) => whole = start.len == 0 && start.last,
                Event::Payload(bytes, mask) => {
                    mask.append(bytes, &mut message);
                    whole = decoder.between_messages();
                }
                Event::Ping(payload) => websocket::put_pong(&payload, &mut reply),
                Event::Close(payload) => {
                    websocket::put_close(&payload.close_reply(), &mut reply);
                    closed = true;
                }
            }
            head.advance(taken);
            if !reply.is_empty() {
                connection.socket.write_all(&reply).await?;
            }
            if closed {
                return Err(FirstMessageError::HungUp);
            }
        }
        if whole {
            let hello = Hello::parse(&message)?;
            let early = head[..].into();
            return Ok((hello, Leg { connection, transport: Transport::WebSocket, early }));
        }
        read_more(&mut connection, &mut head).await?;
    }
}

async fn read_more(
    connection: &mut Connection,
    head: &mut BytesMut,
) -> Result<(), FirstMessageError> {
    match read_some(&mut connection.socket, head).await? {
        0 => Err(FirstMessageError::HungUp),
        _ => Ok(()),
    }
}
