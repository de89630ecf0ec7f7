//! What is measured: a relay, or a yardstick that is given the same work.

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use mini_rust_desk_relay_server::wire::{
    Transport,
    rendezvous::{ConnType, request_relay},
};
use socket2::SockRef;

use crate::{
    client::{Leg, outgoing, unique_uuid},
    cluster::{Cluster, Crossing},
    kind::{Kind, Logs, Variant},
    peers,
    process::{Ending, Launch, Process, free_port},
    tls::Certificate,
};

/// Long enough for anything here to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// The admin API's, for the relays that are started here.
const TOKEN: &str = "a-token-of-the-benchmark";

/// A running program and the way through it.
pub(crate) struct Subject {
    process: Option<Process>,
    addr: SocketAddr,
    way: Way,
}

enum Way {
    /// Both legs say which pair they are of. Whether the program has an admin API.
    Relay {
        has_api: bool,
    },
    Wormhole,
    /// The same as of a relay, at any of the nodes.
    Cluster(Cluster),
    /// Where the second leg of a pair comes out. One at a time, or legs would be mixed up.
    Forwarder(Mutex<TcpListener>),
}

/// How a leg comes to its peer.
pub(crate) struct Greeting {
    pub(crate) says: Vec<u8>,
    /// What it then hears before anything of its peer's.
    pub(crate) hears: &'static [u8],
}

