//! Several keys at once: who may meet whom, what each key grants, and how that changes while the
//! relay runs.

use std::{fs, path::Path, process::Command};

use jiff::{SignedDuration, Timestamp};
use mini_rust_desk_relay_server::{
    config::{Config, Expiry, KeyConfig, Secret, Size},
    wire::{
        Transport::{self, Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    by_hand::{is_refused, opening},
    process::Process,
    support::{Answer, Client, TOKEN, TestGateway, eventually, read_to_end, unique},
};

fn key(label: &str, key: &str) -> KeyConfig {
    KeyConfig { label: label.to_owned(), key: Secret::new(key), ..KeyConfig::default() }
}

/// Two keys beside the single one.
fn three(config: &mut Config) {
    config.key = Secret::new("the-single-one");
    config.keys = vec![key("office", "for-the-office"), key("guests", "for-guests")];
}

fn hello(uuid: &str, key: &str) -> Vec<u8> {
    request_relay(uuid, "", key, ConnType::Default)
}

/// A relay between two legs with these keys.
async fn pair(
    gateway: &TestGateway,
    uuid: &str,
    keys: [&str; 2],
    transports: [Transport; 2],
) -> (Client, Client) {
    let first = gateway.leg_with(transports[0], &hello(uuid, keys[0])).await;
    gateway.until_waiting(uuid).await;
    let second = gateway.leg_with(transports[1], &hello(uuid, keys[1])).await;
    gateway.until_active(uuid).await;
    (first, second)
}

async fn relays(first: &mut Client, second: &mut Client) {
    first.send(b"to and").await;
    assert_eq!(second.receive().await.as_deref(), Some(&b"to and"[..]));
    second.send(b"fro").await;
    assert_eq!(first.receive().await.as_deref(), Some(&b"fro"[..]));
}

/// What the admin API says of a key.
async fn status(gateway: &TestGateway, label: &str) -> Value {
    let keys = gateway.get(&format!("/api/v1/keys?label={label}")).await.json();
    assert_eq!(keys["total"], 1, "{keys}");
    keys["items"][0].clone()
}

/// Over both transports: closed at once, nothing sent, and counted.
async fn refuses(gateway: &TestGateway, key: &str, reason: &str) {
    let before = gateway.refusals(reason).await;
    for transport in [Tcp, WebSocket] {
        is_refused(gateway, transport, &opening(transport, &hello("refused", key))).await;
    }
    assert_eq!(gateway.refusals(reason).await, before + 2.0, "{reason}");
}

#[tokio::test]
async fn legs_with_any_valid_key_meet_and_show_whose_they_are() {
    let gateway = TestGateway::start_with(three).await;
    let (mut first, mut second) =
        pair(&gateway, "mixed", ["for-the-office", "the-single-one"], [Tcp, WebSocket]).await;
    relays(&mut first, &mut second).await;
    let same = pair(&gateway, "same", ["for-guests"; 2], [Tcp, Tcp]).await;
    let shown = gateway.get("/api/v1/relays/mixed").await.json();
    assert_eq!([&shown["legs"][0]["key"], &shown["legs"][1]["key"]], ["office", "default"]);
    for (label, relays) in [("office", json!(["mixed"])), ("guests", json!(["same"]))] {
        let listed = gateway.get(&format!("/api/v1/relays?key={label}")).await.json();
        let uuids = listed["items"].as_array().unwrap().iter().map(|relay| relay["uuid"].clone());
        assert_eq!(Value::from_iter(uuids), relays);
        assert_eq!(status(&gateway, label).await["relays_active"], 1);
        let series = format!("relay_key_active_relays{{key=\"{label}\"}}");
        assert_eq!(gateway.metric(&series).await, 1.0);
    }
    drop((first, second, same));
    gateway.until_quiet().await;
    // The relay's bytes count on both keys: two messages of 6 and 3, with their headers.
    let [office, default] = [status(&gateway, "office").await, status(&gateway, "default").await];
    assert_eq!(office["bytes"], default["bytes"]);
    assert!(office["bytes"].as_u64() >= Some(7 + 9), "{office}");
    assert_eq!(office["month_bytes"], office["bytes"]);
    let counted = gateway.metric("relay_key_bytes_total{key=\"office\"}").await;
    assert_eq!(Some(counted as u64), office["bytes"].as_u64());
    gateway.until_metric("relay_key_active_relays{key=\"guests\"}", 0.0).await;
    refuses(&gateway, "FOR-GUESTS", "key_case").await;
    refuses(&gateway, "for-nobody", "key_unknown").await;
    let labels = gateway.get("/api/v1/keys").await.json();
    let labels = labels["items"].as_array().unwrap().iter().map(|key| key["label"].clone());
    assert_eq!(Value::from_iter(labels), json!(["default", "office", "guests"]));
}

#[tokio::test]
async fn a_key_that_expires_lets_nobody_new_in_and_relays_go_on() {
    let gateway = TestGateway::start_with(three).await;
    let (mut first, mut second) =
        pair(&gateway, "lives", ["for-guests"; 2], [Tcp, WebSocket]).await;
    let mut waiting = gateway.leg_with(Tcp, &hello("waits", "for-guests")).await.tcp();
    gateway.until_waiting("waits").await;
    let soon = Timestamp::now() + SignedDuration::from_millis(300);
    gateway.reload_with(|config| config.keys[1].expires = Some(Expiry::from(soon))).await;
    // It is dropped when the time has come, not when its peer has or has not.
    assert_eq!(read_to_end(&mut waiting).await, b"");
    assert!(Timestamp::now() >= soon);
    gateway.until_metric("relay_unpaired_total{reason=\"key_expired\"}", 1.0).await;
    refuses(&gateway, "for-guests", "key_expired").await;
    assert_eq!(status(&gateway, "guests").await["expired"], true);
    assert_eq!(status(&gateway, "guests").await["refused"]["expired"], 2);
    relays(&mut first, &mut second).await;
    // The others have not expired; and when all have, nobody is let in.
    pair(&gateway, "others", ["for-the-office", "the-single-one"], [Tcp, Tcp]).await;
    gateway
        .reload_with(|config| {
            config.key = Secret::default();
            config.keys.remove(0);
        })
        .await;
    assert_eq!(gateway.get("/api/v1/stats").await.json()["open_relay"], false);
    refuses(&gateway, "for-guests", "key_expired").await;
    refuses(&gateway, "", "key_empty").await;
}

#[tokio::test]
async fn keys_come_and_go_with_a_reload() {
    let gateway = TestGateway::start_with(three).await;
    let (mut first, mut second) =
        pair(&gateway, "lives", ["for-guests", "for-the-office"], [Tcp, Tcp]).await;
    let mut waiting = gateway.leg_with(Tcp, &hello("waits", "for-guests")).await.tcp();
    gateway.until_waiting("waits").await;
    let _stays = gateway.leg_with(Tcp, &hello("stays", "for-the-office")).await;
    gateway.until_waiting("stays").await;
    let answer = gateway.reload_with(|config| config.keys[1] = key("night", "for-the-night")).await;
    assert_eq!(answer.json()["applied"], json!(["keys"]));
    assert_eq!(read_to_end(&mut waiting).await, b"");
    gateway.until_metric("relay_unpaired_total{reason=\"key_revoked\"}", 1.0).await;
    refuses(&gateway, "for-guests", "key_unknown").await;
    pair(&gateway, "new", ["for-the-night", "the-single-one"], [Tcp, Tcp]).await;
    relays(&mut first, &mut second).await;
    let metrics = gateway.get("/metrics").await.body;
    assert!(metrics.contains("{key=\"night\"}") && !metrics.contains("{key=\"guests\"}"));
    gateway.until_waiting("stays").await;
    // A relay of a key that is gone still shows whose it was, and can be closed by that.
    let (mut other, mut across) = pair(&gateway, "other", ["for-the-night"; 2], [Tcp, Tcp]).await;
    assert_eq!(gateway.get("/api/v1/relays?key=guests").await.json()["total"], 1);
    let closed = close_all(&gateway, "?key=guests").await;
    assert_eq!(closed.json()["closed"], 1);
    assert_eq!(first.receive().await, None);
    assert_eq!(second.receive().await, None);
    assert_eq!(close_all(&gateway, "").await.status, 400, "all by no name");
    assert_eq!(close_all(&gateway, "?key=").await.json()["closed"], 0);
    relays(&mut other, &mut across).await;
}

async fn close_all(gateway: &TestGateway, query: &str) -> Answer {
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    gateway.request("DELETE", &format!("/api/v1/relays{query}"), &token).await
}

#[tokio::test]
async fn a_key_that_opens_a_relay_no_more_drops_whoever_came_without() {
    let gateway = TestGateway::start().await;
    let mut waiting = gateway.leg(WebSocket, "waits").await.websocket();
    gateway.until_waiting("waits").await;
    gateway.reload_with(three).await;
    assert!(futures_util::StreamExt::next(&mut waiting).await.is_none_or(|end| end.is_err()));
    gateway.until_metric("relay_unpaired_total{reason=\"key_revoked\"}", 1.0).await;
}

/// Hundreds of pairs want ten places at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_more_relays_at_once_than_a_key_may_have() {
    const PAIRS: usize = 200;
    const MOST: u32 = 10;
    let gateway = TestGateway::start_with(|config| {
        three(config);
        config.keys[1].max_relays = Some(MOST);
        config.threads.light = mini_rust_desk_relay_server::config::ThreadCount::Exactly(2);
    })
    .await;
    for _ in 0..3 {
        let addr = gateway.addr;
        let mut tasks = tokio::task::JoinSet::new();
        for pair in 0..PAIRS {
            // Every third is of two keys, one of which has no limit.
            let keys = ["for-guests", if pair % 3 == 0 { "for-the-office" } else { "for-guests" }];
            let uuid = unique("race");
            tasks.spawn(async move {
                let leg = async |key: &str| {
                    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
                    let frame = opening(Tcp, &hello(&uuid, key));
                    tokio::io::AsyncWriteExt::write_all(&mut socket, &frame).await.unwrap();
                    socket
                };
                let (mut first, mut second) = tokio::join!(leg(keys[0]), leg(keys[1]));
                // A byte from the peer, or the end: one of the two, and the same for both legs.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut first, &[0]).await;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut second, &[0]).await;
                let heard = |socket| heard(socket);
                let (one, other) = tokio::join!(heard(&mut first), heard(&mut second));
                assert_eq!(one, other, "{uuid}");
                one.then_some((first, second))
            });
        }
        let paired: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(paired.len(), MOST as usize);
        assert_eq!(status(&gateway, "guests").await["relays_active"], MOST);
        refuses_pair(&gateway).await;
        drop(paired);
        gateway.until_metric("relay_key_active_relays{key=\"guests\"}", 0.0).await;
        gateway.until_quiet().await;
    }
    let refused = 3 * (PAIRS - MOST as usize + 1);
    assert_eq!(gateway.refusals("key_quota_relays").await, refused as f64);
    let unpaired = "relay_unpaired_total{reason=\"key_quota_relays\"}";
    assert_eq!(gateway.metric(unpaired).await, refused as f64);
    let of_key = "relay_key_refused_total{key=\"guests\",reason=\"key_quota_relays\"}";
    assert_eq!(gateway.metric(of_key).await, refused as f64);
}

/// Whether a byte comes rather than the end.
async fn heard(socket: &mut tokio::net::TcpStream) -> bool {
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(socket, &mut byte);
    let read = tokio::time::timeout(crate::support::PATIENCE, read).await.expect("in time");
    matches!(read, Ok(1))
}

/// One pair too many: both of its legs are closed at once.
async fn refuses_pair(gateway: &TestGateway) {
    let uuid = unique("one-too-many");
    let mut first = gateway.leg_with(Tcp, &hello(&uuid, "for-guests")).await.tcp();
    gateway.until_waiting(&uuid).await;
    let mut second = gateway.leg_with(Tcp, &hello(&uuid, "for-the-office")).await.tcp();
    assert_eq!(read_to_end(&mut first).await, b"");
    assert_eq!(read_to_end(&mut second).await, b"");
}

/// A gateway of keys whose traffic is kept in `dir`.
async fn kept_in(dir: &Path, monthly: Option<Size>) -> TestGateway {
    let usage_file = dir.join("usage.json");
    TestGateway::start_with(move |config| {
        three(config);
        config.usage_file = usage_file;
        config.keys[1].monthly_traffic = monthly;
    })
    .await
}

async fn carry(gateway: &TestGateway, bytes: usize) {
    let uuid = unique("carry");
    let (mut first, mut second) =
        pair(gateway, &uuid, ["for-guests", "for-the-office"], [Tcp, WebSocket]).await;
    // With its header of three bytes, or less.
    second.send(&vec![7; bytes]).await;
    assert_eq!(first.receive().await.map(|message| message.len()), Some(bytes));
}

async fn end(mut gateway: TestGateway) {
    gateway.shutdown.end();
    (&mut gateway.running).await.expect("it ends in good order");
}

fn kept(dir: &Path) -> Value {
    let text = fs::read_to_string(dir.join("usage.json")).expect("the file of traffic");
    let months: Value = serde_json::from_str(&text).expect("JSON");
    let [month] = &months.as_object().expect("a table").values().collect::<Vec<_>>()[..] else {
        panic!("one month, unless it turned just now: {months}")
    };
    (*month).clone()
}

#[tokio::test]
async fn a_months_traffic_survives_a_restart_and_is_added_up_by_two_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let old = kept_in(dir.path(), None).await;
    carry(&old, 1000).await;
    // The other is there before the first has written anything, as during a hand-over.
    let new = kept_in(dir.path(), None).await;
    carry(&new, 2000).await;
    carry(&old, 4000).await;
    end(old).await;
    let after_old = kept(dir.path());
    end(new).await;
    let after_new = kept(dir.path());
    for label in ["guests", "office"] {
        // The other may have added what it carried by then, or not yet.
        let (old, new) = (after_old[label].as_u64(), after_new[label].as_u64());
        assert!(old.is_some_and(|bytes| (5000..7100).contains(&bytes)), "{after_old}");
        assert!(new.is_some_and(|bytes| (7000..7100).contains(&bytes)), "{after_new}");
    }
    assert_eq!(after_new.get("default"), None, "it carried nothing");
    // Whoever starts next counts on, and the month may be used up.
    let next = kept_in(dir.path(), Some(Size::from_bytes(7000))).await;
    assert_eq!(status(&next, "guests").await["month_bytes"], after_new["guests"]);
    refuses(&next, "for-guests", "key_quota_traffic").await;
    assert_eq!(status(&next, "guests").await["refused"]["monthly_traffic"], 2);
    carry_office(&next).await;
}

