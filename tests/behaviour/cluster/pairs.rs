//! Two legs of any kinds, on two nodes, are a pair as on one.

use mini_rust_desk_relay_server::wire::Transport::{Tcp, WebSocket};

use super::support::{Cluster, Processes};
use crate::tls::{Kind, Peer};

/// That messages cross both ways.
async fn talk(first: &mut Peer, second: &mut Peer) {
    for message in [&b"one way"[..], b"", b"another", &[7; 70_000]] {
        first.send(message).await;
        assert_eq!(second.receive().await.as_deref(), Some(message));
        second.send(message).await;
        assert_eq!(first.receive().await.as_deref(), Some(message));
    }
}

#[tokio::test]
async fn two_legs_on_one_node_are_a_pair_of_its_own() {
    let Some(cluster) = Cluster::start(2).await else { return };
    for node in 0..2 {
        let (mut first, mut second, _) = cluster.nodes[node].pair(Kind::Tls, Kind::Ws).await;
        talk(&mut first, &mut second).await;
    }
}

#[tokio::test]
async fn legs_of_every_kind_meet_across_nodes_and_either_may_end_it() {
    let Some(cluster) = Cluster::start(2).await else { return };
    for first in Kind::ALL {
        for (at, second) in Kind::ALL.into_iter().enumerate() {
            let (holder, other) = if at % 2 == 0 { (0, 1) } else { (1, 0) };
            let mut pair = cluster.pair((holder, first), (other, second)).await;
            talk(&mut pair.first, &mut pair.second).await;
            let (ends, sees) = match at < 2 {
                true => (&mut pair.first, &mut pair.second),
                false => (&mut pair.second, &mut pair.first),
            };
            ends.finish().await;
            assert_eq!(sees.receive().await, None, "{first:?} {second:?}");
            sees.finish().await;
            assert_eq!(ends.receive().await, None, "{first:?} {second:?}");
        }
    }
    cluster.until_quiet().await;
}

#[tokio::test]
async fn a_node_that_is_replaced_is_met_again() {
    let Some(mut nodes) = Processes::start(2).await else { return };
    for _ in 0..2 {
        let mut pair = nodes.clients((0, Tcp), (1, WebSocket)).await;
        pair.first.send(b"across").await;
        assert_eq!(pair.second.receive().await.as_deref(), Some(&b"across"[..]), "{}", pair.uuid);
        nodes.replace(0).await;
    }
    let mut pair = nodes.clients((1, WebSocket), (0, Tcp)).await;
    pair.second.send(b"back").await;
    assert_eq!(pair.first.receive().await.as_deref(), Some(&b"back"[..]));
}

#[tokio::test]
async fn the_sockets_themselves() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let mut pair = cluster.clients((2, Tcp), (0, Tcp)).await;
    pair.first.send(b"across").await;
    assert_eq!(pair.second.receive().await.as_deref(), Some(&b"across"[..]), "{}", pair.uuid);
}
