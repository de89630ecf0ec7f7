//! The listening socket: bound with the options that its connections inherit.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::net::liveness::Liveness;

/// How many connections may wait to be accepted. The kernel lowers it to `net.core.somaxconn`,
/// which is the operator's to raise.
const BACKLOG: i32 = i32::MAX;

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {hint}")]
pub struct ListenError {
    addr: SocketAddr,
    hint: &'static str,
    #[source]
    source: io::Error,
}

impl ListenError {
    pub(super) fn new(addr: SocketAddr, source: io::Error) -> Self {
        Self { addr, hint: hint(&source), source }
    }
}

/// A socket that listens on `addr`, and where it really does; `[::]` becomes `0.0.0.0` where there
/// is no IPv6.
pub(super) fn bound(
    addr: SocketAddr,
    liveness: Liveness,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let bound = match open(addr, liveness) {
        Err(error) if addr.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            tracing::info!(address = %v4, "no IPv6 on this machine: listening on IPv4 only");
            open(v4, liveness)
        }
        bound => bound,
    };
    bound
        .and_then(|socket| socket.local_addr().map(|addr| (socket, addr)))
        .map_err(|source| ListenError::new(addr, source))
}

/// A socket that somebody else bound, with the options of ours, and where it listens.
pub(super) fn adopted(
    listener: TcpListener,
    liveness: Liveness,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let unknown = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let addr = listener.local_addr().map_err(|error| ListenError::new(unknown, error))?;
    let options = || {
        let socket = socket2::SockRef::from(&listener);
        set_options(&socket, liveness)?;
        // Whoever bound it may have had a shorter queue in mind.
        socket.listen(BACKLOG)
    };
    options().map_err(|error| ListenError::new(addr, error))?;
    Ok((listener, addr))
}

fn open(addr: SocketAddr, liveness: Liveness) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if let IpAddr::V6(ip) = addr.ip() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    // A restart must not wait for old connections. Never SO_REUSEPORT: a second process would
    // start silently and split pairs. (On Windows this option means just that.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    set_options(&socket, liveness)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn set_options(socket: &Socket, liveness: Liveness) -> io::Result<()> {
    // Connections inherit all of these from the listener on Linux, which saves calls for each.
    socket.set_tcp_nodelay(true)?;
    liveness.apply(socket)?;
    socket.set_nonblocking(true)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
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
