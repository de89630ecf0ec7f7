//! Listening sockets and accepted connections: bind, accept with back-off, count.
//!
//! The accept loop awaits nothing but the next connection, and survives whatever accept fails
//! with. What a connection carries is found out elsewhere.

mod acceptor;
mod limit;
mod socket;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::{
    acceptor::Acceptor,
    socket::{adopted, bound},
};
pub use self::{
    limit::{ConnectionLimit, ConnectionPermit},
    socket::ListenError,
};
use super::{
    inherited::{Inherited, Purpose},
    liveness::Liveness,
    stream::{PlainStream, Stream},
};

/// How many connections are accepted in a row before everything else on the thread has its turn.
const BATCH: usize = 32;

/// How long accepting rests after a failure such as running out of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// A failing accept is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A bound socket.
pub struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    /// What its setting says; `addr` where none does.
    asked: SocketAddr,
    /// What it is for, if that is its own name's and no setting's to say.
    named: Option<Purpose>,
}

/// An accepted connection, counted for as long as it lives. Its socket is on a runtime, or plain.
#[derive(Debug)]
pub struct Connection<S = Stream> {
    /// The socket.
    pub socket: S,
    /// Who it is, an IPv4 address as such.
    pub peer: SocketAddr,
    /// Its place among the connections that may be open.
    pub permit: ConnectionPermit,
}

impl Listener {
    /// Listens on `addr`; `[::]` takes IPv4 too, and becomes `0.0.0.0` where there is no IPv6.
    ///
    /// # Errors
    /// When the address is taken, not ours, or not allowed.
    pub fn bind(addr: SocketAddr, liveness: Liveness) -> Result<Self, ListenError> {
        let (socket, bound) = bound(addr, liveness)?;
        Ok(Self { socket, addr: bound, asked: addr, named: None })
    }

    /// The listeners for `addrs`: those that were inherited, and the others bound; and those that
    /// are named as being for this.
    ///
    /// # Errors
    /// When an address is taken, not ours, or not allowed.
    pub fn inherit_or_bind(
        addrs: &[SocketAddr],
        purpose: Purpose,
        inherited: &mut Inherited,
        liveness: Liveness,
    ) -> Result<Vec<Self>, ListenError> {
        let mut listeners = Vec::new();
        for &addr in addrs {
            listeners.push(match inherited.take(purpose, addr) {
                Some(socket) => Self { asked: addr, ..Self::adopt(socket, None, liveness)? },
                None => Self::bind(addr, liveness)?,
            });
        }
        for socket in inherited.take_named(purpose) {
            listeners.push(Self::adopt(socket, Some(purpose), liveness)?);
        }
        Ok(listeners)
    }

    fn adopt(
        socket: TcpListener,
        named: Option<Purpose>,
        liveness: Liveness,
    ) -> Result<Self, ListenError> {
        let (socket, addr) = adopted(socket, liveness)?;
        Ok(Self { socket, addr, asked: addr, named })
    }

    /// What its setting asked for, a port of 0 too.
    pub const fn asked(&self) -> SocketAddr {
        self.asked
    }

    /// What its name says that it is for, if no setting does.
    pub const fn named(&self) -> Option<Purpose> {
        self.named
    }

    /// Where it listens, the real port where 0 was asked for.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same socket once more, for another thread to accept from.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn share(&self) -> Result<Self, ListenError> {
        let socket = self.socket.try_clone();
        let socket = socket.map_err(|error| ListenError::new(self.addr, error))?;
        Ok(Self { socket, ..*self })
    }

    /// Sets how soon a peer that vanished is missed, for the connections that are accepted from
    /// here on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_liveness(&self, liveness: Liveness) -> io::Result<()> {
        liveness.apply(&self.socket)
    }

    /// Hands every connection to `serve`, which must not block, until `stop` is cancelled.
    ///
    /// # Errors
    /// When the runtime cannot watch the listener.
    pub async fn accept_until(
        self,
        stop: CancellationToken,
        limit: Arc<ConnectionLimit>,
        mut serve: impl FnMut(Connection<PlainStream>),
    ) -> io::Result<()> {
        let acceptor = Acceptor::new(self.socket)?;
        let mut faults = Faults { logged: None, addr: self.addr };
        let mut stopped = pin!(stop.cancelled());
        loop {
            for _ in 0..BATCH {
                let accepted = tokio::select! {
                    biased;
                    () = &mut stopped => return Ok(()),
                    accepted = acceptor.accept() => accepted,
                };
                let fault = match accepted {
                    Ok((socket, peer)) => {
                        limit.admit(socket, peer).into_iter().for_each(&mut serve);
                        continue;
                    }
                    Err(fault) => fault,
                };
                limit.metrics.accept_errors.increment(1);
                if is_about_one_connection(&fault) {
                    continue;
                }
                faults.tell(&fault);
                if is_about_room(&fault) && limit.make_room() {
                    // Who gives way lets go of its descriptor when its task has its turn.
                    break;
                }
                tokio::select! {
                    () = &mut stopped => return Ok(()),
                    () = tokio::time::sleep(BACK_OFF) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a failing accept has said, which is not to be said with every try.
struct Faults {
    logged: Option<Instant>,
    addr: SocketAddr,
}

impl Faults {
    fn tell(&mut self, error: &io::Error) {
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::error!(%error, listener = %self.addr, "cannot accept connections: the oldest that have not said who they are give way; if descriptors ran out, raise LimitNOFILE or ulimit -n");
        }
    }
}

impl<S> Connection<S> {
    /// The same connection, its socket wrapped.
    pub fn with_socket<T>(self, wrap: impl FnOnce(S) -> T) -> Connection<T> {
        let Self { socket, peer, permit } = self;
        Connection { socket: wrap(socket), peer, permit }
    }

    /// The same connection by another kind of socket.
    ///
    /// # Errors
    /// When there is none.
    pub fn map_socket<T>(
        self,
        change: impl FnOnce(S) -> io::Result<T>,
    ) -> io::Result<Connection<T>> {
        let Self { socket, peer, permit } = self;
        Ok(Connection { socket: change(socket)?, peer, permit })
    }
}

/// The connection that was to be accepted is gone; the listener is well.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// The system, or the process, has no room for one more: descriptors or memory.
fn is_about_room(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn connections_have_the_timers_that_were_last_set_through_any_copy() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener =
            Listener::bind(any, Liveness::new(Duration::from_secs(60), Duration::from_secs(30)))
                .unwrap();
        let copy = listener.share().unwrap();
        for seconds in [60, 7] {
            let keepalive = Duration::from_secs(seconds);
            copy.set_liveness(Liveness::new(keepalive, keepalive)).unwrap();
            let _client = PlainStream::connect(listener.addr()).unwrap();
            listener.socket.set_nonblocking(false).unwrap();
            let (accepted, _) = listener.socket.accept().unwrap();
            let time = SockRef::from(&accepted).tcp_keepalive_time();
            assert_eq!(time.unwrap(), keepalive);
        }
    }
}
