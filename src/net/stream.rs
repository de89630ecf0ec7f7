//! The byte stream of a connection, plain TCP or TLS over it, and its two states: on a runtime, or
//! parked.
//!
//! A relay's way from accept to its end knows only these. What a plain stream does is what its
//! socket does; of TLS everything is `tls`' own, and here it is tied to a socket.

mod broken;
mod socket;

use std::{
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use self::socket::{Unwatched, Watched};
use super::tls::Session;

/// A socket that no runtime knows: it costs a descriptor, and calls on it do not wait.
pub type PlainStream = std::net::TcpStream;

/// A stream on a runtime.
///
/// What a TLS stream has accepted may not have gone yet: [`Stream::unsent`] tells, and flushing
/// waits for it. A plain one keeps nothing.
#[derive(Debug)]
pub struct Stream(Over<TcpStream>);

/// A stream that nobody watches.
#[derive(Debug)]
pub struct ParkedStream(Over<PlainStream>);

#[derive(Debug)]
enum Over<S: Handle> {
    Plain(S),
    Tls(Tls<S>),
}

/// TLS over a socket. However it ends, the peer's TLS is told, if its socket takes that at once.
#[derive(Debug)]
struct Tls<S: Handle>(
    /// There until it goes on over another kind of socket.
    Option<Secured<S>>,
);

#[derive(Debug)]
struct Secured<S> {
    socket: S,
    // Boxed: most relays have none, and all would pay for its place.
    session: Box<Session>,
}

/// A socket, on a runtime or not.
trait Handle {
    fn handle(&self) -> SockRef<'_>;
}

impl Handle for TcpStream {
    fn handle(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

impl Handle for PlainStream {
    fn handle(&self) -> SockRef<'_> {
        SockRef::from(self)
    }
}

impl<S: Handle> Over<S> {
    fn map<T: Handle>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Over<T>> {
        Ok(match self {
            Self::Plain(socket) => Over::Plain(change(socket)?),
            Self::Tls(mut tls) => {
                let Secured { socket, session } = tls.take();
                Over::Tls(Tls::over(change(socket)?, session))
            }
        })
    }

    fn session(&self) -> Option<&Session> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(&tls.parts().session),
        }
    }

    fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(&mut tls.parts_mut().session),
        }
    }
}

impl<S: Handle> Tls<S> {
    const fn over(socket: S, session: Box<Session>) -> Self {
        Self(Some(Secured { socket, session }))
    }

    const fn parts(&self) -> &Secured<S> {
        match &self.0 {
            Some(parts) => parts,
            None => unreachable!(),
        }
    }

    const fn parts_mut(&mut self) -> &mut Secured<S> {
        match &mut self.0 {
            Some(parts) => parts,
            None => unreachable!(),
        }
    }

    /// Whoever takes them has the whole of it, and lets go of this.
    fn take(&mut self) -> Secured<S> {
        match self.0.take() {
            Some(parts) => parts,
            None => unreachable!(),
        }
    }
}

impl<S: Handle> Drop for Tls<S> {
    fn drop(&mut self) {
        if let Some(Secured { socket, session }) = &mut self.0 {
            session.close();
            let _ = session.poll_flush(&mut Unwatched(socket.handle()));
        }
    }
}

