//! Two sockets and the bytes between them, read and written until a socket is not ready.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use rustix::event::epoll::EventFlags;

use super::Matched;

/// How many reads a direction has before others have their turn.
const READS: usize = 2;

pub(super) struct Pair {
    sockets: [TcpStream; 2],
    /// By the socket that each comes from.
    directions: [Direction; 2],
}

#[derive(Default)]
struct Direction {
    /// What the sink has not taken, from `written` on.
    pending: Vec<u8>,
    written: usize,
    /// The source will end: a read that gives less than was asked for is not the last.
    ending: bool,
    done: bool,
}

/// How far a turn came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Blocked,
    More,
    Done,
}

impl Pair {
    pub(super) fn new(matched: Matched) -> Self {
        let [(first, from_first), (second, from_second)] = matched;
        let direction = |early| Direction { pending: early, ..Direction::default() };
        Self {
            sockets: [first, second],
            directions: [direction(from_first), direction(from_second)],
        }
    }

    pub(super) const fn sockets(&self) -> &[TcpStream; 2] {
        &self.sockets
    }

    /// What epoll says of a socket.
    pub(super) fn note(&mut self, side: usize, flags: EventFlags) {
        self.directions[side].ending |=
            flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
    }

    pub(super) fn turn(&mut self, buffer: &mut [u8]) -> io::Result<Turn> {
        let [first, second] = &self.sockets;
        let [there, back] = &mut self.directions;
        let more = [there.turn(first, second, buffer)?, back.turn(second, first, buffer)?];
        Ok(match (there.done && back.done, more) {
            (true, _) => Turn::Done,
            (false, [false, false]) => Turn::Blocked,
            (false, _) => Turn::More,
        })
    }
}

impl Direction {
    /// Whether there is more to do at once.
    fn turn(&mut self, from: &TcpStream, to: &TcpStream, buffer: &mut [u8]) -> io::Result<bool> {
        for _ in 0..READS {
            if !self.flush(to)? || self.done {
                return Ok(false);
            }
            let len = match unless_blocked((&mut &*from).read(buffer))? {
                None => return Ok(false),
                Some(0) => {
                    self.done = true;
                    to.shutdown(Shutdown::Write)?;
                    return Ok(false);
                }
                Some(len) => len,
            };
            let written = unless_blocked((&mut &*to).write(&buffer[..len]))?.unwrap_or(0);
            self.pending.extend_from_slice(&buffer[written..len]);
            if len < buffer.len() && !self.ending && self.pending.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether nothing is pending any more.
    fn flush(&mut self, to: &TcpStream) -> io::Result<bool> {
        while self.written < self.pending.len() {
            match unless_blocked((&mut &*to).write(&self.pending[self.written..]))? {
                None => return Ok(false),
                Some(len) => self.written += len,
            }
        }
        self.pending.clear();
        self.written = 0;
        Ok(true)
    }
}

fn unless_blocked(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        done => done.map(Some),
    }
}
