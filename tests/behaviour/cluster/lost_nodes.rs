//! Nodes that die, hang, or leave something behind in the directory, and one that is not trusted: who
//! waits elsewhere is not lost by that, and who comes again is met at once.

use mini_rust_desk_relay_server::{
    config::Secret,
    wire::Transport::{self, Tcp, WebSocket},
};
use rustix::process::Signal;

use super::support::{Cluster, Processes};
use crate::support::{Client, TestGateway, eventually, unique};

/// That messages cross both ways.
async fn talk(one: &mut Client, other: &mut Client) {
    for message in [&b"one way"[..], &[7; 70_000]] {
        one.send(message).await;
        assert_eq!(other.receive().await.as_deref(), Some(message));
        other.send(message).await;
        assert_eq!(one.receive().await.as_deref(), Some(message));
    }
}

/// A leg that comes where nobody of its name is known to wait, and the one that it is paired with.
async fn meets(waits: &mut Client, node: &TestGateway, transport: Transport, uuid: &str) -> Client {
    let mut comes = node.leg(transport, uuid).await;
    talk(waits, &mut comes).await;
    comes
}

#[tokio::test]
async fn a_node_that_is_killed_takes_its_own_relays_and_a_retry_of_any_name_works_at_once() {
    let Some(mut nodes) = Processes::start(3).await else { return };
    let mut untouched = nodes.clients((1, Tcp), (2, WebSocket)).await;
    let mut relayed = nodes.clients((0, Tcp), (1, Tcp)).await;
    let mut carried = nodes.clients((2, WebSocket), (0, Tcp)).await;
    let (uuid, waiting) = (relayed.uuid.clone(), unique("waits"));
    let _gone = nodes[0].leg(Tcp, &waiting).await;
    nodes.until_claimed(0, &waiting).await;
    nodes.nodes[0].signal(Signal::KILL);
    nodes.nodes[0].ended().await;
    // Their peers are told; nobody else notices.
    assert_eq!(relayed.second.receive().await, None);
    assert_eq!(carried.first.receive().await, None);
    talk(&mut untouched.first, &mut untouched.second).await;
    // Each within its patience, which is shorter than what the dead node had claimed lasts.
    for uuid in [uuid, unique("new"), waiting] {
        let mut waits = nodes[1].leg(Tcp, &uuid).await;
        nodes.until_claimed(1, &uuid).await;
        meets(&mut waits, &nodes[2], WebSocket, &uuid).await;
    }
    nodes.redis.until_nobody_waits().await;
}

#[tokio::test]
async fn a_node_that_hangs_is_passed_over_and_its_leg_is_met_once_it_goes_on() {
    let Some(nodes) = Processes::start(2).await else { return };
    let uuid = unique("hangs");
    let mut waits = nodes[0].leg(Tcp, &uuid).await;
    nodes.until_claimed(0, &uuid).await;
    nodes.nodes[0].signal(Signal::STOP);
    let mut comes = nodes[1].leg(WebSocket, &uuid).await;
    // It takes the name over, and is met by the leg that had it.
    nodes.until_claimed(1, &uuid).await;
    nodes.nodes[0].signal(Signal::CONT);
    talk(&mut waits, &mut comes).await;
    nodes.redis.until_nobody_waits().await;
}

#[tokio::test]
async fn what_nobody_holds_any_more_or_nobody_can_read_is_passed_over() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let own = cluster[0].get("/api/v1/nodes").await.json()["data"][0]["address"].to_string();
    let own = own.trim_matches('"').to_owned();
    let mut redis = cluster.redis.connect().await;
    for stale in [
        // Nobody listens there; somebody does, and is no node; the node before a restart; a release
        // that is not known yet; no entry at all.
        "1 abc 1 127.0.0.1:1 ghost".to_owned(),
        format!("1 abc 1 {} ghost", cluster[1].addr),
        format!("1 abc 1 {own} node-0"),
        "2 abc of a later release".to_owned(),
        String::new(),
    ] {
        let uuid = unique("stale");
        let mut set = redis::cmd("SET");
        set.arg(format!("relay:leg:{uuid}")).arg(&stale).arg("PX").arg(60_000);
        set.exec_async(&mut redis).await.expect("it takes that");
        let mut waits = cluster[0].leg(Tcp, &uuid).await;
        cluster.until_claimed(0, &uuid).await;
        meets(&mut waits, &cluster[1], Tcp, &uuid).await;
    }
    cluster.until_quiet().await;
}

#[tokio::test]
async fn a_node_with_another_secret_hands_nothing_over_and_keeps_nobody_from_meeting() {
    let change = |n: usize, config: &mut mini_rust_desk_relay_server::config::Config| {
        if n == 2 {
            config.cluster.secret = Secret::new("another secret than all the others have");
        }
    };
    let Some(cluster) = Cluster::start_with(3, change).await else { return };
    let uuid = unique("secret");
    let mut outside = cluster[2].leg(Tcp, &uuid).await;
    cluster.until_claimed(2, &uuid).await;
    let mut waits = cluster[0].leg(Tcp, &uuid).await;
    let failed = "relay_cluster_handovers_out_total{outcome=\"unreachable\"}";
    let refused = "relay_rejected_total{reason=\"node_secret\"}";
    eventually("it is tried, and refused", async || {
        cluster[0].metric(failed).await >= 1.0 && cluster[2].metric(refused).await >= 1.0
    })
    .await;
    // Neither is refused; whoever comes where the other node is trusted is met.
    let mut comes = meets(&mut waits, &cluster[1], Tcp, &uuid).await;
    let mut second = cluster[2].leg(Tcp, &uuid).await;
    talk(&mut outside, &mut second).await;
    talk(&mut waits, &mut comes).await;
}

/// The commonest mistake: nodes that say the wrong address of themselves.
#[tokio::test]
async fn a_node_that_is_not_where_it_says_is_told_of_in_the_log() {
    let wrong = "cluster.advertise = '127.0.0.1:1'";
    let Some(nodes) = Processes::start_with(2, wrong).await else { return };
    let uuid = unique("nowhere");
    let _waits = nodes[0].leg(Tcp, &uuid).await;
    nodes.until_claimed(0, &uuid).await;
    let _comes = nodes[1].leg(Tcp, &uuid).await;
    eventually("it is told of", async || {
        let log = nodes.nodes[1].log().join("\n");
        log.contains("WARN") && log.contains("cluster.advertise") && log.contains("node-0")
    })
    .await;
    let log = nodes.nodes[1].log();
    let told = log.iter().filter(|line| line.contains("cluster.advertise")).count();
    assert_eq!(told, 1, "{log:#?}");
}