impl Stream {
    /// Puts a plain socket on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn plain(socket: PlainStream) -> io::Result<Self> {
        TcpStream::from_std(socket).map(Over::Plain).map(Self)
    }

    /// A plain socket that is on this thread's runtime already.
    pub const fn connected(socket: TcpStream) -> Self {
        Self(Over::Plain(socket))
    }

    /// The stream within TLS.
    pub(super) fn within(self, session: Box<Session>) -> Self {
        debug_assert!(!self.is_tls(), "TLS within TLS");
        match self.0 {
            Over::Plain(socket) => Self(Over::Tls(Tls::over(socket, session))),
            tls @ Over::Tls(_) => Self(tls),
        }
    }

    /// The TLS that it is within.
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.0.session_mut()
    }

    /// Goes on with a handshake by what one read brings.
    pub(super) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Over::Plain(_) => Poll::Ready(Ok(())),
            Over::Tls(tls) => tls.watched(cx, |session, socket| session.poll_progress(socket)),
        }
    }

    /// Takes it off the runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn park(self) -> io::Result<ParkedStream> {
        self.0.map(TcpStream::into_std).map(ParkedStream)
    }

    /// Its socket, if the stream's bytes are the socket's own: what goes around the stream, as
    /// splice(2) does, may do so here only.
    pub const fn as_plain(&self) -> Option<&TcpStream> {
        match &self.0 {
            Over::Plain(socket) => Some(socket),
            Over::Tls(_) => None,
        }
    }

    /// Whether there is something to read, or the end; asks to be woken when there is.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let socket = match &self.0 {
            Over::Plain(socket) => socket,
            Over::Tls(tls) if tls.parts().session.is_readable() => return Poll::Ready(()),
            Over::Tls(tls) => &tls.parts().socket,
        };
        // An error is found by the read.
        socket.poll_read_ready(cx).map(drop)
    }

    /// Whether it is TLS.
    pub const fn is_tls(&self) -> bool {
        matches!(self.0, Over::Tls(_))
    }

    /// Who is at its other end.
    ///
    /// # Errors
    /// When that has gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Over::Plain(socket) => socket.peer_addr(),
            Over::Tls(tls) => tls.parts().socket.peer_addr(),
        }
    }

    /// How many bytes were accepted, and sealed, that the socket has not taken.
    pub fn unsent(&self) -> usize {
        self.0.session().map_or(0, Session::unsent)
    }

    /// What it cost to read these `len` bytes, in bytes that it costs as much to move: more than
    /// them where a peer sends tiny records.
    pub fn toil(&mut self, len: usize) -> usize {
        self.session().map_or(len, |session| session.take_toil().max(len))
    }

    /// Tries a socket that is taken for unwritable, and does not ask to be woken: with `bytes`, or
    /// with what is [unsent](Self::unsent). How many of `bytes` were accepted.
    ///
    /// # Errors
    /// When nothing is taken now, or ever.
    pub fn nudge(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Secured { socket, session } = match &mut self.0 {
            Over::Plain(socket) => return socket.handle().send(bytes),
            Over::Tls(tls) => tls.parts_mut(),
        };
        match session.poll_flush(&mut Unwatched(socket.handle())) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(0),
        }
    }
}

impl Tls<TcpStream> {
    fn watched<R>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Session, &mut Watched<'_, '_>) -> R,
    ) -> R {
        let Secured { socket, session } = self.parts_mut();
        act(session, &mut Watched { socket, cx })
    }
}

impl ParkedStream {
    /// A plain socket.
    pub const fn plain(socket: PlainStream) -> Self {
        Self(Over::Plain(socket))
    }

    /// Its socket, to be taken elsewhere; a stream that is more than its socket comes back.
    ///
    /// # Errors
    /// The stream, when it has a state that cannot leave the process.
    pub fn into_plain(self) -> Result<PlainStream, Self> {
        match self.0 {
            Over::Plain(socket) => Ok(socket),
            // The keys of a session stay in the process that agreed on them.
            tls @ Over::Tls(_) => Err(Self(tls)),
        }
    }

    /// Puts it on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wake(self) -> io::Result<Stream> {
        self.0.map(TcpStream::from_std).map(Stream)
    }

    /// What the kernel knows of it.
    pub const fn socket(&self) -> &PlainStream {
        match &self.0 {
            Over::Plain(socket) => socket,
            Over::Tls(tls) => &tls.parts().socket,
        }
    }

    /// Whether it is TLS.
    pub const fn is_tls(&self) -> bool {
        matches!(self.0, Over::Tls(_))
    }

    /// What has come through TLS is moved to `to`, so much as one read takes. Whether more may
    /// come; always so of a plain stream, which is left alone.
    pub(super) fn read_ahead(&mut self, to: &mut Vec<u8>) -> bool {
        let Over::Tls(tls) = &mut self.0 else { return true };
        let Secured { socket, session } = tls.parts_mut();
        let read = session.read_ahead(&mut Unwatched(socket.handle()), to);
        read.is_ok() && !session.has_ended()
    }

    /// Sends the whole of a few bytes through TLS, or fails.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        let Over::Tls(tls) = &mut self.0 else { return false };
        let Secured { socket, session } = tls.parts_mut();
        let mut socket = Unwatched(socket.handle());
        let written = session.poll_write(&mut socket, &[IoSlice::new(bytes)]);
        matches!(written, Poll::Ready(Ok(_)))
            && matches!(session.poll_flush(&mut socket), Poll::Ready(Ok(())))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Over::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Over::Tls(tls) => tls.watched(cx, |session, socket| session.poll_read(socket, buf)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Over::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Over::Tls(tls) => {
                tls.watched(cx, |session, socket| session.poll_write(socket, &[IoSlice::new(buf)]))
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Over::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Over::Tls(tls) => tls.watched(cx, |session, socket| session.poll_write(socket, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Over::Plain(_) => Poll::Ready(Ok(())),
            Over::Tls(tls) => tls.watched(cx, |session, socket| session.poll_flush(socket)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Over::Plain(socket) => Poll::Ready(socket.handle().shutdown(Shutdown::Write)),
            Over::Tls(tls) => tls.watched(cx, |session, socket| session.poll_shutdown(socket)),
        }
    }
}
