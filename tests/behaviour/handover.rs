//! One process takes over from another: nobody who waits, comes or is relayed is lost.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mini_rust_desk_relay_server::wire::{
    Transport::{Tcp, WebSocket},
    frame,
    rendezvous::{ConnType, request_relay},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    by_hand::{Wire, upgrade_request},
    cluster::{redis::Redis, support::SECRET},
    process::Process,
    service::Manager,
    support::{Client, PATIENCE, eventually, unique},
    tls::{Identity, Kind, Peer, shake_hands},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mini_rust_desk_relay_server");

/// A relay whose program can be replaced, and the processes that took over from it.
pub(crate) struct Lineage {
    pub(crate) process: Process,
    successors: Vec<Pid>,
}

impl Lineage {
    pub(crate) async fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), args, env).await
    }

    async fn start_in(dir: tempfile::TempDir, args: &[&str], env: &[(&str, &str)]) -> Self {
        let program = dir.path().join("relay");
        symlink(PROGRAM, &program).expect("a link");
        let mut command = Command::new(program);
        command.envs(env.iter().copied());
        let process = Process::start_by(command, dir, args).await;
        Self { process, successors: Vec::new() }
    }

    /// Hands over to a new process, and is told its id.
    pub(crate) async fn upgrade(&mut self) -> Pid {
        let answer = self.process.gateway.post("/api/v1/upgrade").await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, self.process.log().join("\n"));
        let pid = answer.json()["pid"].as_i64().expect("a number");
        let pid = Pid::from_raw(i32::try_from(pid).expect("an id")).expect("not 0");
        self.successors.push(pid);
        pid
    }

    /// Puts another program in the place of the one that runs.
    fn replace_program(&self, script: &str) {
        let new = self.dir().join("new");
        fs::write(&new, script).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::rename(new, self.dir().join("relay")).expect("in its place");
    }

    fn dir(&self) -> &Path {
        self.process.gateway.dir()
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        for pid in &self.successors {
            // It may have ended already.
            let _ = kill_process(*pid, Signal::KILL);
        }
    }
}

fn hello(uuid: &str) -> Vec<u8> {
    frame::encode(&request_relay(uuid, "", "", ConnType::Default)).expect("a frame").to_vec()
}

/// That bytes cross both ways.
pub(crate) async fn talk(first: &mut Client, second: &mut Client) {
    for text in [&b"one way"[..], b"another"] {
        first.send(text).await;
        assert_eq!(second.receive().await.as_deref(), Some(text));
        second.send(text).await;
        assert_eq!(first.receive().await.as_deref(), Some(text));
    }
}

/// The other nodes reach the new process where they reached the old one, and by the same name.
#[tokio::test]
async fn a_node_of_a_cluster_is_replaced_and_meets_the_others_as_before() {
    let Some(redis) = Redis::start().await else { return };
    let url = redis.url();
    let start = async |node: &str| {
        let listen = "[\"127.0.0.1:0\"]";
        let env = [
            ("RELAY__CLUSTER__REDIS", &*url),
            ("RELAY__CLUSTER__LISTEN", listen),
            ("RELAY__CLUSTER__NODE", node),
            ("RELAY__CLUSTER__SECRET", SECRET),
        ];
        Lineage::start(&["--admin-listen", "127.0.0.1:0"], &env).await
    };
    let mut nodes = [start("node-0").await, start("node-1").await];
    let names = ["node-0", "node-1"];
    let mut pairs = Vec::new();
    for round in 0..3 {
        let mut waiting = Vec::new();
        for holder in [0, 1] {
            let (uuid, waits) = (unique("across"), unique("waits"));
            let mut first = nodes[holder].process.gateway.leg(Tcp, &uuid).await;
            redis.until_claimed(names[holder], &uuid).await;
            let mut second = nodes[1 - holder].process.gateway.leg(WebSocket, &uuid).await;
            talk(&mut first, &mut second).await;
            pairs.push((first, second));
            let first = nodes[holder].process.gateway.leg(Tcp, &waits).await;
            redis.until_claimed(names[holder], &waits).await;
            waiting.push((holder, waits, first));
        }
        if round < 2 {
            nodes[round].upgrade().await;
        }
        for (first, second) in &mut pairs {
            talk(first, second).await;
        }
        for (holder, uuid, mut first) in waiting {
            let mut second = nodes[1 - holder].process.gateway.leg(Tcp, &uuid).await;
            talk(&mut first, &mut second).await;
            pairs.push((first, second));
        }
    }
    drop(pairs);
    redis.until_nobody_waits().await;
}

