//! New settings for a relay that runs: which take effect at once, which wait, and what a bad
//! configuration changes: nothing.

use std::{fs, time::Duration};

use mini_rust_desk_relay_server::{
    config::{self, Secret, Size},
    wire::{
        Transport::{Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::{
    process::Process,
    support::{Answer, Client, TOKEN, TestGateway, eventually, read_to_end, unique},
};

/// What a reload says that it put in force.
fn applied(answer: &Answer) -> serde_json::Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["applied"].clone()
}

#[tokio::test]
async fn the_time_that_a_leg_may_wait_changes_for_legs_that_wait() {
    let gateway = TestGateway::start().await;
    let mut leg = gateway.leg(Tcp, "waits").await.tcp();
    gateway.until_waiting("waits").await;
    let answer =
        gateway.reload_with(|c| c.pairing.timeout = config::Duration::from_millis(50)).await;
    assert_eq!(applied(&answer), json!(["pairing.timeout"]));
    assert_eq!(read_to_end(&mut leg).await, b"");
    gateway.until_metric("relay_unpaired_total{reason=\"timeout\"}", 1.0).await;
}

#[tokio::test]
async fn the_waiting_room_shrinks_and_grows() {
    let gateway = TestGateway::start().await;
    let _first = gateway.leg(Tcp, "first").await;
    gateway.until_waiting("first").await;
    gateway.reload_with(|c| c.pairing.max_waiting = 1).await;
    let mut refused = gateway.leg(Tcp, "second").await.tcp();
    assert_eq!(read_to_end(&mut refused).await, b"");
    gateway.reload_with(|c| c.pairing.max_waiting = 2).await;
    let _second = gateway.leg(Tcp, "second").await;
    gateway.until_waiting("second").await;
}

#[tokio::test]
async fn new_relays_have_the_new_idle_timeout_and_old_ones_keep_theirs() {
    let gateway = TestGateway::start().await;
    let (mut old, mut across) = gateway.pair(Tcp, Tcp).await;
    let idle = config::Duration::from_millis(50);
    let answer = gateway.reload_with(|c| c.relay.idle_timeout = idle).await;
    assert_eq!(applied(&answer), json!(["relay.idle_timeout"]));
    let first = gateway.leg(Tcp, "new").await;
    gateway.until_waiting("new").await;
    let _second = gateway.leg(Tcp, "new").await;
    assert_eq!(read_to_end(&mut first.tcp()).await, b"");
    old.send(b"still here").await;
    assert_eq!(across.receive().await.as_deref(), Some(&b"still here"[..]));
}

#[tokio::test]
async fn quiet_sessions_have_a_limit_of_their_own() {
    let gateway = TestGateway::start().await;
    let idle = config::Duration::from_millis(50);
    gateway.reload_with(|c| c.relay.port_forward_idle_timeout = idle).await;
    let forward = request_relay("forward", "", "", ConnType::PortForward);
    let first = gateway.leg_with(Tcp, &forward).await;
    gateway.until_waiting("forward").await;
    let _second = gateway.leg(Tcp, "forward").await;
    assert_eq!(read_to_end(&mut first.tcp()).await, b"");
    gateway.until_metric("relay_ends_total{reason=\"idle\"}", 1.0).await;
}

#[tokio::test]
async fn the_largest_message_changes_for_new_relays() {
    let gateway = TestGateway::start().await;
    gateway.reload_with(|c| c.relay.max_message_size = Size::from_kib(64)).await;
    let (first, _second) = gateway.pair(Tcp, WebSocket).await;
    let Client::Tcp(mut first) = first else { panic!("a TCP leg") };
    // A frame's header is enough: 65 KiB are claimed.
    let header = ((65_u32 << 10) << 2) | 2;
    tokio::io::AsyncWriteExt::write_all(&mut first, &header.to_le_bytes()[..3]).await.unwrap();
    assert_eq!(read_to_end(&mut first).await, b"");
    gateway.until_metric("relay_ends_total{reason=\"message_too_long\"}", 1.0).await;
}

#[tokio::test]
async fn a_new_connection_has_the_new_deadline() {
    let gateway = TestGateway::start().await;
    let mut patient = gateway.connect().await;
    let hasty = config::Duration::from_millis(50);
    gateway.reload_with(|c| c.front_door.first_frame_timeout = hasty).await;
    assert_eq!(read_to_end(&mut gateway.connect().await).await, b"");
    // The one that came before has what it was promised.
    let early = patient.try_read(&mut [0]);
    assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    tokio::io::AsyncWriteExt::shutdown(&mut patient).await.unwrap();
}

#[tokio::test]
async fn the_largest_first_message_changes() {
    let gateway = TestGateway::start().await;
    // An open relay does not look at it.
    let key = "k".repeat(300);
    let long = request_relay("uuid", "", &key, ConnType::Default);
    gateway.reload_with(|c| c.front_door.max_first_frame = Size::from_bytes(128)).await;
    assert_eq!(read_to_end(&mut gateway.leg_with(Tcp, &long).await.tcp()).await, b"");
    gateway.reload_with(|c| c.front_door.max_first_frame = Size::from_kib(1)).await;
    let _leg = gateway.leg_with(Tcp, &long).await;
    gateway.until_waiting("uuid").await;
}

#[tokio::test]
async fn how_many_connections_there_may_be_changes_and_those_that_are_stay() {
    let gateway =
        TestGateway::start_with(|c| c.admin.listen = vec!["127.0.0.1:0".parse().unwrap()]).await;
    let (mut first, mut second) = gateway.pair(Tcp, Tcp).await;
    gateway.reload_with(|c| c.front_door.max_connections = 1).await;
    assert_eq!(read_to_end(&mut gateway.connect().await).await, b"");
    first.send(b"stays").await;
    assert_eq!(second.receive().await.as_deref(), Some(&b"stays"[..]));
    gateway.reload_with(|c| c.front_door.max_connections = 100).await;
    gateway.pair(Tcp, Tcp).await;
}

#[tokio::test]
async fn a_new_key_lets_in_who_has_it_and_keeps_out_who_has_the_old() {
    let gateway = TestGateway::start_with(|c| c.key = Secret::new("old")).await;
    let hello = |key: &str| request_relay(&unique("key"), "", key, ConnType::Default);
    let mut before = gateway.leg_with(Tcp, &hello("old")).await.tcp();
    gateway.until_metric("relay_waiting_legs", 1.0).await;
    let answer = gateway.reload_with(|c| c.key = Secret::new("new")).await;
    assert_eq!(applied(&answer), json!(["key"]));
    assert!(!answer.body.contains("new"));
    let mut refused = gateway.leg_with(Tcp, &hello("old")).await.tcp();
    assert_eq!(read_to_end(&mut refused).await, b"");
    let _in = gateway.leg_with(Tcp, &hello("new")).await;
    gateway.until_metric("relay_waiting_legs", 2.0).await;
    // Who was let in stays.
    assert_eq!(before.try_read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    tokio::io::AsyncWriteExt::shutdown(&mut before).await.unwrap();
}

#[tokio::test]
async fn a_new_token_is_asked_for_at_once() {
    let gateway = TestGateway::start().await;
    let token = "another-token-for-tests";
    let answer = gateway.reload_with(|c| c.admin.token = Secret::new(token)).await;
    assert_eq!(applied(&answer), json!(["admin.token"]));
    assert_eq!(gateway.get("/api/v1/stats").await.status, 401);
    let headers = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(gateway.request("GET", "/api/v1/stats", &headers).await.status, 200);
}

#[tokio::test]
async fn the_next_drain_has_the_new_timeout() {
    let gateway = TestGateway::start().await;
    let (first, second) = gateway.pair(Tcp, Tcp).await;
    let at_once = config::Duration::from_millis(50);
    gateway.reload_with(|c| c.shutdown.drain_timeout = at_once).await;
    gateway.shutdown.drain();
    for client in [first, second] {
        assert_eq!(read_to_end(&mut client.tcp()).await, b"");
    }
    eventually("it has ended", async || gateway.running.is_finished()).await;
}

#[tokio::test]
async fn what_waits_for_a_restart_is_said_each_time_until_it_is_taken_back() {
    let gateway = TestGateway::start().await;
    let light = config::ThreadCount::Exactly(3);
    let answer = gateway
        .reload_with(|c| {
            c.threads.light = light;
            c.relay.kernel_splice = false;
            c.pairing.max_waiting = 7;
        })
        .await;
    assert_eq!(applied(&answer), json!(["pairing.max_waiting"]));
    let waits = json!(["relay.kernel_splice", "threads.light"]);
    assert_eq!(answer.json()["needs_restart"], waits);
    let again = gateway.reload_with(|_| {}).await;
    assert_eq!(applied(&again), json!([]));
    assert_eq!(again.json()["needs_restart"], waits);
    let back = gateway
        .reload_with(|c| {
            c.threads.light = config::ThreadCount::Auto;
            c.relay.kernel_splice = true;
        })
        .await;
    assert_eq!(back.json()["needs_restart"], json!([]));
}

#[tokio::test]
async fn what_cannot_be_prepared_changes_nothing_and_says_every_reason() {
    let gateway = TestGateway::start_with(|c| c.key = Secret::new("right")).await;
    let answer = gateway
        .reload_with(|c| {
            c.key = Secret::default();
            c.key_file = "no-such-key".into();
            c.admin.token = Secret::default();
            c.admin.token_file = "no-such-token".into();
            c.pairing.max_waiting = 1;
        })
        .await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let problems = answer.json()["problems"].as_array().expect("a list").clone();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].as_str().unwrap().contains("no-such-key"), "{problems:?}");
    assert!(problems[1].as_str().unwrap().contains("no-such-token"), "{problems:?}");
    // The token, the key and the room are what they were.
    let hello = |uuid| request_relay(uuid, "", "right", ConnType::Default);
    let _one = gateway.leg_with(Tcp, &hello("one")).await;
    let _two = gateway.leg_with(Tcp, &hello("two")).await;
    gateway.until_waiting("one").await;
    gateway.until_waiting("two").await;
}

#[tokio::test]
async fn a_key_pair_is_made_only_by_a_reload_that_is_applied() {
    let gateway = TestGateway::start().await;
    let pair = gateway.dir().join("id_ed25519");
    let answer = gateway
        .reload_with(|c| {
            c.key = Secret::new("_");
            c.admin.token = Secret::default();
            c.admin.token_file = "no-such-token".into();
        })
        .await;
    assert_eq!(answer.status, 422);
    assert!(!pair.exists());
    let answer = gateway
        .reload_with(|c| {
            c.admin.token = Secret::new(TOKEN);
            c.admin.token_file = "".into();
        })
        .await;
    assert_eq!(applied(&answer), json!(["key"]));
    assert!(pair.exists());
}

#[tokio::test]
async fn nothing_is_reloaded_by_who_has_no_token_or_while_draining() {
    let gateway =
        TestGateway::start_with(|c| c.admin.listen = vec!["127.0.0.1:0".parse().unwrap()]).await;
    let headers = "Content-Length: 0\r\n";
    assert_eq!(gateway.request("POST", "/api/v1/reload", headers).await.status, 401);
    assert_eq!(gateway.get("/api/v1/reload").await.status, 405);
    let _pair = gateway.pair(Tcp, Tcp).await;
    gateway.shutdown.drain();
    let answer = gateway.post("/api/v1/reload").await;
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("shutting down"), "{}", answer.body);
}