/// The same by two processes, as during a hand-over, and one after them.
#[tokio::test]
async fn two_processes_that_end_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let start = async || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_mini_rust_desk_relay_server"));
        program.env("RELAY__USAGE_FILE", dir.path().join("usage.json"));
        let keys = "[{ label = 'guests', key = 'for-guests' }, { label = 'office', key = 'for-the-office' }]";
        program.env("RELAY__KEYS", keys);
        Process::start_by(program, tempfile::tempdir().unwrap(), &[]).await
    };
    let mut processes = [start().await, start().await];
    for process in &processes {
        carry(&process.gateway, 3000).await;
    }
    processes.iter().for_each(|process| process.signal(Signal::TERM));
    for process in &mut processes {
        assert_eq!(process.ended().await, 0);
    }
    let sum = kept(dir.path())["guests"].as_u64();
    assert!(sum.is_some_and(|bytes| (6000..6100).contains(&bytes)), "{sum:?}");
    let next = start().await;
    assert_eq!(status(&next.gateway, "guests").await["month_bytes"].as_u64(), sum);
}

async fn carry_office(gateway: &TestGateway) {
    let (mut first, mut second) =
        pair(gateway, &unique("office"), ["for-the-office"; 2], [Tcp, Tcp]).await;
    relays(&mut first, &mut second).await;
}