impl Subject {
    pub(crate) fn start(kind: Kind) -> anyhow::Result<Self> {
        let mut addr = free_port()?;
        let dir = tempfile::tempdir().context("no directory")?;
        let relay = |has_api| Way::Relay { has_api };
        let (launch, way) = match kind {
            Kind::Relay(variant, logs) => {
                let launch = Launch::new(self::relay(variant, logs, addr), Ending::Kill);
                (launch.with_output_read(logs == Logs::Pipe), relay(true))
            }
            Kind::TlsRelay(variant, logs) => {
                let certificate = Certificate::get()?;
                let mut command = self::relay(variant, logs, addr);
                command.env("RELAY__TLS__CERT", certificate.file("cert.pem"));
                command.env("RELAY__TLS__KEY", certificate.file("key.pem"));
                (Launch::new(command, Ending::Kill), relay(true))
            }
            Kind::Simulated => return Ok(Self { process: None, addr, way: relay(false) }),
            Kind::Cluster(variant, nodes) => {
                let cluster = Cluster::start(variant, nodes)?;
                let addr = cluster.nodes[0].addr;
                return Ok(Self { process: None, addr, way: Way::Cluster(cluster) });
            }
            Kind::TlsHaProxy => {
                // Plain and TLS on one port, as the relay has them, is nothing that it can do.
                let both = Certificate::get()?.file("both.pem");
                let command = peers::haproxy_that_answers(dir.path(), addr, &both)?;
                (Launch::new(command, Ending::Kill), relay(false))
            }
            Kind::Floor(threads) => {
                (Launch::new(floor(addr, threads)?, Ending::Kill), relay(false))
            }
            Kind::Wormhole => (Launch::new(peers::wormhole(addr), Ending::Kill), Way::Wormhole),
            Kind::HaProxy | Kind::Nginx | Kind::Socat | Kind::Direct => {
                let (back_end, to) = back_end()?;
                let way = Way::Forwarder(Mutex::new(back_end));
                let launch = match kind {
                    Kind::HaProxy => {
                        Launch::new(peers::haproxy(dir.path(), addr, to)?, Ending::Kill)
                    }
                    Kind::Nginx => {
                        Launch::new(peers::nginx(dir.path(), addr, to)?, Ending::Terminate)
                    }
                    Kind::Socat => Launch::new(peers::socat(addr, to)?, Ending::Group),
                    _ => {
                        addr = to;
                        return Ok(Self { process: None, addr, way });
                    }
                };
                (launch, way)
            }
        };
        let process = Process::start(launch, dir, addr)?;
        Ok(Self { process: Some(process), addr, way })
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the two sides of a pair go; the pairs are numbered.
    pub(crate) fn addrs(&self, crossing: Crossing, number: usize) -> [SocketAddr; 2] {
        match &self.way {
            Way::Cluster(cluster) => {
                crossing.nodes(number, cluster.nodes.len()).map(|node| cluster.nodes[node].addr)
            }
            _ => [self.addr; 2],
        }
    }

    pub(crate) fn cluster(&self) -> anyhow::Result<&Cluster> {
        match &self.way {
            Way::Cluster(cluster) => Ok(cluster),
            _ => bail!("not a cluster"),
        }
    }

    /// Where it takes TLS: a program that does not tell what comes has a port for each.
    pub(crate) fn tls_addr(&self) -> SocketAddr {
        match self.way {
            Way::Relay { has_api: false } => peers::tls_port(self.addr),
            _ => self.addr,
        }
    }

    /// The program that is measured.
    pub(crate) fn process(&self) -> anyhow::Result<&Process> {
        self.process.as_ref().context("there is no process between the two ends")
    }

    /// Processor time so far; `None` where there is no program.
    pub(crate) fn cpu(&self) -> anyhow::Result<Option<Duration>> {
        match &self.way {
            Way::Cluster(cluster) => cluster.cpu().map(Some),
            _ => self.process.as_ref().map(Process::cpu).transpose(),
        }
    }

    /// The same by a finer clock, for little work.
    pub(crate) fn fine_cpu(&self) -> anyhow::Result<Option<Duration>> {
        match &self.way {
            Way::Cluster(cluster) => cluster.cpu().map(Some),
            _ => self.process.as_ref().map(Process::fine_cpu).transpose(),
        }
    }

    /// How the leg of this side (0 or 1) of a pair begins, where legs are paired by what they say.
    pub(crate) fn greeting(
        &self,
        transport: Transport,
        uuid: &str,
        side: usize,
    ) -> anyhow::Result<Greeting> {
        Ok(match self.way {
            Way::Relay { .. } | Way::Cluster(_) => {
                let request = request_relay(uuid, "", "", ConnType::Default);
                Greeting { says: outgoing(transport, &request)?, hears: b"" }
            }
            Way::Wormhole => {
                Greeting { says: peers::wormhole_hello(uuid, side), hears: peers::WORMHOLE_READY }
            }
            Way::Forwarder(_) => bail!("a forwarder pairs nobody"),
        })
    }

    /// Two legs that reach each other.
    pub(crate) fn pair(&self, [first, second]: [Transport; 2]) -> anyhow::Result<[Leg; 2]> {
        let uuid = unique_uuid();
        if let Way::Forwarder(back_end) = &self.way {
            let back_end = back_end.lock().map_err(|_| anyhow!("another leg failed"))?;
            return self.through(&back_end, [first, second], &uuid);
        }
        let mut legs = Vec::new();
        for (side, transport) in [first, second].into_iter().enumerate() {
            let mut leg = Leg::connect(self.addr, transport)?;
            let greeting = self.greeting(transport, &uuid, side)?;
            leg.send_raw(&greeting.says)?;
            legs.push((leg, greeting.hears));
        }
        for (leg, hears) in &mut legs {
            leg.receive_raw(hears)?;
        }
        let mut legs = legs.into_iter().map(|(leg, _)| leg);
        Ok([legs.next().context("no leg")?, legs.next().context("no second leg")?])
    }

    fn through(
        &self,
        back_end: &TcpListener,
        [first, second]: [Transport; 2],
        uuid: &str,
    ) -> anyhow::Result<[Leg; 2]> {
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

    /// Waits until the relay's own `/api/v1/stats` says so, where there is such a thing.
    pub(crate) fn until_stat(&self, name: &str, value: u64) -> anyhow::Result<()> {
        if !matches!(self.way, Way::Relay { has_api: true }) {
            return Ok(());
        }
        until_stat_of(self.addr, name, value)
    }

    /// What the relay's own `/api/v1/stats` says.
    pub(crate) fn stat(&self, name: &str) -> anyhow::Result<u64> {
        stat_of(self.addr, name)
    }
}

/// Until the `/api/v1/stats` of the relay at `addr` says so.
pub(crate) fn until_stat_of(addr: SocketAddr, name: &str, value: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = stat_of(addr, name)?;
        if now == value {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{name} is {now}, not {value}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the `/api/v1/stats` of the relay at `addr` says.
pub(crate) fn stat_of(addr: SocketAddr, name: &str) -> anyhow::Result<u64> {
    let (_, body) = get(addr, "/api/v1/stats")?;
    let stats: serde_json::Value =
        serde_json::from_str(&body).with_context(|| format!("the admin API answers {body}"))?;
    stats[name].as_u64().with_context(|| format!("no {name} in {stats}"))
}

/// Asks the admin door: the status and the body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut leg = Leg::connect(addr, Transport::Tcp)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\
         Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    leg.send_raw(request.as_bytes())?;
    let mut answer = String::new();
    leg.socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of the admin door")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("no status")?, body.to_owned()))
}

/// As in production, save that nothing is ever too idle or too many here.
pub(crate) fn relay(variant: &Variant, logs: Logs, addr: SocketAddr) -> Command {
    let mut command = Command::new(&variant.binary);
    command.env_clear().arg("--listen").arg(addr.to_string());
    command.env("RELAY__ADMIN__TOKEN", TOKEN);
    command.env("RELAY__RELAY__IDLE_TIMEOUT", "1h");
    command.env("RELAY__PAIRING__TIMEOUT", "1h");
    command.env("RELAY__PAIRING__MAX_WAITING", "1000000");
    if logs == Logs::Off {
        command.env("RELAY__LOG__LEVEL", "off");
    }
    command.envs(variant.settings.iter().map(|(name, value)| (name, value)));
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