#[tokio::test]
async fn reloads_at_once_come_one_after_the_other() {
    let gateway = TestGateway::start().await;
    let mut asked = Vec::new();
    for _ in 0..8 {
        let addr = gateway.admin_addr;
        let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n");
        asked.push(tokio::spawn(async move {
            crate::support::http(addr, "POST", "/api/v1/reload", &headers).await.status
        }));
    }
    for answer in asked {
        assert_eq!(answer.await.unwrap(), 200);
    }
}

/// The program, with a configuration that can be rewritten.
async fn with_file(text: &str) -> Process {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("config.toml"), text).expect("a file");
    Process::start_in(dir, &[]).await
}

fn rewrite(process: &Process, text: &str) {
    fs::write(process.gateway.dir().join("config.toml"), text).expect("a file");
}

#[tokio::test]
async fn a_signal_reloads_from_the_same_sources() {
    let process = with_file("[pairing]\ntimeout = \"1h\"\n").await;
    rewrite(&process, "[pairing]\ntimeout = \"50ms\"\n[threads]\nlight = 5\n");
    process.signal(Signal::HUP);
    let said = process.line("reloaded the configuration").await;
    assert!(said.contains("pairing.timeout"), "{said}");
    let said = process.line("wait for a restart").await;
    assert!(said.contains("threads.light"), "{said}");
    let mut leg = process.gateway.leg(Tcp, "waits").await.tcp();
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(20), leg.read(&mut byte)).await;
    assert_eq!(read.expect("in time").expect("an end"), 0);
}

