//! Pairs that come and go across two processes leave nothing behind.

use std::sync::Arc;

use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};
use tokio::task::JoinSet;

use super::support::Processes;
use crate::support::eventually;

const PAIRS: usize = 2_000;
const AT_ONCE: usize = 20;

const TRANSPORTS: [(Transport, Transport); 4] =
    [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)];

/// One after the other, as both may come at once: whoever waits first holds the name.
async fn pair(nodes: &Processes, uuid: &str, at: usize) {
    let (first, second) = TRANSPORTS[at % TRANSPORTS.len()];
    let (here, there) = (at / 4 % 2, 1 - at / 4 % 2);
    let (mut one, mut other) =
        tokio::join!(nodes[here].leg(first, uuid), nodes[there].leg(second, uuid));
    one.send(uuid.as_bytes()).await;
    assert_eq!(other.receive().await.as_deref(), Some(uuid.as_bytes()));
    other.send(b"answer").await;
    assert_eq!(one.receive().await.as_deref(), Some(&b"answer"[..]));
    if at.is_multiple_of(3) {
        one.finish().await;
        assert_eq!(other.receive().await, None);
    }
}

async fn churn(nodes: &Arc<Processes>, round: usize, pairs: usize) {
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let nodes = Arc::clone(nodes);
        tasks.spawn(async move {
            for at in 0..pairs / AT_ONCE {
                pair(&nodes, &format!("churn-{round}-{worker}-{at}"), worker + at).await;
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_pairs_leave_no_descriptor_gauge_place_or_key() {
    let Some(nodes) = Processes::start(2).await else { return };
    let nodes = Arc::new(nodes);
    // What is opened once is open then, and what nodes say of themselves is in Redis.
    for node in &nodes.nodes {
        node.gateway.until_metric("relay_cluster_nodes", 2.0).await;
    }
    churn(&nodes, 0, 200).await;
    let quiet = async || {
        for node in &nodes.nodes {
            node.gateway.until_quiet().await;
            for gauge in ["relay_cluster_carried_legs", "relay_cluster_handed_in_relays"] {
                node.gateway.until_metric(gauge, 0.0).await;
            }
        }
        nodes.redis.until_nobody_waits().await;
    };
    quiet().await;
    let before = [0, 1].map(|node| nodes.nodes[node].descriptors());
    let keys = nodes.redis.keys("*").await.len();
    churn(&nodes, 1, PAIRS).await;
    quiet().await;
    for (node, before) in nodes.nodes.iter().zip(before) {
        eventually("as many descriptors as before", async || node.descriptors() <= before + 2)
            .await;
    }
    // One more where a machine so busy let a node be thought dead: who has gone is kept a while. And
    // the sums are no key once a heartbeat has said that there is nothing.
    let left =
        async || nodes.redis.keys("*").await.len() - nodes.redis.keys("relay:gone").await.len();
    eventually("as many keys as before", async || left().await <= keys).await;
    let mut pairs = 0.0;
    for node in 0..2 {
        for transport in ["tcp", "websocket", "mixed"] {
            let series = format!("relay_pairs_total{{transport=\"{transport}\"}}");
            pairs += nodes[node].metric(&series).await;
        }
    }
    assert_eq!(pairs as usize, PAIRS + 200, "each is counted once");
}
