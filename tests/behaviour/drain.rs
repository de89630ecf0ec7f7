//! The way down: what may finish, what is told, and when the program is gone.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use mini_rust_desk_relay_server::{
    config,
    wire::Transport::{Tcp, WebSocket},
};
use rustix::process::Signal;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::{
    by_hand::{Wire, upgrade_request},
    process::Process,
    support::{PATIENCE, TestGateway, eventually, read_to_end},
};

const ADMIN: [&str; 2] = ["--admin-listen", "127.0.0.1:0"];

async fn until_refused(gateway: &TestGateway) {
    eventually("no new connections", async || TcpStream::connect(gateway.addr).await.is_err())
        .await;
}

#[tokio::test]
async fn a_drain_stops_what_is_new_and_lets_relays_finish() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(&ADMIN).await;
        let (mut first, mut second) = process.gateway.pair(Tcp, WebSocket).await;
        let mut waiting_tcp = process.gateway.leg(Tcp, "waits").await.tcp();
        let mut waiting_ws = process.gateway.leg(WebSocket, "waits too").await.websocket();
        process.gateway.until_waiting("waits").await;
        process.gateway.until_waiting("waits too").await;
        let silent = Wire::connect(process.gateway.addr).await;
        let mut upgraded = Wire::connect(process.gateway.addr).await;
        upgraded.send(upgrade_request("/")).await;
        upgraded.upgraded().await;
        assert_eq!(process.gateway.get("/readyz").await.status, 200);

        process.signal(signal);
        until_refused(&process.gateway).await;
        let ready = process.gateway.get("/readyz").await;
        assert_eq!((ready.status, ready.body.as_str()), (503, "draining\n"));
        assert_eq!(process.gateway.get("/healthz").await.status, 200);
        assert_eq!(process.gateway.get("/api/v1/stats").await.json()["draining"], true);
        // Nobody's peer can come any more.
        assert_eq!(read_to_end(&mut waiting_tcp).await, b"");
        let end = timeout(PATIENCE, waiting_ws.next()).await.unwrap();
        assert!(!matches!(end, Some(Ok(Message::Binary(_)))), "{end:?}");
        assert_eq!(silent.rest().await, b"");
        assert_eq!(upgraded.rest().await, b"");

        first.send(b"still going").await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"still going"[..]));
        assert!(process.is_running());
        first.finish().await;
        assert_eq!(second.receive().await, None);
        second.finish().await;
        assert_eq!(process.ended().await, 0);
        process.line("drained").await;
    }
}

#[tokio::test]
async fn what_has_not_finished_in_time_is_closed_properly() {
    let mut process = Process::start(&["--drain-timeout", "300ms"]).await;
    let (first, second) = process.gateway.pair(Tcp, WebSocket).await;
    let (mut first, mut second) = (first.tcp(), second.websocket());
    process.signal(Signal::TERM);
    let told = timeout(PATIENCE, second.next()).await.unwrap().unwrap().unwrap();
    let Message::Close(Some(close)) = told else { panic!("a Close frame, not {told:?}") };
    assert_eq!(close.code, CloseCode::Away);
    // A FIN: no reset.
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut first, &mut byte);
    assert_eq!(timeout(PATIENCE, read).await.unwrap().unwrap(), 0);
    assert_eq!(process.ended().await, 0);
    let line = process.line("Relay of").await;
    assert!(line.contains("draining"), "{line}");
    process.line("closing the relays that are still active").await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(&["--drain-timeout", "1h"]).await;
        let (first, _second) = process.gateway.pair(Tcp, Tcp).await;
        process.signal(Signal::TERM);
        until_refused(&process.gateway).await;
        assert!(process.is_running());
        let since = Instant::now();
        process.signal(second);
        assert_eq!(process.ended().await, 0);
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        assert_eq!(read_to_end(&mut first.tcp()).await, b"");
        process.line("second signal").await;
    }
}

#[tokio::test]
async fn with_nothing_to_do_it_ends_at_once() {
    let mut process = Process::start(&["--drain-timeout", "1h"]).await;
    // A connection that was kept alive is no reason to stay.
    let mut kept = Wire::connect(process.gateway.addr).await;
    kept.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(kept.answer().await.status, 200);
    // Nor is one whose request is not whole.
    let mut partial = Wire::connect(process.gateway.addr).await;
    partial.send("GET /healthz HTTP/1.1\r\nHost: a\r\n").await;
    process.gateway.round_trip().await;
    let since = Instant::now();
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await, 0);
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert_eq!(kept.rest().await, b"");
}

#[tokio::test]
async fn a_signal_is_heard_as_soon_as_it_says_that_it_listens() {
    for _ in 0..20 {
        let mut process = Process::start(&[]).await;
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await, 0);
    }
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_fails() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--listen", &address][..], &["--key-file", "missing"], &["--listen", "nowhere"]]
    {
        let done = Command::new(env!("CARGO_BIN_EXE_mini_rust_desk_relay_server"))
            .env_clear()
            .current_dir(dir.path())
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(matches!(done.status.code(), Some(1 | 2)), "{args:?}: {}", done.status);
        assert!(said.contains(args[1]), "{args:?} in {said}");
    }
}

#[tokio::test]
async fn the_same_in_process() {
    let gateway = TestGateway::start_with(|config| {
        config.shutdown.drain_timeout = config::Duration::from_millis(300);
    })
    .await;
    let (first, second) = gateway.pair(WebSocket, Tcp).await;
    let waiting = gateway.leg(Tcp, "waits").await;
    gateway.until_waiting("waits").await;
    assert!(!gateway.shutdown.is_draining());
    gateway.shutdown.drain();
    assert_eq!(read_to_end(&mut waiting.tcp()).await, b"");
    until_refused(&gateway).await;
    assert!(!gateway.running.is_finished());
    let (mut first, mut second) = (first, second);
    assert_eq!(first.receive().await, None);
    assert_eq!(second.receive().await, None);
    eventually("it has ended", async || gateway.running.is_finished()).await;
}

#[tokio::test]
async fn ending_cuts_everything_short() {
    let gateway = TestGateway::start().await;
    let (mut first, mut second) = gateway.pair(Tcp, Tcp).await;
    let since = Instant::now();
    gateway.shutdown.end();
    assert_eq!(first.receive().await, None);
    assert_eq!(second.receive().await, None);
    eventually("it has ended", async || gateway.running.is_finished()).await;
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}
