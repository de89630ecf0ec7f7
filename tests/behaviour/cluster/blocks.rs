//! Networks that an operator blocks on one node are blocked on all.

use std::time::{Duration, Instant};

use mini_rust_desk_relay_server::wire::Transport::Tcp;
use tokio::io::AsyncReadExt as _;

use super::{
    support::Cluster,
    view::{beats, until_known},
};
use crate::support::{Answer, TOKEN, TestGateway, eventually, http_with_body, read_to_end};

/// A node from whose admin API one is not blocked oneself: clients come from another address.
async fn post(gateway: &TestGateway, body: &str) -> Answer {
    let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
    http_with_body(gateway.admin_addr, "POST", "/api/v1/blocklist", &headers, body).await
}

async fn delete(gateway: &TestGateway, network: &str) -> Answer {
    let path = format!("/api/v1/blocklist{network}");
    gateway.request("DELETE", &path, &format!("Authorization: Bearer {TOKEN}\r\n")).await
}

/// What an operator has put on a node's list, and for how long it stays.
async fn blocked(gateway: &TestGateway) -> Vec<(String, Option<f64>)> {
    let list = gateway.get("/api/v1/blocklist?limit=1000").await.json();
    let items = list["items"].as_array().expect("a list").clone();
    let items = items.iter().filter(|entry| entry["source"] == "api");
    let entry = |entry: &serde_json::Value| {
        (
            entry["network"].as_str().expect("it is so").to_owned(),
            entry["expires_in_seconds"].as_f64(),
        )
    };
    items.map(entry).collect()
}

async fn until_blocked(gateway: &TestGateway, networks: &[&str]) {
    eventually(&format!("{networks:?} are blocked"), async || {
        let blocked = blocked(gateway).await;
        blocked.iter().map(|(network, _)| network).eq(networks)
    })
    .await;
}

async fn cluster(count: usize) -> Option<Cluster> {
    let cluster = Cluster::start_with(count, |n, config| {
        beats(config);
        if n == 0 {
            config.access.blocklist = vec!["198.51.100.0/24".parse().expect("it is so")];
        }
    })
    .await?;
    let nodes: Vec<_> = (0..count).map(|n| &cluster[n]).collect();
    until_known(&nodes, count).await;
    Some(cluster)
}