#[tokio::test]
async fn a_relay_goes_on_when_its_key_has_used_up_its_month() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = kept_in(dir.path(), Some(Size::from_bytes(1000))).await;
    let (mut first, mut second) = pair(&gateway, "goes-on", ["for-guests"; 2], [Tcp, Tcp]).await;
    second.send(&[7; 2000]).await;
    assert_eq!(first.receive().await.map(|message| message.len()), Some(2000));
    // It is counted while the relay lives.
    eventually("the month is used up", async || {
        status(&gateway, "guests").await["month_bytes"].as_u64() >= Some(2000)
    })
    .await;
    refuses(&gateway, "for-guests", "key_quota_traffic").await;
    relays(&mut first, &mut second).await;
    gateway.reload_with(|config| config.keys[1].monthly_traffic = None).await;
    pair(&gateway, "again", ["for-guests"; 2], [Tcp, Tcp]).await;
}

#[tokio::test]
async fn a_usage_file_that_is_of_no_use_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("usage.json"), "not JSON").unwrap();
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        usage_file: "usage.json".into(),
        ..Config::default()
    };
    let gateway = mini_rust_desk_relay_server::gateway::Gateway::bind(config, dir.path());
    let error = gateway.err().expect("refused").to_string();
    assert!(error.contains("usage.json"), "{error}");
}