#[tokio::test]
async fn legs_that_wait_meet_peers_that_come_to_the_new_process() {
    let mut lineage = Lineage::start(&[], &[]).await;
    let mut pairs = Vec::new();
    for (first, second) in [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
    {
        let uuid = unique("waits");
        let mut leg = lineage.process.gateway.leg(first, &uuid).await;
        // What a leg sends ahead is its peer's.
        leg.send(b"early").await;
        lineage.process.gateway.until_waiting(&uuid).await;
        pairs.push((uuid, leg, second));
    }
    // By name: ages go along in milliseconds, so that those who came together may change places.
    let waiting = async |lineage: &Lineage| {
        let mut list = lineage.process.gateway.get("/api/v1/waiting").await.json();
        let items = list["items"].as_array_mut().expect("a list");
        items.sort_by_key(|leg| leg["uuid"].to_string());
        list
    };
    let before = waiting(&lineage).await;
    let pid = lineage.upgrade().await;
    assert_ne!(pid, lineage.process.pid());
    // With nothing left to do the old process ends; the new one has what waits.
    assert_eq!(lineage.process.ended().await, 0);
    let after = waiting(&lineage).await;
    assert_eq!(after["total"], 4);
    let age =
        |list: &serde_json::Value, n: usize| list["items"][n]["age_seconds"].as_f64().unwrap();
    for n in 0..4 {
        assert_eq!(before["items"][n]["uuid"], after["items"][n]["uuid"], "{before} {after}");
        assert_eq!(before["items"][n]["address"], after["items"][n]["address"]);
        assert!(age(&after, n) >= age(&before, n) - 0.001, "{before} {after}");
    }
    for (uuid, mut first, second) in pairs {
        let mut second = lineage.process.gateway.leg(second, &uuid).await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"early"[..]));
        talk(&mut first, &mut second).await;
    }
}

/// Only a key's label travels. What the new process' keys do not let in, it drops: a leg that
/// waited, and one that would meet its peer at once.
#[tokio::test]
async fn legs_keep_their_keys_and_are_held_to_the_new_ones() {
    let key = |label: &str| format!("[[keys]]\nlabel = '{label}'\nkey = 'for-{label}'\n");
    let said = |uuid: &str, label: &str| {
        let hello = request_relay(uuid, "", &format!("for-{label}"), ConnType::Default);
        frame::encode(&hello).unwrap().to_vec()
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("keys.toml"), key("stays") + &key("goes")).unwrap();
    let mut lineage = Lineage::start_in(dir, &[], &[("RELAY__KEYS_FILE", "keys.toml")]).await;
    let leg = async |addr, bytes: &[u8]| {
        let mut leg = Wire::connect(addr).await;
        leg.send(bytes).await;
        leg
    };
    let addr = lineage.process.gateway.addr;
    let first = leg(addr, &said("pair", "stays")).await;
    let gone = leg(addr, &said("gone", "goes")).await;
    for uuid in ["pair", "gone"] {
        lineage.process.gateway.until_waiting(uuid).await;
    }
    let late = said("late", "goes");
    let mut half = leg(addr, &late[..5]).await;
    lineage.process.gateway.until_metric("relay_connections_open", 4.0).await;
    fs::write(lineage.dir().join("keys.toml"), key("stays")).unwrap();
    lineage.upgrade().await;
    assert_eq!(gone.rest().await, b"");
    let gateway = &lineage.process.gateway;
    let waiting = gateway.get("/api/v1/waiting").await.json();
    assert_eq!((&waiting["total"], &waiting["items"][0]["key"]), (&1.into(), &"stays".into()));
    // The old process may have heard of its key's end by then, or leave it to the new one.
    let _peer = leg(addr, &said("late", "stays")).await;
    gateway.until_waiting("late").await;
    half.send(&late[5..]).await;
    assert_eq!(half.rest().await, b"");
    let second = leg(addr, &said("pair", "stays")).await;
    gateway.until_active("pair").await;
    let relay = gateway.get("/api/v1/relays/pair").await.json();
    assert_eq!([&relay["legs"][0]["key"], &relay["legs"][1]["key"]], ["stays", "stays"]);
    assert_eq!(gateway.get("/api/v1/keys").await.json()["items"][0]["relays_active"], 1);
    drop((first, second));
}

