//! Listening sockets that somebody else has bound: the service manager (socket activation), or the
//! process that this one takes over from. What waits in their queues has never been refused.

use std::{
    env, fmt,
    net::{SocketAddr, TcpListener},
};

use listenfd::ListenFd;

/// Those that nobody has taken yet.
#[derive(Default)]
pub struct Inherited(Vec<Heir>);

/// One of them.
struct Heir {
    socket: TcpListener,
    /// The setting that it answers: where it listens, or with port 0 what was asked for.
    addr: SocketAddr,
    /// What it is for, if that was said.
    purpose: Option<Purpose>,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The front door.
    Relay,
    /// The admin API alone.
    Admin,
    /// The other nodes.
    Cluster,
}

impl Purpose {
    /// The purpose that a socket unit's `FileDescriptorName` says.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "relay" => Some(Self::Relay),
            "admin" => Some(Self::Admin),
            "cluster" => Some(Self::Cluster),
            _ => None,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Admin => "admin",
            Self::Cluster => "cluster",
        })
    }
}

impl Inherited {
    /// Those of `LISTEN_FDS`, with their names if `LISTEN_FDNAMES` has any.
    pub fn from_environment() -> Self {
        let mut fds = ListenFd::from_env();
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut inherited = Self::default();
        for index in 0..fds.len() {
            let purpose = names.get(index).and_then(|name| Purpose::named(name));
            let socket = fds.take_tcp_listener(index).ok().flatten();
            let socket =
                socket.and_then(|socket| socket.local_addr().map(|addr| (socket, addr)).ok());
            match socket {
                Some((socket, addr)) => inherited.add(socket, addr, purpose),
                None => tracing::warn!(index, "an inherited descriptor is no TCP listener: unused"),
            }
        }
        inherited
    }

    /// One more.
    pub fn add(&mut self, socket: TcpListener, addr: SocketAddr, purpose: Option<Purpose>) {
        self.0.push(Heir { socket, addr, purpose });
    }

    /// The one that listens where a setting wants it to.
    pub(super) fn take(&mut self, purpose: Purpose, addr: SocketAddr) -> Option<TcpListener> {
        let will_do =
            |heir: &Heir| heir.addr == addr && heir.purpose.is_none_or(|own| own == purpose);
        let index = self.0.iter().position(will_do)?;
        Some(self.0.remove(index).socket)
    }

    /// Those that are named as being for this, though no setting names their addresses.
    pub(super) fn take_named(&mut self, purpose: Purpose) -> Vec<TcpListener> {
        let named = self.0.extract_if(.., |heir| heir.purpose == Some(purpose));
        named.map(|heir| heir.socket).collect()
    }

    /// Closes those that no setting wanted, and says so.
    pub fn close_rest(self) {
        for heir in self.0 {
            tracing::warn!(
                address = %heir.addr,
                "an inherited socket listens where none of listen, admin.listen and cluster.listen says, and has no name (relay, admin, cluster): it is closed"
            );
        }
    }
}
