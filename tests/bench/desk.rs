//! Remote desktops on one thread: through every pair, frames go one way and input the other, at a
//! steady pace, the pairs' phases spread. An epoll, no thread a pair: the generator shares the
//! cores with what it loads.

mod lane;

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _},
    net::TcpStream,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use mini_rust_desk_relay_server::wire::Transport;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

use self::lane::Lane;
use crate::{client::Leg, stream::Ring};

const BUFFER: usize = 64 << 10;

/// How many messages are sent before it looks what has arrived.
const IN_A_ROW: usize = 8;

/// Later than that, because the machine had other work, messages are left out: made up for, they
/// would be a load that no desktop is. It shows in what arrives.
const TOO_LATE: Duration = Duration::from_millis(50);

/// What goes through every pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// From the first leg to the second: bytes, and how often a second.
    pub(crate) frame: usize,
    pub(crate) frames_s: f64,
    /// From the second to the first.
    pub(crate) input: usize,
    pub(crate) inputs_s: f64,
}

/// What is sent, made once.
pub(crate) struct Content {
    load: Load,
    frames: Ring,
    inputs: Ring,
}

/// Pairs, and what is under way in them.
pub(crate) struct Desks<'a> {
    content: &'a Content,
    epoll: OwnedFd,
    /// By pair: the sockets of both legs.
    sockets: Vec<[TcpStream; 2]>,
    /// Of each pair two: frames, from the first leg, and input, from the second.
    lanes: Vec<[Lane<'a>; 2]>,
    paces: [Pace; 2],
    buffer: Vec<u8>,
}

/// How long messages took that arrived in a while.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    /// Of frames, and of input.
    pub(crate) of: [Vec<Duration>; 2],
}

impl Delays {
    /// Adds those of another while.
    pub(crate) fn add(&mut self, more: Self) {
        for (all, more) in self.of.iter_mut().zip(more.of) {
            all.extend(more);
        }
    }
}

/// When the next message of a kind is due: all pairs in turns, evenly.
struct Pace {
    start: Instant,
    gap: Duration,
    count: u32,
}

impl Content {
    pub(crate) fn new(load: Load, [first, second]: [Transport; 2]) -> anyhow::Result<Self> {
        let (frames, inputs) = (Ring::new(first, load.frame)?, Ring::new(second, load.input)?);
        Ok(Self { load, frames, inputs })
    }
}

impl<'a> Desks<'a> {
    pub(crate) fn new(content: &'a Content, pairs: Vec<[Leg; 2]>) -> anyhow::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let (mut sockets, mut lanes) = (Vec::new(), Vec::new());
        for (number, [first, second]) in pairs.into_iter().enumerate() {
            let transports = [first.transport, second.transport];
            lanes.push([
                Lane::new(&content.frames, transports[1]),
                Lane::new(&content.inputs, transports[0]),
            ]);
            let legs = [first.socket, second.socket];
            for (side, socket) in legs.iter().enumerate() {
                socket.set_nonblocking(true)?;
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                let token = EventData::new_u64((number * 2 + side) as u64);
                epoll::add(&epoll, socket, token, flags)?;
            }
            sockets.push(legs);
        }
        let count = sockets.len();
        let pace = |rate: f64| Pace {
            start: Instant::now(),
            gap: Duration::from_secs_f64(1.0 / rate / count.max(1) as f64),
            count: 0,
        };
        let paces = [pace(content.load.frames_s), pace(content.load.inputs_s)];
        Ok(Self { content, epoll, sockets, lanes, paces, buffer: vec![0; BUFFER] })
    }

    /// How many messages of both kinds are due in such a time.
    pub(crate) fn due_in(&self, time: Duration) -> f64 {
        let Load { frames_s, inputs_s, .. } = self.content.load;
        (frames_s + inputs_s) * self.sockets.len() as f64 * time.as_secs_f64()
    }

    /// Goes on for so long.
    pub(crate) fn run(&mut self, window: Duration) -> anyhow::Result<Delays> {
        let end = Instant::now() + window;
        let mut delays = Delays::default();
        let mut events: Vec<Event> = Vec::with_capacity(256);
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(delays);
            }
            let next = self.send_due(now)?.min(end);
            let patience = next.saturating_duration_since(Instant::now());
            let patience = Timespec {
                tv_sec: patience.as_secs() as i64,
                tv_nsec: i64::from(patience.subsec_nanos()),
            };
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience))?;
            for event in &events {
                let token = event.data.u64() as usize;
                let (number, side, flags) = (token / 2, token % 2, event.flags);
                if flags.contains(EventFlags::OUT) {
                    self.lanes[number][side].flush(&self.sockets[number][side])?;
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.receive(number, side, &mut delays)?;
                }
            }
        }
    }

    /// How many bytes were compared with what was sent: of every direction the first ones are.
    pub(crate) fn checked(&self) -> anyhow::Result<u64> {
        let checked = self.lanes.iter().flatten().map(Lane::checked).sum();
        ensure!(checked > 0, "nothing was compared");
        Ok(checked)
    }

    /// Returns when the next is due, which may have passed already.
    fn send_due(&mut self, now: Instant) -> anyhow::Result<Instant> {
        for _ in 0..IN_A_ROW {
            let kind = usize::from(self.paces[1].due() < self.paces[0].due());
            let late = now.saturating_duration_since(self.paces[kind].due());
            if late.is_zero() {
                break;
            }
            if late > TOO_LATE {
                self.paces[kind].start += late;
            }
            let number = self.paces[kind].count as usize % self.sockets.len();
            self.paces[kind].count += 1;
            self.lanes[number][kind].send(&self.sockets[number][kind])?;
        }
        Ok(self.paces[0].due().min(self.paces[1].due()))
    }

    /// What has arrived at this side, the other side's lane's.
    fn receive(&mut self, number: usize, side: usize, delays: &mut Delays) -> anyhow::Result<()> {
        let kind = 1 - side;
        loop {
            match (&self.sockets[number][side]).read(&mut self.buffer) {
                Ok(0) => anyhow::bail!("a pair ends"),
                Ok(len) => {
                    self.lanes[number][kind].receive(&self.buffer[..len], &mut delays.of[kind])?;
                    // Less than asked for is all that there is.
                    if len < self.buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("a pair breaks"),
            }
        }
    }
}

impl Pace {
    fn due(&self) -> Instant {
        self.start + Duration::from_nanos(self.gap.as_nanos() as u64 * u64::from(self.count))
    }
}

/// When each of those that have not arrived was sent.
type Sent = VecDeque<Instant>;