#[tokio::test]
async fn who_is_about_to_say_who_it_is_meets_a_peer_in_the_new_process() {
    let mut lineage = Lineage::start(&[], &[]).await;
    let addr = lineage.process.gateway.addr;
    // Half a first message; a WebSocket that has said nothing; half a handshake; nothing at all.
    let bytes = hello("half");
    let mut half = TcpStream::connect(addr).await.unwrap();
    half.write_all(&bytes[..5]).await.unwrap();
    let mut upgraded = lineage.process.gateway.websocket("/").await;
    let request = upgrade_request("/");
    let mut handshake = Wire::connect(addr).await;
    handshake.send(&request[..20]).await;
    let mut silent = TcpStream::connect(addr).await.unwrap();
    lineage.process.gateway.until_metric("relay_connections_open", 5.0).await;

    lineage.upgrade().await;
    let mut peers = Vec::new();
    for uuid in ["half", "upgraded", "silent"] {
        peers.push(lineage.process.gateway.leg(Tcp, uuid).await);
        lineage.process.gateway.until_waiting(uuid).await;
    }
    half.write_all(&bytes[5..]).await.unwrap();
    talk(&mut Client::Tcp(half), &mut peers[0]).await;
    let payload = request_relay("upgraded", "", "", ConnType::Default);
    let message = tokio_tungstenite::tungstenite::Message::binary(payload);
    futures_util::SinkExt::send(&mut upgraded, message).await.unwrap();
    talk(&mut Client::WebSocket(Box::new(upgraded)), &mut peers[1]).await;
    silent.write_all(&hello("silent")).await.unwrap();
    talk(&mut Client::Tcp(silent), &mut peers[2]).await;
    handshake.send(&request[20..]).await;
    handshake.upgraded().await;
    drop((handshake, peers));
    assert_eq!(lineage.process.ended().await, 0);
}

#[tokio::test]
async fn active_relays_live_to_their_end_in_the_old_process() {
    let mut lineage = Lineage::start(&[], &[]).await;
    let mut old = Vec::new();
    for (first, second) in [(Tcp, Tcp), (WebSocket, Tcp)] {
        old.push(lineage.process.gateway.pair(first, second).await);
    }
    lineage.upgrade().await;
    lineage.process.line("everybody is handed over").await;
    for (first, second) in &mut old {
        talk(first, second).await;
    }
    let (mut first, mut second) = lineage.process.gateway.pair(Tcp, Tcp).await;
    talk(&mut first, &mut second).await;
    assert_eq!(lineage.process.gateway.get("/api/v1/stats").await.json()["relays_active"], 1);
    assert!(lineage.process.is_running());
    for (mut first, mut second) in old {
        first.finish().await;
        assert_eq!(second.receive().await, None);
        second.finish().await;
    }
    assert_eq!(lineage.process.ended().await, 0);
    talk(&mut first, &mut second).await;
}

#[tokio::test]
async fn who_has_handed_over_still_drains_when_asked_and_gives_up_in_time() {
    for (args, asked) in [(&["--drain-timeout", "50ms"][..], true), (&[], false)] {
        let limit = if asked { "1h" } else { "50ms" };
        let env = [("RELAY__SHUTDOWN__HANDOVER_TIMEOUT", limit)];
        let mut lineage = Lineage::start(args, &env).await;
        let _pair = lineage.process.gateway.pair(Tcp, Tcp).await;
        lineage.upgrade().await;
        lineage.process.line("everybody is handed over").await;
        if asked {
            assert!(lineage.process.is_running());
            lineage.process.signal(Signal::TERM);
        }
        assert_eq!(lineage.process.ended().await, 0);
        lineage.process.line("closing the relays that are still active").await;
    }
}

