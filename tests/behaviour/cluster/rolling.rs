//! HAProxy in front of nodes, as `deploy/haproxy/cluster.cfg` has it: legs of any kind land on any of
//! them and have their own addresses, and a node that comes or goes takes nobody with it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::future::join_all;
use mini_rust_desk_relay_server::wire::{
    Transport::{self, Tcp, WebSocket},
    rendezvous::{ConnType, request_relay},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::client_async;

use super::{redis::Redis, support};
use crate::{
    balancers::shipped,
    by_hand::{Wire, opening},
    process::{PROGRAM, Process},
    servers::{PROXY, Server, haproxy_with},
    support::{Client, PATIENCE, eventually, unique},
};

const CLUSTER: &str = include_str!("../../../deploy/haproxy/cluster.cfg");

/// How many nodes there are at a time. One more slot is for the one that takes another's place.
const NODES: usize = 3;

/// Nodes behind HAProxy.
struct Fleet {
    redis: Redis,
    front: Server,
    /// Where HAProxy takes orders.
    orders: PathBuf,
    /// By their `server` lines; none in the one that is spare.
    slots: Vec<Option<Process>>,
    /// How many there have been.
    started: usize,
    _dir: tempfile::TempDir,
}

impl Fleet {
    async fn start() -> Option<Self> {
        let redis = Redis::start().await?;
        let mut slots = Vec::new();
        for n in 0..NODES {
            slots.push(Some(node(&redis, n).await));
        }
        let dir = tempfile::tempdir().expect("a directory");
        let orders = dir.path().join("orders");
        let addrs: Vec<_> = slots.iter().flatten().map(addrs).collect();
        let front = haproxy_with(|at| {
            let third = "    server relay-2 relay-2:21117\n    server relay-3 relay-3:21117\n";
            let text = CLUSTER.replace("    server relay-2 relay-2:21117\n", third);
            let text = shipped(&text, at, &addrs);
            let third = format!("server relay-3 {} port {}", addrs[2].0, addrs[2].1.port());
            let spare = "server relay-4 127.0.0.1:9 port 9 disabled";
            let text = text.replace(&third, &format!("{third}\n    {spare}"));
            format!("global\n    stats socket {} level admin\n{text}", orders.display())
        });
        slots.push(None);
        let (front, started) = (front.await?, NODES);
        let fleet = Self { redis, front, orders, slots, started, _dir: dir };
        eventually("HAProxy takes orders", async || fleet.orders.exists()).await;
        for slot in 0..NODES {
            fleet.until_up(slot).await;
        }
        Some(fleet)
    }

    /// Has HAProxy do something, or say something.
    async fn order(&self, order: &str) -> String {
        let mut socket = UnixStream::connect(&self.orders).await.expect("HAProxy listens");
        socket.write_all(format!("{order}\n").as_bytes()).await.expect("it reads");
        let mut said = String::new();
        socket.read_to_string(&mut said).await.expect("it answers");
        said
    }

    /// HAProxy has found a node ready.
    async fn until_up(&self, slot: usize) {
        eventually("HAProxy has found it ready", async || {
            let said = self.order("show servers state nodes").await;
            let name = format!("relay-{}", slot + 1);
            let line = said.lines().find(|line| line.split(' ').nth(3) == Some(&*name));
            // Its operational state: 2 is running.
            line.and_then(|line| line.split(' ').nth(5)) == Some("2")
        })
        .await;
    }

    /// Starts a node in the slot that is spare, and has it get its share.
    async fn add(&mut self) {
        let spare = self.slots.iter().position(Option::is_none).expect("one is spare");
        let process = node(&self.redis, self.started).await;
        self.started += 1;
        let (relay, admin) = addrs(&process);
        let server = format!("set server nodes/relay-{}", spare + 1);
        for order in [
            format!("{server} addr {} port {}", relay.ip(), relay.port()),
            format!("{server} check-port {}", admin.port()),
            format!("{server} state ready"),
        ] {
            self.order(&order).await;
        }
        self.slots[spare] = Some(process);
        self.until_up(spare).await;
    }

    /// No connection that comes from now on is led to this node.
    async fn lead_nobody_to(&self, slot: usize) {
        self.order(&format!("set server nodes/relay-{} state drain", slot + 1)).await;
    }

    async fn sum(&self, series: &str) -> f64 {
        let all = self.slots.iter().flatten().map(|node| node.gateway.metric(series));
        join_all(all).await.iter().sum()
    }
}

async fn node(redis: &Redis, n: usize) -> Process {
    let more = format!(
        "[proxy]\ntrusted = ['{PROXY}']\nprotocol = 'required'\n\
         [shutdown]\ndrain_timeout = '20s'\n"
    );
    support::started_by(Command::new(PROGRAM), redis, n, &more).await
}

fn addrs(node: &Process) -> (SocketAddr, SocketAddr) {
    (node.gateway.addr, node.gateway.admin_addr)
}

/// A leg from an address of its own, and what it has.
async fn leg(at: SocketAddr, from: u8, transport: Transport, uuid: &str) -> (Client, SocketAddr) {
    let hello = request_relay(uuid, "", "", ConnType::Default);
    let mut wire = Wire::connect_from(Ipv4Addr::new(127, 0, 3, from), at).await;
    let own = wire.socket.local_addr().expect("an address");
    let client = match transport {
        Tcp => {
            wire.send(opening(Tcp, &hello)).await;
            Client::Tcp(wire.socket)
        }
        WebSocket => {
            let url = format!("ws://{at}/ws/relay");
            let (socket, _) = client_async(url, wire.socket).await.expect("an upgrade");
            let mut client = Client::WebSocket(Box::new(socket));
            client.send(&hello).await;
            client
        }
    };
    (client, own)
}

/// A pair whose sides come at once.
async fn pair(at: SocketAddr, n: u8) -> [Client; 2] {
    let kinds = [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)];
    let (first, second) = kinds[usize::from(n) % 4];
    let uuid = unique("rolling");
    let legs = [leg(at, 1 + n % 100, first, &uuid), leg(at, 101 + n % 100, second, &uuid)];
    let [first, second] = join_all(legs).await.try_into().unwrap_or_else(|_| panic!("two"));
    [first.0, second.0]
}