#[tokio::test]
async fn what_is_logged_changes() {
    let process = with_file("").await;
    let refused = async || {
        let mut strange = process.gateway.connect().await;
        tokio::io::AsyncWriteExt::write_all(&mut strange, b"\xFF\xFF\xFF\xFF").await.unwrap();
        read_to_end(&mut strange).await;
    };
    refused().await;
    for level in ["debug", "info,mini_rust_desk_relay_server=debug"] {
        rewrite(&process, &format!("[log]\nlevel = \"{level}\"\n"));
        assert_eq!(applied(&process.gateway.post("/api/v1/reload").await), json!(["log.level"]));
        let count = |log: &[String]| log.iter().filter(|l| l.contains("refused 127")).count();
        let before = count(&process.log());
        refused().await;
        eventually("one more line", async || count(&process.log()) == before + 1).await;
    }
    rewrite(&process, "[log]\nlevel = \"error\"\n");
    assert_eq!(applied(&process.gateway.post("/api/v1/reload").await), json!(["log.level"]));
    let (_first, _second) = process.gateway.pair(Tcp, Tcp).await;
    assert!(!process.log().iter().any(|line| line.contains("got paired")), "{:?}", process.log());
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_every_fault_is_told() {
    let process = with_file("[pairing]\ntimeout = \"1h\"\n").await;
    rewrite(&process, "[pairing]\ntimeout = \"often\"\nmax_waitin = 3\n[log]\nlevel = \"inof\"\n");
    let answer = process.gateway.post("/api/v1/reload").await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    let problems = answer.json()["problems"].as_array().expect("a list").clone();
    assert_eq!(problems.len(), 3, "{problems:?}");
    for fault in ["pairing.timeout", "max_waitin", "log.level"] {
        process.line(fault).await;
        assert!(answer.body.contains(fault), "{problems:?}");
    }
    process.line("the settings stay as they were").await;
    process.gateway.pair(Tcp, WebSocket).await;
}

#[tokio::test]
async fn a_drain_can_be_asked_for() {
    let mut process = Process::start(&["--admin-listen", "127.0.0.1:0"]).await;
    let (first, second) = process.gateway.pair(Tcp, Tcp).await;
    let body = r#"{"timeout": "50 parsecs"}"#;
    let ask = async |body: &str| {
        let headers = format!(
            "Authorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        process.gateway.request("POST", "/api/v1/drain", &headers).await
    };
    assert_eq!(ask(body).await.status, 400);
    let answer = ask(r#"{"timeout": "1h"}"#).await;
    assert_eq!(answer.status, 202);
    let expected = json!({"relays_active": 1, "timeout_seconds": 3600.0, "already": false});
    assert_eq!(answer.json(), expected);
    assert_eq!(process.gateway.get("/readyz").await.status, 503);
    assert_eq!(ask("").await.json()["already"], true);
    drop((first, second));
    assert_eq!(process.ended().await, 0);
}