#[tokio::test]
async fn a_new_process_that_fails_changes_nothing_and_the_reason_is_told() {
    let mut lineage = Lineage::start(&[], &[]).await;
    let mut waiting = lineage.process.gateway.leg(Tcp, "waits").await;
    lineage.process.gateway.until_waiting("waits").await;
    let config = lineage.dir().join("config.toml");
    fs::write(&config, "[pairing]\ntimeout = \"often\"\n").unwrap();
    let refused = async |lineage: &Lineage, why: &str| {
        let answer = lineage.process.gateway.post("/api/v1/upgrade").await;
        assert_eq!(answer.status, 500, "{}", answer.body);
        assert!(answer.body.contains(why), "{why} in {}", answer.body);
    };
    refused(&lineage, "pairing.timeout").await;
    lineage.process.line("no upgrade: the new process gave up").await;
    fs::remove_file(config).unwrap();
    for (script, why) in [
        ("#!/bin/sh\nexit 3\n", "exit status: 3"),
        ("#!/bin/sh\nkill -SEGV $$\n", "SIGSEGV"),
        ("#!/bin/sh\necho hello >&0\nsleep 60\n", "another version"),
        ("no program at all", "cannot be started"),
    ] {
        lineage.replace_program(script);
        refused(&lineage, why).await;
    }
    assert!(lineage.process.is_running());
    let mut second = lineage.process.gateway.leg(Tcp, "waits").await;
    talk(&mut waiting, &mut second).await;
    // And by and by the right one.
    fs::remove_file(lineage.dir().join("relay")).unwrap();
    symlink(PROGRAM, lineage.dir().join("relay")).unwrap();
    lineage.upgrade().await;
    talk(&mut waiting, &mut second).await;
}

#[tokio::test]
async fn a_signal_hands_over_and_the_service_manager_is_told_who_serves() {
    let notify = tempfile::tempdir().expect("a directory");
    let path = notify.path().join("notify");
    let manager = Manager::listen(&path);
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut lineage = Lineage::start(&[], &env).await;
    let ready = manager.until(0, "READY=1").await;
    let _pair = lineage.process.gateway.pair(Tcp, Tcp).await;
    lineage.process.signal(Signal::USR2);
    let line = lineage.process.line("another process has taken over").await;
    let (_, pid) = line.split_once("pid=").expect("its id");
    let pid: i32 = pid.trim().parse().expect("a number");
    lineage.successors.extend(Pid::from_raw(pid));
    let told = manager.until(ready + 1, &format!("MAINPID={pid}")).await;
    let ready = manager.until(told, "READY=1").await;
    assert!(manager.heard()[ready].contains(&format!("MAINPID={pid}")), "{:?}", manager.heard());
    let alive = manager.until(ready, "WATCHDOG=1").await;
    manager.until(alive + 1, "WATCHDOG=1").await;
    assert!(!manager.heard().iter().any(|message| message.contains("STOPPING")));
    assert!(test_kill_process(Pid::from_raw(pid).unwrap()).is_ok());

    // The old one is not the service any more, whatever is asked of it.
    lineage.process.signal(Signal::HUP);
    lineage.process.line("nothing was reloaded").await;
    let old = format!("MAINPID={}", lineage.process.pid().as_raw_nonzero());
    assert!(
        !manager.heard()[told..].iter().any(|message| message.contains(&old)),
        "{:?}",
        manager.heard()
    );
}

/// Nobody else can: it is the old one's child.
#[tokio::test]
async fn the_end_of_a_process_that_took_over_is_told_and_leaves_no_zombie() {
    let mut lineage = Lineage::start(&[], &[]).await;
    let (mut first, mut second) = lineage.process.gateway.pair(Tcp, Tcp).await;
    let pid = lineage.upgrade().await;
    kill_process(pid, Signal::KILL).expect("it runs");
    let line = lineage.process.line("the process that took over has ended").await;
    assert!(line.contains(&pid.as_raw_nonzero().to_string()) && line.contains("WARN"), "{line}");
    eventually("it is gone", async || test_kill_process(pid).is_err()).await;
    talk(&mut first, &mut second).await;
}

