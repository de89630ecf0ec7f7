//! What befalls Redis, as the clients of whole gateways see it: not at all, unless the two sides of
//! a pair land on two nodes meanwhile; these wait, and meet when it is over.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config::{Config, Secret},
    wire::Transport::{Tcp, WebSocket},
};

use super::{
    redis::{Redis, Watched},
    support::{Cluster, Pair, SECRET},
};
use crate::{
    process::{PROGRAM, Process},
    support::{Client, TestGateway, eventually, unique},
};

/// How long Redis is away; less than a leg waits.
const AWAY: Duration = Duration::from_secs(5);

fn impatient(config: &mut Config) {
    config.cluster.redis_timeout = "300ms".parse().expect("a duration");
    config.cluster.heartbeat = "200ms".parse().expect("a duration");
}

/// That messages cross both ways.
async fn talk(first: &mut Client, second: &mut Client) {
    for message in [&b"one way"[..], &[7; 20_000]] {
        first.send(message).await;
        assert_eq!(second.receive().await.as_deref(), Some(message));
        second.send(message).await;
        assert_eq!(first.receive().await.as_deref(), Some(message));
    }
}

async fn until_degraded(node: &TestGateway) {
    node.until_metric("relay_cluster_degraded", 1.0).await;
    eventually("readiness says so", async || {
        let answer = node.get("/readyz").await;
        assert_eq!(answer.status, 200, "a node that serves is ready");
        answer.body.starts_with("degraded: ")
    })
    .await;
}

async fn until_well(node: &TestGateway) {
    node.until_metric("relay_cluster_degraded", 0.0).await;
    eventually("readiness says so", async || node.get("/readyz").await.body == "ready\n").await;
}

/// Legs that were refused, or left the room without a peer.
async fn lost(node: &TestGateway) -> f64 {
    let text = node.get("/metrics").await.body;
    let of = |line: &&str| {
        line.starts_with("relay_rejected_total") || line.starts_with("relay_unpaired_total")
    };
    let values = text.lines().filter(of).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().expect("a number")).sum()
}

/// What a cluster goes through while Redis is of no use, from `befalls` to `passes`.
async fn goes_through(
    cluster: &Cluster,
    away: Duration,
    befalls: impl AsyncFnOnce(&Redis),
    passes: impl AsyncFnOnce(&Redis),
) {
    let mut across = cluster.clients((0, Tcp), (1, WebSocket)).await;
    let uuid = unique("before");
    let mut waits = cluster[0].leg(Tcp, &uuid).await;
    cluster.until_claimed(0, &uuid).await;

    befalls(&cluster.redis).await;
    for node in &cluster.nodes {
        until_degraded(&node.gateway).await;
    }
    let began = Instant::now();
    // Two that land on one node.
    let (mut first, mut second) = cluster[1].pair(Tcp, WebSocket).await;
    talk(&mut first, &mut second).await;
    // Two that land on two, one of whom was there before; and two who both come now.
    let mut comes = cluster[1].leg(WebSocket, &uuid).await;
    let apart = unique("apart");
    let (mut one, mut other) =
        (cluster[0].leg(WebSocket, &apart).await, cluster[1].leg(Tcp, &apart).await);
    cluster[0].until_waiting(&apart).await;
    cluster[1].until_waiting(&apart).await;
    while began.elapsed() < away {
        talk(&mut across.first, &mut across.second).await;
        talk(&mut first, &mut second).await;
    }
    passes(&cluster.redis).await;
    talk(&mut waits, &mut comes).await;
    talk(&mut one, &mut other).await;
    talk(&mut across.first, &mut across.second).await;
    for node in &cluster.nodes {
        until_well(&node.gateway).await;
        assert_eq!(lost(&node.gateway).await, 0.0, "nobody is refused");
    }
    let Pair { first: far, second: near, .. } = across;
    drop((far, near, first, second, waits, comes, one, other));
    // A name that could not be given back in time expires.
    for node in &cluster.nodes {
        node.gateway.until_quiet().await;
    }
}

async fn cluster() -> Option<Cluster> {
    Cluster::start_with(2, |_, config| impatient(config)).await
}

#[tokio::test]
async fn redis_is_away_and_comes_back_empty() {
    let Some(cluster) = cluster().await else { return };
    goes_through(&cluster, AWAY, async |redis| redis.stop(), async |redis| redis.restart().await)
        .await;
}

#[tokio::test]
async fn redis_hangs() {
    let Some(cluster) = cluster().await else { return };
    let short = Duration::from_secs(1);
    goes_through(&cluster, short, async |redis| redis.pause(), async |redis| redis.resume()).await;
}

#[tokio::test]
async fn redis_is_full_or_may_only_be_read() {
    let Some(cluster) = cluster().await else { return };
    let (host, port) = (cluster.redis.addr.ip(), cluster.redis.addr.port());
    for (befalls, passes) in [
        ("CONFIG SET maxmemory 1".to_owned(), "CONFIG SET maxmemory 0"),
        (format!("REPLICAOF {host} {port}"), "REPLICAOF NO ONE"),
    ] {
        let ask = async |redis: &Redis, command: &str| redis.ask::<()>(command).await.unwrap();
        goes_through(
            &cluster,
            Duration::ZERO,
            async |redis| ask(redis, &befalls).await,
            async |redis| ask(redis, passes).await,
        )
        .await;
    }
}

/// The one waits since before, and the other comes at once: whoever claims first, they meet.
#[tokio::test]
async fn redis_is_emptied_while_a_leg_waits_and_its_peer_comes_at_once() {
    let Some(cluster) = cluster().await else { return };
    for restarts in [false, true] {
        for _ in 0..10 {
            let uuid = unique("emptied");
            let mut waits = cluster[0].leg(Tcp, &uuid).await;
            cluster.until_claimed(0, &uuid).await;
            match restarts {
                true => cluster.redis.restart().await,
                false => cluster.redis.ask::<()>("FLUSHALL").await.unwrap(),
            }
            let mut comes = cluster[1].leg(Tcp, &uuid).await;
            talk(&mut waits, &mut comes).await;
        }
    }
}

