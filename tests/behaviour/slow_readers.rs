//! A reader that does not read holds up its own direction only, costs the relay a bounded amount
//! of memory, and is let go in the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config,
    wire::{
        Transport::{self, Tcp, WebSocket},
        frame,
    },
};
use socket2::SockRef;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::{
    halves::{Receiving, Sending, step},
    raw_websocket::{BINARY, CLOSE, Frame, RawWebSocket, header},
    support::{Client, PATIENCE, TestGateway, eventually, read_to_end, unique},
};

const BLOCK: usize = 64 << 10;

/// What the relay may have taken from a sender whose reader takes nothing: what the kernel keeps
/// for the reader (4 MiB, as this machine is set), and two reads of its own. Across two nodes also
/// what it keeps between them.
const BOUND: u64 = if crate::ACROSS { 32 << 20 } else { 8 << 20 };

/// The message at a place in an endless stream.
fn block(seed: u64, at: usize) -> Vec<u8> {
    let mut state = seed + at as u64;
    let noise: Vec<u8> = (0..128).flat_map(|_| step(&mut state).to_le_bytes()).collect();
    noise.repeat(BLOCK / 1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_tcp_to_tcp() {
    one_direction_stalls(Tcp, Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_tcp_to_websocket() {
    one_direction_stalls(Tcp, WebSocket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_websocket_to_tcp() {
    one_direction_stalls(WebSocket, Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_websocket_to_websocket() {
    one_direction_stalls(WebSocket, WebSocket).await;
}

async fn one_direction_stalls(first: Transport, second: Transport) {
    const OTHER_WAY: usize = 256;
    let gateway = TestGateway::start().await;
    let uuid = unique("stalled");
    let (floods, stalls) = gateway.named_pair(&uuid, first, second).await;
    small_receive_buffer(&stalls);
    let (flood_sends, flood_receives) = floods.split();
    let (stalled_sends, stalled_receives) = stalls.split();
    let sent = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicUsize::new(usize::MAX));
    let flooding = tokio::spawn(flood(flood_sends, Arc::clone(&sent), Arc::clone(&stop)));
    until_still(&sent).await;
    let taken = gateway.taken(&uuid).await[0];
    assert!(taken < BOUND, "the relay took {taken} bytes for a reader that takes none");

    let other_way = tokio::spawn(send_blocks(stalled_sends, 2, OTHER_WAY));
    let flood_receives = receive_blocks(flood_receives, 2, 0..OTHER_WAY).await;
    let stalled_sends = other_way.await.expect("all was sent").expect("the relay reads");
    let after = gateway.taken(&uuid).await[0];
    assert!(after < BOUND, "the relay took {after} bytes for a reader that takes none");

    let enough = sent.load(Ordering::Relaxed) + 50;
    stop.store(enough, Ordering::Relaxed);
    let stalled_receives = receive_blocks(stalled_receives, 1, 0..enough).await;
    let flood_sends = flooding.await.expect("all was sent");
    drop((flood_sends, flood_receives, stalled_sends, stalled_receives));
    gateway.until_quiet().await;
}

fn small_receive_buffer(client: &Client) {
    let socket = match client {
        Client::Tcp(socket) => socket,
        Client::WebSocket(socket) => (**socket).get_ref(),
    };
    small_receive_buffer_of(socket);
}

fn small_receive_buffer_of(socket: &TcpStream) {
    SockRef::from(socket).set_recv_buffer_size(16 << 10).expect("an option");
}

async fn flood(mut sending: Sending, sent: Arc<AtomicUsize>, stop: Arc<AtomicUsize>) -> Sending {
    for at in 0.. {
        if at >= stop.load(Ordering::Relaxed) {
            break;
        }
        sending.send(&block(1, at)).await.expect("the relay reads");
        sent.store(at + 1, Ordering::Relaxed);
    }
    sending
}

/// Until a counter has stood still for a while.
async fn until_still(sent: &AtomicUsize) {
    let mut last = (usize::MAX, Instant::now());
    eventually("the sender is held back", async || {
        let now = sent.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > 0 && last.1.elapsed() > Duration::from_millis(500)
    })
    .await;
}

async fn send_blocks(
    mut sending: Sending,
    seed: u64,
    count: usize,
) -> Result<Sending, tokio_tungstenite::tungstenite::Error> {
    for at in 0..count {
        sending.send(&block(seed, at)).await?;
    }
    Ok(sending)
}

async fn receive_blocks(
    mut receiving: Receiving,
    seed: u64,
    which: std::ops::Range<usize>,
) -> Receiving {
    for at in which {
        let received = timeout(PATIENCE, receiving.receive()).await.expect("it comes in time");
        assert!(received.as_deref() == Some(&block(seed, at)[..]), "block {at}");
    }
    receiving
}

#[tokio::test]
async fn a_leg_that_takes_nothing_is_closed_at_the_write_deadline() {
    let gateway = TestGateway::start_with(|config| {
        config.relay.write_timeout = config::Duration::from_millis(300);
    })
    .await;
    let mut ends = 0.0;
    for (first, second) in [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
    {
        let (floods, stalls) = gateway.pair(first, second).await;
        small_receive_buffer(&stalls);
        let (mut sending, receiving) = floods.split();
        let message = vec![0; 1 << 20];
        let flood = async { while sending.send(&message).await.is_ok() {} };
        timeout(PATIENCE, flood).await.expect("the relay lets the sender go");
        ends += 1.0;
        gateway.until_metric("relay_ends_total{reason=\"write_timeout\"}", ends).await;
        drop((receiving, stalls));
    }
    gateway.until_quiet().await;
}

#[tokio::test]
async fn a_reader_that_takes_a_little_is_not_closed_at_the_write_deadline() {
    let gateway = TestGateway::start_with(|config| {
        config.relay.write_timeout = config::Duration::from_millis(
            // A node that carries a leg takes hundreds of KiB at a time.
            if crate::ACROSS { 6_000 } else { 1_500 },
        );
    })
    .await;
    let (mut floods, slow) = gateway.pair(Tcp, Tcp).await;
    small_receive_buffer(&slow);
    let mut slow = slow.tcp();
    let flooding = tokio::spawn(async move {
        for at in 0..512 {
            floods.send(&block(1, at)).await;
        }
        floods.finish().await;
        floods
    });
    let since = Instant::now();
    let mut seen = Vec::new();
    let mut buffer = vec![0; 512 << 10];
    while since.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let read = tokio::io::AsyncReadExt::read(&mut slow, &mut buffer).await.unwrap();
        seen.extend_from_slice(&buffer[..read]);
    }
    seen.extend(read_to_end(&mut slow).await);
    let all: Vec<u8> = (0..512).flat_map(|at| frame::encode(&block(1, at)).unwrap()).collect();
    assert!(seen == all);
    drop(flooding.await.unwrap());
}

async fn fill(socket: &mut TcpStream, bytes: &[u8]) {
    timeout(PATIENCE, socket.write_all(bytes)).await.expect("it fits").expect("the relay reads");
}

/// A WebSocket has ten seconds to answer our Close. One that takes longer, since it still reads
/// what came before, is let go, but loses none of that.
#[tokio::test]
async fn a_slow_websocket_is_not_let_go_before_it_has_got_everything() {
    const COUNT: usize = 24;
    let gateway = TestGateway::start().await;
    let uuid = unique("slow");
    let mut tcp = gateway.leg(Tcp, &uuid).await.tcp();
    gateway.until_waiting(&uuid).await;
    let mut slow = RawWebSocket::leg(&gateway, &uuid).await;
    SockRef::from(&slow.socket).set_recv_buffer_size(16 << 10).unwrap();
    gateway.until_active(&uuid).await;
    let big: Vec<u8> = (0..16).flat_map(|at| block(3, at)).collect();
    let frames = frame::encode(&big).unwrap().repeat(COUNT);
    let writing = tokio::spawn(async move {
        fill(&mut tcp, &frames).await;
        tcp.shutdown().await.unwrap();
        tcp
    });
    let mut received = 0;
    // The last of it waits in the relay while the client takes a pause.
    let tcp = loop {
        if writing.is_finished() {
            break writing.await.unwrap();
        }
        assert_eq!(slow.frame().await, Some(Frame(BINARY, big.clone())));
        received += 1;
        tokio::task::yield_now().await;
    };
    tokio::time::sleep(Duration::from_secs(12)).await;
    for _ in received..COUNT {
        assert_eq!(slow.frame().await, Some(Frame(BINARY, big.clone())));
    }
    slow.expect_close(1000).await;
    assert_eq!(slow.frame().await, None);
    drop(tcp);
    gateway.until_quiet().await;
}

/// Nor does a WebSocket that cannot send its Close, since what it sent before waits for a slow
/// TCP leg that has ended its own sending.
#[tokio::test]
async fn a_slow_tcp_leg_that_ended_gets_all_that_a_websocket_sends() {
    let gateway = TestGateway::start().await;
    let uuid = unique("slow");
    let mut slow = gateway.leg(Tcp, &uuid).await.tcp();
    small_receive_buffer_of(&slow);
    gateway.until_waiting(&uuid).await;
    let mut websocket = RawWebSocket::leg(&gateway, &uuid).await;
    gateway.until_active(&uuid).await;
    slow.shutdown().await.unwrap();
    websocket.expect_close(1000).await;
    let message = block(4, 0);
    let frames = [header(BINARY, BLOCK as u64, [0; 4]), message.clone()].concat().repeat(400);
    let writing = tokio::spawn(async move {
        websocket.socket.write_all(&frames).await.unwrap();
        websocket.send(CLOSE, &1000_u16.to_be_bytes()).await;
        websocket
    });
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(!writing.is_finished(), "nothing was held back");
    assert!(read_to_end(&mut slow).await == frame::encode(&message).unwrap().repeat(400));
    drop(writing.await.unwrap());
    gateway.until_quiet().await;
}
