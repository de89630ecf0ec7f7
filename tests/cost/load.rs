//! What is asked of a relay while it is watched.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use mini_rust_desk_relay_server::wire::{
    frame,
    rendezvous::{ConnType, request_relay},
};

/// Longer than anything takes under valgrind.
const PATIENCE: Duration = Duration::from_secs(60);

const MESSAGE: usize = 16 << 10;

/// So many of one thing.
pub(crate) enum Load {
    /// Pairs that come, exchange 16 bytes each way, and go.
    Pairs(u64),
    /// MiB over one pair.
    TcpToTcp(u64),
    /// MiB over one pair.
    WebSocketToWebSocket(u64),
    /// Bytes of a long message, each when the one before it has arrived.
    SingleBytes(u64),
}

impl Load {
    pub(crate) fn put_on(&self, addr: SocketAddr) {
        match *self {
            Self::Pairs(count) => (0..count).for_each(|number| pair(addr, number)),
            Self::TcpToTcp(mib) => {
                let [first, second] = [0, 1].map(|_| tcp(addr, "bulk"));
                let message = frame::encode(&[7; MESSAGE]).expect("a frame");
                bulk([first, second], &message, message.len(), mib);
            }
            Self::WebSocketToWebSocket(mib) => {
                let [first, second] = [0, 1].map(|_| websocket(addr, "bulk"));
                bulk([first, second], &binary(&[7; MESSAGE]), MESSAGE + 4, mib);
            }
            Self::SingleBytes(count) => single_bytes(addr, count),
        }
    }
}

fn pair(addr: SocketAddr, number: u64) {
    let uuid = format!("pair-{number}");
    let mut legs = [tcp(addr, &uuid), tcp(addr, &uuid)];
    for [from, to] in [[0, 1], [1, 0]] {
        legs[from].write_all(b"sixteen bytes it").expect("the relay reads");
        legs[to].read_exact(&mut [0; 16]).expect("they arrive");
    }
    let [first, mut second] = legs;
    first.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(second.read(&mut [0; 16]).expect("an end"), 0);
    drop(second);
    assert_eq!((&first).read(&mut [0; 16]).expect("an end"), 0);
}

/// Sends `mib` MiB of payload, each message `received` bytes long where it arrives.
fn bulk([mut from, mut to]: [TcpStream; 2], message: &[u8], received: usize, mib: u64) {
    let messages = (mib << 20) as usize / MESSAGE;
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..messages {
                from.write_all(message).expect("the relay reads");
            }
            // Closed when the rest has been read.
            from.shutdown(Shutdown::Write).expect("an end");
            let _ = from.read(&mut [0; 16]);
        });
        let mut buffer = vec![0; 256 << 10];
        let mut left = messages * received;
        while left > 0 {
            let read = to.read(&mut buffer).expect("bytes come");
            assert!(read > 0, "the relay ended {left} bytes too early");
            left = left.saturating_sub(read);
        }
    });
}

fn single_bytes(addr: SocketAddr, count: u64) {
    let [mut from, mut to] = [0, 1].map(|_| websocket(addr, "single"));
    let header = [&[0x82, 0xFF][..], &1_000_000_u64.to_be_bytes(), &[0; 4]].concat();
    from.write_all(&header).expect("the relay reads");
    to.read_exact(&mut [0; 10]).expect("the header arrives before any payload");
    for _ in 0..count {
        from.write_all(&[7]).expect("the relay reads");
        to.read_exact(&mut [0]).expect("it arrives at once");
    }
}

fn tcp(addr: SocketAddr, uuid: &str) -> TcpStream {
    let mut socket = connect(addr);
    let hello = request_relay(uuid, "", "", ConnType::Default);
    socket.write_all(&frame::encode(&hello).expect("a frame")).expect("the relay reads");
    socket
}

fn websocket(addr: SocketAddr, uuid: &str) -> TcpStream {
    let mut socket = connect(addr);
    let head = "GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(head.as_bytes()).expect("the relay reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "no upgrade");
    let hello = request_relay(uuid, "", "", ConnType::Default);
    socket.write_all(&binary(&hello)).expect("the relay reads");
    socket
}

/// A client's Binary message. A mask of zeros leaves the payload as it is.
fn binary(payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0x82];
    match payload.len() {
        short @ ..126 => message.push(0x80 | short as u8),
        long => {
            message.push(0xFE);
            message.extend(u16::try_from(long).expect("a short message").to_be_bytes());
        }
    }
    message.extend([0; 4]);
    message.extend_from_slice(payload);
    message
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("the relay accepts");
    socket.set_nodelay(true).expect("an option");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    socket.set_write_timeout(Some(PATIENCE)).expect("an option");
    socket
}
