//! A client's two halves, for tests that send and receive at once, and what they send.

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use mini_rust_desk_relay_server::wire::frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Error, Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use crate::support::Client;

/// What a client sends on.
pub(crate) enum Sending {
    Tcp(OwnedWriteHalf),
    WebSocket(SplitSink<WebSocketStream<TcpStream>, Message>),
}

/// What a client receives on.
pub(crate) enum Receiving {
    Tcp(BufReader<OwnedReadHalf>),
    WebSocket(SplitStream<WebSocketStream<TcpStream>>),
}

impl Client {
    pub(crate) fn split(self) -> (Sending, Receiving) {
        match self {
            Self::Tcp(socket) => {
                let (read, write) = socket.into_split();
                (Sending::Tcp(write), Receiving::Tcp(BufReader::with_capacity(64 << 10, read)))
            }
            Self::WebSocket(socket) => {
                let (sink, stream) = (*socket).split();
                (Sending::WebSocket(sink), Receiving::WebSocket(stream))
            }
        }
    }
}

impl Sending {
    /// Sends a message; an error when the connection is over.
    pub(crate) async fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        match self {
            Self::Tcp(socket) => {
                let frame = frame::encode(message).expect("a frame");
                Ok(socket.write_all(&frame).await?)
            }
            Self::WebSocket(socket) => socket.send(Message::binary(message.to_vec())).await,
        }
    }

    /// Sends a message, on a WebSocket in fragments of up to `size` bytes.
    pub(crate) async fn send_fragments(&mut self, message: &[u8], size: usize) {
        let Self::WebSocket(socket) = self else {
            return self.send(message).await.expect("the relay reads");
        };
        let mut rest = message;
        let mut data = Data::Binary;
        loop {
            let (fragment, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            let fragment = Bytes::copy_from_slice(fragment);
            let frame = Frame::message(fragment, OpCode::Data(data), rest.is_empty());
            socket.send(Message::Frame(frame)).await.expect("the relay reads");
            if rest.is_empty() {
                return;
            }
            data = Data::Continue;
        }
    }
}

impl Receiving {
    /// The next message; `None` at the end, whatever its kind.
    pub(crate) async fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Tcp(socket) => {
                let mut head = [0; 4];
                socket.read_exact(&mut head[..1]).await.ok()?;
                let header_len = frame::FrameHeader::len_from(head[0]);
                socket.read_exact(&mut head[1..header_len]).await.ok()?;
                let header = frame::FrameHeader::parse(&head[..header_len])?;
                let mut payload = vec![0; header.payload_len()];
                socket.read_exact(&mut payload).await.ok()?;
                Some(payload)
            }
            Self::WebSocket(socket) => match socket.next().await {
                Some(Ok(Message::Binary(bytes))) => Some(bytes.to_vec()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => None,
                Some(Ok(other)) => panic!("the relay sends Binary only, not {other:?}"),
            },
        }
    }
}

/// Messages that sender and receiver work out alike: cuts from one block of noise.
pub(crate) struct Script {
    block: Vec<u8>,
    state: u64,
    left: usize,
}

impl Script {
    /// Messages of `total` bytes together, every length from none to several MiB.
    pub(crate) fn new(seed: u64, total: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let block = (0..(6 << 20) / 8).flat_map(|_| step(&mut state).to_le_bytes()).collect();
        Self { block, state: seed, left: total }
    }

    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        const LENGTHS: [usize; 16] = [
            0, 1, 63, 64, 125, 126, 1_000, 16_383, 16_384, 65_535, 65_536, 262_144, 700_001,
            1_048_576, 2_500_000, 4_194_304,
        ];
        if self.left == 0 {
            return None;
        }
        let dice = step(&mut self.state) as usize;
        let len = LENGTHS[dice % LENGTHS.len()].min(self.left);
        self.left -= len;
        let start = (dice >> 8) % (self.block.len() - len);
        Some(&self.block[start..start + len])
    }
}

/// The next number of a sequence that looks like noise (splitmix64).
pub(crate) fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
