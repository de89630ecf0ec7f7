//! Nodes that lose each other, and not Redis: machines that are network namespaces, with two cables
//! between them and one to Redis.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use mini_rust_desk_relay_server::wire::Transport::Tcp;

use super::{
    redis::Redis,
    support::{SECRET, name},
};
use crate::{
    process::{PROGRAM, Process},
    requirement,
    support::{Client, eventually, unique},
};

/// How many there have been.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Two machines.
struct Machines {
    names: [String; 2],
    subnet: u8,
}

/// A cable between the two; the node of this number advertises its address on it.
#[derive(Debug, Clone, Copy)]
enum Cable {
    First = 0,
    Second = 1,
}

const CABLES: [Cable; 2] = [Cable::First, Cable::Second];

impl Machines {
    /// `None` after saying that this test is skipped.
    fn new() -> Option<Self> {
        requirement::program("ip", "apt-get install iproute2")?;
        // Counted here alone: with what other tests count, two at once could have one digit.
        let digit = MADE.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id() % 50_000 * 10 + digit % 10;
        let names = ["a", "b"].map(|which| format!("rn{id}{which}"));
        let machines = Self { names, subnet: (id % 200) as u8 + 20 };
        if let Err(why) = machines.build() {
            let skipped = format!("SKIPPED: no network namespace can be made here ({why})");
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{skipped}");
            println!("{skipped}");
            return None;
        }
        Some(machines)
    }

    fn build(&self) -> Result<(), String> {
        for (n, name) in self.names.iter().enumerate() {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("link add {name}r type veth peer name r netns {name}"))?;
            ip(&format!("addr add {}/30 dev {name}r", self.addr(2 + n, 1)))?;
            ip(&format!("-n {name} addr add {}/30 dev r", self.addr(2 + n, 2)))?;
            ip(&format!("link set {name}r up"))?;
            ip(&format!("-n {name} link set r up"))?;
            ip(&format!("-n {name} route add default via {}", self.addr(2 + n, 1)))?;
        }
        let [a, b] = &self.names;
        for cable in CABLES {
            let dev = format!("c{}", cable as usize);
            ip(&format!("-n {a} link add {dev} type veth peer name {dev} netns {b}"))?;
            for (n, name) in self.names.iter().enumerate() {
                ip(&format!("-n {name} addr add {}/30 dev {dev}", self.on(cable, n)))?;
                ip(&format!("-n {name} link set {dev} up"))?;
            }
        }
        Ok(())
    }

    fn addr(&self, net: usize, host: usize) -> String {
        format!("10.214.{}.{}", self.subnet, 4 * net + host)
    }

    /// A machine's address on a cable.
    fn on(&self, cable: Cable, machine: usize) -> String {
        self.addr(cable as usize, machine + 1)
    }

    /// Where Redis is.
    fn redis(&self) -> String {
        self.addr(2, 1)
    }

    /// The node on this machine: the others reach it by the cable of its number.
    async fn start(&self, machine: usize, redis: &Redis) -> Process {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("config.toml"), "[cluster]\nhandover_timeout = \"500ms\"\n")
            .expect("a file");
        let at = format!("{}:21127", self.on(CABLES[machine], machine));
        let mut command = Command::new("/usr/bin/env");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["ip", "netns", "exec", &self.names[machine], "/usr/bin/env"]);
        command.arg(format!("RELAY__CLUSTER__REDIS={}", redis.url()));
        command.arg(format!("RELAY__CLUSTER__LISTEN=[\"{at}\"]"));
        command.arg(format!("RELAY__CLUSTER__NODE={}", name(machine)));
        command.arg(format!("RELAY__CLUSTER__SECRET={SECRET}"));
        command.arg(PROGRAM);
        let mut process = Process::start_by(command, dir, &["--listen", "0.0.0.0:21117"]).await;
        let door = format!("{}:21117", self.addr(2 + machine, 2));
        process.gateway.addr = door.parse().expect("an address");
        process.gateway.admin_addr = process.gateway.addr;
        process
    }

    /// Nothing comes through any more, and nobody is told; or all does again.
    fn set(&self, cable: Cable, up: bool) {
        let state = if up { "up" } else { "down" };
        let [a, _] = &self.names;
        ip(&format!("-n {a} link set c{} {state}", cable as usize)).expect("our own cable");
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("link del {name}r"));
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(args: &str) -> Result<(), String> {
    let done = Command::new("ip").args(args.split(' ')).output().map_err(|why| why.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
    }
}

/// Two nodes on two machines.
struct Nodes {
    nodes: [Process; 2],
    machines: Machines,
    redis: Redis,
}

impl Nodes {
    async fn start() -> Option<Self> {
        let machines = Machines::new()?;
        let redis = Redis::start_at(machines.redis().parse().expect("an address")).await?;
        let nodes = [machines.start(0, &redis).await, machines.start(1, &redis).await];
        Some(Self { nodes, machines, redis })
    }

    async fn leg(&self, node: usize, uuid: &str) -> Client {
        self.nodes[node].gateway.leg(Tcp, uuid).await
    }

    /// A leg that waits with a node, by its claim.
    async fn waits(&self, node: usize, uuid: &str) -> Client {
        let leg = self.leg(node, uuid).await;
        self.redis.until_claimed(&name(node), uuid).await;
        leg
    }

    async fn unreachable(&self, node: usize) -> f64 {
        let series = "relay_cluster_handovers_out_total{outcome=\"unreachable\"}";
        self.nodes[node].gateway.metric(series).await
    }
}

async fn talk(one: &mut Client, other: &mut Client) {
    one.send(b"there?").await;
    assert_eq!(other.receive().await.as_deref(), Some(&b"there?"[..]));
    other.send(b"here").await;
    assert_eq!(one.receive().await.as_deref(), Some(&b"here"[..]));
}

#[tokio::test]
async fn who_waits_while_two_nodes_have_lost_each_other_meets_once_they_have_not() {
    let Some(nodes) = Nodes::start().await else { return };
    let (uuid, before) = (unique("cut"), unique("before"));
    let mut first = nodes.waits(0, &before).await;
    talk(&mut first, &mut nodes.leg(1, &before).await).await;
    for cable in CABLES {
        nodes.machines.set(cable, false);
    }
    let mut waits = nodes.waits(0, &uuid).await;
    let mut comes = nodes.leg(1, &uuid).await;
    // Both nodes have tried by now, and neither leg is refused.
    eventually("both have tried", async || {
        nodes.unreachable(0).await >= 1.0 && nodes.unreachable(1).await >= 1.0
    })
    .await;
    // Whoever has both sides is not touched by it.
    let here = unique("here");
    let mut one = nodes.leg(0, &here).await;
    talk(&mut one, &mut nodes.leg(0, &here).await).await;
    for cable in CABLES {
        nodes.machines.set(cable, true);
    }
    talk(&mut waits, &mut comes).await;
    nodes.redis.until_nobody_waits().await;
}

#[tokio::test]
async fn a_node_that_reaches_the_other_one_way_only_is_enough() {
    let Some(nodes) = Nodes::start().await else { return };
    for cable in CABLES {
        nodes.machines.set(cable, false);
        for holder in [0, 1, 0, 1] {
            let uuid = unique("one-way");
            let mut waits = nodes.waits(holder, &uuid).await;
            let mut comes = nodes.leg(1 - holder, &uuid).await;
            talk(&mut waits, &mut comes).await;
        }
        nodes.machines.set(cable, true);
    }
    nodes.redis.until_nobody_waits().await;
}
