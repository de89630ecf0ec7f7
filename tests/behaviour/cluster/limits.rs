//! Limits that hold for all nodes together, but for what the others began since their last
//! heartbeat.

use std::{path::Path, time::Duration};

use mini_rust_desk_relay_server::{
    config::{Config, KeyConfig, Secret, Size},
    wire::{
        Transport::Tcp,
        rendezvous::{ConnType, request_relay},
    },
};

use super::{
    support::{Cluster, Processes},
    view::{beats, until_known},
};
use crate::support::{Client, TestGateway, eventually, unique};

const KEY: &str = "for-the-office";
const MOST: usize = 10;

fn limited(config: &mut Config) {
    beats(config);
    let mut office = KeyConfig { label: "office".into(), ..KeyConfig::default() };
    // A quota, so that it is counted.
    (office.key, office.max_relays) = (Secret::new(KEY), Some(1000));
    config.keys = vec![office];
}

async fn cluster(count: usize, change: impl Fn(&mut Config)) -> Option<Cluster> {
    let cluster = Cluster::start_with(count, |_, config| {
        limited(config);
        change(config);
    })
    .await?;
    let nodes: Vec<_> = (0..count).map(|n| &cluster[n]).collect();
    until_known(&nodes, count).await;
    Some(cluster)
}

/// A pair on one node; `None` if it was refused.
async fn pair(gateway: &TestGateway) -> Option<(Client, Client)> {
    let uuid = unique("limited");
    let hello = request_relay(&uuid, "", KEY, ConnType::Default);
    let first = gateway.leg_with(Tcp, &hello).await;
    gateway.until_waiting(&uuid).await;
    let mut second = gateway.leg_with(Tcp, &hello).await;
    let mut is_relayed = None;
    eventually("it is relayed, or refused", async || {
        let relay = gateway.get(&format!("/api/v1/relays/{uuid}")).await.status == 200;
        let waits = gateway.get("/api/v1/waiting?limit=1000").await.body.contains(&uuid);
        is_relayed = relay.then_some(true).or((!waits).then_some(false));
        is_relayed.is_some()
    })
    .await;
    if is_relayed == Some(true) {
        return Some((first, second));
    }
    assert_eq!(second.receive().await, None);
    None
}

async fn active(gateway: &TestGateway) -> u64 {
    let stats = gateway.get("/api/v1/stats?scope=cluster").await.json();
    assert_eq!(stats["partial"], false);
    stats["relays_active"].as_u64().expect("a number")
}

/// All nodes have heard what all others count now.
async fn until_heard(cluster: &Cluster, count: usize) {
    let total = active(&cluster[0]).await;
    for node in 0..count {
        eventually("what the others count is heard", async || {
            let keys = cluster[node].get("/api/v1/keys?label=office").await.json();
            keys["items"][0]["cluster"]["relays_active"] == total
        })
        .await;
    }
}

/// Pairs at once on every node until none is let in any more: those that were.
async fn fill(cluster: &Cluster, count: usize) -> Vec<(Client, Client)> {
    let of_node = async |node: usize| {
        let mut pairs = Vec::new();
        for _ in 0..2 * MOST {
            pairs.extend(pair(&cluster[node]).await);
        }
        pairs
    };
    let all = (0..count).map(of_node);
    futures_util::future::join_all(all).await.into_iter().flatten().collect()
}

async fn holds(count: usize, change: impl Fn(&mut Config), reason: &str) {
    let Some(cluster) = cluster(count, change).await else { return };
    let mut pairs = fill(&cluster, count).await;
    // Each had heard of what the others began but for their last heartbeat: at worst all began all.
    assert!((MOST..=count * MOST).contains(&pairs.len()), "{}", pairs.len());
    until_heard(&cluster, count).await;
    for node in 0..count {
        assert!(pair(&cluster[node]).await.is_none(), "it is full");
        let series = format!("relay_unpaired_total{{reason=\"{reason}\"}}");
        let refused = format!("relay_rejected_total{{reason=\"{reason}\"}}");
        let said = cluster[node].metric(&series).await + cluster[node].metric(&refused).await;
        assert!(said >= 1.0, "who is refused is counted as {reason}");
    }
    // As relays end there is room again, for exactly as many.
    while pairs.len() >= MOST {
        pairs.pop();
        let left = pairs.len() as u64;
        eventually("one has ended", async || active(&cluster[0]).await == left).await;
    }
    until_heard(&cluster, count).await;
    pairs.extend(pair(&cluster[count - 1]).await);
    assert_eq!(pairs.len(), MOST, "one more is let in");
    until_heard(&cluster, count).await;
    assert!(pair(&cluster[0]).await.is_none(), "and no other");
}

#[tokio::test]
async fn max_active_holds_for_all_nodes_together() {
    holds(3, |config| config.relay.max_active = MOST, "relay_limit").await;
}

#[tokio::test]
async fn max_relays_of_a_key_holds_for_all_nodes_together() {
    holds(5, |config| config.keys[0].max_relays = Some(MOST as u32), "key_quota_relays").await;
}