/// A message each way.
async fn round_trip([first, second]: &mut [Client; 2], n: u64) {
    let message = n.to_be_bytes();
    first.send(&message).await;
    assert_eq!(second.receive().await.as_deref(), Some(&message[..]), "a relay was lost");
    second.send(&message).await;
    assert_eq!(first.receive().await.as_deref(), Some(&message[..]), "a relay was lost");
}

/// One side ends it, and the other is told, by nobody else.
async fn finish(mut pair: [Client; 2]) {
    pair[0].finish().await;
    assert_eq!(pair[1].receive().await, None);
    pair[1].finish().await;
    assert_eq!(pair[0].receive().await, None);
}

#[tokio::test]
async fn legs_land_anywhere_and_meet_with_their_own_addresses() {
    let Some(fleet) = Fleet::start().await else { return };
    let uuid = unique("own");
    let (_first, first) = leg(fleet.front.addr, 1, Tcp, &uuid).await;
    let (_second, second) = leg(fleet.front.addr, 2, WebSocket, &uuid).await;
    let mut shown = serde_json::Value::Null;
    eventually("they are a pair", async || {
        for node in fleet.slots.iter().flatten() {
            let answer = node.gateway.get(&format!("/api/v1/relays/{uuid}")).await;
            if answer.status == 200 {
                shown = answer.json();
            }
        }
        shown.is_object()
    })
    .await;
    let mut seen = [0, 1].map(|leg: usize| shown["legs"][leg]["address"].as_str().expect("text"));
    let mut own = [first.to_string(), second.to_string()];
    seen.sort_unstable();
    own.sort_unstable();
    assert_eq!(seen[..], own[..]);

    for n in 0..40 {
        let mut pair = pair(fleet.front.addr, n).await;
        round_trip(&mut pair, n.into()).await;
        finish(pair).await;
    }
    let across = "relay_cluster_handovers_out_total{outcome=\"handed_over\"}";
    assert!(fleet.sum(across).await > 10.0, "they were all of one node");
    for node in fleet.slots.iter().flatten() {
        assert_eq!(node.gateway.all_refusals().await, 0.0);
    }
}

/// Makes pairs one after the other; says how many it has begun.
struct Worker {
    begun: Arc<AtomicU64>,
    running: JoinHandle<u64>,
}

impl Worker {
    fn start(at: SocketAddr, n: u8, stop: watch::Receiver<bool>) -> Self {
        let begun = Arc::<AtomicU64>::default();
        let count = Arc::clone(&begun);
        let running = tokio::spawn(async move {
            while !*stop.borrow() {
                let so_far = count.fetch_add(1, Relaxed);
                let mut pair = pair(at, n.wrapping_add(so_far as u8)).await;
                round_trip(&mut pair, so_far).await;
                finish(pair).await;
            }
            count.load(Relaxed)
        });
        Self { begun, running }
    }

    /// Whatever it was at is over.
    async fn until_next(&self) {
        let before = self.begun.load(Relaxed);
        eventually("it goes on", async || self.begun.load(Relaxed) > before + 1).await;
    }
}

/// A relay that goes on until it is told to end, and then some.
fn long_relay(mut pair: [Client; 2], mut end: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut n = 0;
        while !*end.borrow_and_update() {
            round_trip(&mut pair, n).await;
            n += 1;
            let _ = timeout(std::time::Duration::from_millis(20), end.changed()).await;
        }
        for more in 0..20 {
            round_trip(&mut pair, n + more).await;
        }
        finish(pair).await;
    })
}

/// As in Kubernetes: a new node is ready, then the old one is taken from the balancer. From SIGTERM on
/// whoever waits there still meets its peer, and relays come to their ends.
#[tokio::test]
async fn a_rolling_update_loses_no_relay_and_no_pair() {
    let Some(mut fleet) = Fleet::start().await else { return };
    let at = fleet.front.addr;
    let (stop, stopped) = watch::channel(false);
    let workers: Vec<_> = (0..8).map(|n| Worker::start(at, n * 10, stopped.clone())).collect();

    for old in 0..NODES {
        let (end, ended) = watch::channel(false);
        let long: Vec<_> = join_all((0..12).map(|n| pair(at, n))).await;
        let long: Vec<_> = long.into_iter().map(|pair| long_relay(pair, ended.clone())).collect();

        fleet.add().await;
        fleet.lead_nobody_to(old).await;
        // What was on its way there is over: the preStop sleep.
        join_all(workers.iter().map(Worker::until_next)).await;
        let mut process = fleet.slots[old].take().expect("it runs");
        process.signal(Signal::TERM);
        process.line("draining").await;
        join_all(workers.iter().map(Worker::until_next)).await;

        end.send_replace(true);
        for relay in long {
            timeout(PATIENCE, relay).await.expect("it ends").expect("it was not lost");
        }
        process.line(" drained").await;
        assert_eq!(process.ended().await, 0);
    }

    stop.send_replace(true);
    let mut made = 0;
    for worker in workers {
        made += worker.running.await.expect("none was lost");
    }
    assert!(made > 100, "only {made} pairs were made");
    let across = "relay_cluster_handovers_out_total{outcome=\"handed_over\"}";
    assert!(fleet.sum(across).await > 0.0, "they were all of one node");
}
