//! One direction of a pair: messages that are sent when they are due, and arrive.

use std::{
    io::{ErrorKind, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mini_rust_desk_relay_server::wire::Transport;

use super::Sent;
use crate::stream::{Reader, Ring};

pub(super) struct Lane<'a> {
    ring: &'a Ring,
    reader: Reader<'a>,
    sent: Sent,
    /// How many messages have been written whole, and how much of the next.
    written: usize,
    offset: usize,
    /// How many are due and not written whole.
    behind: usize,
    /// How many have arrived whole.
    arrived: u64,
}

impl<'a> Lane<'a> {
    /// Of what `ring` holds, and as it arrives on such a leg.
    pub(super) const fn new(ring: &'a Ring, to: Transport) -> Self {
        Self {
            ring,
            reader: Reader::new(to, ring),
            sent: Sent::new(),
            written: 0,
            offset: 0,
            behind: 0,
            arrived: 0,
        }
    }

    /// Sends the next message, behind those that the socket has not taken yet. Its time runs from
    /// now on, whether the socket takes it or not.
    pub(super) fn send(&mut self, socket: &TcpStream) -> anyhow::Result<()> {
        self.sent.push_back(Instant::now());
        self.behind += 1;
        self.flush(socket)
    }

    pub(super) fn flush(&mut self, mut socket: &TcpStream) -> anyhow::Result<()> {
        while self.behind > 0 {
            let message = self.ring.message(self.written);
            match socket.write(&message[self.offset..]) {
                Ok(len) => self.offset += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("a pair takes nothing"),
            }
            if self.offset == message.len() {
                self.offset = 0;
                self.written += 1;
                self.behind -= 1;
            }
        }
        Ok(())
    }

    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        delays: &mut Vec<Duration>,
    ) -> anyhow::Result<()> {
        self.reader.take(bytes)?;
        let whole = self.reader.received / self.ring.message_len() as u64;
        let now = Instant::now();
        while self.arrived < whole {
            self.arrived += 1;
            let sent = self.sent.pop_front().context("more arrives than was sent")?;
            delays.push(now - sent);
        }
        Ok(())
    }

    pub(super) const fn checked(&self) -> u64 {
        self.reader.checked
    }
}
