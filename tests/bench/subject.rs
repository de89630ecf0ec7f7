//! What is measured: a relay, or a yardstick that is given the same work.

use std::{
    fmt,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use mini_rust_desk_relay_server::wire::Transport;
use socket2::SockRef;

use crate::{
    client::{Leg, unique_uuid},
    peers,
    process::{Ending, Process, free_port},
};

/// Long enough for anything here to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// The admin API's, for the relays that are started here.
const TOKEN: &str = "a-token-of-the-benchmark";

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A build of this relay, by its place among those that are measured.
    Relay(usize),
    /// The least that a relay can do, with this many threads.
    Floor(usize),
    HaProxy,
    Nginx,
    /// None: the load generator connects to itself.
    Direct,
}

/// A running program and the way through it.
pub(crate) struct Subject {
    process: Option<Process>,
    addr: SocketAddr,
    /// Where the second leg of a pair comes out, if it is no relay.
    back_end: Option<TcpListener>,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(0) => f.write_str("relay"),
            Self::Relay(index) => write!(f, "relay-{}", index + 1),
            Self::Floor(_) => f.write_str("floor"),
            Self::HaProxy => f.write_str("haproxy"),
            Self::Nginx => f.write_str("nginx"),
            Self::Direct => f.write_str("direct"),
        }
    }
}

impl Kind {
    /// Why it cannot be measured here.
    pub(crate) fn missing(self) -> Option<String> {
        let (name, packages) = match self {
            Self::HaProxy => ("haproxy", "haproxy"),
            Self::Nginx => ("nginx", "nginx libnginx-mod-stream"),
            Self::Relay(_) | Self::Floor(_) | Self::Direct => return None,
        };
        peers::find(name)
            .is_none()
            .then(|| format!("SKIPPED: {name} is not installed (apt-get install {packages})"))
    }
}

impl Subject {
    pub(crate) fn start(kind: Kind, relays: &[PathBuf]) -> anyhow::Result<Self> {
        let addr = free_port()?;
        let dir = tempfile::tempdir().context("no directory")?;
        let (command, ending, back_end) = match kind {
            Kind::Relay(index) => (relay(&relays[index], addr), Ending::Kill, None),
            Kind::Floor(threads) => (floor(addr, threads)?, Ending::Kill, None),
            Kind::HaProxy => {
                let (back_end, to) = back_end()?;
                (peers::haproxy(dir.path(), addr, to)?, Ending::Kill, Some(back_end))
            }
            Kind::Nginx => {
                let (back_end, to) = back_end()?;
                (peers::nginx(dir.path(), addr, to)?, Ending::Terminate, Some(back_end))
            }
            Kind::Direct => {
                let (back_end, addr) = back_end()?;
                return Ok(Self { process: None, addr, back_end: Some(back_end) });
            }
        };
        let process = Process::start(command, dir, addr, ending)?;
        Ok(Self { process: Some(process), addr, back_end })
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The program that is measured.
    pub(crate) fn process(&self) -> anyhow::Result<&Process> {
        self.process.as_ref().context("there is no process between the two ends")
    }

    /// Processor time so far; `None` where there is no program.
    pub(crate) fn cpu(&self) -> anyhow::Result<Option<Duration>> {
        self.process.as_ref().map(Process::cpu).transpose()
    }

    /// The same by a finer clock, for little work.
    pub(crate) fn fine_cpu(&self) -> anyhow::Result<Option<Duration>> {
        self.process.as_ref().map(Process::fine_cpu).transpose()
    }

    /// Two legs that reach each other.
    pub(crate) fn pair(&self, [first, second]: [Transport; 2]) -> anyhow::Result<[Leg; 2]> {
        let uuid = unique_uuid();
        let Some(back_end) = &self.back_end else {
            let first = Leg::arrive(self.addr, first, &uuid)?;
            return Ok([first, Leg::arrive(self.addr, second, &uuid)?]);
        };
        let mut first = Leg::connect(self.addr, first)?;
        first.send(uuid.as_bytes())?;
        loop {
            let (socket, _) = back_end.accept().context("nothing comes out of the forwarder")?;
            let mut second = Leg::of(socket, second)?;
            // Looking whether a forwarder listens has left connections that say nothing.
            if second.receive(uuid.as_bytes()).is_ok() {
                return Ok([first, second]);
            }
        }
    }

    /// A number of the relay's own `/api/v1/stats`.
    pub(crate) fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let mut leg = Leg::connect(self.addr, Transport::Tcp)?;
        let request = format!(
            "GET /api/v1/stats HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\
             Authorization: Bearer {TOKEN}\r\n\r\n"
        );
        leg.send_raw(request.as_bytes())?;
        let mut answer = String::new();
        leg.socket.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").context("no answer of the admin API")?.1;
        let stats: serde_json::Value = serde_json::from_str(body)
            .with_context(|| format!("the admin API answers {answer}"))?;
        stats[name].as_u64().with_context(|| format!("no {name} in {stats}"))
    }

    /// Waits until the relay says so itself.
    pub(crate) fn until_stat(&self, name: &str, value: u64) -> anyhow::Result<()> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let now = self.stat(name)?;
            if now == value {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                bail!("{name} is {now}, not {value}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// As in production, save that nothing is ever too idle or too many here.
fn relay(binary: &Path, addr: SocketAddr) -> Command {
    let mut command = Command::new(binary);
    command.env_clear().arg("--listen").arg(addr.to_string());
    command.env("RELAY__ADMIN__TOKEN", TOKEN);
    command.env("RELAY__RELAY__IDLE_TIMEOUT", "1h");
    command.env("RELAY__PAIRING__TIMEOUT", "1h");
    command.env("RELAY__PAIRING__MAX_WAITING", "1000000");
    command
}

fn floor(addr: SocketAddr, threads: usize) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env_clear().arg("--floor").arg(addr.to_string()).arg(threads.to_string());
    Ok(command)
}

fn back_end() -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no back end")?;
    // accept heeds it too.
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}
