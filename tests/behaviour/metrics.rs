//! The metrics: each described, and each counting what it says.

use std::{
    collections::HashSet,
    io::Write as _,
    process::{Command, Stdio},
};

use mini_rust_desk_relay_server::{
    config::{KeyConfig, Secret},
    wire::Transport::{Tcp, WebSocket},
};

use crate::{
    requirement::program,
    support::{TestGateway, eventually},
};

#[tokio::test]
async fn every_series_is_described_and_there_from_the_start() {
    let gateway = TestGateway::start().await;
    let answer = gateway.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let second = |line: &str| line.split(' ').nth(2).expect("a name").to_owned();
    let lines = || answer.body.lines().filter(|line| !line.is_empty());
    let described: HashSet<_> =
        lines().filter(|line| line.starts_with("# HELP ")).map(second).collect();
    let typed: HashSet<_> =
        lines().filter(|line| line.starts_with("# TYPE ")).map(second).collect();
    for line in lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix).filter(|name| typed.contains(*name)))
            .unwrap_or(name);
        assert!(described.contains(family), "{family} is not described");
        assert!(typed.contains(family), "{family} has no type");
    }
    for name in [
        "relay_connections_open",
        "relay_connections_total",
        "relay_accept_errors_total",
        "relay_rejected_total",
        "relay_waiting_legs",
        "relay_unpaired_total",
        "relay_pairs_total",
        "relay_active_relays",
        "relay_ends_total",
        "relay_received_bytes_total",
        "relay_sent_bytes_total",
        "relay_first_frame_seconds",
        "relay_wait_seconds",
        "relay_duration_seconds",
        "relay_build_info",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(described.contains(name), "{name}");
        assert!(lines().any(|line| line.starts_with(name)), "{name} is shown from the start");
    }
}

#[tokio::test]
async fn promtool_has_nothing_to_object() {
    let Some(promtool) = program("promtool", ".ci/install unpacks it") else { return };
    let gateway = TestGateway::start().await;
    let _pair = gateway.pair(Tcp, WebSocket).await;
    // With the series that keys have, too.
    let key = |label: &str| KeyConfig {
        label: label.to_owned(),
        key: Secret::new(label),
        ..KeyConfig::default()
    };
    gateway.reload_with(|config| config.keys = vec![key("one"), key("an.other_one-2")]).await;
    let text = gateway.get("/metrics").await.body;
    assert!(text.contains("relay_key_bytes_total{key=\"an.other_one-2\"} 0\n"), "{text}");
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "", "{}", done.status);
    assert!(done.status.success());
}

#[tokio::test]
async fn bytes_are_counted_exactly_and_by_transport() {
    let gateway = TestGateway::start().await;
    let (mut first, mut second) = gateway.pair(Tcp, WebSocket).await;
    for _ in 0..10 {
        first.send(&[1; 1000]).await;
        second.receive().await;
    }
    second.send(&[2; 100]).await;
    first.receive().await;
    first.finish().await;
    assert_eq!(second.receive().await, None);
    second.finish().await;
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 1.0).await;
    let bytes = async |way: &str, transport: &str| {
        gateway.metric(&format!("relay_{way}_bytes_total{{transport=\"{transport}\"}}")).await
    };
    // Received with its framing: 2 bytes a frame; 2 and a mask of 4, and the answer to our Close.
    assert_eq!(bytes("received", "tcp").await, 10.0 * 1002.0);
    assert_eq!(bytes("received", "websocket").await, 106.0 + 8.0);
    // By the leg that they went to.
    assert_eq!(bytes("sent", "websocket").await, 10.0 * 1002.0);
    assert_eq!(bytes("sent", "tcp").await, 106.0 + 8.0);
}

#[tokio::test]
async fn a_relay_moves_each_counter_once() {
    let gateway = TestGateway::start().await;
    let metric = async |series: &str| gateway.metric(series).await;
    for (round, (first, second, pairing)) in (1..).zip([
        (Tcp, Tcp, "tcp"),
        (WebSocket, WebSocket, "websocket"),
        (WebSocket, Tcp, "mixed"),
    ]) {
        let active = format!("relay_active_relays{{transport=\"{pairing}\"}}");
        let pairs = format!("relay_pairs_total{{transport=\"{pairing}\"}}");
        let (mut first, mut second) = gateway.pair(first, second).await;
        assert_eq!((metric(&active).await, metric(&pairs).await), (1.0, 1.0));
        assert_eq!(metric("relay_first_frame_seconds_count").await, 2.0 * f64::from(round));
        assert_eq!(metric("relay_wait_seconds_count").await, f64::from(round));
        first.finish().await;
        second.receive().await;
        second.finish().await;
        gateway.until_metric(&active, 0.0).await;
        assert_eq!(metric(&pairs).await, 1.0);
        assert_eq!(metric("relay_duration_seconds_count").await, f64::from(round));
        assert_eq!(metric("relay_ends_total{reason=\"closed\"}").await, f64::from(round));
    }
    assert!(metric("relay_duration_seconds_sum").await > 0.0);
    assert!(metric("relay_wait_seconds_sum").await > 0.0);
    assert!(metric("relay_first_frame_seconds_sum").await > 0.0);
    assert_eq!(metric("relay_connections_total{protocol=\"relay\"}").await, 3.0);
    assert_eq!(gateway.all_refusals().await, 0.0);
}

#[tokio::test]
async fn gauges_go_back_to_where_they_were() {
    let gateway = TestGateway::start().await;
    {
        let _pairs = (gateway.pair(Tcp, Tcp).await, gateway.pair(WebSocket, Tcp).await);
        let _lone = gateway.leg(WebSocket, "lone").await;
        gateway.until_waiting("lone").await;
        assert_eq!(gateway.metric("relay_waiting_legs").await, 1.0);
        assert_eq!(gateway.metric("relay_connections_open").await, 6.0);
    }
    for gauge in [
        "relay_waiting_legs",
        "relay_active_relays{transport=\"tcp\"}",
        "relay_active_relays{transport=\"mixed\"}",
    ] {
        gateway.until_metric(gauge, 0.0).await;
    }
    eventually("only ours is open", async || gateway.metric("relay_connections_open").await == 1.0)
        .await;
    assert_eq!(gateway.metric("relay_unpaired_total{reason=\"hung_up\"}").await, 1.0);
}
