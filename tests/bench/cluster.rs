//! Several relays on one directory of waiting legs, and what it costs that the two sides of a pair
//! reach different ones.

pub(crate) mod bulk;
pub(crate) mod faults;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod pairs;
pub(crate) mod redis;

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use mini_rust_desk_relay_server::wire::Transport;

use self::redis::Redis;
use crate::{
    client::{Leg, unique_uuid},
    kind::{Kind, Logs, Variant},
    process::{Ending, Launch, Process, free_port},
    subject::{self, until_stat_of},
};

/// Long enough for a claim to be made.
pub(crate) const CLAIMED: Duration = Duration::from_millis(20);

/// How long nodes may take to find Redis.
const PATIENCE: Duration = Duration::from_secs(5);

const SECRET: &str = "what-all-the-nodes-of-a-benchmark-know";

/// Where the two sides of a pair land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// Both on one node.
    None,
    /// Wherever a balancer sends them: in one of n cases both on one node.
    Natural,
    /// On two nodes, always.
    All,
}

impl Crossing {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::None => "none cross",
            Self::Natural => "1 − 1/n cross",
            Self::All => "all cross",
        }
    }

    /// The nodes, of so many, where the sides of a pair land; the pairs are numbered.
    pub(crate) const fn nodes(self, number: usize, nodes: usize) -> [usize; 2] {
        let (first, turn) = (number % nodes, number / nodes);
        let second = match self {
            Self::None => first,
            Self::Natural => turn % nodes,
            Self::All if nodes > 1 => (first + 1 + turn % (nodes - 1)) % nodes,
            Self::All => first,
        };
        [first, second]
    }
}

/// The nodes and their Redis.
pub(crate) struct Cluster {
    pub(crate) redis: Redis,
    pub(crate) nodes: Vec<Node>,
    variant: &'static Variant,
}

/// A relay that is a node.
pub(crate) struct Node {
    name: String,
    pub(crate) addr: SocketAddr,
    /// `None` while it is dead.
    process: Mutex<Option<Process>>,
}

impl Cluster {
    pub(crate) fn start(variant: &'static Variant, nodes: usize) -> anyhow::Result<Self> {
        let redis = Redis::start()?;
        let mut cluster = Self { redis, nodes: Vec::new(), variant };
        for number in 0..nodes {
            let (name, addr) = (format!("node-{number}"), free_port()?);
            cluster.nodes.push(Node { name, addr, process: Mutex::new(None) });
            cluster.revive(number)?;
        }
        Ok(cluster)
    }

    /// Kills a node, as a machine that loses its power does.
    pub(crate) fn kill(&self, number: usize) {
        *self.nodes[number].process() = None;
    }

    /// Starts a node, or its successor: another process in its place.
    pub(crate) fn revive(&self, number: usize) -> anyhow::Result<()> {
        let node = &self.nodes[number];
        let mut command = subject::relay(self.variant, Logs::File, node.addr);
        let listen = free_port()?.to_string();
        command.env("RELAY__CLUSTER__REDIS", self.redis.url());
        command.env("RELAY__CLUSTER__LISTEN", &listen).env("RELAY__CLUSTER__ADVERTISE", listen);
        command.env("RELAY__CLUSTER__NODE", &node.name).env("RELAY__CLUSTER__SECRET", SECRET);
        let dir = tempfile::tempdir().context("no directory")?;
        let process = Process::start(Launch::new(command, Ending::Kill), dir, node.addr)?;
        *node.process() = Some(process);
        self.until_ready(node)
    }

    /// Until it has found Redis.
    fn until_ready(&self, node: &Node) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = subject::get(node.addr, "/readyz")?;
            if status == 200 && !body.contains("degraded") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready: {status} {body}", node.name);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Of all nodes, by the scheduler's count.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.nodes.iter().map(Node::cpu).sum()
    }

    /// The sum over all nodes of the metrics' series that begin so.
    pub(crate) fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for node in &self.nodes {
            let (_, text) = subject::get(node.addr, "/metrics")?;
            let lines = text.lines().filter(|line| line.starts_with(series));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            sum += values.sum::<f64>();
        }
        Ok(sum)
    }

    /// Two legs that have landed so; the first waits, and holds the name, before the second comes.
    pub(crate) fn pair(
        &self,
        transports: [Transport; 2],
        nodes: [usize; 2],
    ) -> anyhow::Result<[Leg; 2]> {
        let (uuid, [first, second]) = (unique_uuid(), nodes.map(|node| self.nodes[node].addr));
        let first = Leg::arrive(first, transports[0], &uuid)?;
        thread::sleep(CLAIMED);
        Ok([first, Leg::arrive(second, transports[1], &uuid)?])
    }
}

impl Node {
    pub(crate) fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.process().as_ref().context("it is dead")?.fine_cpu()
    }

    /// Until its `/api/v1/stats` says so.
    pub(crate) fn until_stat(&self, name: &str, value: u64) -> anyhow::Result<()> {
        until_stat_of(self.addr, name, value)
    }
}

/// How many nodes there are, in a table's row.
pub(crate) fn kinds(variant: &'static Variant) -> impl Iterator<Item = Kind> {
    [1, 2, 3, 5].into_iter().map(move |nodes| Kind::Cluster(variant, nodes))
}
