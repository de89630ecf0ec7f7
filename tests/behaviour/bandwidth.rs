//! Bandwidth limits over real sockets: nothing goes faster than it may, everything arrives, and
//! what changes while it runs holds at once. That something takes as long as its limit says is true
//! of any machine, however busy; how fast it could go is not, and not asked here.

use std::time::{Duration, Instant};

use mini_rust_desk_relay_server::{
    config::{BitRate, KeyConfig, Secret},
    wire::{
        Transport::{self, Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::{
    halves::{Receiving, Script, Sending},
    support::{
        Answer, Client, PATIENCE, TOKEN, TestGateway, eventually, http_with_body, read_to_end,
        unique,
    },
};

/// 1 MB/s.
const RATE: BitRate = BitRate::from_mbit(8);
const BYTES_A_SECOND: f64 = 1e6;

/// What may be ahead of a limit this low.
const AHEAD: f64 = 65_536.0;

/// About two seconds' worth.
const MUCH: usize = 2_000_000;

/// Longer than anything here takes, though it is held back.
const LONG: Duration = Duration::from_secs(60);

/// How long so many bytes take at the least.
fn at_least(bytes: usize, rate: f64) -> Duration {
    Duration::from_secs_f64((bytes as f64 - AHEAD).max(0.0) / rate)
}

impl TestGateway {
    async fn patch(&self, path: &str, body: &str) -> Answer {
        let headers =
            format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
        http_with_body(self.admin_addr, "PATCH", path, &headers, body).await
    }
}

/// Sends a script of `total` bytes.
async fn send(mut sending: Sending, seed: u64, total: usize) -> Sending {
    let mut script = Script::new(seed, total);
    while let Some(message) = script.next() {
        sending.send(message).await.expect("the relay reads");
    }
    sending
}

/// Receives it, every byte compared.
async fn receive(mut receiving: Receiving, seed: u64, total: usize) -> Receiving {
    let mut script = Script::new(seed, total);
    while let Some(message) = script.next() {
        let received = receiving.receive().await.expect("no end before all has come");
        assert!(received == message, "a message of {} bytes differs", message.len());
    }
    receiving
}

/// Moves so many bytes one way; how long it took.
async fn moved((from, to): (Client, Client), seed: u64, total: usize) -> Duration {
    let ((sends, _receives), (_sends, receives)) = (from.split(), to.split());
    let since = Instant::now();
    let sending = tokio::spawn(send(sends, seed, total));
    let all =
        async { (receive(receives, seed, total).await, sending.await.expect("all was sent")) };
    let _open = timeout(LONG, all).await.expect("in time");
    since.elapsed()
}

/// Both ways of one relay at once.
async fn moved_both_ways((first, second): (Client, Client), total: usize) -> Duration {
    let ((first_sends, first_receives), (second_sends, second_receives)) =
        (first.split(), second.split());
    let since = Instant::now();
    let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
    senders.spawn(send(first_sends, 1, total));
    senders.spawn(send(second_sends, 2, total));
    receivers.spawn(receive(second_receives, 1, total));
    receivers.spawn(receive(first_receives, 2, total));
    let all = async { tokio::join!(receivers.join_all(), senders.join_all()) };
    let _open = timeout(LONG, all).await.expect("in time");
    since.elapsed()
}

async fn each_relay_is_held_back(first: Transport, second: Transport) {
    let gateway = TestGateway::start_with(|config| config.bandwidth.per_relay = RATE).await;
    let mut relays = JoinSet::new();
    for _ in 0..2 {
        relays.spawn(moved_both_ways(gateway.pair(first, second).await, MUCH));
    }
    for took in relays.join_all().await {
        assert!(took >= at_least(MUCH, BYTES_A_SECOND), "{took:?}");
        // Neither the other direction nor the other relay takes part of it.
        println!("{MUCH} bytes each way in {took:?}");
    }
    assert!(gateway.metric("relay_delayed_bytes_total").await > 0.0);
    gateway.until_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_tcp_to_tcp() {
    each_relay_is_held_back(Tcp, Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_tcp_to_websocket() {
    each_relay_is_held_back(Tcp, WebSocket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_websocket_to_websocket() {
    each_relay_is_held_back(WebSocket, WebSocket).await;
}

/// As fast as the kernel's own path is engaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_on_the_kernels_path() {
    const TOTAL: usize = 150_000_000;
    let rate = BitRate::from_mbit(400);
    let gateway = TestGateway::start_with(|config| config.bandwidth.per_relay = rate).await;
    let took = moved(gateway.pair(Tcp, Tcp).await, 1, TOTAL).await;
    // 50 ms ahead.
    assert!(took >= Duration::from_secs_f64(TOTAL as f64 / 50e6 - 0.05), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_relays_together_keep_to_the_total_and_share_it_alike() {
    let gateway = TestGateway::start_with(|config| config.bandwidth.total = RATE).await;
    let mut relays = JoinSet::new();
    let since = Instant::now();
    for (first, second) in [(Tcp, Tcp), (WebSocket, Tcp), (WebSocket, WebSocket), (Tcp, WebSocket)]
    {
        relays.spawn(moved(gateway.pair(first, second).await, 1, MUCH / 2));
    }
    let took = relays.join_all().await;
    assert!(since.elapsed() >= at_least(2 * MUCH, BYTES_A_SECOND), "{took:?}");
    // Nobody was done long before the others: each had a quarter throughout.
    let first = took.iter().min().expect("four");
    assert!(*first >= at_least(2 * MUCH, BYTES_A_SECOND) / 2, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_address_sends_and_what_it_receives_is_limited_over_all_its_relays() {
    let gateway = TestGateway::start_with(|config| {
        config.bandwidth.per_address = RATE;
        // The loopback, which is.
        config.access.exempt.clear();
    })
    .await;
    let mut relays = JoinSet::new();
    let since = Instant::now();
    for _ in 0..2 {
        relays.spawn(moved(gateway.pair(Tcp, Tcp).await, 1, MUCH / 2));
    }
    relays.join_all().await;
    assert!(since.elapsed() >= at_least(MUCH, BYTES_A_SECOND));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_on_the_throttle_list_is_slow_from_when_it_is_there() {
    let gateway = TestGateway::start_with(|config| config.bandwidth.throttled = RATE).await;
    let uuid = unique("throttled");
    let path = format!("/api/v1/relays/{uuid}");
    let (from, to) = gateway.named_pair(&uuid, Tcp, WebSocket).await;
    let address = serde_json::json!({ "network": "127.0.0.1" });
    assert_eq!(gateway.post_json("/api/v1/throttlelist", &address).await.status, 201);
    let (sends, _receives) = from.split();
    let (_sends, mut receives) = to.split();
    // The list is looked at by whoever keeps it: until then nothing is limited.
    let mut flooding = tokio::spawn(async move {
        let mut sends = sends;
        while sends.send(&[3; 10_000]).await.is_ok() {}
    });
    let receiving = tokio::spawn(async move { while receives.receive().await.is_some() {} });
    eventually("it is held back", async || gateway.get(&path).await.json()["limited"] == true)
        .await;
    assert_eq!(gateway.delete("/api/v1/throttlelist/127.0.0.1").await.json()["removed"], 1);
    eventually("it is no more", async || gateway.get(&path).await.json()["limited"] == false).await;
    assert_eq!(gateway.delete(&path).await.status, 200);
    timeout(PATIENCE, &mut flooding).await.expect("it ends").expect("and well");
    timeout(PATIENCE, receiving).await.expect("it ends").expect("and well");

    let gateway = TestGateway::start_with(|config| {
        config.bandwidth.throttled = RATE;
        config.access.throttle_list = vec!["127.0.0.0/30".parse().expect("a network")];
    })
    .await;
    let took = moved(gateway.pair(Tcp, Tcp).await, 1, MUCH).await;
    assert!(took >= at_least(MUCH, BYTES_A_SECOND), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_takes_much_for_long_is_slowed_down_once() {
    let gateway = TestGateway::start_with(|config| {
        config.bandwidth.per_relay = BitRate::from_mbit(80);
        config.bandwidth.throttled = RATE;
        // A hundredth of what it may move: any machine can.
        config.bandwidth.downgrade_threshold = 0.01;
        config.bandwidth.downgrade_after =
            mini_rust_desk_relay_server::config::Duration::from_millis(1);
    })
    .await;
    let (uuid, quiet) = (unique("much"), unique("little"));
    let path = format!("/api/v1/relays/{uuid}");
    let (from, to) = gateway.named_pair(&uuid, Tcp, Tcp).await;
    let _quiet = gateway.named_pair(&quiet, Tcp, Tcp).await;
    let (read, sending) = flood(from.tcp());
    let mut to = to.tcp();
    let receiving =
        tokio::spawn(
            async move { while to.read(&mut [0; 65_536]).await.is_ok_and(|len| len > 0) {} },
        );
    eventually("it is slowed down", async || {
        gateway.get(&path).await.json()["bandwidth"] == "8Mbit/s"
    })
    .await;
    let other = gateway.get(&format!("/api/v1/relays/{quiet}")).await.json();
    assert_eq!(other["bandwidth"], "80Mbit/s");
    // What an operator says counts for more, and is not taken back by the next look.
    let set = gateway.patch(&path, r#"{"bandwidth": "40Mbit/s"}"#).await;
    assert_eq!(set.json()["bandwidth"], "40Mbit/s");
    sending.abort();
    receiving.abort();
    drop(read);
}

/// The legs of two relays have the key on one side only, and share what it may send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_legs_with_one_key_send_is_limited_over_all_their_relays() {
    let key = |label: &str, bandwidth| KeyConfig {
        label: label.to_owned(),
        key: Secret::new(label),
        bandwidth,
        ..KeyConfig::default()
    };
    let gateway = TestGateway::start_with(|config| {
        config.keys = vec![key("slow", RATE), key("free", BitRate::UNLIMITED)];
    })
    .await;
    let pair = async |from: &str, to: &str| {
        let uuid = unique("keys");
        let hello = |key| request_relay(&uuid, "", key, ConnType::Default);
        let first = gateway.leg_with(Tcp, &hello(from)).await;
        gateway.until_waiting(&uuid).await;
        let second = gateway.leg_with(Tcp, &hello(to)).await;
        gateway.until_active(&uuid).await;
        (first, second)
    };
    let (one, other) = (pair("slow", "free").await, pair("slow", "free").await);
    let back = pair("free", "slow").await;
    let since = Instant::now();
    let mut relays = JoinSet::new();
    relays.spawn(moved(one, 1, MUCH / 2));
    relays.spawn(moved(other, 1, MUCH / 2));
    // What they receive has a bucket of its own.
    relays.spawn(moved(back, 1, MUCH));
    let took = relays.join_all().await;
    assert!(since.elapsed() >= at_least(MUCH, BYTES_A_SECOND), "{took:?}");

    // A key that may do more from now on: an active relay has it at once.
    let pair = pair("slow", "free").await;
    let changed = gateway
        .reload_with(|config| {
            config.keys = vec![key("slow", BitRate::UNLIMITED), key("free", RATE)]
        })
        .await;
    assert_eq!(changed.json()["applied"], serde_json::json!(["keys"]));
    let delayed = gateway.metric("relay_delayed_bytes_total").await;
    let (from, to) = pair;
    assert!(moved((to, from), 1, MUCH).await >= at_least(MUCH, BYTES_A_SECOND));
    assert!(gateway.metric("relay_delayed_bytes_total").await > delayed);
}

/// Sends without end; what came through is counted.
fn flood(socket: TcpStream) -> (tokio::net::tcp::OwnedReadHalf, JoinHandle<()>) {
    let (read, mut write) = socket.into_split();
    let sending = tokio::spawn(async move { while write.write_all(&[7; 65_536]).await.is_ok() {} });
    (read, sending)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_little_gets_it_beside_those_that_take_all_there_is() {
    let gateway = TestGateway::start_with(|config| config.bandwidth.total = RATE).await;
    let mut floods = JoinSet::new();
    let mut halves = Vec::new();
    for _ in 0..4 {
        let (from, to) = gateway.pair(Tcp, Tcp).await;
        halves.push(flood(from.tcp()));
        let mut to = to.tcp();
        floods.spawn(
            async move { while to.read(&mut [0; 65_536]).await.is_ok_and(|len| len > 0) {} },
        );
    }
    eventually("the total is used up", async || {
        gateway.metric("relay_delayed_bytes_total").await > 500_000.0
    })
    .await;
    for (first, second) in [(Tcp, Tcp), (WebSocket, WebSocket), (WebSocket, Tcp)] {
        let uuid = unique("modest");
        let (mut asks, mut answers) = gateway.named_pair(&uuid, first, second).await;
        for turn in 0..200_u32 {
            asks.send(&turn.to_be_bytes()).await;
            assert_eq!(answers.receive().await.as_deref(), Some(&turn.to_be_bytes()[..]));
            answers.send(&[turn as u8; 100]).await;
            assert_eq!(asks.receive().await.map(|answer| answer.len()), Some(100));
        }
        // Though all of the total was taken throughout, it never had to wait.
        let relay = gateway.get(&format!("/api/v1/relays/{uuid}")).await.json();
        assert_eq!(relay["limited"], false, "{relay}");
    }
    floods.abort_all();
    halves.iter().for_each(|(_, sending)| sending.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_comes_and_goes_while_a_relay_is_active() {
    let gateway = TestGateway::start().await;
    let uuid = unique("changes");
    let path = format!("/api/v1/relays/{uuid}");
    let (from, to) = gateway.named_pair(&uuid, Tcp, Tcp).await;
    let (mut sends, _keeps) = from.split();
    let (_keeps_too, mut receives) = to.split();
    let block = vec![5; 250_000];
    assert_eq!(gateway.get(&path).await.json()["bandwidth"], "unlimited");

    let changed = gateway.patch(&path, r#"{"bandwidth": "8Mbit/s"}"#).await;
    assert_eq!((changed.status, &changed.json()["bandwidth"]), (200, &"8Mbit/s".into()));
    let since = Instant::now();
    for _ in 0..4 {
        let (sent, received) = tokio::join!(sends.send(&block), receives.receive());
        sent.expect("the relay reads");
        assert_eq!(received.as_ref(), Some(&block));
    }
    assert!(since.elapsed() >= at_least(4 * block.len(), BYTES_A_SECOND));
    assert_eq!(gateway.get(&path).await.json()["limited"], true);

    // So slow that what waits could not come through: it does because the limit is gone.
    let slowest = gateway.patch(&path, r#"{"bandwidth": "8kbit/s"}"#).await;
    assert_eq!(slowest.status, 200);
    let many = block.repeat(40);
    let sending = tokio::spawn(async move { sends.send(&many).await.map(|()| (sends, many)) });
    eventually("it is held back", async || gateway.get(&path).await.json()["limited"] == true)
        .await;
    let changed = gateway.patch(&path, r#"{"bandwidth": null}"#).await;
    assert_eq!(changed.json()["bandwidth"], "unlimited");
    let received = timeout(PATIENCE, receives.receive()).await.expect("it goes on at once");
    let (_sends, many) = sending.await.expect("all was sent").expect("the relay reads");
    assert!(received == Some(many));
    assert_eq!(gateway.get(&path).await.json()["limited"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_all_change_at_once() {
    let gateway = TestGateway::start().await;
    let unlimited = gateway.get("/api/v1/bandwidth").await;
    assert_eq!(unlimited.json()["total"], "unlimited", "{}", unlimited.body);
    let pairs = [gateway.pair(Tcp, Tcp).await, gateway.pair(WebSocket, WebSocket).await];
    let changed = gateway.patch("/api/v1/bandwidth", r#"{"total": "1 MB/s"}"#).await;
    assert_eq!((changed.status, &changed.json()["total"]), (200, &"8Mbit/s".into()));
    assert!((gateway.metric("relay_bandwidth_limit_bytes_per_second").await - 1e6).abs() < 1.0);
    let since = Instant::now();
    let mut relays = JoinSet::new();
    for pair in pairs {
        relays.spawn(moved(pair, 1, MUCH / 2));
    }
    relays.join_all().await;
    assert!(since.elapsed() >= at_least(MUCH, BYTES_A_SECOND));

    let (from, to) = gateway.pair(Tcp, Tcp).await;
    assert_eq!(gateway.patch("/api/v1/bandwidth", r#"{"total": "8kbit/s"}"#).await.status, 200);
    let moving = tokio::spawn(moved((from, to), 1, 20_000_000));
    eventually("it is held back", async || {
        gateway.get("/api/v1/relays").await.body.contains(r#""limited":true"#)
    })
    .await;
    assert_eq!(gateway.patch("/api/v1/bandwidth", r#"{"total": "unlimited"}"#).await.status, 200);
    moving.await.expect("it goes on at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_limits_active_relays_and_ends_what_was_set_by_hand() {
    let gateway = TestGateway::start().await;
    let pair = gateway.pair(Tcp, WebSocket).await;
    gateway.patch("/api/v1/bandwidth", r#"{"total": "8kbit/s"}"#).await;
    let answer = gateway.reload_with(|config| config.bandwidth.per_relay = RATE).await;
    assert_eq!(answer.json()["applied"], serde_json::json!(["bandwidth.per_relay"]));
    assert_eq!(gateway.get("/api/v1/bandwidth").await.json()["total"], "unlimited");
    assert!(moved(pair, 1, MUCH).await >= at_least(MUCH, BYTES_A_SECOND));
    gateway.reload_with(|config| config.bandwidth.per_relay = BitRate::UNLIMITED).await;
    assert!(!gateway.get("/api/v1/bandwidth").await.body.contains("8Mbit/s"));
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused_and_changes_nothing() {
    let gateway = TestGateway::start().await;
    let (_first, _second) = gateway.named_pair("sense", Tcp, Tcp).await;
    for (path, body, status) in [
        ("/api/v1/bandwidth", r#"{"total": "fast"}"#, 422),
        ("/api/v1/bandwidth", r#"{"total": "7kbit/s"}"#, 422),
        ("/api/v1/bandwidth", r#"{"totals": "8Mbit/s"}"#, 422),
        ("/api/v1/bandwidth", r#"{"total": "#, 400),
        ("/api/v1/relays/sense", "{}", 422),
        ("/api/v1/relays/sense", r#"{"bandwidth": 5}"#, 422),
        ("/api/v1/relays/sense", r#"{"bandwidth": "1bit/s"}"#, 422),
        ("/api/v1/relays/nobody", r#"{"bandwidth": null}"#, 404),
    ] {
        let answer = gateway.patch(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path} {body}");
    }
    assert_eq!(gateway.get("/api/v1/bandwidth").await.json()["total"], "unlimited");
    assert_eq!(gateway.get("/api/v1/relays/sense").await.json()["bandwidth"], "unlimited");
}

/// A relay that hardly moves is neither idle nor stalled, and ends at once when it must.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_held_back_is_not_idle_and_is_closed_at_once() {
    let gateway = TestGateway::start_with(|config| {
        config.bandwidth.per_relay = BitRate::from_bits(8_000);
        config.relay.idle_timeout = mini_rust_desk_relay_server::config::Duration::from_millis(100);
        config.relay.write_timeout = config.relay.idle_timeout;
    })
    .await;
    for (first, second) in [(Tcp, Tcp), (WebSocket, Tcp), (WebSocket, WebSocket)] {
        let uuid = unique("slow");
        // It sends before it is paired: the relay has something to move from its first moment on.
        let from = gateway.leg(first, &uuid).await;
        gateway.until_waiting(&uuid).await;
        let (mut sends, _receives) = from.split();
        sends.send(&[1; 30_000]).await.expect("the socket takes it");
        let sending = tokio::spawn(async move { while sends.send(&[1; 30_000]).await.is_ok() {} });
        let (_sends, mut receives) = gateway.leg(second, &uuid).await.split();
        let receiving = tokio::spawn(async move { while receives.receive().await.is_some() {} });
        let path = format!("/api/v1/relays/{uuid}");
        eventually("it is held back for long", async || {
            let relay = gateway.get(&path).await.json();
            relay["limited"] == true && relay["age_seconds"].as_f64() > Some(1.0)
        })
        .await;
        let close = format!("Authorization: Bearer {TOKEN}\r\n");
        assert_eq!(gateway.request("DELETE", &path, &close).await.status, 200);
        timeout(PATIENCE, receiving).await.expect("it ends").expect("and well");
        timeout(PATIENCE, sending).await.expect("it ends").expect("and well");
    }
    gateway.until_metric("relay_ends_total{reason=\"admin\"}", 3.0).await;
}

/// The frame that passes is finished, and the Close comes behind it, though at the relay's pace the
/// frame would take half an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_the_frame_that_is_held_back() {
    let gateway = TestGateway::start_with(|config| {
        config.bandwidth.total = BitRate::from_bits(8_000);
        config.shutdown.drain_timeout =
            mini_rust_desk_relay_server::config::Duration::from_millis(1);
    })
    .await;
    let uuid = unique("drain");
    let (from, to) = gateway.named_pair(&uuid, Tcp, WebSocket).await;
    let (mut sends, _receives) = from.split();
    let (_sends, mut receives) = to.split();
    let message = vec![9; 2_000_000];
    let sending = tokio::spawn({
        let message = message.clone();
        async move { sends.send(&message).await.map(|()| sends) }
    });
    eventually("it is held back", async || {
        gateway.get(&format!("/api/v1/relays/{uuid}")).await.json()["limited"] == true
    })
    .await;
    gateway.shutdown.drain();
    let received = timeout(PATIENCE, receives.receive()).await.expect("it goes on at once");
    assert!(received == Some(message));
    assert_eq!(timeout(PATIENCE, receives.receive()).await.expect("the end"), None);
    sending.await.expect("all was sent").expect("the relay reads");
}

/// What was sent before a half-close arrives whole, and the other way goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_behind_bytes_that_are_held_back() {
    let gateway = TestGateway::start_with(|config| config.bandwidth.per_relay = RATE).await;
    let (from, to) = gateway.pair(Tcp, Tcp).await;
    let (mut from, mut to) = (from.tcp(), to.tcp());
    let since = Instant::now();
    let sent: Vec<u8> = (0..MUCH as u32).map(|at| (at / 251) as u8).collect();
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            from.write_all(&sent).await.expect("the relay reads");
            from.shutdown().await.expect("a FIN");
            from
        }
    });
    assert!(read_to_end(&mut to).await == sent);
    assert!(since.elapsed() >= at_least(MUCH, BYTES_A_SECOND));
    let mut from = sending.await.expect("all was sent");
    to.write_all(b"and back").await.expect("the relay reads");
    drop(to);
    assert_eq!(read_to_end(&mut from).await, b"and back");
    gateway.until_quiet().await;
}
