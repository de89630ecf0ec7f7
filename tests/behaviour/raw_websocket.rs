//! A WebSocket client that writes what it is told, byte for byte, also what breaks the protocol.

use mini_rust_desk_relay_server::wire::rendezvous::{ConnType, request_relay};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{PATIENCE, TestGateway};

pub(crate) const BINARY: u8 = 0x82;
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const FIRST_OF_BINARY: u8 = 0x02;
pub(crate) const CONTINUATION: u8 = 0x00;
pub(crate) const LAST: u8 = 0x80;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8A;

/// What a client's upgrade request is.
pub(crate) const UPGRADE: &str = "GET /ws/relay HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An upgraded connection.
pub(crate) struct RawWebSocket {
    pub(crate) socket: TcpStream,
}

/// A frame from the relay: its first byte (the end bit and the operation) and its payload.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame(pub(crate) u8, pub(crate) Vec<u8>);

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(first, payload) = self;
        let start = &payload[..payload.len().min(16)];
        write!(f, "Frame({first:#x}, {} bytes: {start:x?})", payload.len())
    }
}

/// A client's frame, masked.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xA1, 0x00, 0x5C, 0xFF];
    let mut frame = header(first, payload.len() as u64, mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A masked frame's header, whatever follows.
pub(crate) fn header(first: u8, len: u64, mask: [u8; 4]) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..=125 => header.push(0x80 | len as u8),
        126..=0xFFFF => {
            header.push(0x80 | 126);
            header.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend_from_slice(&len.to_be_bytes());
        }
    }
    header.extend_from_slice(&mask);
    header
}

/// The first message of a leg, as a frame.
pub(crate) fn hello(uuid: &str) -> Vec<u8> {
    masked(BINARY, &request_relay(uuid, "", "", ConnType::Default))
}

/// The end of a connection as a crash makes it: a reset.
pub(crate) fn reset(socket: TcpStream) {
    let lingering = SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
    lingering.expect("an option");
}

impl RawWebSocket {
    /// Upgraded, and nothing said.
    pub(crate) async fn connect(gateway: &TestGateway) -> Self {
        Self::over(gateway.connect().await).await
    }

    async fn over(mut socket: TcpStream) -> Self {
        socket.write_all(UPGRADE.as_bytes()).await.expect("the gateway reads");
        let mut raw = Self { socket };
        raw.upgraded().await;
        raw
    }

    /// A leg that names `uuid`.
    pub(crate) async fn leg(gateway: &TestGateway, uuid: &str) -> Self {
        let mut raw = Self::over(gateway.connect_for(Some(uuid)).await).await;
        raw.write(&hello(uuid)).await;
        raw
    }

    /// Reads the answer to the upgrade, and no more.
    pub(crate) async fn upgraded(&mut self) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.socket.read_u8()).await.expect("an answer in time");
            head.push(byte.expect("an answer"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let written = timeout(PATIENCE, self.socket.write_all(bytes)).await;
        written.expect("the relay takes it in time").expect("the relay reads");
    }

    pub(crate) async fn send(&mut self, first: u8, payload: &[u8]) {
        self.write(&masked(first, payload)).await;
    }

    /// The next frame; `None` when the relay's FIN comes in its place.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read_frame()).await.expect("something comes in time")
    }

    /// The relay's Close, whose status this is, and its FIN after it.
    pub(crate) async fn expect_close(&mut self, status: u16) {
        let close = Frame(CLOSE, status.to_be_bytes().to_vec());
        assert_eq!(self.frame().await, Some(close));
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 2];
        if self.socket.read(&mut head[..1]).await.expect("the relay does not reset") == 0 {
            return None;
        }
        self.socket.read_exact(&mut head[1..]).await.expect("a whole header");
        let len = match head[1] {
            126 => u64::from(self.socket.read_u16().await.expect("a whole header")),
            127 => self.socket.read_u64().await.expect("a whole header"),
            // A mask would make it more.
            short => u64::from(short),
        };
        assert!(head[1] <= 127, "a server does not mask");
        let mut payload = vec![0; len as usize];
        self.socket.read_exact(&mut payload).await.expect("a whole frame");
        Some(Frame(head[0], payload))
    }
}
