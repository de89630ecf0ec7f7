//! Relays that move much go over to the bulk plane and come back, and what crosses the kernel is
//! what was sent: nothing is lost or reordered on the way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mini_rust_desk_relay_server::{
    config::{self, Config, ThreadCount},
    wire::{
        Transport::{self, Tcp, WebSocket},
        frame,
    },
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    halves::{Receiving, Sending, step},
    support::{PATIENCE, TOKEN, TestGateway, eventually, unique},
};

/// The message at a place in an endless stream.
fn message(at: usize) -> Vec<u8> {
    let mut state = at as u64;
    let noise: Vec<u8> = (0..128).flat_map(|_| step(&mut state).to_le_bytes()).collect();
    noise.repeat(64)
}

impl TestGateway {
    async fn until_plane(&self, uuid: &str, plane: &str) {
        eventually(&format!("the relay is on the {plane} plane"), async || {
            self.get(&format!("/api/v1/relays/{uuid}")).await.json()["plane"] == plane
        })
        .await;
    }
}

/// Ends a flood.
const MARK: &[u8] = b"that was all";

/// Sends messages as fast as they go until it is told to stop, then the mark.
async fn flood(mut sending: Sending, stop: Arc<AtomicBool>) -> Sending {
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sending.send(&message(at)).await.expect("the relay reads");
    }
    sending.send(MARK).await.expect("the relay reads");
    sending
}

