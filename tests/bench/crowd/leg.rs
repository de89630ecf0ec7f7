//! One leg of a crowd: a socket that does not block, and what it says and expects in turn.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use mini_rust_desk_relay_server::wire::Transport;
use rustix::event::epoll::EventFlags;

use crate::{
    client::{UPGRADE, incoming, outgoing, websocket_close},
    dial::begin,
    subject::Greeting,
};

const PAYLOAD: &[u8; 16] = b"sixteen bytes it";

pub(super) struct Leg {
    socket: TcpStream,
    script: VecDeque<Step>,
    /// How much of the step's bytes are sent.
    sent: usize,
    /// What has arrived and no step has taken.
    inbox: Vec<u8>,
    has_ended: bool,
    pub(super) connected_at: Option<Instant>,
    pub(super) done_at: Option<Instant>,
}

/// What a leg does next.
enum Step {
    Say(Vec<u8>),
    /// The same, of which pair it is.
    Greet(Vec<u8>),
    Hear(Vec<u8>),
    /// The head of an HTTP answer that agrees to an upgrade.
    HearUpgraded,
    /// Send nothing more.
    Finish,
    /// The end and nothing before it.
    HearEnd,
    /// The end, whatever comes before it.
    WaitForEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    /// It has said which pair it is of, just now.
    Greeted,
    Done,
}

impl Leg {
    /// Begins to connect the leg of this side of a pair.
    pub(super) fn connect(
        addr: SocketAddr,
        transport: Transport,
        greeting: Greeting,
        side: usize,
    ) -> anyhow::Result<Self> {
        let socket = begin(addr)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            script: script(transport, greeting, side)?,
            sent: 0,
            inbox: Vec::new(),
            has_ended: false,
            connected_at: None,
            done_at: None,
        })
    }

    pub(super) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Goes on as far as it can.
    pub(super) fn turn(&mut self, flags: EventFlags) -> anyhow::Result<Progress> {
        if self.connected_at.is_none() && flags.contains(EventFlags::OUT) {
            self.connected_at = Some(Instant::now());
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            self.read(flags)?;
        }
        let mut greeted = false;
        while let Some(step) = self.script.front() {
            let is_greeting = matches!(step, Step::Greet(_));
            if !self.take()? {
                return Ok(if greeted { Progress::Greeted } else { Progress::Waiting });
            }
            greeted |= is_greeting;
            self.script.pop_front();
        }
        self.done_at.get_or_insert_with(Instant::now);
        Ok(Progress::Done)
    }

    fn read(&mut self, flags: EventFlags) -> anyhow::Result<()> {
        let is_ending = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let mut buffer = [0; 1024];
        while !self.has_ended {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.has_ended = true,
                Ok(len) => {
                    self.inbox.extend_from_slice(&buffer[..len]);
                    // Less than asked for is all that there is, but for the end.
                    if len < buffer.len() && !is_ending {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("a leg is broken off"),
            }
        }
        Ok(())
    }

    /// Whether the step in front is done.
    fn take(&mut self) -> anyhow::Result<bool> {
        let ended = self.has_ended;
        match self.script.front() {
            Some(Step::Say(bytes) | Step::Greet(bytes)) => {
                while self.sent < bytes.len() {
                    match self.socket.write(&bytes[self.sent..]) {
                        Ok(len) => self.sent += len,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                        Err(error) => return Err(error).context("the other side takes nothing"),
                    }
                }
                self.sent = 0;
            }
            Some(Step::Hear(bytes)) => {
                let Some(heard) = self.inbox.get(..bytes.len()) else {
                    ensure!(!ended, "the end comes before a message");
                    return Ok(false);
                };
                ensure!(heard == bytes, "a message arrives changed");
                self.inbox.drain(..bytes.len());
            }
            Some(Step::HearUpgraded) => {
                let end = self.inbox.windows(4).position(|four| four == b"\r\n\r\n");
                let Some(end) = end else {
                    ensure!(!ended, "an upgrade is not answered");
                    return Ok(false);
                };
                ensure!(self.inbox.starts_with(b"HTTP/1.1 101"), "an upgrade is refused");
                self.inbox.drain(..end + 4);
            }
            Some(Step::Finish) => self.socket.shutdown(std::net::Shutdown::Write)?,
            Some(Step::HearEnd) if !self.inbox.is_empty() => bail!("something before the end"),
            Some(Step::HearEnd | Step::WaitForEnd) => return Ok(ended),
            None => {}
        }
        Ok(true)
    }
}

fn script(transport: Transport, greeting: Greeting, side: usize) -> anyhow::Result<VecDeque<Step>> {
    let mut steps = VecDeque::new();
    if transport == Transport::WebSocket {
        steps.extend([Step::Say(UPGRADE.to_vec()), Step::HearUpgraded]);
    }
    steps.push_back(Step::Greet(greeting.says));
    if !greeting.hears.is_empty() {
        steps.push_back(Step::Hear(greeting.hears.to_vec()));
    }
    let say = Step::Say(outgoing(transport, PAYLOAD)?);
    let hear = Step::Hear(incoming(transport, PAYLOAD)?);
    match (side, transport) {
        (0, Transport::Tcp) => steps.extend([say, hear, Step::Finish, Step::HearEnd]),
        (_, Transport::Tcp) => steps.extend([hear, say, Step::HearEnd, Step::Finish]),
        (0, Transport::WebSocket) => {
            steps.extend([say, hear, Step::Say(websocket_close()), Step::WaitForEnd]);
        }
        (_, Transport::WebSocket) => {
            // A Close is answered with one; both may be on their way at once.
            let close = [Step::Hear(vec![0x88]), Step::Say(websocket_close())];
            steps.extend([hear, say].into_iter().chain(close));
            steps.push_back(Step::WaitForEnd);
        }
    }
    Ok(steps)
}
