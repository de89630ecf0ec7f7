//! Two legs that name one uuid meet, whatever comes between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config,
    wire::{
        Transport::{self, Tcp, WebSocket},
        frame,
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};

use crate::{
    raw_websocket::{self, BINARY, RawWebSocket, reset},
    support::{Client, PATIENCE, TestGateway, read_to_end, unique},
};

/// How many pairs come at a time.
const AT_ONCE: usize = 64;

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
    let since = Instant::now();
    assert_eq!(read_to_end(&mut gone).await, b"");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    gateway.until_metric("relay_waiting_legs", 0.0).await;
}

/// Both legs of every pair come at once, many pairs at a time, over every pair of transports: each
/// must meet its peer, and only its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn legs_that_arrive_together_always_meet() {
    const PAIRS: usize = 6_000;
    let gateway = Arc::new(TestGateway::start().await);
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let gateway = Arc::clone(&gateway);
        tasks.spawn(async move {
            for round in 0..PAIRS / AT_ONCE {
                let uuid = format!("race-{worker}-{round}");
                let (first, second) = TRANSPORTS[(worker + round) % TRANSPORTS.len()];
                let (mut a, mut b) =
                    tokio::join!(gateway.leg(first, &uuid), gateway.leg(second, &uuid));
                a.send(uuid.as_bytes()).await;
                assert_eq!(b.receive().await.as_deref(), Some(uuid.as_bytes()));
                b.send(b"answer").await;
                assert_eq!(a.receive().await.as_deref(), Some(&b"answer"[..]));
            }
        });
    }
    tasks.join_all().await;
    let mut pairs = 0.0;
    for transport in ["tcp", "websocket", "mixed"] {
        pairs += gateway.metric(&format!("relay_pairs_total{{transport=\"{transport}\"}}")).await;
    }
    assert_eq!(pairs as usize, PAIRS / AT_ONCE * AT_ONCE);
    gateway.until_quiet().await;
}

/// With every pair comes a third leg of its name that hangs up, now at once, now in the middle of
/// its first message, now when it has said it. Whoever is left alone, or met the one that went,
/// comes again, as clients do: they always meet, and nothing of the third stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn legs_meet_though_others_of_their_name_hang_up_in_between() {
    const ROUNDS: usize = 2_000;
    let gateway = Arc::new(TestGateway::start().await);
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let gateway = Arc::clone(&gateway);
        tasks.spawn(async move {
            for round in 0..ROUNDS / AT_ONCE {
                let uuid = format!("crowd-{worker}-{round}");
                let (first, second) = TRANSPORTS[(worker + round) % TRANSPORTS.len()];
                tokio::join!(
                    meet(&gateway, first, &uuid),
                    ghost(&gateway, &uuid, round),
                    meet(&gateway, second, &uuid),
                );
            }
        });
    }
    tasks.join_all().await;
    gateway.until_quiet().await;
}

/// Comes, and comes again, until its peer's message comes too.
async fn meet(gateway: &TestGateway, transport: Transport, uuid: &str) {
    loop {
        let (mut sending, mut receiving) = gateway.leg(transport, uuid).await.split();
        // It fails when a leg was met that is gone.
        let _ = sending.send(uuid.as_bytes()).await;
        let received = timeout(PATIENCE, receiving.receive()).await.expect("a message or the end");
        match received {
            Some(message) => return assert_eq!(message, uuid.as_bytes()),
            None => tokio::task::yield_now().await,
        }
    }
}

async fn ghost(gateway: &TestGateway, uuid: &str, how: usize) {
    let frame = frame::encode(&request_relay(uuid, "", "", ConnType::Default)).expect("a frame");
    let mut socket = gateway.connect().await;
    let len = [frame.len(), frame.len() / 2, 1, frame.len()][how % 4];
    socket.write_all(&frame[..len]).await.expect("the gateway reads");
    if how.is_multiple_of(2) {
        reset(socket);
    }
}

#[tokio::test]
async fn a_third_leg_of_a_name_in_use_waits_for_a_fourth() {
    let gateway = TestGateway::start().await;
    for (first, second) in TRANSPORTS {
        let uuid = unique("crowded");
        let (mut a, mut b) = gateway.named_pair(&uuid, first, second).await;
        let mut c = gateway.leg(first, &uuid).await;
        gateway.until_waiting(&uuid).await;
        let mut d = gateway.leg(second, &uuid).await;
        c.send(b"of the second pair").await;
        assert_eq!(d.receive().await.as_deref(), Some(&b"of the second pair"[..]));
        a.send(b"of the first").await;
        assert_eq!(b.receive().await.as_deref(), Some(&b"of the first"[..]));
    }
    gateway.until_quiet().await;
}

