//! The byte stream of a connection, plain TCP or TLS over it, and its two states: on a runtime, or
//! parked.
//!
//! A relay's way from accept to its end knows only these. What a plain stream does is what its
//! socket does; of TLS everything is `tls`' own, and here it is tied to a socket.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::tls::{Session, Socket};

/// A socket that no runtime knows: it costs a descriptor, and calls on it do not wait.
pub type PlainStream = std::net::TcpStream;

/// A stream on a runtime.
///
/// What a TLS stream has accepted may not have gone yet: [`Stream::unsent`] tells, and flushing
/// waits for it. A plain one keeps nothing.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    // Boxed: most relays have none, and all would pay for its place.
    tls: Option<Box<Session>>,
}

/// A stream that nobody watches.
#[derive(Debug)]
pub struct ParkedStream {
    socket: PlainStream,
    tls: Option<Box<Session>>,
}

impl Stream {
    /// Puts a plain socket on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn plain(socket: PlainStream) -> io::Result<Self> {
        Ok(Self { socket: TcpStream::from_std(socket)?, tls: None })
    }

    /// The stream within TLS.
    pub(super) fn within(self, session: Box<Session>) -> Self {
        debug_assert!(self.tls.is_none(), "TLS within TLS");
        Self { tls: Some(session), ..self }
    }

    /// The TLS that it is within.
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.tls.as_deref_mut()
    }

    /// Goes on with a handshake by what one read brings.
    pub(super) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self;
        let Some(tls) = tls else { return Poll::Ready(Ok(())) };
        tls.poll_progress(&mut Watched { socket, cx })
    }

    /// Takes it off the runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn park(self) -> io::Result<ParkedStream> {
        Ok(ParkedStream { socket: self.socket.into_std()?, tls: self.tls })
    }

    /// Its socket, if the stream's bytes are the socket's own: what goes around the stream, as
    /// splice(2) does, may do so here only.
    pub const fn as_plain(&self) -> Option<&TcpStream> {
        match self.tls {
            None => Some(&self.socket),
            Some(_) => None,
        }
    }

    /// Whether there is something to read, or the end; asks to be woken when there is.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.tls.as_ref().is_some_and(|tls| tls.is_readable()) {
            return Poll::Ready(());
        }
        // An error is found by the read.
        self.socket.poll_read_ready(cx).map(drop)
    }

    /// Whether it is TLS.
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// How many bytes were accepted, and sealed, that the socket has not taken.
    pub fn unsent(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.unsent())
    }

    /// What it cost to read these `len` bytes, in bytes that it costs as much to move: more than
    /// them where a peer sends tiny records.
    pub fn toil(&mut self, len: usize) -> usize {
        self.tls.as_mut().map_or(len, |tls| tls.take_toil().max(len))
    }

    /// Tries a socket that is taken for unwritable, and does not ask to be woken: with `bytes`, or
    /// with what is [unsent](Self::unsent). How many of `bytes` were accepted.
    ///
    /// # Errors
    /// When nothing is taken now, or ever.
    pub fn nudge(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let socket = SockRef::from(&self.socket);
        let Some(tls) = &mut self.tls else { return socket.send(bytes) };
        match tls.poll_flush(&mut Unwatched(socket)) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(0),
        }
    }

    /// Tells the peer's TLS that nothing more comes, if it takes that at once.
    pub fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            let _ = tls.poll_flush(&mut Unwatched(SockRef::from(&self.socket)));
        }
    }
}

impl ParkedStream {
    /// A plain socket.
    pub const fn plain(socket: PlainStream) -> Self {
        Self { socket, tls: None }
    }

    /// Its socket, to be taken elsewhere; a stream that is more than its socket comes back.
    ///
    /// # Errors
    /// The stream, when it has a state that cannot leave the process.
    pub fn into_plain(self) -> Result<PlainStream, Self> {
        let Self { socket, tls } = self;
        match tls {
            None => Ok(socket),
            // The keys of a session stay in the process that agreed on them.
            tls => Err(Self { socket, tls }),
        }
    }

    /// Puts it on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wake(self) -> io::Result<Stream> {
        Ok(Stream { socket: TcpStream::from_std(self.socket)?, tls: self.tls })
    }

    /// What the kernel knows of it.
    pub const fn socket(&self) -> &PlainStream {
        &self.socket
    }

    /// Whether it is TLS.
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What has come through TLS is moved to `to`, so much as one read takes. Whether more may
    /// come; always so of a plain stream, which is left alone.
    pub(super) fn read_ahead(&mut self, to: &mut Vec<u8>) -> bool {
        let Some(tls) = &mut self.tls else { return true };
        let read = tls.read_ahead(&mut Unwatched(SockRef::from(&self.socket)), to);
        read.is_ok() && !tls.has_ended()
    }

    /// Sends the whole of a few bytes through TLS, or fails.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        let Some(tls) = &mut self.tls else { return false };
        let mut socket = Unwatched(SockRef::from(&self.socket));
        let written = tls.poll_write(&mut socket, &[IoSlice::new(bytes)]);
        matches!(written, Poll::Ready(Ok(_))) && tls.poll_flush(&mut socket).is_ready()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            None => Pin::new(socket).poll_read(cx, buf),
            Some(tls) => tls.poll_read(&mut Watched { socket, cx }, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            None => Pin::new(socket).poll_write(cx, buf),
            Some(tls) => tls.poll_write(&mut Watched { socket, cx }, &[IoSlice::new(buf)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            None => Pin::new(socket).poll_write_vectored(cx, bufs),
            Some(tls) => tls.poll_write(&mut Watched { socket, cx }, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.poll_flush(&mut Watched { socket, cx }),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            None => Poll::Ready(SockRef::from(&*socket).shutdown(Shutdown::Write)),
            Some(tls) => tls.poll_shutdown(&mut Watched { socket, cx }),
        }
    }
}

/// A socket on the runtime, which wakes the task once it is ready.
struct Watched<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
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
struct Unwatched<'a>(SockRef<'a>);

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
