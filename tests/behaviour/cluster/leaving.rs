//! A node that goes, by a drain or for another process: whoever waits with it is met, and what it
//! relays or carries has its time.

use mini_rust_desk_relay_server::wire::Transport::{Tcp, WebSocket};
use rustix::process::Signal;

use super::{
    redis::Redis,
    support::{Processes, SECRET, process},
};
use crate::{
    handover::{Lineage, talk},
    support::{eventually, read_to_end, unique},
    tls::{Identity, Kind, Peer, shake_hands},
};

/// Until a node takes no connection any more.
async fn until_draining(nodes: &Processes, node: usize) {
    eventually("it drains", async || nodes[node].get("/readyz").await.status == 503).await;
}

/// Peers may still come, by the other nodes.
#[tokio::test]
async fn whoever_waits_with_a_node_that_drains_is_met() {
    let Some(mut nodes) = Processes::start(2).await else { return };
    let uuid = unique("drained");
    let mut first = nodes[0].leg(Tcp, &uuid).await;
    nodes.until_claimed(0, &uuid).await;
    nodes.nodes[0].signal(Signal::TERM);
    until_draining(&nodes, 0).await;
    let mut second = nodes[1].leg(WebSocket, &uuid).await;
    talk(&mut first, &mut second).await;
    assert!(nodes.nodes[0].is_running());
    first.finish().await;
    assert_eq!(second.receive().await, None);
    second.finish().await;
    assert_eq!(nodes.nodes[0].ended().await, 0);
    nodes.nodes[0].line("drained").await;
}

#[tokio::test]
async fn a_node_that_drains_carries_legs_to_their_end() {
    let Some(mut nodes) = Processes::start(2).await else { return };
    let mut pair = nodes.clients((0, Tcp), (1, Tcp)).await;
    nodes[1].until_metric("relay_cluster_carried_legs", 1.0).await;
    nodes.nodes[1].signal(Signal::TERM);
    until_draining(&nodes, 1).await;
    talk(&mut pair.first, &mut pair.second).await;
    assert!(nodes.nodes[1].is_running());
    pair.second.finish().await;
    assert_eq!(pair.first.receive().await, None);
    pair.first.finish().await;
    assert_eq!(nodes.nodes[1].ended().await, 0);
    nodes.nodes[1].line("was carried to another node").await;
    nodes.nodes[1].line("drained").await;
}

#[tokio::test]
async fn what_is_carried_at_the_end_of_a_drain_is_closed_on_both_sides() {
    let more = "[shutdown]\ndrain_timeout = \"300ms\"\n";
    let Some(mut nodes) = Processes::start_with(2, more).await else { return };
    let pair = nodes.clients((0, Tcp), (1, Tcp)).await;
    nodes.nodes[1].signal(Signal::TERM);
    assert_eq!(read_to_end(&mut pair.second.tcp()).await, b"");
    assert_eq!(read_to_end(&mut pair.first.tcp()).await, b"");
    assert_eq!(nodes.nodes[1].ended().await, 0);
    let line = nodes.nodes[1].line("was carried to another node").await;
    assert!(line.contains("draining"), "{line}");
}

/// A node of which another process can take over.
async fn lineage(redis: &Redis, node: &str, more: &[(&str, &str)]) -> Lineage {
    let url = redis.url();
    let node = [
        ("RELAY__CLUSTER__REDIS", &*url),
        ("RELAY__CLUSTER__LISTEN", "[\"127.0.0.1:0\"]"),
        ("RELAY__CLUSTER__NODE", node),
        ("RELAY__CLUSTER__SECRET", SECRET),
    ];
    Lineage::start(&["--admin-listen", "127.0.0.1:0"], &[&node[..], more].concat()).await
}

#[tokio::test]
async fn a_node_of_which_another_process_takes_over_loses_nobody() {
    let Some(redis) = Redis::start().await else { return };
    let (mut old, other) = (lineage(&redis, "old", &[]).await, process(&redis, 1, "").await);
    let (waits, relayed, carried) = (unique("waits"), unique("relayed"), unique("carried"));
    let mut relayed_first = old.process.gateway.leg(Tcp, &relayed).await;
    let mut carried_first = other.gateway.leg(Tcp, &carried).await;
    redis.until_claimed("old", &relayed).await;
    redis.until_claimed("node-1", &carried).await;
    let mut relayed_second = other.gateway.leg(WebSocket, &relayed).await;
    let mut carried_second = old.process.gateway.leg(WebSocket, &carried).await;
    talk(&mut relayed_first, &mut relayed_second).await;
    talk(&mut carried_first, &mut carried_second).await;
    let mut first = old.process.gateway.leg(Tcp, &waits).await;
    redis.until_claimed("old", &waits).await;
    old.upgrade().await;
    let mut second = other.gateway.leg(Tcp, &waits).await;
    talk(&mut first, &mut second).await;
    talk(&mut relayed_first, &mut relayed_second).await;
    talk(&mut carried_first, &mut carried_second).await;
    assert!(old.process.is_running(), "what it relays and carries goes on in it");
    for leg in [&mut relayed_first, &mut carried_first] {
        leg.finish().await;
    }
    for leg in [&mut relayed_second, &mut carried_second] {
        assert_eq!(leg.receive().await, None);
        leg.finish().await;
    }
    assert_eq!(old.process.ended().await, 0);
    talk(&mut first, &mut second).await;
}

/// It stays in the old process, where no other node can reach it: from there it goes to them.
#[tokio::test]
async fn who_waits_in_tls_with_a_node_of_which_another_process_takes_over_is_met_from_another_node()
{
    let Some(redis) = Redis::start().await else { return };
    let (identity, files) = (Identity::new(), tempfile::tempdir().expect("a directory"));
    identity.write(files.path());
    let path = |name: &str| files.path().join(name).to_str().expect("text").to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let tls = [("RELAY__TLS__CERT", cert.as_str()), ("RELAY__TLS__KEY", key.as_str())];
    let (mut old, other) = (lineage(&redis, "old", &tls).await, process(&redis, 1, "").await);
    let mut legs = Vec::new();
    for kind in [Kind::Tls, Kind::Wss] {
        let uuid = unique("tls");
        let socket = old.process.gateway.connect().await;
        let socket = shake_hands(socket, identity.client()).await.expect("a handshake");
        legs.push((Peer::greeting(Box::new(socket), kind, &uuid).await, uuid.clone()));
        redis.until_claimed("old", &uuid).await;
    }
    old.upgrade().await;
    for ((first, uuid), transport) in legs.iter_mut().zip([WebSocket, Tcp]) {
        let mut second = other.gateway.leg(transport, uuid).await;
        first.send(b"from TLS").await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"from TLS"[..]));
        second.send(b"to TLS").await;
        assert_eq!(first.receive().await.as_deref(), Some(&b"to TLS"[..]));
    }
    assert!(old.process.is_running());
}