/// Receives a flood to its mark; how many messages it had.
async fn receive(mut receiving: Receiving) -> (Receiving, usize) {
    for at in 0.. {
        let received = receiving.receive().await.expect("no end before the mark");
        if received == MARK {
            return (receiving, at);
        }
        assert!(received == message(at), "message {at}");
    }
    unreachable!("it ends with the mark")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_bulk_and_back_tcp_to_tcp() {
    there_and_back(Tcp, Tcp, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_bulk_and_back_tcp_to_tcp_without_splice() {
    there_and_back(Tcp, Tcp, |config| config.relay.kernel_splice = false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_bulk_and_back_tcp_to_websocket() {
    there_and_back(Tcp, WebSocket, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_bulk_and_back_websocket_to_tcp() {
    there_and_back(WebSocket, Tcp, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_bulk_and_back_websocket_to_websocket() {
    there_and_back(WebSocket, WebSocket, |_| {}).await;
}

/// Floods one way, and a message now and then the other, until the relay is in bulk; then waits
/// until it is back. Twice.
async fn there_and_back(first: Transport, second: Transport, change: impl FnOnce(&mut Config)) {
    let gateway = TestGateway::start_with(change).await;
    let uuid = unique("planes");
    let (first, second) = gateway.named_pair(&uuid, first, second).await;
    let (mut sends, mut hears) = first.split();
    let (mut answers, mut receives) = second.split();
    gateway.until_plane(&uuid, "light").await;
    for _ in 0..2 {
        let stop = Arc::new(AtomicBool::new(false));
        let sending = tokio::spawn(flood(sends, Arc::clone(&stop)));
        let receiving = tokio::spawn(receive(receives));
        gateway.until_plane(&uuid, "bulk").await;
        for at in 0..20 {
            answers.send(&message(at)).await.expect("the relay reads");
            let heard = timeout(PATIENCE, hears.receive()).await.expect("it comes in time");
            assert!(heard.as_deref() == Some(&message(at)[..]), "answer {at}");
        }
        stop.store(true, Ordering::Relaxed);
        sends = timeout(PATIENCE, sending).await.expect("in time").expect("all was sent");
        let (back, count) = timeout(PATIENCE, receiving).await.expect("in time").expect("all came");
        assert!(count >= 50, "{count} messages are no bulk");
        receives = back;
        gateway.until_plane(&uuid, "light").await;
    }
    drop((sends, hears, answers, receives));
    gateway.until_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_bulk_threads_a_relay_stays_where_it_began() {
    let gateway =
        TestGateway::start_with(|config| config.threads.bulk = ThreadCount::Exactly(0)).await;
    let uuid = unique("planes");
    let (first, second) = gateway.named_pair(&uuid, Tcp, Tcp).await;
    let ((sends, _hears), (_answers, receives)) = (first.split(), second.split());
    let stop = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(flood(sends, Arc::clone(&stop)));
    let receiving = tokio::spawn(receive(receives));
    eventually("64 MiB have crossed", async || gateway.taken(&uuid).await[0] > 64 << 20).await;
    assert_eq!(gateway.get(&format!("/api/v1/relays/{uuid}")).await.json()["plane"], "light");
    stop.store(true, Ordering::Relaxed);
    sending.await.expect("all was sent");
    receiving.await.expect("all came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_in_bulk_is_closed_by_an_operator_and_by_the_way_down() {
    let gateway = TestGateway::start_with(|config| {
        config.shutdown.drain_timeout = config::Duration::from_millis(1);
    })
    .await;
    for way in ["operator", "drain"] {
        let uuid = unique("planes");
        let (first, mut second) = gateway.named_pair(&uuid, Tcp, Tcp).await;
        let (mut sends, _hears) = first.split();
        let flood = tokio::spawn(async move { while sends.send(&message(0)).await.is_ok() {} });
        let until_bulk = gateway.until_plane(&uuid, "bulk");
        let reading = async { while second.receive().await.is_some() {} };
        tokio::select! {
            () = until_bulk => {}
            () = reading => panic!("the relay ended"),
        }
        match way {
            "operator" => {
                let path = format!("/api/v1/relays/{uuid}");
                let closed = gateway
                    .request("DELETE", &path, &format!("Authorization: Bearer {TOKEN}\r\n"))
                    .await;
                assert_eq!(closed.status, 200);
                gateway.until_metric("relay_ends_total{reason=\"admin\"}", 1.0).await;
            }
            _ => gateway.shutdown.drain(),
        }
        timeout(PATIENCE, flood).await.expect("the sender is let go").unwrap();
    }
}

/// More readers that take nothing than there are pipes: each gives its pipe back after a second,
/// and keeps what was in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_do_not_keep_the_pipes_from_others() {
    const STALLED: usize = 60;
    let gateway = TestGateway::start().await;
    let block = Arc::new(frame::encode(&message(7)).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let (sends, stalls) = gateway.pair(Tcp, Tcp).await;
        let (mut sends, stalls) = (sends.tcp(), stalls.tcp());
        SockRef::from(&stalls).set_recv_buffer_size(64 << 10).unwrap();
        let (block, stop) = (Arc::clone(&block), Arc::clone(&stop));
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                sends.write_all(&block).await.unwrap();
                sent += block.len();
            }
            sends.shutdown().await.unwrap();
            (sends, sent)
        });
        stalled.push((sending, stalls));
    }
    eventually("all are stalled", async || {
        let rates = gateway.get("/api/v1/relays?limit=1000").await.json();
        let relays = rates["items"].as_array().unwrap();
        let still = |relay: &serde_json::Value| {
            relay["bytes"].as_u64() > Some(1 << 20) && relay["bytes_per_second"] == 0
        };
        relays.len() == STALLED && relays.iter().all(still)
    })
    .await;
    one_more(&gateway).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = JoinSet::new();
    for (sending, mut reader) in stalled {
        let block = Arc::clone(&block);
        all.spawn(async move {
            let received = rest(&mut reader).await;
            assert!(received.chunks(block.len()).all(|chunk| *chunk == **block));
            let (_sends, sent) = sending.await.unwrap();
            assert_eq!(received.len(), sent);
        });
    }
    timeout(Duration::from_secs(60), all.join_all()).await.expect("in time");
    gateway.until_quiet().await;
}

async fn one_more(gateway: &TestGateway) {
    let (first, second) = gateway.pair(Tcp, Tcp).await;
    let ((sends, _hears), (_answers, receives)) = (first.split(), second.split());
    let stop = Arc::new(AtomicBool::new(false));
    let receiving = tokio::spawn(receive(receives));
    let sending = tokio::spawn(flood(sends, Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    timeout(PATIENCE, sending).await.expect("in time").expect("all is well");
    timeout(PATIENCE, receiving).await.expect("in time").expect("all is well");
}

async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.expect("an end");
    bytes
}