/// Every answer takes a while, but less than it may.
#[tokio::test]
async fn redis_is_slow() {
    let Some(cluster) = cluster().await else { return };
    for _ in 0..3 {
        cluster.redis.ask::<()>("CLIENT PAUSE 200 ALL").await.unwrap();
        let uuid = unique("slow");
        let mut first = cluster[0].leg(Tcp, &uuid).await;
        let mut second = cluster[1].leg(WebSocket, &uuid).await;
        talk(&mut first, &mut second).await;
    }
    for node in &cluster.nodes {
        until_well(&node.gateway).await;
    }
}

#[tokio::test]
async fn redis_is_not_there_when_the_nodes_start() {
    let Some(redis) = Redis::start().await else { return };
    redis.stop();
    let mut nodes = Vec::new();
    for n in 0..2 {
        nodes.push(Cluster::node(&redis, n, impatient).await);
    }
    let cluster = Cluster { redis, nodes };
    for node in &cluster.nodes {
        until_degraded(&node.gateway).await;
    }
    let (mut first, mut second) = cluster[0].pair(Tcp, Tcp).await;
    talk(&mut first, &mut second).await;
    let uuid = unique("early");
    let (mut one, mut other) = (cluster[0].leg(Tcp, &uuid).await, cluster[1].leg(Tcp, &uuid).await);
    cluster[1].until_waiting(&uuid).await;
    cluster.redis.restart().await;
    talk(&mut one, &mut other).await;
    for node in &cluster.nodes {
        until_well(&node.gateway).await;
    }
}

#[tokio::test]
async fn the_primary_goes_and_legs_meet_by_the_next() {
    let Some(watched) = Watched::start().await else { return };
    let url = watched.url();
    let mut nodes = Vec::new();
    for n in 0..2 {
        let by_sentinel = |config: &mut Config| {
            impatient(config);
            config.cluster.redis = Secret::new(&*url);
        };
        nodes.push(Cluster::node(&watched.primary, n, by_sentinel).await);
    }
    let cluster = Cluster { redis: watched.primary, nodes };
    let mut across = cluster.clients((0, Tcp), (1, Tcp)).await;
    let uuid = unique("fails-over");
    let mut waits = cluster[0].leg(Tcp, &uuid).await;
    cluster.until_claimed(0, &uuid).await;
    cluster.redis.stop();
    let mut comes = cluster[1].leg(Tcp, &uuid).await;
    talk(&mut across.first, &mut across.second).await;
    talk(&mut waits, &mut comes).await;
    talk(&mut across.first, &mut across.second).await;
    for node in &cluster.nodes {
        until_well(&node.gateway).await;
    }
}

#[tokio::test]
async fn redis_speaks_tls() {
    let Some(redis) = Redis::start_tls().await else { return };
    let mut nodes = Vec::new();
    for n in 0..2 {
        let checked = |config: &mut Config| config.cluster.redis_ca = redis.ca();
        nodes.push(Cluster::node(&redis, n, checked).await);
    }
    let cluster = Cluster { redis, nodes };
    let mut across = cluster.clients((0, Tcp), (1, WebSocket)).await;
    talk(&mut across.first, &mut across.second).await;
    drop(across);
    cluster.until_quiet().await;
}

/// On the way to pairing each side claims once; what is given back comes after.
#[tokio::test]
async fn a_pair_across_nodes_costs_two_claims_and_one_release() {
    const PAIRS: u64 = 50;
    let rarely = |_, config: &mut Config| {
        config.cluster.heartbeat = "1h".parse().expect("a duration");
        config.cluster.redis_timeout = "10s".parse().expect("a duration");
    };
    let Some(cluster) = Cluster::start_with(2, rarely).await else { return };
    for node in &cluster.nodes {
        until_well(&node.gateway).await;
    }
    let before = cluster.redis.calls().await;
    for _ in 0..PAIRS {
        let mut across = cluster.clients((0, Tcp), (1, Tcp)).await;
        talk(&mut across.first, &mut across.second).await;
    }
    cluster.until_quiet().await;
    let after = cluster.redis.calls().await;
    assert_eq!(after["evalsha"] - before["evalsha"], 3 * PAIRS);
}

#[tokio::test]
async fn the_log_says_once_that_redis_is_away_and_that_it_is_back_and_no_password() {
    let Some(redis) = Redis::start().await else { return };
    redis.stop();
    let mut command = Command::new(PROGRAM);
    command
        .env("RELAY__CLUSTER__REDIS", redis.url().replace("//", "//:swordfish@"))
        .env("RELAY__CLUSTER__LISTEN", "[\"127.0.0.1:0\"]")
        .env("RELAY__CLUSTER__SECRET", SECRET);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Process::start_by(command, dir, &["--admin-listen", "127.0.0.1:0"]).await;
    let away = "Redis does not answer";
    let said = node.line(away).await;
    assert!(said.contains("WARN") && said.contains("refused"), "{said}");
    let tried = |log: &[String]| log.iter().filter(|line| line.contains(away)).count();
    until_degraded(&node.gateway).await;
    redis.restart().await;
    node.line("Redis answers").await;
    assert_eq!(tried(&node.log()), 1, "{:?}", node.log());
    redis.stop();
    eventually("it is said again", async || tried(&node.log()) == 2).await;
    let all = [node.log(), node.stderr()].concat().join("\n");
    assert!(!all.contains("swordfish"), "{all}");
}
