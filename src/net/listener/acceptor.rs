//! Accepting without a registration: a new socket is not put on the runtime before anybody has to
//! wait for it.

use std::{io, net::SocketAddr};

#[cfg(unix)]
pub(super) use self::by_readiness::Acceptor;
#[cfg(not(unix))]
pub(super) use self::by_runtime::Acceptor;
use crate::net::stream::PlainStream;

#[cfg(unix)]
mod by_readiness {
    use std::net::TcpListener;

    use tokio::io::{Interest, unix::AsyncFd};

    use super::{PlainStream, SocketAddr, io};

    /// A listening socket on this thread's runtime. Several may share one, each on a thread of its
    /// own.
    pub(in super::super) struct Acceptor(AsyncFd<TcpListener>);

    impl Acceptor {
        #[expect(
            deprecated,
            reason = "for types that do not own their descriptor; the other way to do it is unsafe"
        )]
        pub(in super::super) fn new(listener: TcpListener) -> io::Result<Self> {
            AsyncFd::with_interest(listener, Interest::READABLE).map(Self)
        }

        /// The next connection, its socket non-blocking and known to no runtime.
        pub(in super::super) async fn accept(&self) -> io::Result<(PlainStream, SocketAddr)> {
            loop {
                let mut ready = self.0.readable().await?;
                if let Ok(accepted) = ready.try_io(|listener| accept(listener.get_ref())) {
                    return accepted;
                }
            }
        }
    }

    /// One call to the kernel where it can make the socket non-blocking on the way.
    #[cfg(target_os = "linux")]
    fn accept(listener: &TcpListener) -> io::Result<(PlainStream, SocketAddr)> {
        use rustix::net::{SocketFlags, acceptfrom_with};
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = acceptfrom_with(listener, flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        // The kernel names the peer of every TCP connection.
        let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
        Ok((socket.into(), peer))
    }

    #[cfg(not(target_os = "linux"))]
    fn accept(listener: &TcpListener) -> io::Result<(PlainStream, SocketAddr)> {
        let (socket, peer) = listener.accept()?;
        socket.set_nonblocking(true)?;
        Ok((socket, peer))
    }
}

#[cfg(not(unix))]
mod by_runtime {
    use std::net::TcpListener;

    use super::{PlainStream, SocketAddr, io};

    /// A listening socket on this thread's runtime, which knows no other way to wait for one.
    pub(in super::super) struct Acceptor(tokio::net::TcpListener);

    impl Acceptor {
        pub(in super::super) fn new(listener: TcpListener) -> io::Result<Self> {
            tokio::net::TcpListener::from_std(listener).map(Self)
        }

        pub(in super::super) async fn accept(&self) -> io::Result<(PlainStream, SocketAddr)> {
            let (socket, peer) = self.0.accept().await?;
            Ok((socket.into_std()?, peer))
        }
    }
}
