//! Two legs that name one uuid meet, whatever comes between.

use std::time::Duration;

use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};
use tokio::{io::AsyncWriteExt as _, task::JoinSet};

use crate::support::{TestGateway, eventually, read_to_end, unique};

const TRANSPORTS: [(Transport, Transport); 4] =
    [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)];

#[tokio::test]
async fn messages_cross_both_ways_over_every_pair_of_transports() {
    let gateway = TestGateway::start().await;
    for (first, second) in TRANSPORTS {
        let (mut first, mut second) = gateway.pair(first, second).await;
        for len in [1, 0, 63, 64, 300, 16_384, 100_000] {
            let message = vec![len as u8; len];
            first.send(&message).await;
            assert_eq!(second.receive().await.as_ref(), Some(&message));
            second.send(&message).await;
            assert_eq!(first.receive().await.as_ref(), Some(&message));
        }
        first.finish().await;
        assert_eq!(second.receive().await, None);
        second.finish().await;
        assert_eq!(first.receive().await, None);
    }
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 4.0).await;
}

#[tokio::test]
async fn a_leg_that_hung_up_is_gone_within_a_second_and_never_matched() {
    let gateway = TestGateway::start().await;
    for transport in [Tcp, WebSocket] {
        let uuid = unique("hung-up");
        let mut gone = gateway.leg(transport, &uuid).await;
        gateway.until_waiting(&uuid).await;
        gone.finish().await;
        drop(gone);
        let mut second = gateway.leg(Tcp, &uuid).await;
        let mut third = gateway.leg(transport, &uuid).await;
        second.send(b"to the living").await;
        assert_eq!(third.receive().await.as_deref(), Some(&b"to the living"[..]));
    }
    let mut gone = gateway.leg(Tcp, "swept").await.tcp();
    gateway.until_waiting("swept").await;
    gone.shutdown().await.unwrap();
    let since = std::time::Instant::now();
    assert_eq!(read_to_end(&mut gone).await, b"");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    gateway.until_metric("relay_waiting_legs", 0.0).await;
}

/// Both legs of every pair are sent at once, many pairs at a time, over two listeners' worth of
/// threads: every one must meet its peer, and only its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn legs_that_arrive_together_always_meet() {
    const PAIRS: usize = 4_000;
    const AT_ONCE: usize = 64;
    let gateway = std::sync::Arc::new(TestGateway::start().await);
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let gateway = std::sync::Arc::clone(&gateway);
        tasks.spawn(async move {
            for round in 0..PAIRS / AT_ONCE {
                let uuid = format!("race-{worker}-{round}");
                let (mut a, mut b) = tokio::join!(gateway.leg(Tcp, &uuid), gateway.leg(Tcp, &uuid));
                a.send(uuid.as_bytes()).await;
                assert_eq!(b.receive().await.as_deref(), Some(uuid.as_bytes()));
                b.send(b"answer").await;
                assert_eq!(a.receive().await.as_deref(), Some(&b"answer"[..]));
            }
        });
    }
    tasks.join_all().await;
    eventually("all pairs are over", async || gateway.metric("relay_waiting_legs").await == 0.0)
        .await;
    let pairs = gateway.metric("relay_pairs_total{transport=\"tcp\"}").await;
    assert_eq!(pairs as usize, PAIRS / AT_ONCE * AT_ONCE);
}