/// As Kubernetes does it: the name stays, what it leads to is swapped.
#[cfg(unix)]
#[tokio::test]
async fn a_file_of_keys_is_followed_and_one_that_is_wrong_changes_nothing() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let swap = |version: &str, text: &str| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("keys.toml"), text).unwrap();
        symlink(at(version), at("swap")).unwrap();
        fs::rename(at("swap"), at("current")).unwrap();
    };
    swap("1", "[[keys]]\nlabel = 'a'\nkey = 'the-first-key'\n");
    let keys_file = at("current").join("keys.toml");
    let gateway = TestGateway::start_with(move |config| config.keys_file = keys_file).await;
    let (mut first, mut second) = pair(&gateway, "old", ["the-first-key"; 2], [Tcp, Tcp]).await;
    swap("2", "[[keys]]\nlabel = 'a'\nkey = 'the-second-key'\n[[keys]]\nlabel = 'b'\nkey = 'b'\n");
    eventually("the new keys", async || gateway.get("/api/v1/keys").await.json()["total"] == 2)
        .await;
    let _new = pair(&gateway, "new", ["the-second-key", "b"], [Tcp, Tcp]).await;
    refuses(&gateway, "the-first-key", "key_unknown").await;
    relays(&mut first, &mut second).await;
    assert_eq!(status(&gateway, "a").await["relays_active"], 2, "the label has kept its counts");
    for (version, wrong) in [("3", ""), ("4", "[[keys]]\nlabel = 'c'"), ("5", "the-second-key")] {
        swap(version, wrong);
        let answer = gateway.reload_with(|_| {}).await;
        assert_ne!(answer.status, 200);
        assert!(!answer.body.contains("the-second-key"), "{}", answer.body);
        pair(&gateway, &unique("kept"), ["the-second-key", "b"], [Tcp, Tcp]).await;
    }
}

