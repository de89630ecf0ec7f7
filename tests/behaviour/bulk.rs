//! Much at once: 64 MiB each way at the same time over every pair of transports, every byte
//! compared.

use std::time::{Duration, Instant};

use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    halves::{Receiving, Script, Sending},
    support::TestGateway,
};

const TOTAL: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_tcp_to_tcp() {
    both_ways(Tcp, Tcp).await;
}

/// Without splice(2), as on other systems.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_tcp_to_tcp_copied() {
    let gateway = TestGateway::start_with(|config| config.relay.kernel_splice = false).await;
    both_ways_over(&gateway, Tcp, Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_tcp_to_websocket() {
    both_ways(Tcp, WebSocket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_websocket_to_tcp() {
    both_ways(WebSocket, Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_websocket_to_websocket() {
    both_ways(WebSocket, WebSocket).await;
}

async fn both_ways(first: Transport, second: Transport) {
    both_ways_over(&TestGateway::start().await, first, second).await;
}

async fn both_ways_over(gateway: &TestGateway, first: Transport, second: Transport) {
    let (first, second) = gateway.pair(first, second).await;
    let since = Instant::now();
    let (mut tasks, mut senders) = (JoinSet::new(), JoinSet::new());
    let (first_sends, first_receives) = first.split();
    let (second_sends, second_receives) = second.split();
    senders.spawn(send(first_sends, 1));
    senders.spawn(send(second_sends, 2));
    tasks.spawn(receive(second_receives, 1));
    tasks.spawn(receive(first_receives, 2));
    let all = async { tokio::join!(tasks.join_all(), senders.join_all()) };
    let (receivers, senders) = timeout(Duration::from_secs(120), all).await.expect("in time");
    println!("{} MiB each way in {:?}", TOTAL >> 20, since.elapsed());
    drop((senders, receivers));
    gateway.until_quiet().await;
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 1.0).await;
}

async fn send(mut sending: Sending, seed: u64) -> Sending {
    let mut script = Script::new(seed, TOTAL);
    let mut turn = 0;
    while let Some(message) = script.next() {
        turn += 1;
        match turn % 3 {
            0 => sending.send_fragments(message, message.len() / 3 + 1).await,
            _ => sending.send(message).await.expect("the relay reads"),
        }
    }
    sending
}

async fn receive(mut receiving: Receiving, seed: u64) -> Receiving {
    let mut script = Script::new(seed, TOTAL);
    let mut turn = 0;
    while let Some(message) = script.next() {
        turn += 1;
        let received = receiving.receive().await.expect("no end before all has come");
        assert_eq!(received.len(), message.len(), "message {turn}");
        assert!(received == message, "message {turn} of {} bytes differs", message.len());
    }
    receiving
}
