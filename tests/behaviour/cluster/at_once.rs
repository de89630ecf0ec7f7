//! Two sides that come to two nodes at the same moment: one of them waits, the other is handed over,
//! and never do both wait.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use mini_rust_desk_relay_server::wire::Transport::{Tcp, WebSocket};

use super::support::Cluster;
use crate::support::unique;

const PAIRS: usize = 6000;

/// Pairs under way at one time.
const AT_ONCE: usize = 24;

async fn comes_at_once(cluster: &Cluster, n: usize) {
    let uuid = unique("at-once");
    // Mostly two nodes, now and then one.
    let nodes = [n % 3, (n + [1, 2, 1, 0][n % 4]) % 3];
    let transports = [if n.is_multiple_of(7) { WebSocket } else { Tcp }, Tcp];
    let leg = |side: usize| cluster[nodes[side]].leg(transports[side], &uuid);
    let (mut one, mut other) = tokio::join!(leg(0), leg(1));
    one.send(b"to the other").await;
    other.send(b"to the one").await;
    assert_eq!(other.receive().await.as_deref(), Some(&b"to the other"[..]), "{uuid}");
    assert_eq!(one.receive().await.as_deref(), Some(&b"to the one"[..]), "{uuid}");
}

async fn sum(cluster: &Cluster, series: &str) -> f64 {
    let mut sum = 0.0;
    for node in &cluster.nodes {
        sum += node.gateway.metric(series).await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_pairs_whose_sides_come_at_once_to_two_nodes_all_meet() {
    let Some(cluster) = Cluster::start(3).await else { return };
    for node in &cluster.nodes {
        node.gateway.until_metric("relay_cluster_degraded", 0.0).await;
    }
    let cluster = Arc::new(cluster);
    let pairs = stream::iter(0..PAIRS).map(|n| {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move { comes_at_once(&cluster, n).await })
    });
    let mut pairs = pairs.buffer_unordered(AT_ONCE);
    while let Some(pair) = pairs.next().await {
        pair.expect("the two meet");
    }
    let mut paired = 0.0;
    for transport in ["tcp", "mixed", "websocket"] {
        let series = format!("relay_pairs_total{{transport=\"{transport}\"}}");
        paired += sum(&cluster, &series).await;
    }
    assert_eq!(paired, PAIRS as f64, "each is a relay, and each on one node");
    let across = PAIRS - PAIRS / 4;
    let handed = "relay_cluster_handovers_out_total{outcome=\"handed_over\"}";
    assert_eq!(sum(&cluster, handed).await, across as f64);
    for outcome in ["error", "taken_over"] {
        let series = format!("relay_cluster_claims_total{{outcome=\"{outcome}\"}}");
        assert_eq!(sum(&cluster, &series).await, 0.0, "{outcome}");
    }
    cluster.until_quiet().await;
}
