//! A socket as TLS uses it: on a runtime, or as it is now.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::TcpStream,
};

use crate::net::tls::Socket;

/// A socket on the runtime, which wakes the task once it is ready.
pub(super) struct Watched<'a, 'b> {
    pub(super) socket: &'a mut TcpStream,
    pub(super) cx: &'a mut Context<'b>,
}

impl Socket for Watched<'_, '_> {
    fn poll_read(&mut self, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    fn poll_write(&mut self, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket).poll_write(self.cx, from)
    }

    fn shut_down(&mut self) -> io::Result<()> {
        SockRef::from(&*self.socket).shutdown(Shutdown::Write)
    }
}

/// A socket as it is now; nobody is woken.
pub(super) struct Unwatched<'a>(pub(super) SockRef<'a>);

impl Socket for Unwatched<'_> {
    fn poll_read(&mut self, into: &mut [u8]) -> Poll<io::Result<usize>> {
        now(io::Read::read(&mut &*self.0, into))
    }

    fn poll_write(&mut self, from: &[u8]) -> Poll<io::Result<usize>> {
        now(self.0.send(from))
    }

    fn shut_down(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }
}

fn now(done: io::Result<usize>) -> Poll<io::Result<usize>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}