#[tokio::test]
async fn relays_of_a_dead_node_count_no_more_after_three_heartbeats() {
    let more = format!(
        "[cluster]\nheartbeat = \"100ms\"\n[relay]\nmax_active = {MOST}\n\
         [[keys]]\nlabel = \"office\"\nkey = \"{KEY}\"\n"
    );
    let Some(mut nodes) = Processes::start_with(3, &more).await else { return };
    until_known(&[&nodes[0], &nodes[1], &nodes[2]], 3).await;
    let mut pairs = Vec::new();
    for _ in 0..MOST {
        pairs.extend(pair(&nodes[1]).await);
    }
    assert_eq!(pairs.len(), MOST);
    eventually("the others have heard of it", async || pair(&nodes[0]).await.is_none()).await;
    nodes.nodes[1].signal(rustix::process::Signal::KILL);
    nodes.nodes[1].ended().await;
    let began = std::time::Instant::now();
    eventually("there is room again", async || pair(&nodes[0]).await.is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn without_redis_others_count_for_ten_heartbeats_and_then_no_more() {
    let heartbeat = Duration::from_millis(300);
    let change = |config: &mut Config| {
        config.relay.max_active = 3;
        config.keys[0].max_relays = Some(3);
        config.cluster.heartbeat = "300ms".parse().expect("a duration");
    };
    let Some(cluster) = cluster(2, change).await else { return };
    let _others =
        [pair(&cluster[1]).await.expect("it is so"), pair(&cluster[1]).await.expect("it is so")];
    until_heard(&cluster, 2).await;
    let _one = pair(&cluster[0]).await.expect("there is room for one");
    cluster.redis.stop();
    let away = std::time::Instant::now();
    assert!(pair(&cluster[0]).await.is_none(), "the others still count");
    eventually("they count no more", async || pair(&cluster[0]).await.is_some()).await;
    assert!(away.elapsed() > heartbeat * 8, "{:?}", away.elapsed());
}

async fn month_bytes(gateway: &TestGateway) -> u64 {
    let keys = gateway.get("/api/v1/keys?label=office&scope=cluster").await.json();
    keys["items"][0]["month_bytes"].as_u64().expect("a number")
}

async fn send(pair: &mut (Client, Client), bytes: usize) {
    pair.0.send(&vec![0; bytes]).await;
    assert_eq!(pair.1.receive().await.map(|message| message.len()), Some(bytes));
}

#[tokio::test]
async fn the_months_traffic_is_that_of_all_nodes_counted_once_and_kept() {
    let dir = tempfile::tempdir().expect("it is so");
    let usage = |n: usize| dir.path().join(format!("usage-{n}.json"));
    let change = |config: &mut Config, file: &Path| {
        limited(config);
        config.keys[0].monthly_traffic = Some("1MB".parse::<Size>().expect("it is so"));
        config.usage_file = file.to_owned();
    };
    let cluster = Cluster::start_with(3, |n, config| change(config, &usage(n))).await;
    let Some(mut cluster) = cluster else { return };
    until_known(&[&cluster[0], &cluster[1], &cluster[2]], 3).await;
    for node in 0..3 {
        let mut pair = pair(&cluster[node]).await.expect("it is let in");
        send(&mut pair, 200_000).await;
    }
    let all_have = async |cluster: &Cluster, bytes: std::ops::Range<u64>| {
        for node in 0..cluster.nodes.len() {
            eventually("the traffic of all is known", async || {
                bytes.contains(&month_bytes(&cluster[node]).await)
            })
            .await;
        }
    };
    // Framing included.
    all_have(&cluster, 600_000..601_000).await;
    // A node ends, and what it has carried stays; it comes back with its file, and counts once.
    let gone = cluster.nodes.pop().expect("a node").gateway;
    gone.shutdown.end();
    until_known(&[&cluster[0], &cluster[1]], 2).await;
    all_have(&cluster, 600_000..601_000).await;
    let back = Cluster::node(&cluster.redis, 2, |config| change(config, &usage(2))).await;
    cluster.nodes.push(back);
    until_known(&[&cluster[0], &cluster[1], &cluster[2]], 3).await;
    all_have(&cluster, 600_000..601_000).await;
    // Redis loses all: the nodes tell it what they have counted.
    cluster.redis.restart().await;
    all_have(&cluster, 400_000..601_000).await;
    let mut pair_of_two = pair(&cluster[2]).await.expect("not used up yet");
    send(&mut pair_of_two, 600_000).await;
    for node in 0..3 {
        eventually("it is used up everywhere", async || {
            let hello = request_relay(&unique("more"), "", KEY, ConnType::Default);
            let _more = cluster[node].leg_with(Tcp, &hello).await;
            let series = "relay_rejected_total{reason=\"key_quota_traffic\"}";
            cluster[node].metric(series).await > 0.0
        })
        .await;
    }
}
