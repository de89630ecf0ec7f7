//! The first message of a leg, over either transport: bounded, and what follows it kept.
//!
//! Neither reader has a deadline of its own, and neither sends a byte, save what a WebSocket's
//! control frames ask for.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::read::read_some;
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

/// Reads the first message, of at most `max` bytes, `head` first. What is left in `head` came after
/// it: its peer's.
///
/// # Errors
/// When the peer hangs up or closes, or sends anything but a relay request.
pub async fn read<S>(
    stream: &mut S,
    head: &mut BytesMut,
    transport: Transport,
    max: usize,
) -> Result<Hello, FirstMessageError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match transport {
        Transport::Tcp => from_tcp(stream, head, max).await,
        Transport::WebSocket => from_websocket(stream, head, max).await,
    }
}

async fn from_tcp<S>(
    stream: &mut S,
    head: &mut BytesMut,
    max: usize,
) -> Result<Hello, FirstMessageError>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some((hello, end)) = of(head, max)? {
            head.advance(end);
            return Ok(hello);
        }
        read_more(stream, head).await?;
    }
}

/// Text will do, fragments too.
async fn from_websocket<S>(
    stream: &mut S,
    head: &mut BytesMut,
    max: usize,
) -> Result<Hello, FirstMessageError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut decoder = websocket::Decoder::new(max);
    let mut message = Vec::new();
    let mut whole = false;
    loop {
        while !whole && !head.is_empty() {
            let (taken, event) = decoder.next(head)?;
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
                stream.write_all(&reply).await?;
                stream.flush().await?;
            }
            if closed {
                return Err(FirstMessageError::HungUp);
            }
        }
        if whole {
            return Ok(Hello::parse(&message)?);
        }
        read_more(stream, head).await?;
    }
}

async fn read_more<S>(stream: &mut S, head: &mut BytesMut) -> Result<(), FirstMessageError>
where
    S: AsyncRead + Unpin,
{
    match read_some(stream, head).await? {
        0 => Err(FirstMessageError::HungUp),
        _ => Ok(()),
    }
}
