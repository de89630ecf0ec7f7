//! A node at whose cluster listener there is no room for one more connection.

use std::{sync::Arc, time::Duration};

use mini_rust_desk_relay_server::{
    cluster::{
        directory::{Holder, Instance, Node},
        link::{Go, Link, Links, NODES_RESERVE, Purpose},
    },
    config::Secret,
    net::liveness::Liveness,
};
use tokio::{task::JoinSet, time::timeout};

use super::support::{Cluster, SECRET};
use crate::{
    support::{PATIENCE, unique},
    tls::Kind,
};

/// Clients that may be connected.
const FEW: usize = 20;

/// A connection that has proved to be a node's, and asks nothing.
async fn held(links: Arc<Links>, host: Arc<Node>) -> Link {
    let mut link = links.dial(&host, Purpose::Api).await.expect("there is room");
    // Nothing is heard by it.
    let _ = timeout(Duration::from_millis(500), link.receive::<Go>()).await;
    link
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legs_for_a_node_that_is_full_of_others_connections_meet_the_other_way_round() {
    let cluster = Cluster::start_with(2, |node, config| {
        if node == 0 {
            config.front_door.max_connections = FEW;
        }
    });
    let Some(cluster) = cluster.await else { return };
    let uuid = unique("full");
    let mut first = cluster.leg(0, Kind::Tcp, &uuid).await;
    cluster.until_claimed(0, &uuid).await;
    let holder: String = cluster.redis.ask(&format!("GET relay:leg:{uuid}")).await.expect("it");
    let host = holder.parse::<Holder>().expect("a holder").node;
    let me = Node { instance: Instance(7), name: "greedy".into(), address: "127.0.0.1:9".into() };
    let liveness = Liveness::new(PATIENCE, PATIENCE);
    let links = Links::new(Arc::new(me), &Secret::new(SECRET), None, PATIENCE, liveness);
    let links = Arc::new(links.expect("keys"));
    let mut greedy = JoinSet::new();
    for _ in 0..FEW + NODES_RESERVE {
        greedy.spawn(held(Arc::clone(&links), Arc::clone(&host)));
    }
    let _held = greedy.join_all().await;
    assert!(links.dial(&host, Purpose::Api).await.is_err(), "no more");
    let mut second = cluster.leg(1, Kind::Tcp, &uuid).await;
    second.send(b"to the first").await;
    assert_eq!(first.receive().await.as_deref(), Some(&b"to the first"[..]));
    cluster[1].until_active(&uuid).await;
    assert!(cluster[0].refusals("connection_limit").await >= 2.0);
}