#[tokio::test]
async fn there_is_no_upgrade_while_draining_and_no_reload_after_one() {
    let admin = ["--admin-listen", "127.0.0.1:0"];
    let mut lineage = Lineage::start(&admin, &[]).await;
    let _pair = lineage.process.gateway.pair(Tcp, Tcp).await;
    let mut kept = TcpStream::connect(lineage.process.gateway.admin_addr).await.unwrap();
    lineage.upgrade().await;
    let request = format!(
        "POST /api/v1/reload HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        crate::support::TOKEN
    );
    kept.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, kept.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");

    let _pair = lineage.process.gateway.pair(Tcp, Tcp).await;
    let drained = lineage.process.gateway.post("/api/v1/drain").await;
    assert_eq!(drained.json()["already"], json!(false));
    assert_eq!(lineage.process.gateway.post("/api/v1/upgrade").await.status, 409);
}

/// A monitor that keeps its connection would see the old process for as long as that has relays.
#[tokio::test]
async fn who_keeps_a_connection_to_the_admin_api_is_led_to_the_new_process() {
    let mut lineage = Lineage::start(&["--admin-listen", "127.0.0.1:0"], &[]).await;
    let _pair = lineage.process.gateway.pair(Tcp, Tcp).await;
    let mut kept = Wire::connect(lineage.process.gateway.admin_addr).await;
    let request = "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n";
    kept.send(request).await;
    assert!(!kept.answer().await.headers.contains_key("connection"));
    lineage.upgrade().await;
    lineage.process.line("draining: no new connections").await;
    kept.send(request).await;
    let last = kept.answer().await;
    assert_eq!(last.status, 503);
    assert_eq!(last.headers["connection"], "close");
    assert_eq!(kept.rest().await, b"");
    assert_eq!(lineage.process.gateway.request("GET", "/readyz", "").await.status, 200);
}

/// The keys of a TLS session stay in the process that agreed on them, and so does its leg.
#[tokio::test]
async fn who_waits_in_tls_is_not_moved_and_its_peer_is_brought_to_it() {
    let (identity, files) = (Identity::new(), tempfile::tempdir().expect("a directory"));
    identity.write(files.path());
    let path = |name: &str| files.path().join(name).to_str().expect("text").to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let env = [("RELAY__TLS__CERT", cert.as_str()), ("RELAY__TLS__KEY", key.as_str())];
    let mut lineage = Lineage::start(&[], &env).await;
    let tls = async |lineage: &Lineage| {
        let socket = lineage.process.gateway.connect().await;
        Box::new(shake_hands(socket, identity.client()).await.expect("a handshake"))
    };
    // Those that wait; one that has yet to say who it is, and its peer, which waits.
    let mut pairs = Vec::new();
    for (kind, second) in [(Kind::Tls, Tcp), (Kind::Wss, Tcp), (Kind::Tls, WebSocket)] {
        let uuid = unique("kept");
        pairs.push((Peer::greeting(tls(&lineage).await, kind, &uuid).await, uuid.clone(), second));
        lineage.process.gateway.until_waiting(&uuid).await;
    }
    let stranger = tls(&lineage).await;
    let mut waiting = lineage.process.gateway.leg(Tcp, "waits").await;
    lineage.process.gateway.until_waiting("waits").await;

    lineage.upgrade().await;
    let mut seconds = Vec::new();
    for (_, uuid, second) in &pairs {
        seconds.push(lineage.process.gateway.leg(*second, uuid).await);
    }
    for ((first, ..), second) in pairs.iter_mut().zip(&mut seconds) {
        first.send(b"from TLS").await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"from TLS"[..]));
        second.send(b"to TLS").await;
        assert_eq!(first.receive().await.as_deref(), Some(&b"to TLS"[..]));
    }
    let mut stranger = Peer::greeting(stranger, Kind::Tls, "waits").await;
    stranger.send(b"at last").await;
    assert_eq!(waiting.receive().await.as_deref(), Some(&b"at last"[..]));
    assert!(lineage.process.is_running());
    drop((pairs, seconds, stranger, waiting));
    assert_eq!(lineage.process.ended().await, 0);
}

