//! The byte stream of a connection, and its two states: on a runtime, or parked.
//!
//! A relay's way from accept to its end knows only these; what stands between the socket and the
//! bytes is theirs.

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

/// A socket that no runtime knows: it costs a descriptor, and calls on it do not wait.
pub type PlainStream = std::net::TcpStream;

/// A stream on a runtime.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
}

/// A stream that nobody watches.
#[derive(Debug)]
pub struct ParkedStream {
    socket: PlainStream,
}

impl Stream {
    /// Puts a plain socket on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn plain(socket: PlainStream) -> io::Result<Self> {
        Ok(Self { socket: TcpStream::from_std(socket)? })
    }

    /// Takes it off the runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn park(self) -> io::Result<ParkedStream> {
        Ok(ParkedStream { socket: self.socket.into_std()? })
    }

    /// Its socket, if the stream's bytes are the socket's own: what goes around the stream, as
    /// splice(2) does, may do so here only.
    pub const fn as_plain(&self) -> Option<&TcpStream> {
        Some(&self.socket)
    }

    /// Whether there is something to read, or the end; asks to be woken when there is.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is found by the read.
        self.socket.poll_read_ready(cx).map(drop)
    }

    /// Writes what is taken now, and does not ask to be woken. How many bytes that was.
    ///
    /// # Errors
    /// When nothing is taken now, or ever.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not tokio's own: that would not try a socket which it takes for unwritable.
        SockRef::from(&self.socket).send(bytes)
    }
}

impl ParkedStream {
    /// A plain socket.
    pub const fn plain(socket: PlainStream) -> Self {
        Self { socket }
    }

    /// Puts it on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wake(self) -> io::Result<Stream> {
        Stream::plain(self.socket)
    }

    /// What the kernel knows of it.
    pub const fn socket(&self) -> &PlainStream {
        &self.socket
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.socket).shutdown(Shutdown::Write))
    }
}
