//! Connections by the ten thousand to one port: every one comes from an address and a port of its
//! own, named here. Left to choose, the system searches longer and longer for a port that no
//! connection of the last minute had, and the search would be measured too.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, bail};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

const FIRST_PORT: u32 = 33_000;
const PORTS: u32 = 27_000;

/// The loopback's, from 127.0.0.2 on.
const ADDRESSES: u32 = 200;

/// How many that are taken are passed over.
const TRIES: usize = 20_000;

/// Connects, and waits for it.
pub(crate) fn dial(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = bound(Type::STREAM)?;
    socket.connect(&addr.into()).context("no connection")?;
    Ok(socket.into())
}

/// Begins to connect a socket that does not block.
pub(crate) fn begin(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = bound(Type::STREAM.nonblocking())?;
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
            Err(error).context("no connection")
        }
        _ => Ok(socket.into()),
    }
}

fn bound(how: Type) -> anyhow::Result<Socket> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let socket = Socket::new(Domain::IPV4, how, None)?;
    // Connections of a run that has just ended hold theirs for a minute.
    let run = std::process::id();
    for _ in 0..TRIES {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // Ports first: many addresses on one port would be searched one by one.
        let (port, host) = (FIRST_PORT + next % PORTS, 2 + (run + next / PORTS) % ADDRESSES);
        let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host as u8), port as u16));
        match socket.bind(&from.into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            done => return done.map(|()| socket).context("no address to come from"),
        }
    }
    bail!("{TRIES} addresses in a row are taken")
}