/// A program with keys of every kind in its files.
async fn with_every_kind(format: &str) -> Process {
    let dir = tempfile::tempdir().expect("a directory");
    let config = "keys_file = 'keys.toml'\nkey = 'the-single-key'\n\
                  [[keys]]\nlabel = 'past'\nkey = 'the-past-key'\nexpires = '2020-01-01'\n\
                  [[keys]]\nlabel = 'file'\nkey_file = 'file.key'\n";
    fs::write(dir.path().join("config.toml"), config).expect("a file");
    fs::write(dir.path().join("file.key"), "the-file-key\n").expect("a file");
    let keys = "[[keys]]\nlabel = 'full'\nkey = 'the-full-key'\nmax_relays = 1\n";
    fs::write(dir.path().join("keys.toml"), keys).expect("a file");
    Process::start_in(dir, &["--log-format", format, "--log-level", "trace"]).await
}

const SECRETS: [&str; 5] =
    ["the-single-key", "the-past-key", "the-file-key", "the-full-key", "another-key"];

#[tokio::test]
async fn no_key_is_told_of_by_any_log_answer_or_error() {
    for format in ["pretty", "json"] {
        let process = with_every_kind(format).await;
        let gateway = &process.gateway;
        for wrong in ["the-past-key", "THE-FULL-KEY", "another-key", " the-file-key"] {
            is_refused(gateway, Tcp, &opening(Tcp, &hello("wrong", wrong))).await;
        }
        let (mut first, mut second) =
            pair(gateway, "seen", ["the-full-key", "the-file-key"], [Tcp, WebSocket]).await;
        relays(&mut first, &mut second).await;
        let refused = gateway.leg_with(Tcp, &hello("too-many", "the-full-key")).await;
        gateway.until_waiting("too-many").await;
        is_refused(gateway, Tcp, &opening(Tcp, &hello("too-many", "the-single-key"))).await;
        assert_eq!(read_to_end(&mut refused.tcp()).await, b"");
        // Changed for the worse, twice over.
        fs::write(gateway.dir().join("keys.toml"), "[[keys]]\nkey = the-full-key\n").unwrap();
        process.line("the keys stay as they were").await;
        let mut said = vec![gateway.post("/api/v1/reload").await.body];
        for path in ["relays", "waiting", "keys", "stats"] {
            said.push(gateway.get(&format!("/api/v1/{path}")).await.body);
        }
        said.push(gateway.get("/metrics").await.body);
        drop((first, second));
        let closing = process.line("closed").await;
        assert!(closing.contains("full") && closing.contains("file"), "{closing}");
        let expired = process.line("has expired").await;
        assert!(!expired.contains("invalid key"), "not for fail2ban: {expired}");
        process.line("as many relays at once").await;
        process.line("invalid key").await;
        said.extend(process.log());
        said.extend(process.stderr());
        for secret in SECRETS {
            let piece = secret.trim_start_matches("the-");
            let told = said.iter().find(|text| text.to_lowercase().contains(piece));
            assert_eq!(told, None, "{piece}");
        }
    }
}

#[tokio::test]
async fn every_line_of_a_relay_says_whose_legs_they_are() {
    let process = with_every_kind("json").await;
    let legs = pair(&process.gateway, "said", ["the-full-key", "the-single-key"], [Tcp, Tcp]).await;
    drop(legs);
    for phrase in ["got paired", "closed"] {
        let line: Value = serde_json::from_str(&process.line(phrase).await).unwrap();
        assert_eq!([&line["first_key"], &line["second_key"]], ["full", "default"], "{line}");
    }
    let line: Value = serde_json::from_str(&process.line("this key has expired").await).unwrap();
    assert_eq!(line["key"], "past");
}
