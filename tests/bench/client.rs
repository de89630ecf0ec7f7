//! A client's end of a leg, on plain blocking sockets: the least that a load generator can cost.
//!
//! WebSocket frames are made by hand, masked with a mask that is not zero: a server may know
//! that zeroes need no work.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use mini_rust_desk_relay_server::wire::{
    Transport, frame,
    rendezvous::{ConnType, request_relay},
};

use crate::dial::dial;

/// How long a byte may take to come or go before the case fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest message of [`Leg::receive`], framing included.
const SHORT: usize = 256;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// How a client asks for a WebSocket.
pub(crate) const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A client's end of a leg.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) socket: TcpStream,
    pub(crate) transport: Transport,
}

impl Leg {
    /// Connects, and upgrades if it is to be a WebSocket.
    pub(crate) fn connect(addr: SocketAddr, transport: Transport) -> anyhow::Result<Self> {
        let mut leg = Self::of(dial(addr)?, transport)?;
        if transport == Transport::WebSocket {
            leg.upgrade()?;
        }
        Ok(leg)
    }

    /// A leg on a socket that is connected already.
    pub(crate) fn of(socket: TcpStream, transport: Transport) -> anyhow::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, transport })
    }

    /// Connects and says which relay it wants.
    pub(crate) fn arrive(
        addr: SocketAddr,
        transport: Transport,
        uuid: &str,
    ) -> anyhow::Result<Self> {
        let mut leg = Self::connect(addr, transport)?;
        leg.send(&request_relay(uuid, "", "", ConnType::Default))?;
        Ok(leg)
    }

    /// The same leg, for another thread.
    pub(crate) fn again(&self) -> anyhow::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, transport: self.transport })
    }

    pub(crate) fn send(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.send_raw(&outgoing(self.transport, payload)?)
    }

    /// Sends a message that is framed already.
    pub(crate) fn send_raw(&mut self, message: &[u8]) -> anyhow::Result<()> {
        self.socket.write_all(message).context("the other side takes nothing")
    }

    /// Receives a short message, which must be `payload`.
    pub(crate) fn receive(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let expected = incoming(self.transport, payload)?;
        self.receive_raw(&expected)
    }

    /// Receives a short message, which must be framed like this.
    pub(crate) fn receive_raw(&mut self, expected: &[u8]) -> anyhow::Result<()> {
        let mut buffer = [0; SHORT];
        let buffer = buffer.get_mut(..expected.len()).context("a message too long to expect")?;
        self.socket.read_exact(buffer).context("a message does not arrive")?;
        ensure!(buffer == expected, "a message arrives changed");
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        if self.transport == Transport::WebSocket {
            return self.send_raw(&websocket_close());
        }
        Ok(self.socket.shutdown(Shutdown::Write)?)
    }

    fn upgrade(&mut self) -> anyhow::Result<()> {
        self.socket.write_all(UPGRADE)?;
        let mut answer = [0; 1024];
        let mut len = 0;
        while !answer[..len].ends_with(b"\r\n\r\n") {
            match self.socket.read(&mut answer[len..]).context("no answer to an upgrade")? {
                0 => bail!("an upgrade is not answered"),
                more => len += more,
            }
        }
        ensure!(answer.starts_with(b"HTTP/1.1 101"), "an upgrade is refused");
        Ok(())
    }
}

/// Sends a message each way across a pair.
pub(crate) fn echo([first, second]: &mut [Leg; 2], payload: &[u8]) -> anyhow::Result<()> {
    first.send(payload)?;
    second.receive(payload)?;
    second.send(payload)?;
    first.receive(payload)
}

/// A message as a client sends it.
pub(crate) fn outgoing(transport: Transport, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(match transport {
        Transport::Tcp => frame::encode(payload)?,
        Transport::WebSocket => websocket_frame(0x82, payload),
    })
}

/// A message as a client receives it.
pub(crate) fn incoming(transport: Transport, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(match transport {
        Transport::Tcp => frame::encode(payload)?,
        Transport::WebSocket => {
            let mut frame = vec![0x82];
            put_len(payload.len(), 0, &mut frame);
            frame.extend_from_slice(payload);
            frame
        }
    })
}

/// As long as clients' own.
pub(crate) fn unique_uuid() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("00000000-0000-4000-8000-{:012x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A Close as a client sends it.
pub(crate) fn websocket_close() -> Vec<u8> {
    websocket_frame(0x88, &[])
}

fn websocket_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    put_len(payload.len(), 0x80, &mut frame);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn put_len(len: usize, masked: u8, frame: &mut Vec<u8>) {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => frame.push(masked | len),
        (_, Ok(len)) => {
            frame.push(masked | 126);
            frame.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}
