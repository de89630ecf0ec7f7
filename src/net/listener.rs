//! Listening sockets and accepted connections: bind, accept with back-off, count.
//!
//! The accept loop awaits nothing but the next connection, and survives whatever accept fails
//! with. What a connection carries is found out elsewhere.

mod acceptor;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio_util::sync::CancellationToken;

use self::acceptor::Acceptor;
use super::{
    access::AddressPermit,
    refusals::Refusals,
    strangers::{Stranger, Strangers},
    stream::{PlainStream, Stream},
};
use crate::metrics::Metrics;

/// How many connections may wait to be accepted. The kernel lowers it to `net.core.somaxconn`,
/// which is the operator's to raise.
const BACKLOG: i32 = i32::MAX;

/// How many connections are accepted in a row before everything else on the thread has its turn.
const BATCH: usize = 32;

/// How long accepting rests after a failure such as running out of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// A failing accept is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {hint}")]
pub struct ListenError {
    addr: SocketAddr,
    hint: &'static str,
    #[source]
    source: io::Error,
}

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
    max: usize,
    open: Arc<AtomicUsize>,
    strangers: Arc<Strangers>,
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
    pub fn bind(addr: SocketAddr, keepalive: Duration) -> Result<Self, ListenError> {
        let bound = match open(addr, keepalive) {
            Err(error) if addr.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
                let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
                tracing::info!(address = %v4, "no IPv6 on this machine: listening on IPv4 only");
                open(v4, keepalive)
            }
            bound => bound,
        };
        bound
            .and_then(|socket| Ok(Self { addr: socket.local_addr()?, socket }))
            .map_err(|source| ListenError { addr, hint: hint(&source), source })
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
        let socket = socket.map_err(|source| ListenError {
            addr: self.addr,
            hint: hint(&source),
            source,
        })?;
        Ok(Self { socket, addr: self.addr })
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
        Arc::new(Self { max, open: Arc::default(), strangers: Arc::default(), metrics, refusals })
    }

    /// The same connections, and room for `more` of them: for listeners that must answer when the
    /// others are full.
    pub fn with_reserve(&self, more: usize) -> Arc<Self> {
        Arc::new(Self {
            max: self.max.saturating_add(more),
            open: Arc::clone(&self.open),
            strangers: Arc::clone(&self.strangers),
            metrics: Arc::clone(&self.metrics),
            refusals: Arc::clone(&self.refusals),
        })
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets the oldest stranger give way, so that its place is free; `false` when nobody can.
    fn make_room(&self) -> bool {
        let has_room = self.strangers.displace_oldest();
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
        if before >= self.max && !self.make_room() {
            let why = format_args!(
                "{} connections are open; raise front_door.max_connections, and ulimit -n, if this is no flood",
                self.max
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

fn open(addr: SocketAddr, keepalive: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if let IpAddr::V6(ip) = addr.ip() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    // A restart must not wait for old connections. Never SO_REUSEPORT: a second process would
    // start silently and split pairs. (On Windows this option means just that.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Connections inherit both from the listener on Linux, which saves two calls each.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive))?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

const fn inherits_options() -> bool {
    cfg!(target_os = "linux")
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
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

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "something listens there already (another relay, or hbbr): stop it, or choose another port with -p"
        }
        io::ErrorKind::AddrNotAvailable => "the address is not one of this machine's",
        io::ErrorKind::PermissionDenied => "not allowed: ports below 1024 need a privilege",
        _ => "the system refused",
    }
}