#[tokio::test]
async fn a_block_is_heard_of_within_a_second_kept_for_who_joins_and_taken_back_everywhere() {
    let Some(mut cluster) = cluster(3).await else { return };
    let began = Instant::now();
    let added = post(&cluster[0], "{\"network\": \"203.0.113.0/24\", \"duration\": \"1h\"}").await;
    assert_eq!(added.status, 201, "{}", added.body);
    for node in 1..3 {
        until_blocked(&cluster[node], &["203.0.113.0/24"]).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    post(&cluster[1], "{\"network\": \"2001:db8::/32\"}").await;
    let joined = Cluster::node(&cluster.redis, 3, beats).await;
    cluster.nodes.push(joined);
    until_known(&[&cluster[0], &cluster[1], &cluster[2], &cluster[3]], 4).await;
    let both = ["203.0.113.0/24", "2001:db8::/32"];
    for node in 0..4 {
        until_blocked(&cluster[node], &both).await;
        let entries = blocked(&cluster[node]).await;
        let left = entries[0].1.expect("for a time");
        assert!((3500.0..=3600.0).contains(&left), "{left}");
        assert_eq!(entries[1].1, None);
    }
    // Its configuration is its own.
    let of_config = "/api/v1/blocklist?address=198.51.100.1";
    assert_eq!(cluster[0].get(of_config).await.json()["total"], 1);
    assert_eq!(cluster[1].get(of_config).await.json()["total"], 0);
    let all = cluster[2].get("/api/v1/blocklist?scope=cluster").await.json();
    assert_eq!(all["total"], 9, "{all}");
    assert_eq!(delete(&cluster[3], "/203.0.113.0/24").await.status, 200);
    for node in 0..4 {
        until_blocked(&cluster[node], &["2001:db8::/32"]).await;
    }
    for host in 0..20 {
        post(&cluster[0], &format!("{{\"network\": \"203.0.113.{host}\"}}")).await;
    }
    eventually("all are heard of", async || blocked(&cluster[2]).await.len() == 21).await;
    delete(&cluster[2], "").await;
    for node in 0..4 {
        until_blocked(&cluster[node], &[]).await;
    }
}

#[tokio::test]
async fn a_block_that_lapses_does_so_everywhere() {
    let Some(cluster) = cluster(2).await else { return };
    post(&cluster[0], "{\"network\": \"203.0.113.7\", \"duration\": \"2s\"}").await;
    until_blocked(&cluster[1], &["203.0.113.7"]).await;
    let left = blocked(&cluster[1]).await[0].1.expect("for a time");
    assert!(left <= 2.0, "{left}");
    for node in 0..2 {
        until_blocked(&cluster[node], &[]).await;
    }
    let joined = Cluster::node(&cluster.redis, 2, beats).await;
    until_known(&[&joined.gateway], 3).await;
    assert!(blocked(&joined.gateway).await.is_empty());
}

/// The nodes that have not heard of it yet tell a Redis that has lost all what they have.
#[tokio::test]
async fn what_is_taken_back_when_redis_has_just_lost_all_does_not_come_back() {
    let Some(cluster) = cluster(3).await else { return };
    for round in 0..3 {
        post(&cluster[0], "{\"network\": \"203.0.113.1\"}").await;
        post(&cluster[0], "{\"network\": \"203.0.113.2\"}").await;
        for node in 0..3 {
            until_blocked(&cluster[node], &["203.0.113.1", "203.0.113.2"]).await;
        }
        let _: () = cluster.redis.ask("FLUSHALL").await.expect("it answers");
        delete(&cluster[round], "/203.0.113.1").await;
        eventually("Redis has been told again", async || {
            let fields: Vec<String> =
                cluster.redis.ask("HKEYS relay:blocks").await.expect("it answers");
            fields.iter().any(|field| field == "block 203.0.113.2")
        })
        .await;
        for node in 0..3 {
            until_blocked(&cluster[node], &["203.0.113.2"]).await;
        }
    }
}

/// Who blocks one address after the other, each for a time, fills neither Redis nor the nodes.
#[tokio::test]
async fn what_has_lapsed_is_not_kept() {
    let Some(cluster) = cluster(2).await else { return };
    let _: () = cluster.redis.ask("SET relay:blocks:generation 200").await.expect("it answers");
    for host in 0..5 {
        let body = format!("{{\"network\": \"203.0.113.{host}\", \"duration\": \"2s\"}}");
        post(&cluster[0], &body).await;
    }
    eventually("all are heard of", async || blocked(&cluster[1]).await.len() == 5).await;
    until_blocked(&cluster[1], &[]).await;
    let kept = async || {
        let kept: usize = cluster.redis.ask("HLEN relay:blocks").await.expect("it answers");
        kept
    };
    for host in 0..60 {
        post(&cluster[0], &format!("{{\"network\": \"198.18.0.{host}\"}}")).await;
    }
    eventually("all are heard of", async || blocked(&cluster[1]).await.len() == 60).await;
    // These, and which start of the data it is.
    eventually("the others are gone", async || kept().await == 61).await;
}

/// A leg from another loopback address than the tests' own, so that blocking it stops nobody else.
async fn leg_from(gateway: &TestGateway, ip: [u8; 4], uuid: &str) -> tokio::net::TcpStream {
    use mini_rust_desk_relay_server::wire::{
        frame,
        rendezvous::{ConnType, request_relay},
    };
    use tokio::io::AsyncWriteExt as _;
    let socket = tokio::net::TcpSocket::new_v4().expect("it is so");
    socket.bind((std::net::Ipv4Addr::from(ip), 0).into()).expect("it is so");
    let mut socket = socket.connect(gateway.addr).await.expect("it is so");
    let hello = frame::encode(&request_relay(uuid, "", "", ConnType::Default)).expect("it is so");
    socket.write_all(&hello).await.expect("it is so");
    socket
}

#[tokio::test]
async fn relays_and_legs_of_a_blocked_address_end_on_every_node() {
    let Some(cluster) = cluster(3).await else { return };
    let ip = [127, 0, 0, 9];
    let mut waits = leg_from(&cluster[1], ip, "waits").await;
    cluster[1].until_waiting("waits").await;
    let mut paired = leg_from(&cluster[2], ip, "home").await;
    cluster[2].until_waiting("home").await;
    let mut peer = cluster[2].leg(Tcp, "home").await.tcp();
    cluster[2].until_active("home").await;
    // Its leg lands on one node, and is relayed by another.
    let mut holder = cluster[2].leg(Tcp, "across").await.tcp();
    cluster.until_claimed(2, "across").await;
    let mut carried = leg_from(&cluster[1], ip, "across").await;
    cluster[2].until_active("across").await;
    post(&cluster[0], "{\"network\": \"127.0.0.9\"}").await;
    for socket in [&mut waits, &mut paired, &mut peer, &mut holder, &mut carried] {
        read_to_end(socket).await;
    }
    cluster[2].until_metric("relay_ends_total{reason=\"blocked\"}", 2.0).await;
    for node in 0..3 {
        let mut refused = leg_from(&cluster[node], ip, "refused").await;
        let mut byte = [0];
        // Be it by a reset.
        assert_eq!(refused.read(&mut byte).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn what_is_blocked_while_redis_is_away_is_told_when_it_is_back() {
    let Some(cluster) = cluster(2).await else { return };
    post(&cluster[0], "{\"network\": \"203.0.113.1\"}").await;
    post(&cluster[0], "{\"network\": \"203.0.113.2\"}").await;
    until_blocked(&cluster[1], &["203.0.113.1", "203.0.113.2"]).await;
    cluster.redis.stop();
    eventually("it is away", async || {
        cluster[0].metric("relay_cluster_degraded").await > 0.0
            && cluster[1].metric("relay_cluster_degraded").await > 0.0
    })
    .await;
    post(&cluster[0], "{\"network\": \"203.0.113.3\"}").await;
    until_blocked(&cluster[0], &["203.0.113.1", "203.0.113.2", "203.0.113.3"]).await;
    // It comes back without what it knew, and is told.
    cluster.redis.restart().await;
    let all = ["203.0.113.1", "203.0.113.2", "203.0.113.3"];
    for node in 0..2 {
        until_blocked(&cluster[node], &all).await;
    }
    let joined = Cluster::node(&cluster.redis, 2, beats).await;
    until_blocked(&joined.gateway, &all).await;
    // What is taken back is so, and stays so.
    delete(&cluster[1], "/203.0.113.1").await;
    for gateway in [&cluster[0], &cluster[1], &joined.gateway] {
        until_blocked(gateway, &all[1..]).await;
    }
}
