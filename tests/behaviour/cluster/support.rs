//! Nodes that share a Redis, in this process or as programs of their own, and legs that land on
//! any of them.

use std::{ops::Index, process::Command};

use mini_rust_desk_relay_server::{
    config::{Config, Secret},
    wire::Transport,
};

use super::redis::Redis;
use crate::{
    process::{PROGRAM, Process},
    support::{Client, TestGateway, unique},
    tls::{Kind, Peer, TlsGateway},
};

pub(crate) const SECRET: &str = "what-only-the-nodes-of-a-test-know";

/// Nodes in this process.
pub(crate) struct Cluster {
    pub(crate) redis: Redis,
    pub(crate) nodes: Vec<TlsGateway>,
}

/// Nodes that are processes.
pub(crate) struct Processes {
    pub(crate) redis: Redis,
    pub(crate) nodes: Vec<Process>,
    /// What each has in its `config.toml` beyond what makes it a node.
    more: String,
}

/// Two legs that are paired across nodes.
pub(crate) struct Pair<C> {
    pub(crate) uuid: String,
    /// The one that waited.
    pub(crate) first: C,
    /// The one that came.
    pub(crate) second: C,
}

impl Cluster {
    /// So many nodes; `None` after saying that this test is skipped.
    pub(crate) async fn start(count: usize) -> Option<Self> {
        Self::start_with(count, |_, _| {}).await
    }

    /// The same, each with a configuration of its own.
    pub(crate) async fn start_with(
        count: usize,
        mut change: impl FnMut(usize, &mut Config),
    ) -> Option<Self> {
        let redis = Redis::start().await?;
        let mut nodes = Vec::new();
        for n in 0..count {
            nodes.push(Self::node(&redis, n, |config| change(n, config)).await);
        }
        Some(Self { redis, nodes })
    }

    /// A node of this Redis', by its number.
    pub(crate) async fn node(
        redis: &Redis,
        n: usize,
        change: impl FnOnce(&mut Config),
    ) -> TlsGateway {
        TlsGateway::start_with(|config| {
            config.cluster.redis = Secret::new(redis.url());
            config.cluster.listen = vec!["127.0.0.1:0".parse().expect("an address")];
            config.cluster.node = name(n);
            config.cluster.secret = Secret::new(SECRET);
            change(config);
        })
        .await
    }

    /// A leg that lands on a node.
    pub(crate) async fn leg(&self, node: usize, kind: Kind, uuid: &str) -> Peer {
        self.nodes[node].leg(kind, uuid).await
    }

    /// A pair of any kinds, whose first leg lands on one node and whose second on another.
    pub(crate) async fn pair(&self, first: (usize, Kind), second: (usize, Kind)) -> Pair<Peer> {
        let uuid = unique("across");
        let waits = self.leg(first.0, first.1, &uuid).await;
        self.until_claimed(first.0, &uuid).await;
        let comes = self.leg(second.0, second.1, &uuid).await;
        self[first.0].until_active(&uuid).await;
        Pair { uuid, first: waits, second: comes }
    }

    /// The same without TLS, where a test is to have the sockets themselves.
    pub(crate) async fn clients(
        &self,
        first: (usize, Transport),
        second: (usize, Transport),
    ) -> Pair<Client> {
        let uuid = unique("across");
        let waits = self[first.0].leg(first.1, &uuid).await;
        self.until_claimed(first.0, &uuid).await;
        let comes = self[second.0].leg(second.1, &uuid).await;
        self[first.0].until_active(&uuid).await;
        Pair { uuid, first: waits, second: comes }
    }

    /// A leg waits with a node, and the others can know.
    pub(crate) async fn until_claimed(&self, node: usize, uuid: &str) {
        self[node].until_waiting(uuid).await;
        self.redis.until_claimed(&name(node), uuid).await;
    }

    /// Nothing is left of any leg, neither on a node nor in Redis.
    pub(crate) async fn until_quiet(&self) {
        for node in &self.nodes {
            node.gateway.until_quiet().await;
        }
        self.redis.until_nobody_waits().await;
    }
}

impl Index<usize> for Cluster {
    type Output = TestGateway;

    fn index(&self, node: usize) -> &TestGateway {
        &self.nodes[node].gateway
    }
}

impl Processes {
    /// So many processes; `None` after saying that this test is skipped.
    pub(crate) async fn start(count: usize) -> Option<Self> {
        Self::start_with(count, "").await
    }

    /// The same with more in their `config.toml`.
    pub(crate) async fn start_with(count: usize, more: &str) -> Option<Self> {
        let (redis, mut nodes) = (Redis::start().await?, Vec::new());
        for n in 0..count {
            nodes.push(process(&redis, n, more).await);
        }
        Some(Self { redis, nodes, more: more.to_owned() })
    }

    /// Nodes that were started one by one.
    pub(crate) const fn of(redis: Redis, nodes: Vec<Process>) -> Self {
        Self { redis, nodes, more: String::new() }
    }

    /// Kills a node, and starts it anew, elsewhere.
    pub(crate) async fn replace(&mut self, node: usize) {
        self.nodes[node].signal(rustix::process::Signal::KILL);
        self.nodes[node].ended().await;
        self.nodes[node] = process(&self.redis, node, &self.more).await;
    }

    /// As [`Cluster::clients`].
    pub(crate) async fn clients(
        &self,
        first: (usize, Transport),
        second: (usize, Transport),
    ) -> Pair<Client> {
        let uuid = unique("across");
        let waits = self[first.0].leg(first.1, &uuid).await;
        self.until_claimed(first.0, &uuid).await;
        let comes = self[second.0].leg(second.1, &uuid).await;
        self[first.0].until_active(&uuid).await;
        Pair { uuid, first: waits, second: comes }
    }

    /// As [`Cluster::until_claimed`].
    pub(crate) async fn until_claimed(&self, node: usize, uuid: &str) {
        self[node].until_waiting(uuid).await;
        self.redis.until_claimed(&name(node), uuid).await;
    }
}

impl Index<usize> for Processes {
    type Output = TestGateway;

    fn index(&self, node: usize) -> &TestGateway {
        &self.nodes[node].gateway
    }
}

/// What a node is called.
pub(crate) fn name(node: usize) -> String {
    format!("node-{node}")
}

/// A node that is a process.
pub(crate) async fn process(redis: &Redis, n: usize, more: &str) -> Process {
    started_by(Command::new(PROGRAM), redis, n, more).await
}

/// The same by another command, which ends in the program's name.
pub(crate) async fn started_by(
    mut command: Command,
    redis: &Redis,
    n: usize,
    more: &str,
) -> Process {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.toml"), more).expect("a file");
    command
        .env("RELAY__CLUSTER__REDIS", redis.url())
        .env("RELAY__CLUSTER__LISTEN", "[\"127.0.0.1:0\"]")
        .env("RELAY__CLUSTER__NODE", name(n))
        .env("RELAY__CLUSTER__SECRET", SECRET);
    Process::start_by(command, dir, &["--admin-listen", "127.0.0.1:0"]).await
}
