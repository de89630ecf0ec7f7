//! The pipes that bytes cross the kernel in: a bounded pool that all relays share.
//!
//! A direction holds one only while bytes are in it. An unprivileged user gets 64 MiB of pipes
//! (`fs.pipe-user-pages-soft`), after which new ones shrink to 8 KiB, slower than any copy: the
//! pool stays below, and gives none rather than a small one.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many pipes there are at most: three quarters of what an unprivileged user may have.
pub const MOST: usize = 48;

/// The size of each, in bytes.
const SIZE: usize = 1 << 20;

/// The pool.
pub struct Pipes(Mutex<Shelf>);

struct Shelf {
    idle: Vec<Pipe>,
    /// How many there are, those that are lent included.
    made: usize,
    most: usize,
}

/// A pipe that is lent, and given back when dropped; one that is not empty is closed instead.
pub(super) struct Lease {
    /// Taken out only when dropped.
    pipe: Option<Pipe>,
    held: usize,
    pipes: Arc<Pipes>,
}

impl Pipes {
    /// A pool of `most` pipes, each made when it is first wanted; none where the system has no
    /// splice(2).
    pub fn new(most: usize) -> Arc<Self> {
        let most = if cfg!(target_os = "linux") { most } else { 0 };
        Arc::new(Self(Mutex::new(Shelf { idle: Vec::new(), made: 0, most })))
    }

    /// Whether it ever lends any.
    pub(super) fn is_there(&self) -> bool {
        self.shelf().most > 0
    }

    /// Lends an empty pipe, if one is left.
    pub(super) fn take(self: &Arc<Self>) -> Option<Lease> {
        let pipe = match self.idle_or_place()? {
            Some(pipe) => pipe,
            None => Pipe::new().inspect_err(|error| self.not_made(error)).ok()?,
        };
        Some(Lease { pipe: Some(pipe), held: 0, pipes: Arc::clone(self) })
    }

    /// A pipe, or the place of one that is still to be made; `None` when all are lent.
    fn idle_or_place(&self) -> Option<Option<Pipe>> {
        let mut shelf = self.shelf();
        if let Some(pipe) = shelf.idle.pop() {
            return Some(Some(pipe));
        }
        (shelf.made < shelf.most).then(|| {
            shelf.made += 1;
            None
        })
    }

    fn not_made(&self, error: &io::Error) {
        let mut shelf = self.shelf();
        shelf.made -= 1;
        // Without a descriptor now, there may be one later.
        if error.kind() == io::ErrorKind::PermissionDenied {
            shelf.most = shelf.made;
            let pipes = shelf.most;
            drop(shelf);
            tracing::info!(
                pipes,
                "the system allows no more large pipes (fs.pipe-user-pages-soft): further relays at full speed are copied"
            );
        }
    }

    fn give_back(&self, pipe: Pipe) {
        self.shelf().idle.push(pipe);
    }

    fn forget(&self) {
        self.shelf().made -= 1;
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Whatever panicked left the numbers as they were.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// How many bytes are in it.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `max` bytes from a socket into it; 0 is the socket's end.
    pub(super) fn fill(&mut self, source: impl AsFd, max: usize) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let len = pipe.fill(source, max.min(SIZE))?;
        self.held += len;
        Ok(len)
    }

    /// Moves what is in it to a socket, as much as that takes now.
    pub(super) fn drain(&mut self, sink: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let len = pipe.drain(sink, self.held)?;
        self.held -= len;
        Ok(len)
    }

    /// Appends what is in it to `out`, so that others may have the pipe.
    pub(super) fn unload(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        let start = out.len();
        out.resize(start + self.held, 0);
        let mut at = start;
        while self.held > 0 {
            match pipe.read(&mut out[at..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    at += len;
                    self.held -= len;
                }
                Err(error) => {
                    out.truncate(at);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.pipe.take() {
            Some(pipe) if self.held == 0 => self.pipes.give_back(pipe),
            _ => self.pipes.forget(),
        }
    }
}

#[cfg(target_os = "linux")]
use linux::Pipe;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io,
        os::fd::{AsFd, OwnedFd},
    };

    use rustix::{
        io::retry_on_intr,
        pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
    };

    use super::SIZE;

    /// Both ends.
    pub(super) struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
    }

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

    impl Pipe {
        pub(super) fn new() -> io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            fcntl_setpipe_size(&write, SIZE)?;
            Ok(Self { read, write })
        }

        pub(super) fn fill(&self, source: impl AsFd, max: usize) -> io::Result<usize> {
            Ok(retry_on_intr(|| splice(&source, None, &self.write, None, max, FLAGS))?)
        }

        pub(super) fn drain(&self, sink: impl AsFd, len: usize) -> io::Result<usize> {
            Ok(retry_on_intr(|| splice(&self.read, None, &sink, None, len, FLAGS))?)
        }

        pub(super) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
            Ok(retry_on_intr(|| rustix::io::read(&self.read, &mut *out))?)
        }
    }
}

#[cfg(not(target_os = "linux"))]
use elsewhere::Pipe;

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::{io, os::fd::AsFd};

    /// There is none.
    pub(super) enum Pipe {}

    impl Pipe {
        pub(super) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn fill(&self, _: impl AsFd, _: usize) -> io::Result<usize> {
            match *self {}
        }

        pub(super) fn drain(&self, _: impl AsFd, _: usize) -> io::Result<usize> {
            match *self {}
        }

        pub(super) fn read(&self, _: &mut [u8]) -> io::Result<usize> {
            match *self {}
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{Ipv4Addr, TcpListener, TcpStream},
    };

    use super::*;

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// How many lie idle, and how many there are.
    fn numbers(pipes: &Pipes) -> (usize, usize) {
        let shelf = pipes.shelf();
        (shelf.idle.len(), shelf.made)
    }

    #[test]
    fn no_more_are_lent_than_there_may_be_and_a_returned_one_is_lent_again() {
        let pipes = Pipes::new(2);
        let (first, second) = (pipes.take().unwrap(), pipes.take().unwrap());
        assert!(pipes.take().is_none());
        drop(first);
        assert!(pipes.take().is_some());
        drop(second);
        assert_eq!(numbers(&pipes), (2, 2));
        assert!(!Pipes::new(0).is_there());
    }

    #[test]
    fn bytes_cross_a_pipe_or_are_unloaded_and_a_full_one_is_never_lent_again() {
        let pipes = Pipes::new(1);
        let (mut client, source) = sockets();
        let (sink, mut far) = sockets();
        client.write_all(b"crossing").unwrap();
        let mut lease = pipes.take().unwrap();
        while lease.held() < 8 {
            let _ = lease.fill(&source, 8 - lease.held());
        }
        assert_eq!(lease.drain(&sink).unwrap(), 8);
        let mut arrived = [0; 8];
        far.read_exact(&mut arrived).unwrap();
        assert_eq!(&arrived, b"crossing");
        client.write_all(b"stay").unwrap();
        while lease.held() < 4 {
            let _ = lease.fill(&source, 4 - lease.held());
        }
        let mut out = b"they ".to_vec();
        lease.unload(&mut out).unwrap();
        assert_eq!((&out[..], lease.held()), (&b"they stay"[..], 0));
        client.write_all(b"lost").unwrap();
        while lease.held() < 4 {
            let _ = lease.fill(&source, 4 - lease.held());
        }
        drop(lease);
        assert_eq!(numbers(&pipes), (0, 0));
        assert_eq!(pipes.take().unwrap().held(), 0);
    }
}
