//! One side's end is the other's to see, and no more: what still flows the other way goes on.

use std::time::Duration;

use mini_rust_desk_relay_server::wire::Transport::Tcp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    raw_websocket::{BINARY, Frame, RawWebSocket, reset},
    support::{PATIENCE, TestGateway, eventually, read_to_end, unique},
};

async fn tcp_pair(gateway: &TestGateway) -> (TcpStream, TcpStream) {
    let (first, second) = gateway.pair(Tcp, Tcp).await;
    (first.tcp(), second.tcp())
}

async fn sees_the_end(socket: &mut TcpStream) {
    let read = timeout(PATIENCE, socket.read(&mut [0])).await.expect("the end comes in time");
    assert_eq!(read.expect("a FIN, not a reset"), 0);
}

#[tokio::test]
async fn a_fin_crosses_alone_and_the_other_direction_flows_on() {
    const BLOCK: usize = 256 << 10;
    let gateway = TestGateway::start().await;
    for first_ends in [true, false] {
        let (first, second) = tcp_pair(&gateway).await;
        let (mut ends, mut goes_on) = if first_ends { (first, second) } else { (second, first) };
        ends.write_all(b"that was all").await.unwrap();
        ends.shutdown().await.unwrap();
        let mut last = [0; 12];
        goes_on.read_exact(&mut last).await.unwrap();
        assert_eq!(&last, b"that was all");
        sees_the_end(&mut goes_on).await;
        let block: Vec<u8> = (0..BLOCK).map(|at| (at % 251) as u8).collect();
        let mut seen = vec![0; BLOCK];
        for _ in 0..64 {
            goes_on.write_all(&block).await.unwrap();
            timeout(PATIENCE, ends.read_exact(&mut seen)).await.unwrap().unwrap();
            assert!(seen == block);
        }
        goes_on.shutdown().await.unwrap();
        sees_the_end(&mut ends).await;
    }
    gateway.until_quiet().await;
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 2.0).await;
}

/// Longer than the time for which bytes of the dead are dropped: a half-closed relay has only the
/// idle policy to fear.
#[tokio::test]
async fn a_half_closed_relay_lasts_while_it_is_used() {
    let gateway = TestGateway::start().await;
    let (mut ends, mut goes_on) = tcp_pair(&gateway).await;
    ends.shutdown().await.unwrap();
    sees_the_end(&mut goes_on).await;
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(7) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        goes_on.write_all(b"still here").await.unwrap();
        let mut seen = [0; 10];
        timeout(PATIENCE, ends.read_exact(&mut seen)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_was_sent_before_a_fin_is_all_delivered_to_a_reader_that_comes_late() {
    const LEN: usize = 4 << 20;
    let gateway = TestGateway::start().await;
    let (mut ends, mut late) = tcp_pair(&gateway).await;
    let bytes: Vec<u8> = (0..LEN).map(|at| (at % 241) as u8).collect();
    let sent = bytes.clone();
    let writing = tokio::spawn(async move {
        ends.write_all(&sent).await.unwrap();
        ends.shutdown().await.unwrap();
        ends
    });
    assert!(read_to_end(&mut late).await == bytes);
    late.shutdown().await.unwrap();
    sees_the_end(&mut writing.await.unwrap()).await;
    gateway.until_quiet().await;
}

#[tokio::test]
async fn a_reset_is_the_others_end_after_what_came_before_it() {
    let gateway = TestGateway::start().await;
    for first_resets in [true, false] {
        let (first, second) = tcp_pair(&gateway).await;
        let (mut resets, mut other) = if first_resets { (first, second) } else { (second, first) };
        resets.write_all(b"last words").await.unwrap();
        let mut seen = [0; 10];
        timeout(PATIENCE, other.read_exact(&mut seen)).await.unwrap().unwrap();
        reset(resets);
        sees_the_end(&mut other).await;
    }
    gateway.until_quiet().await;
    gateway.until_metric("relay_ends_total{reason=\"reset\"}", 2.0).await;
}

#[tokio::test]
async fn a_reset_of_tcp_is_a_close_for_a_websocket_and_the_other_way_round_a_fin() {
    let gateway = TestGateway::start().await;
    for tcp_resets in [true, false] {
        let uuid = unique("mixed-reset");
        let mut tcp = gateway.leg(Tcp, &uuid).await;
        gateway.until_waiting(&uuid).await;
        let mut websocket = RawWebSocket::leg(&gateway, &uuid).await;
        if tcp_resets {
            tcp.send(b"last words").await;
            assert_eq!(websocket.frame().await, Some(Frame(BINARY, b"last words".to_vec())));
            reset(tcp.tcp());
            websocket.expect_close(1001).await;
        } else {
            websocket.send(BINARY, b"last words").await;
            assert_eq!(tcp.receive().await.as_deref(), Some(&b"last words"[..]));
            reset(websocket.socket);
            assert_eq!(tcp.receive().await, None);
        }
    }
    gateway.until_quiet().await;
    gateway.until_metric("relay_ends_total{reason=\"reset\"}", 2.0).await;
}

/// The writer learns that nobody reads any more, though it never reads itself.
#[tokio::test]
async fn a_writer_learns_that_its_reader_is_gone() {
    let gateway = TestGateway::start().await;
    let (gone, mut writes) = tcp_pair(&gateway).await;
    drop(gone);
    let block = vec![0; 64 << 10];
    eventually("writing fails", async || {
        // What is in flight when the relay lets go is reset: that is how a writer learns of it.
        timeout(PATIENCE, writes.write_all(&block)).await.expect("no stall").is_err()
    })
    .await;
    drop(writes);
    gateway.until_quiet().await;
}
