//! A leg: a connection that has said who it is. Awake its socket is on a runtime, and it belongs
//! to a task; parked it is a plain socket that costs a descriptor and an entry in the waiting room.

use std::{io, net::SocketAddr};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{
    listener::Connection,
    stream::{ParkedStream, PlainStream, Stream},
};
use crate::wire::{Event, Transport, websocket};

/// A leg; one that a task owns, unless said otherwise.
#[derive(Debug)]
pub struct Leg<S = Stream> {
    /// Its connection.
    pub connection: Connection<S>,
    /// How its messages travel.
    pub transport: Transport,
    /// What was read beyond its first message: its peer's, to be passed on first.
    pub early: Box<[u8]>,
}

/// A leg without a task. Its socket is not watched; [`gone`] and [`ParkedLeg::is_alive`] look.
pub type ParkedLeg = Leg<ParkedStream>;

/// The socket of a leg that arrives: it is on the runtime only if its first message had to be
/// waited for.
#[derive(Debug)]
pub enum Arriving {
    /// It is not.
    Plain(PlainStream),
    /// It is.
    Watched(Stream),
}

impl<S> Leg<S> {
    /// The same leg, its socket wrapped.
    pub fn with_socket<T>(self, wrap: impl FnOnce(S) -> T) -> Leg<T> {
        let Self { connection, transport, early } = self;
        Leg { connection: connection.with_socket(wrap), transport, early }
    }

    fn map_socket<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Leg<T>> {
        let Self { connection, transport, early } = self;
        Ok(Leg { connection: connection.map_socket(change)?, transport, early })
    }
}

impl Leg<Arriving> {
    /// The leg off the runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn park(self) -> io::Result<ParkedLeg> {
        self.map_socket(|socket| match socket {
            Arriving::Plain(socket) => Ok(ParkedStream::plain(socket)),
            Arriving::Watched(stream) => stream.park(),
        })
    }

    /// The leg on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wake(self) -> io::Result<Leg> {
        self.map_socket(|socket| match socket {
            Arriving::Plain(socket) => Stream::plain(socket),
            Arriving::Watched(stream) => Ok(stream),
        })
    }
}

impl ParkedLeg {
    /// Puts the leg's socket on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wake(self) -> io::Result<Leg> {
        self.map_socket(ParkedStream::wake)
    }

    /// The leg with its socket, if that is all there is to it.
    ///
    /// # Errors
    /// The leg, when it cannot leave the process.
    pub fn into_plain(self) -> Result<Leg<PlainStream>, Box<Self>> {
        let Self { connection, transport, early } = self;
        let Connection { socket, peer, permit } = connection;
        match socket.into_plain() {
            Ok(socket) => {
                let connection = Connection { socket, peer, permit };
                Ok(Leg { connection, transport, early })
            }
            Err(socket) => {
                let connection = Connection { socket, peer, permit };
                Err(Box::new(Self { connection, transport, early }))
            }
        }
    }

    /// Who it is.
    pub const fn peer(&self) -> SocketAddr {
        self.connection.peer
    }

    /// Whether the peer is still there. A WebSocket's Ping is answered on the way, its Close too.
    pub fn is_alive(&mut self) -> bool {
        let mut fd = [self.poll_fd()];
        let polled = retry_on_intr(|| poll(&mut fd, Some(&NOW)));
        let seen = fd[0].revents();
        match polled {
            Ok(0) => true,
            Ok(_) => self.survives(seen),
            Err(_) => false,
        }
    }

    const fn socket(&self) -> &PlainStream {
        self.connection.socket.socket()
    }

    const fn is_tls(&self) -> bool {
        self.connection.socket.is_tls()
    }

    fn poll_fd(&self) -> PollFd<'_> {
        let flags = match self.transport {
            // What a TCP leg sent ahead stays in its socket, so that it is no reason to look.
            Transport::Tcp => HANG_UP,
            // What came through TLS is read to be looked at, so that it is bounded here.
            Transport::WebSocket if self.is_tls() && self.early.len() >= MAX_CONTROL_FRAME => {
                HANG_UP
            }
            Transport::WebSocket => HANG_UP | PollFlags::IN,
        };
        PollFd::new(self.socket(), flags)
    }

    fn survives(&mut self, seen: PollFlags) -> bool {
        if seen.intersects(HANG_UP_SEEN) {
            return false;
        }
        match self.transport {
            Transport::Tcp => !is_at_end(self.socket()),
            Transport::WebSocket if self.is_tls() => self.answer_control_in_tls(),
            Transport::WebSocket => {
                self.early.is_empty().then(|| self.answer_control()) != Some(false)
            }
        }
    }

    /// Answers the control frames at the head of what has arrived; `false` when it was a Close,
    /// or the peer cannot be answered. Data is left where it is.
    fn answer_control(&self) -> bool {
        for _ in 0..MAX_CONTROL_FRAMES {
            let mut head = [0; MAX_CONTROL_FRAME];
            let Ok((_, seen)) = recv(self.socket(), &mut head[..], RecvFlags::PEEK | DONTWAIT)
            else {
                // Nothing there. Were it an error, poll would have said so.
                return true;
            };
            if seen == 0 {
                return false;
            }
            let Some((frame_len, reply, closing)) = control_at(&head[..seen]) else { return true };
            let taken = recv(self.socket(), &mut head[..frame_len], DONTWAIT);
            let whole = matches!(taken, Ok((_, len)) if len == frame_len);
            let sent = send(self.socket(), &reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            if closing || !whole || sent.ok() != Some(reply.len()) {
                return false;
            }
        }
        true
    }

    /// As [`ParkedLeg::answer_control`], of what TLS has to open first. It is not in the socket any
    /// more then: what is not answered here stays with the leg.
    fn answer_control_in_tls(&mut self) -> bool {
        let mut early = std::mem::take(&mut self.early).into_vec();
        let stream = &mut self.connection.socket;
        let mut alive = stream.read_ahead(&mut early);
        let (mut at, mut last_reply) = (0, Vec::new());
        while alive && let Some((frame_len, reply, closing)) = control_at(&early[at..]) {
            at += frame_len;
            alive = !closing;
            // Of several Pings the last may stand for all (RFC 6455, section 5.5.3).
            last_reply = if reply.is_empty() { last_reply } else { reply };
        }
        let answered = last_reply.is_empty() || stream.send(&last_reply);
        early.drain(..at);
        self.early = early.into_boxed_slice();
        alive && answered
    }
}

