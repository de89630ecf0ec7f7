//! One leg as a client has it: messages as frames on TCP, or on a WebSocket.

use std::{io, net::SocketAddr};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error, Message, error::ProtocolError, protocol::WebSocketConfig},
};

use crate::{
    cli::tls::ClientStream,
    wire::frame::{self, FrameHeader},
};

/// The longest message of a probe.
pub(super) const MAX_MESSAGE: usize = 64 << 10;

/// A client's end of a leg.
pub(super) enum Leg {
    /// With what was read of frames that are not whole.
    Tcp(ClientStream, BytesMut),
    WebSocket(Box<WebSocketStream<ClientStream>>),
}

/// What can go wrong with a leg.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system says so.
    Io(io::Error),
    /// Its TLS did not come about.
    Tls(io::Error),
    /// The other end closed it, where more was expected.
    Closed,
    /// Something came that was not sent at the other end of the relay.
    NotOurs,
    /// The answer to a WebSocket handshake was no upgrade.
    NoUpgrade(StatusCode),
    /// The answer to a WebSocket handshake was not even HTTP, or a frame was none.
    NoWebSocket,
    /// The time is up.
    TimedOut,
}

impl Leg {
    /// A leg on TCP.
    pub(super) fn tcp(socket: ClientStream) -> Self {
        // Room comes with the first read.
        Self::Tcp(socket, BytesMut::new())
    }

    /// A leg on a WebSocket, its handshake done.
    pub(super) async fn websocket(socket: ClientStream, url: &str) -> Result<Self, Fault> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        match client_async_with_config(url, socket, Some(config)).await {
            Ok((socket, _)) => Ok(Self::WebSocket(Box::new(socket))),
            Err(Error::Http(response)) => Err(Fault::NoUpgrade(response.status())),
            Err(Error::Protocol(ProtocolError::HandshakeIncomplete)) => Err(Fault::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Whence it goes.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket, _) => socket.local_addr(),
            Self::WebSocket(socket) => socket.get_ref().local_addr(),
        }
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Tcp(socket, _) => {
                let frame = frame::encode(message).map_err(io::Error::other)?;
                socket.write_all(&frame).await?;
                Ok(socket.flush().await?)
            }
            Self::WebSocket(socket) => {
                Ok(socket.send(Message::Binary(Bytes::copy_from_slice(message))).await?)
            }
        }
    }

    /// The next message; `None` at the orderly end. May be given up and asked again.
    pub(super) async fn receive(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            Self::Tcp(socket, buffer) => receive_frame(socket, buffer).await,
            Self::WebSocket(socket) => loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(message))) => return Ok(Some(message)),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_))) | None => return Ok(None),
                    Some(Ok(Message::Text(_) | Message::Frame(_))) => return Err(Fault::NotOurs),
                    Some(Err(error)) => return Err(error.into()),
                }
            },
        }
    }

    /// Ends what this side sends.
    pub(super) async fn finish(&mut self) -> Result<(), Fault> {
        match self {
            Self::Tcp(socket, _) => Ok(socket.shutdown().await?),
            Self::WebSocket(socket) => Ok(socket.as_mut().close(None).await?),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error.into(),
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
            ) => Self::Closed,
            Error::Capacity(_) => Self::NotOurs,
            _ => Self::NoWebSocket,
        }
    }
}

async fn receive_frame(
    socket: &mut ClientStream,
    buffer: &mut BytesMut,
) -> Result<Option<Bytes>, Fault> {
    loop {
        if let Some(header) = FrameHeader::parse(buffer) {
            let len = header.payload_len();
            if len > MAX_MESSAGE {
                return Err(Fault::NotOurs);
            }
            if buffer.len() >= header.header_len() + len {
                buffer.advance(header.header_len());
                return Ok(Some(buffer.split_to(len).freeze()));
            }
        }
        buffer.reserve(MAX_MESSAGE);
        if socket.read_buf(buffer).await? == 0 {
            // A part of a frame is no frame of ours.
            return if buffer.is_empty() { Ok(None) } else { Err(Fault::NotOurs) };
        }
    }
}
