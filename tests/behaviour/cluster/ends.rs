//! How a pair across nodes ends: what each leg sees, and what is written down of it, once.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mini_rust_desk_relay_server::{
    config::{self, Config},
    wire::Transport::{self, Tcp, WebSocket},
};
use rustix::process::Signal;
use tokio::{io::AsyncReadExt as _, time::timeout};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use super::support::{Cluster, Processes};
use crate::{
    raw_websocket::{BINARY, Frame, RawWebSocket, reset},
    support::{Client, PATIENCE, eventually, unique},
};

const TRANSPORTS: [Transport; 2] = [Tcp, WebSocket];

/// The end of a leg, in good order: a FIN, or this Close.
async fn sees_the_end(client: Client, code: CloseCode) {
    match client {
        Client::Tcp(mut socket) => {
            let read = timeout(PATIENCE, socket.read(&mut [0])).await.expect("in time");
            assert_eq!(read.expect("a FIN, not a reset"), 0);
        }
        Client::WebSocket(mut socket) => {
            match timeout(PATIENCE, socket.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(close)))) => assert_eq!(close.code, code),
                other => panic!("a Close, not {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_leg_that_is_reset_where_it_is_carried_is_one_to_its_peer_and_in_the_record() {
    let Some(cluster) = Cluster::start(2).await else { return };
    let mut resets = 0.0;
    for first in TRANSPORTS {
        for second in TRANSPORTS {
            let mut pair = cluster.clients((0, first), (1, second)).await;
            pair.second.send(b"last words").await;
            assert_eq!(pair.first.receive().await.as_deref(), Some(&b"last words"[..]));
            reset(match pair.second {
                Client::Tcp(socket) => socket,
                Client::WebSocket(socket) => socket.into_inner(),
            });
            sees_the_end(pair.first, CloseCode::Away).await;
            resets += 1.0;
            cluster[0].until_metric("relay_ends_total{reason=\"reset\"}", resets).await;
        }
    }
    cluster.until_quiet().await;
}

/// All that it said before is its peer's, though that reads it later.
#[tokio::test]
async fn what_came_before_a_reset_is_not_lost_on_the_way() {
    const LEN: usize = 1 << 20;
    let Some(cluster) = Cluster::start(2).await else { return };
    for second in TRANSPORTS {
        let uuid = unique("reset");
        let first = cluster[0].leg(Tcp, &uuid).await;
        cluster.until_claimed(0, &uuid).await;
        let mut second = cluster[1].leg(second, &uuid).await;
        cluster[0].until_active(&uuid).await;
        second.send(&vec![9; LEN]).await;
        // All of it is in the first node's hands, or its reader's.
        eventually("it is carried", async || cluster[0].taken(&uuid).await[1] > LEN as u64).await;
        reset(match second {
            Client::Tcp(socket) => socket,
            Client::WebSocket(socket) => socket.into_inner(),
        });
        let (_sending, mut receiving) = first.split();
        assert!(receiving.receive().await == Some(vec![9; LEN]));
        assert_eq!(receiving.receive().await, None);
    }
    cluster.until_quiet().await;
}

#[tokio::test]
async fn a_node_that_drains_closes_what_has_not_ended_and_tells_the_legs() {
    for drained in 0..2 {
        for (first, second) in
            [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
        {
            let short = |_, config: &mut Config| {
                config.shutdown.drain_timeout = config::Duration::from_millis(700);
            };
            let Some(cluster) = Cluster::start_with(2, short).await else { return };
            let mut pair = cluster.clients((0, first), (1, second)).await;
            cluster[drained].shutdown.drain();
            eventually("it drains", async || cluster[drained].shutdown.is_draining()).await;
            // It goes on meanwhile.
            pair.first.send(b"still going").await;
            assert_eq!(pair.second.receive().await.as_deref(), Some(&b"still going"[..]));
            pair.second.send(b"as it was").await;
            assert_eq!(pair.first.receive().await.as_deref(), Some(&b"as it was"[..]));
            let (first, second) = (pair.first, pair.second);
            tokio::join!(
                sees_the_end(first, CloseCode::Away),
                sees_the_end(second, CloseCode::Away)
            );
            eventually("it is gone", async || cluster[drained].running.is_finished()).await;
        }
    }
}

#[tokio::test]
async fn a_node_that_drains_waits_for_what_it_carries() {
    let Some(mut nodes) = Processes::start(2).await else { return };
    let mut pair = nodes.clients((0, Tcp), (1, WebSocket)).await;
    nodes.nodes[1].signal(Signal::TERM);
    nodes.nodes[1].line("draining").await;
    for _ in 0..20 {
        pair.first.send(b"still going").await;
        assert_eq!(pair.second.receive().await.as_deref(), Some(&b"still going"[..]));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(nodes.nodes[1].is_running());
    pair.second.finish().await;
    assert_eq!(pair.first.receive().await, None);
    pair.first.finish().await;
    drop(pair);
    assert_eq!(nodes.nodes[1].ended().await, 0);
}

#[tokio::test]
async fn when_either_node_is_killed_the_other_leg_is_told_at_once() {
    for killed in 0..2 {
        let Some(mut nodes) = Processes::start(2).await else { return };
        for (first, second) in [(Tcp, WebSocket), (WebSocket, Tcp)] {
            let pair = nodes.clients((0, first), (1, second)).await;
            let since = Instant::now();
            nodes.nodes[killed].signal(Signal::KILL);
            let (_sending, mut told) =
                if killed == 0 { pair.second.split() } else { pair.first.split() };
            assert_eq!(timeout(PATIENCE, told.receive()).await.expect("in time"), None);
            assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
            nodes.replace(killed).await;
        }
    }
}

/// Nobody else speaks to a client that is carried: what its peer says passes as it is.
#[tokio::test]
async fn a_websocket_that_is_carried_is_told_why_by_its_peers_node() {
    let with_limits = |_, config: &mut Config| {
        config.relay.max_message_size = config::Size::from_bytes(64 << 10);
        config.relay.idle_timeout = config::Duration::from_millis(1_500);
    };
    let Some(cluster) = Cluster::start_with(2, with_limits).await else { return };
    for why in ["too long", "idle", "admin"] {
        let uuid = unique("why");
        let first = cluster[0].leg(Tcp, &uuid).await;
        cluster.until_claimed(0, &uuid).await;
        let mut carried = RawWebSocket::leg(&cluster[1], &uuid).await;
        cluster[0].until_active(&uuid).await;
        let code = match why {
            "too long" => {
                carried.send(BINARY, &[0; (64 << 10) + 1]).await;
                1009
            }
            "admin" => {
                let closed = cluster[0].delete(&format!("/api/v1/relays/{uuid}")).await;
                assert_eq!(closed.status, 200);
                1001
            }
            _ => 1001,
        };
        carried.expect_close(code).await;
        drop(first);
    }
    cluster.until_quiet().await;
}

/// Both legs are gone at one time, from every side: nothing of them stays anywhere.
#[tokio::test]
async fn hang_ups_of_every_kind_leave_nothing() {
    let Some(cluster) = Cluster::start(2).await else { return };
    for (first, second) in [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
    {
        for how in 0..8 {
            let pair = cluster.clients((how & 1, first), (1 - (how & 1), second)).await;
            let mut sockets = [pair.first, pair.second].map(|client| match client {
                Client::Tcp(socket) => socket,
                Client::WebSocket(socket) => socket.into_inner(),
            });
            if how & 2 == 0 {
                sockets.reverse();
            }
            let [goes, stays] = sockets;
            if how & 4 == 0 {
                reset(goes)
            } else {
                drop(goes)
            }
            let mut stays = stays;
            let read = timeout(PATIENCE, stays.read_to_end(&mut Vec::new())).await;
            let _ = read.expect("it is told in time");
        }
    }
    cluster.until_quiet().await;
}

/// A frame that tells nothing but that its place was kept.
#[tokio::test]
async fn pings_of_a_carried_websocket_are_answered_once_before_and_while_it_is_relayed() {
    use crate::raw_websocket::{PING, PONG};
    let Some(cluster) = Cluster::start(2).await else { return };
    for holder in [0, 1] {
        let uuid = unique("ping");
        let mut first = RawWebSocket::leg(&cluster[holder], &uuid).await;
        cluster.until_claimed(holder, &uuid).await;
        first.send(PING, b"who waits").await;
        assert_eq!(first.frame().await, Some(Frame(PONG, b"who waits".to_vec())));
        let mut second = RawWebSocket::leg(&cluster[1 - holder], &uuid).await;
        cluster[holder].until_active(&uuid).await;
        for (one, other) in [(0, 1), (1, 0)] {
            let legs = [&mut first, &mut second];
            legs[one].send(PING, b"who is relayed").await;
            assert_eq!(legs[one].frame().await, Some(Frame(PONG, b"who is relayed".to_vec())));
            legs[one].send(BINARY, b"and on").await;
            assert_eq!(legs[other].frame().await, Some(Frame(BINARY, b"and on".to_vec())));
        }
    }
}

/// Whose relay is over is closed, though it does not end by itself and says nothing more.
#[tokio::test]
async fn a_carried_leg_that_does_not_end_is_closed_when_its_relay_is_over() {
    let Some(cluster) = Cluster::start(2).await else { return };
    for second in TRANSPORTS {
        let mut pair = cluster.clients((0, Tcp), (1, second)).await;
        pair.first.finish().await;
        assert_eq!(pair.second.receive().await, None);
        drop(pair.first);
        let Client::Tcp(socket) = pair.second else {
            // Its Close was answered by the library; its end is never sent.
            cluster[1].until_metric("relay_cluster_carried_legs", 0.0).await;
            continue;
        };
        cluster[0].delete(&format!("/api/v1/relays/{}", pair.uuid)).await;
        cluster[1].until_metric("relay_cluster_carried_legs", 0.0).await;
        drop(socket);
    }
    cluster.until_quiet().await;
}
