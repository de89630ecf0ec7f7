//! What a client can say when no library keeps it from it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mini_rust_desk_relay_server::wire::{Transport, frame};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{Answer, PATIENCE, TestGateway, parse_answer, read_to_end};

/// RFC 6455's own example of a key, and what it is answered with.
pub(crate) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A connection whose bytes the test chooses.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.expect("the gateway accepts"))
    }

    /// A connection from `ip`, one of loopback's addresses.
    pub(crate) async fn connect_from(ip: Ipv4Addr, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((ip, 0))).expect("an address of loopback's");
        Self::over(socket.connect(addr).await.expect("the gateway accepts"))
    }

    fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("an option");
        Self { socket, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.expect("the gateway reads");
    }

    /// The next HTTP answer, whose length its head must give.
    pub(crate) async fn answer(&mut self) -> Answer {
        let read = async {
            loop {
                if let Some(len) = whole_answer(&self.read) {
                    let text: Vec<u8> = self.read.drain(..len).collect();
                    return parse_answer(&String::from_utf8(text).expect("text"));
                }
                let read = self.socket.read_buf(&mut self.read).await.expect("an answer");
                assert_ne!(read, 0, "the end, after {:?}", String::from_utf8_lossy(&self.read));
            }
        };
        timeout(PATIENCE, read).await.expect("an answer in time")
    }

    /// Reads the answer to [`upgrade_request`].
    pub(crate) async fn upgraded(&mut self) {
        let answer = self.answer().await;
        assert_eq!(answer.status, 101, "{}", answer.body);
        assert_eq!(answer.headers["sec-websocket-accept"], WEBSOCKET_ACCEPT);
    }

    /// Everything that was not asked for yet, until the end.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.read);
        bytes.extend(read_to_end(&mut self.socket).await);
        bytes
    }

    /// Writes a byte at a time, for ever; returns what came back once the gateway has closed.
    pub(crate) async fn dribble(self, byte: u8, pace: Duration) -> Vec<u8> {
        let Self { socket, mut read } = self;
        let (mut from, mut to) = socket.into_split();
        let writing = tokio::spawn(async move {
            while to.write_all(&[byte]).await.is_ok() {
                tokio::time::sleep(pace).await;
            }
        });
        // A reset is an end too: what was dribbled last may not have been read.
        let _ = timeout(PATIENCE, from.read_to_end(&mut read)).await.expect("the end, in time");
        writing.abort();
        read
    }
}

/// Where the first HTTP answer in `bytes` ends.
fn whole_answer(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let len = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let len: usize = len.map_or(0, |len| len.trim().parse().expect("a length"));
    (bytes.len() >= head + len).then_some(head + len)
}

/// A WebSocket handshake, as it should be.
pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n"
    )
}

/// A Binary message in one frame.
pub(crate) fn binary(payload: &[u8]) -> Vec<u8> {
    masked(0x82, payload)
}

/// A frame with this first byte, masked as a client must.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(len).expect("a short message").to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// All that a client sends whose first message is `payload`.
pub(crate) fn opening(transport: Transport, payload: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frame::encode(payload).expect("a frame"),
        Transport::WebSocket => {
            let mut bytes = upgrade_request("/").into_bytes();
            bytes.extend(binary(payload));
            bytes
        }
    }
}

/// Sends `bytes`, and asserts that the gateway closes and sends nothing but, on a WebSocket, the
/// answer to the handshake.
pub(crate) async fn is_refused(gateway: &TestGateway, transport: Transport, bytes: &[u8]) {
    let mut wire = Wire::connect(gateway.addr).await;
    wire.send(bytes).await;
    if transport == Transport::WebSocket {
        wire.upgraded().await;
    }
    assert_eq!(wire.rest().await, b"", "{transport:?}: {bytes:x?}");
}

impl TestGateway {
    /// How many were refused for this reason.
    pub(crate) async fn refusals(&self, reason: &str) -> f64 {
        self.metric(&format!("relay_rejected_total{{reason=\"{reason}\"}}")).await
    }

    /// How many were refused, for whatever reason.
    pub(crate) async fn all_refusals(&self) -> f64 {
        let text = self.get("/metrics").await.body;
        let lines = text.lines().filter(|line| line.starts_with("relay_rejected_total{"));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        counts.sum()
    }

    /// The address that the waiting leg `uuid` has, once it waits.
    pub(crate) async fn address_of(&self, uuid: &str) -> String {
        self.until_waiting(uuid).await;
        let waiting = self.get("/api/v1/waiting?limit=1000").await.json();
        let legs = waiting["items"].as_array().expect("a list");
        let leg = legs.iter().find(|leg| leg["uuid"] == uuid).expect("it waits");
        leg["address"].as_str().expect("text").to_owned()
    }

    /// Returns once the gateway has seen what was sent before: it answers after that.
    pub(crate) async fn round_trip(&self) {
        for _ in 0..2 {
            assert_eq!(self.request("GET", "/healthz", "").await.status, 200);
        }
    }
}