#[tokio::test]
async fn a_leg_whose_peer_does_not_come_is_closed_with_nothing_sent() {
    let gateway = TestGateway::start_with(|config| {
        config.pairing.timeout = config::Duration::from_millis(300);
    })
    .await;
    let mut tcp = gateway.leg(Tcp, "alone").await.tcp();
    let mut websocket = RawWebSocket::leg(&gateway, "alone too").await;
    let since = Instant::now();
    // A FIN, not a reset.
    let mut byte = [0];
    assert_eq!(timeout(PATIENCE, tcp.read(&mut byte)).await.unwrap().unwrap(), 0);
    assert_eq!(websocket.frame().await, None);
    let waited = since.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
    gateway.until_metric("relay_unpaired_total{reason=\"timeout\"}", 2.0).await;
    gateway.until_quiet().await;
}

#[tokio::test]
async fn a_full_waiting_room_refuses_and_still_pairs() {
    let gateway = TestGateway::start_with(|config| config.pairing.max_waiting = 2).await;
    let mut first = gateway.leg(Tcp, "one").await;
    gateway.until_waiting("one").await;
    let second = gateway.leg(WebSocket, "two").await;
    gateway.until_waiting("two").await;
    assert_eq!(gateway.leg(Tcp, "three").await.receive().await, None);
    gateway.until_metric("relay_rejected_total{reason=\"waiting_room_full\"}", 1.0).await;
    let mut peer = gateway.leg(Tcp, "one").await;
    peer.send(b"room enough").await;
    assert_eq!(first.receive().await.as_deref(), Some(&b"room enough"[..]));
    let third = gateway.leg(Tcp, "three").await;
    gateway.until_waiting("three").await;
    drop((first, second, third, peer));
    gateway.until_quiet().await;
}

/// Hangs up, with a FIN and with a reset, after every byte of all that a leg says.
#[tokio::test]
async fn a_hang_up_at_any_step_leaves_nothing() {
    let gateway = TestGateway::start().await;
    let long = "x".repeat(100);
    for resets in [false, true] {
        let uuid = unique(&long);
        let mut tcp =
            frame::encode(&request_relay(&uuid, "", "", ConnType::Default)).expect("a frame");
        tcp.extend(frame::encode(&[1; 70]).expect("a frame"));
        let mut websocket = raw_websocket::UPGRADE.as_bytes().to_vec();
        websocket.extend(raw_websocket::hello(&uuid));
        websocket.extend(raw_websocket::masked(BINARY, &[1; 200]));
        for bytes in [tcp, websocket] {
            for len in 0..=bytes.len() {
                let mut socket = gateway.connect().await;
                socket.write_all(&bytes[..len]).await.unwrap();
                if resets {
                    reset(socket);
                }
            }
        }
    }
    gateway.until_quiet().await;
}

#[tokio::test]
async fn a_hang_up_of_either_leg_of_a_pair_leaves_nothing() {
    let gateway = TestGateway::start().await;
    for (first, second) in TRANSPORTS {
        for (first_goes, resets, begun) in
            (0..8).map(|bits| (bits & 1 == 0, bits & 2 == 0, bits & 4 == 0))
        {
            let (first, second) = gateway.pair(first, second).await;
            let (goes, stays) = if first_goes { (first, second) } else { (second, first) };
            let is_tcp = matches!(goes, Client::Tcp(_));
            let mut socket = match goes {
                Client::Tcp(socket) => socket,
                Client::WebSocket(socket) => socket.into_inner(),
            };
            if begun {
                // The beginning of a message of 100 bytes.
                let header = if is_tcp {
                    vec![0x91, 0x01]
                } else {
                    raw_websocket::header(BINARY, 100, [0; 4])
                };
                socket.write_all(&header).await.unwrap();
                socket.write_all(&[1; 50]).await.unwrap();
            }
            if resets {
                reset(socket);
            } else {
                drop(socket);
            }
            let (_sending, mut receiving) = stays.split();
            assert_eq!(timeout(PATIENCE, receiving.receive()).await.unwrap(), None);
        }
    }
    gateway.until_quiet().await;
}
