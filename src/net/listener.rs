//! Listening sockets and accepted connections: bind, accept with back-off, count.
//!
//! The accept loop awaits nothing but the next connection, and survives whatever accept fails
//! with. What a connection carries is found out elsewhere.

mod acceptor;
mod socket;

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

pub use self::socket::ListenError;
use self::{
    acceptor::Acceptor,
    socket::{adopted, bound},
};
use super::{
    access::AddressPermit,
    inherited::{Inherited, Purpose},
    liveness::Liveness,
    refusals::Refusals,
    strangers::{Stranger, Strangers},
    stream::{PlainStream, Stream},
};
use crate::metrics::Metrics;

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

/// How many connections may be open, and how many are; and who gives way to one more.
pub struct ConnectionLimit {
    max: Arc<AtomicUsize>,
    /// What this door has beyond the others'.
    reserve: usize,
    open: Arc<AtomicUsize>,
    strangers: Arc<Strangers>,
    /// Those of others, that give way before its own do.
    lesser: Option<Arc<Strangers>>,
    metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
}

/// One of the connections that may be open; given back when dropped.
pub struct ConnectionPermit {
    all: Arc<ConnectionLimit>,
    /// Its place among those of its address.
    pub address: AddressPermit,
    /// Until it has said who it is, if that had to be waited for.
    stranger: Option<Arc<Stranger>>,
}

impl Listener {
    /// Listens on `addr`; `[::]` takes IPv4 too, and becomes `0.0.0.0` where there is no IPv6.
    ///
    /// # Errors
    /// When the address is taken, not ours, or not allowed.
    pub fn bind(addr: SocketAddr, liveness: Liveness) -> Result<Self, ListenError> {
        bound(addr, liveness).map(|(socket, addr)| Self { socket, addr })
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
                Some(socket) => Self::adopt(socket, addr, liveness)?,
                None => Self::bind(addr, liveness)?,
            });
        }
        for socket in inherited.take_named(purpose) {
            let addr = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
            listeners.push(Self::adopt(socket, addr, liveness)?);
        }
        Ok(listeners)
    }

    fn adopt(
        socket: TcpListener,
        addr: SocketAddr,
        liveness: Liveness,
    ) -> Result<Self, ListenError> {
        adopted(socket, liveness)
            .map(|(socket, addr)| Self { socket, addr })
            .map_err(|error| ListenError::new(addr, error))
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
        Ok(Self { socket, addr: self.addr })
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

impl ConnectionLimit {
    /// Room for `max` connections.
    pub fn new(max: usize, metrics: Arc<Metrics>, refusals: Arc<Refusals>) -> Arc<Self> {
        let max = Arc::new(AtomicUsize::new(max));
        let (open, strangers) = (Arc::default(), Arc::default());
        Arc::new(Self { max, reserve: 0, open, strangers, lesser: None, metrics, refusals })
    }

    /// The same connections, and room for `more` of them: for listeners that must answer when the
    /// others are full. The others' strangers give way to theirs, and theirs to nobody else's.
    pub fn with_reserve(&self, more: usize) -> Arc<Self> {
        Arc::new(Self {
            max: Arc::clone(&self.max),
            reserve: self.reserve.saturating_add(more),
            open: Arc::clone(&self.open),
            strangers: Arc::default(),
            lesser: Some(Arc::clone(&self.strangers)),
            metrics: Arc::clone(&self.metrics),
            refusals: Arc::clone(&self.refusals),
        })
    }

    /// Makes room for `max` from here on. Those that are open stay, however many they are.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed).saturating_add(self.reserve)
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets the oldest stranger give way, so that its place is free; `false` when nobody can.
    fn make_room(&self) -> bool {
        let mut lines = self.lesser.iter().chain([&self.strangers]);
        let has_room = lines.any(|strangers| strangers.displace_oldest());
        if has_room {
            self.closed();
        }
        has_room
    }

    fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections_open.decrement(1.0);
    }

    /// Counts a connection in, if there is room for it, or somebody who gives way to it.
    pub fn admit(
        self: &Arc<Self>,
        socket: PlainStream,
        peer: SocketAddr,
    ) -> Option<Connection<PlainStream>> {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // Counted first: `permit` gives its place back also when there was none.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections_open.increment(1.0);
        let (all, address) = (Arc::clone(self), AddressPermit::default());
        let permit = ConnectionPermit { all, address, stranger: None };
        let max = self.max();
        if before >= max && !self.make_room() {
            let why = format_args!(
                "{max} connections are open; raise front_door.max_connections, and ulimit -n, if this is no flood"
            );
            self.refusals.refuse(peer, "connection_limit", &why);
            return None;
        }
        if !inherits_options() {
            // Only latency is at stake, so a refusal is no reason to close.
            let _ = socket.set_nodelay(true);
        }
        Some(Connection { socket, peer, permit })
    }
}

impl ConnectionPermit {
    /// The connection has to be waited for: from here on it may have to give way.
    pub fn wait(&mut self) -> Arc<Stranger> {
        Arc::clone(self.stranger.get_or_insert_with(|| self.all.strangers.enter()))
    }

    /// Who has to be waited for.
    pub const fn stranger(&self) -> Option<&Arc<Stranger>> {
        self.stranger.as_ref()
    }

    /// It has said who it is; `false` when it had to give way before.
    pub fn let_in(&mut self) -> bool {
        let let_in = self.stranger.as_ref().is_none_or(|stranger| stranger.is_let_in());
        if let_in {
            self.stranger = None;
        }
        let_in
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let was_displaced = self.stranger.as_ref().is_some_and(|stranger| stranger.leave());
        // The place of who gave way was given to another.
        if !was_displaced {
            self.all.closed();
        }
    }
}

impl std::fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionPermit")
    }
}

const fn inherits_options() -> bool {
    cfg!(target_os = "linux")
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