/// Which of `legs` have hung up: their indices, in order. One call to the kernel for all.
pub fn gone<'a>(legs: impl Iterator<Item = &'a mut ParkedLeg>) -> Vec<usize> {
    let mut legs: Vec<_> = legs.collect();
    let mut fds: Vec<_> = legs.iter().map(|leg| leg.poll_fd()).collect();
    if !matches!(retry_on_intr(|| poll(&mut fds, Some(&NOW))), Ok(seen) if seen > 0) {
        return Vec::new();
    }
    let seen = fds.iter().map(PollFd::revents).enumerate();
    let mut gone: Vec<_> = seen.filter(|(_, seen)| !seen.is_empty()).collect();
    gone.retain(|(index, seen)| !legs[*index].survives(*seen));
    gone.into_iter().map(|(index, _)| index).collect()
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
const DONTWAIT: RecvFlags = RecvFlags::DONTWAIT;

/// The longest control frame that a client sends: header, mask, payload.
const MAX_CONTROL_FRAME: usize = 2 + 4 + 125;

/// How many control frames one look answers, so that a flood of them holds nobody up.
const MAX_CONTROL_FRAMES: usize = 4;

// A hang-up with bytes before it is seen without reading them; elsewhere only once it is next.
#[cfg(target_os = "linux")]
const HANG_UP: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const HANG_UP: PollFlags = PollFlags::IN;

#[cfg(target_os = "linux")]
const HANG_UP_SEEN: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);
#[cfg(not(target_os = "linux"))]
const HANG_UP_SEEN: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

fn is_at_end(socket: &PlainStream) -> bool {
    let mut byte = [0; 1];
    matches!(recv(socket, &mut byte[..], RecvFlags::PEEK | DONTWAIT), Ok((_, 0)))
}

/// The whole control frame at the start of `head`: its length, the answer, whether it closes.
fn control_at(head: &[u8]) -> Option<(usize, Vec<u8>, bool)> {
    let mut decoder = websocket::Decoder::new(0);
    let mut used = 0;
    let mut reply = Vec::new();
    while used < head.len() {
        // Data breaks the decoder's limit of 0, or is empty: either way it is not ours to take.
        let (taken, event) = decoder.next(&head[used..]).ok()?;
        used += taken;
        match event {
            Event::More => {}
            Event::Ping(payload) => {
                websocket::put_pong(&payload, &mut reply);
                return Some((used, reply, false));
            }
            Event::Pong => return Some((used, reply, false)),
            Event::Close(payload) => {
                websocket::put_close(&payload.close_reply(), &mut reply);
                return Some((used, reply, true));
            }
            Event::Frame(_) | Event::Payload(..) => return None,
        }
    }
    None
}