/// What a load of pairs came to.
#[derive(Default)]
struct Tally {
    done: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
}

/// Makes pair after pair, both legs at once and one long before the other in turns.
async fn make_pairs(addr: std::net::SocketAddr, tally: Arc<Tally>, worker: usize) {
    for round in 0_usize.. {
        if tally.stop.load(Ordering::Relaxed) {
            return;
        }
        let uuid = unique("load");
        let apart =
            if (round + worker).is_multiple_of(2) { 0 } else { 20 + 60 * (worker as u64 % 8) };
        let pair = async {
            let leg = async |wait: u64, says: &'static [u8], hears: &'static [u8]| {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                let mut socket = TcpStream::connect(addr).await?;
                let hello = hello(&uuid);
                // In two parts now and then, so that a hand-over finds it half said.
                let cut = if round.is_multiple_of(3) { 4 } else { hello.len() };
                socket.write_all(&hello[..cut]).await?;
                tokio::task::yield_now().await;
                socket.write_all(&hello[cut..]).await?;
                socket.write_all(says).await?;
                let mut heard = vec![0; hears.len()];
                socket.read_exact(&mut heard).await?;
                socket.shutdown().await?;
                let mut rest = Vec::new();
                socket.read_to_end(&mut rest).await?;
                Ok::<_, std::io::Error>(heard == hears && rest.is_empty())
            };
            tokio::try_join!(leg(0, b"first", b"second"), leg(apart, b"second", b"first"))
        };
        match timeout(PATIENCE, pair).await {
            Ok(Ok((true, true))) => tally.done.fetch_add(1, Ordering::Relaxed),
            other => {
                eprintln!("{uuid}: {other:?}");
                tally.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// Sends a numbered stream through a relay until told to stop, and compares every byte.
async fn stream(first: Client, second: Client, tally: Arc<Tally>) -> u64 {
    let (mut from, mut to) = (first.tcp(), second.tcp());
    let mut sent = 0_u64;
    while !tally.stop.load(Ordering::Relaxed) {
        let chunk: Vec<u8> = (sent..sent + 512).flat_map(u64::to_le_bytes).collect();
        from.write_all(&chunk).await.expect("the relay takes it");
        let mut came = vec![0; chunk.len()];
        to.read_exact(&mut came).await.expect("the relay passes it on");
        assert_eq!(chunk, came);
        sent += 512;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(from);
    let mut rest = Vec::new();
    to.read_to_end(&mut rest).await.expect("a FIN");
    assert!(rest.is_empty());
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_pair_is_lost_over_upgrades_and_reloads() {
    let mut lineage =
        Lineage::start(&["--log-level", "warn,mini_rust_desk_relay_server::cli=info"], &[]).await;
    let addr = lineage.process.gateway.addr;
    let tally = Arc::new(Tally::default());
    let mut workers = JoinSet::new();
    for worker in 0..16 {
        workers.spawn(make_pairs(addr, Arc::clone(&tally), worker));
    }
    let mut streams = JoinSet::new();
    for round in 1..=4 {
        let (first, second) = lineage.process.gateway.pair(Tcp, Tcp).await;
        streams.spawn(stream(first, second, Arc::clone(&tally)));
        for _ in 0..3 {
            let answer = lineage.process.gateway.post("/api/v1/reload").await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        lineage.upgrade().await;
        eventually("pairs go on", async || tally.done.load(Ordering::Relaxed) >= 200 * round).await;
    }
    tally.stop.store(true, Ordering::Relaxed);
    workers.join_all().await;
    let (done, failed) = (tally.done.load(Ordering::Relaxed), tally.failed.load(Ordering::Relaxed));
    println!("{done} pairs, {failed} failed, over 4 upgrades and 12 reloads");
    assert_eq!(failed, 0, "of {done}");
    assert!(done >= 600, "{done}");
    for sent in streams.join_all().await {
        assert!(sent > 0);
    }
    // Each process ends with its last relay, but the last.
    assert_eq!(lineage.process.ended().await, 0);
}
