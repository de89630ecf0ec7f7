//! Who may come in: lists, and the limits for one address. Clients here come from loopback
//! addresses of their own; the tests themselves ask from 127.0.0.1, which nothing applies to.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use futures_util::SinkExt as _;
use mini_rust_desk_relay_server::{
    config::{self, Config, Secret},
    wire::{
        Transport::{self, Tcp, WebSocket},
        frame,
        rendezvous::{ConnType, request_relay},
    },
};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{Client, TestGateway, eventually, read_to_end, unique};

/// A client of this address.
const fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, n)
}

/// Everybody but the tests themselves is subject to the limits.
async fn gateway(change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start_with(|config| {
        config.access.exempt = vec![IpAddr::from(Ipv4Addr::LOCALHOST).into()];
        change(config);
    })
    .await
}

async fn connect(gateway: &TestGateway, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("an address of loopback");
    socket.connect(gateway.addr).await.expect("the gateway accepts")
}

/// A leg from this address.
async fn leg(gateway: &TestGateway, transport: Transport, uuid: &str, from: Ipv4Addr) -> Client {
    let mut socket = connect(gateway, from).await;
    let hello = request_relay(uuid, "", "", ConnType::Default);
    match transport {
        Tcp => {
            socket.write_all(&frame::encode(&hello).expect("a frame")).await.expect("it reads");
            Client::Tcp(socket)
        }
        WebSocket => {
            let url = format!("ws://{}/", gateway.addr);
            let (mut socket, _) = client_async(url, socket).await.expect("the gateway upgrades");
            socket.send(Message::binary(hello)).await.expect("the gateway reads");
            Client::WebSocket(Box::new(socket))
        }
    }
}

/// Whatever a client was, it is over.
async fn is_closed(client: Client) {
    match client {
        Client::Tcp(mut socket) => drop(read_to_end(&mut socket).await),
        Client::WebSocket(socket) => drop(read_to_end(&mut socket.into_inner()).await),
    }
}

impl TestGateway {
    async fn block(&self, network: &str) {
        let answer = self.post_json("/api/v1/blocklist", &json!({ "network": network })).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
}

/// A connection that is closed at once, with nothing sent.
async fn is_turned_away(gateway: &TestGateway, from: Ipv4Addr) {
    let mut socket = connect(gateway, from).await;
    assert_eq!(read_to_end(&mut socket).await, b"");
}

/// Gets in: its open connection is one more than there were.
async fn is_let_in(gateway: &TestGateway, from: Ipv4Addr) -> TcpStream {
    let before = gateway.metric("relay_connections_open").await;
    let socket = connect(gateway, from).await;
    gateway.until_metric("relay_connections_open", before + 1.0).await;
    socket
}

#[tokio::test]
async fn who_is_blocked_gets_nothing_and_others_get_in() {
    let gateway = gateway(|config| {
        config.access.blocklist = vec!["127.0.7.0/31".parse().unwrap(), "::7".parse().unwrap()];
    })
    .await;
    for n in [0, 1, 0, 1] {
        is_turned_away(&gateway, client(n)).await;
    }
    assert_eq!(gateway.refusals("blocked").await, 4.0);
    let _other = is_let_in(&gateway, client(2)).await;
    gateway.pair(Tcp, Tcp).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_gets_them_back() {
    let gateway = gateway(|config| config.access.connections_per_address = 3).await;
    for round in 1..=3_u32 {
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(is_let_in(&gateway, client(1)).await);
        }
        is_turned_away(&gateway, client(1)).await;
        assert_eq!(gateway.refusals("address_connections").await, f64::from(round));
        let other = is_let_in(&gateway, client(2)).await;
        drop((open, other));
        gateway.until_quiet().await;
    }
}

#[tokio::test]
async fn a_rate_lets_a_burst_in_and_a_probe_is_never_counted() {
    let gateway = gateway(|config| {
        config.access.connection_rate = 1;
        config.access.connection_burst = 3;
    })
    .await;
    for _ in 0..20 {
        drop(connect(&gateway, client(1)).await);
    }
    gateway.until_metric("relay_connections_total{protocol=\"none\"}", 20.0).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(connect(&gateway, client(2)).await);
    }
    // What the second that this may take brings back is no more than a few.
    let refused = || async { gateway.refusals("address_rate").await };
    eventually("most are refused", async || refused().await >= 10.0).await;
    assert!(refused().await <= 17.0);
    // Whose probes were not counted has all of its burst.
    for _ in 0..3 {
        open.push(is_let_in(&gateway, client(1)).await);
    }
}

#[tokio::test]
async fn a_block_closes_what_is_open_whichever_leg_comes_from_there() {
    let gateway = gateway(|_| {}).await;
    let (mut pairs, mut waiting, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    for (n, transports) in
        [[Tcp, Tcp], [Tcp, WebSocket], [WebSocket, Tcp], [WebSocket, WebSocket]].iter().enumerate()
    {
        // The unwanted one is the leg that waits, or the one that comes.
        let from = if n % 2 == 0 { [client(1), client(2)] } else { [client(2), client(1)] };
        let uuid = unique("blocked");
        let first = leg(&gateway, transports[0], &uuid, from[0]).await;
        gateway.until_waiting(&uuid).await;
        let second = leg(&gateway, transports[1], &uuid, from[1]).await;
        gateway.until_active(&uuid).await;
        pairs.push([first, second]);
    }
    for transport in [Tcp, WebSocket] {
        let uuid = unique("waits");
        waiting.push(leg(&gateway, transport, &uuid, client(1)).await);
        gateway.until_waiting(&uuid).await;
    }
    silent.push(is_let_in(&gateway, client(1)).await);
    let upgraded = connect(&gateway, client(1)).await;
    let url = format!("ws://{}/", gateway.addr);
    silent.push(client_async(url, upgraded).await.expect("the gateway upgrades").0.into_inner());
    let other = leg(&gateway, Tcp, "other", client(2)).await;
    gateway.until_waiting("other").await;

    gateway.block("127.0.7.1").await;
    for pair in pairs {
        for leg in pair {
            is_closed(leg).await;
        }
    }
    for leg in waiting {
        is_closed(leg).await;
    }
    for mut socket in silent {
        assert_eq!(read_to_end(&mut socket).await, b"");
    }
    gateway.until_metric("relay_ends_total{reason=\"blocked\"}", 4.0).await;
    gateway.until_metric("relay_unpaired_total{reason=\"blocked\"}", 2.0).await;
    assert_eq!(gateway.refusals("blocked").await, 2.0, "the silent ones");
    is_turned_away(&gateway, client(1)).await;
    // Nobody else has lost anything.
    let mut peer = leg(&gateway, WebSocket, "other", client(3)).await;
    gateway.until_active("other").await;
    peer.send(b"still here").await;
    let mut other = other;
    assert_eq!(other.receive().await.as_deref(), Some(&b"still here"[..]));
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_a_bad_line_costs_nobody_his_block() {
    let gateway = gateway(|_| {}).await;
    let file = gateway.dir().join("blocklist.txt");
    let listed = async |address: &str| {
        let path = format!("/api/v1/blocklist?address={address}");
        gateway.get(&path).await.json()["total"] == 1
    };
    let waits = leg(&gateway, Tcp, "waits", client(1)).await;
    gateway.until_waiting("waits").await;
    fs::write(&file, "# ours\nno address\n127.0.7.1 was here\n127.0.8.0/24\n").unwrap();
    is_closed(waits).await;
    is_turned_away(&gateway, client(1)).await;
    assert!(listed("127.0.8.9").await);
    let entries = gateway.get("/api/v1/blocklist").await.json();
    assert_eq!(entries["total"], 2);
    assert_eq!(entries["items"][0]["network"], "127.0.7.1");
    assert_eq!(entries["items"][0]["source"], "file");
    assert_eq!(entries["items"][0]["file"], file.display().to_string());
    fs::write(&file, "127.0.8.0/24\n").unwrap();
    eventually("it is let in", async || !listed("127.0.7.1").await).await;
    drop(is_let_in(&gateway, client(1)).await);
    fs::remove_file(&file).unwrap();
    eventually("nobody is blocked", async || !listed("127.0.8.9").await).await;
}

#[tokio::test]
async fn a_reload_puts_another_list_in_force() {
    let gateway = gateway(|_| {}).await;
    let file = gateway.dir().join("other.txt");
    fs::write(&file, "127.0.7.2").unwrap();
    let waits = leg(&gateway, Tcp, "waits", client(1)).await;
    gateway.until_waiting("waits").await;
    let answer = gateway
        .reload_with(|config| {
            config.access.blocklist = vec!["127.0.7.1".parse().unwrap()];
            config.access.blocklist_file = file.clone();
        })
        .await;
    let applied = json!(["access.blocklist", "access.blocklist_file"]);
    assert_eq!(answer.json()["applied"], applied, "{}", answer.body);
    is_closed(waits).await;
    is_turned_away(&gateway, client(2)).await;
    gateway.reload_with(|config| config.access.blocklist.clear()).await;
    drop(is_let_in(&gateway, client(1)).await);
}

#[tokio::test]
async fn what_the_api_adds_lapses_or_is_taken_back() {
    let gateway = gateway(|config| {
        config.access.blocklist = vec!["127.0.7.9".parse().unwrap()];
    })
    .await;
    let path = "/api/v1/blocklist";
    let hour = json!({ "network": "127.0.7.1", "duration": "1h" });
    let added = gateway.post_json(path, &hour).await;
    assert_eq!(added.status, 201, "{}", added.body);
    assert!(added.json()["expires_in_seconds"].as_f64().is_some_and(|left| left > 3500.0));
    let moment = json!({ "network": "127.0.7.2/31", "duration": "300ms" });
    assert_eq!(gateway.post_json(path, &moment).await.json()["network"], "127.0.7.2/31");
    is_turned_away(&gateway, client(1)).await;
    eventually("it has lapsed", async || gateway.get(path).await.json()["total"] == 2).await;
    drop(is_let_in(&gateway, client(3)).await);

    assert_eq!(gateway.delete("/api/v1/blocklist/127.0.7.1").await.json()["removed"], 1);
    assert_eq!(gateway.delete("/api/v1/blocklist/127.0.7.1").await.status, 404);
    drop(is_let_in(&gateway, client(1)).await);
    let of_config = gateway.delete("/api/v1/blocklist/127.0.7.9").await;
    assert_eq!(of_config.status, 409);
    assert!(of_config.body.contains("configuration"), "{}", of_config.body);
    gateway.block("127.0.9.0/24").await;
    gateway.block("2001:db8::/32").await;
    assert_eq!(gateway.delete("/api/v1/blocklist/127.0.9.0%2F24").await.json()["removed"], 1);
    assert_eq!(gateway.delete(path).await.json()["removed"], 1);
    assert_eq!(
        gateway.get(path).await.json()["items"],
        json!([
            { "network": "127.0.7.9", "source": "config" }
        ])
    );
    // The other list is another.
    let throttled = gateway.post_json("/api/v1/throttlelist", &hour).await;
    assert_eq!(throttled.status, 201, "{}", throttled.body);
    assert_eq!(gateway.get("/api/v1/throttlelist").await.json()["total"], 1);
    assert_eq!(gateway.get(path).await.json()["total"], 1);
}

#[tokio::test]
async fn what_cannot_be_added_is_answered_with_why() {
    let gateway = gateway(|_| {}).await;
    for (body, status, why) in [
        (json!({ "network": "127.0.0.0/8" }), 409, "from where you ask"),
        (json!({ "network": "somewhere" }), 422, "somewhere"),
        (json!({ "network": "127.0.7.1", "duration": "soon" }), 422, "soon"),
        (json!({ "address": "127.0.7.1" }), 422, "address"),
    ] {
        let answer = gateway.post_json("/api/v1/blocklist", &body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(why), "{}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    assert_eq!(gateway.delete("/api/v1/blocklist/somewhere").await.status, 400);
    assert_eq!(gateway.get("/api/v1/blocklist").await.json()["total"], 0);
}

#[tokio::test]
async fn an_address_has_so_many_legs_waiting_and_gets_them_back() {
    for transport in [Tcp, WebSocket] {
        let gateway = gateway(|config| config.access.waiting_per_address = 2).await;
        for round in 1..=3_u32 {
            let mut waiting = Vec::new();
            for _ in 0..2 {
                let uuid = unique("waits");
                waiting.push((leg(&gateway, transport, &uuid, client(1)).await, uuid.clone()));
                gateway.until_waiting(&uuid).await;
            }
            is_closed(leg(&gateway, transport, "one more", client(1)).await).await;
            assert_eq!(gateway.refusals("address_waiting").await, f64::from(round));
            let other = leg(&gateway, transport, "other", client(2)).await;
            gateway.until_waiting("other").await;
            // One that is paired waits no more.
            let (first, uuid) = waiting.pop().expect("two");
            let second = leg(&gateway, Tcp, &uuid, client(2)).await;
            gateway.until_active(&uuid).await;
            let uuid = unique("waits");
            let next = leg(&gateway, transport, &uuid, client(1)).await;
            gateway.until_waiting(&uuid).await;
            drop((waiting, other, first, second, next));
            gateway.until_quiet().await;
        }
    }
}

#[tokio::test]
async fn so_many_relays_are_active_and_both_legs_of_one_more_are_told() {
    for transport in [Tcp, WebSocket] {
        let gateway = gateway(|config| config.relay.max_active = 1).await;
        for round in 1..=3_u32 {
            let pair = gateway.pair(transport, Tcp).await;
            let uuid = unique("one-more");
            let first = leg(&gateway, transport, &uuid, client(1)).await;
            gateway.until_waiting(&uuid).await;
            is_closed(leg(&gateway, transport, &uuid, client(2)).await).await;
            is_closed(first).await;
            assert_eq!(gateway.refusals("relay_limit").await, f64::from(round));
            let unpaired = "relay_unpaired_total{reason=\"relay_limit\"}";
            assert_eq!(gateway.metric(unpaired).await, f64::from(round));
            drop(pair);
            gateway.until_quiet().await;
        }
        // The limit that is lifted holds nobody up.
        let _one = gateway.pair(transport, Tcp).await;
        gateway.reload_with(|config| config.relay.max_active = 0).await;
        let _other = gateway.pair(transport, Tcp).await;
    }
}

/// A leg with this key is closed; its reason has then been counted once more.
async fn is_refused_for(gateway: &TestGateway, from: Ipv4Addr, key: &str, reason: &str) {
    let before = gateway.refusals(reason).await;
    let mut socket = connect(gateway, from).await;
    let hello = request_relay("key", "", key, ConnType::Default);
    socket.write_all(&frame::encode(&hello).expect("a frame")).await.expect("it reads");
    assert_eq!(read_to_end(&mut socket).await, b"");
    assert_eq!(gateway.refusals(reason).await, before + 1.0, "{key}: {reason}");
}

/// A leg with this key is let in, and waits; it is gone when this returns.
async fn is_let_wait(gateway: &TestGateway, from: Ipv4Addr, key: &str) {
    let uuid = unique("key");
    let mut socket = connect(gateway, from).await;
    let hello = request_relay(&uuid, "", key, ConnType::Default);
    socket.write_all(&frame::encode(&hello).expect("a frame")).await.expect("it reads");
    gateway.until_waiting(&uuid).await;
}

#[tokio::test]
async fn who_guesses_keys_has_to_wait_and_nobody_else_does() {
    let gateway = gateway(|config| {
        config.key = Secret::new("right");
        config.access.wrong_keys = 3;
        config.access.max_back_off = config::Duration::from_secs(3600);
    })
    .await;
    for guess in ["a", "b", "c"] {
        is_refused_for(&gateway, client(1), guess, "key_unknown").await;
    }
    // A second at least, and then the next guess makes it two.
    for _ in 0..5 {
        let listed = gateway.get("/api/v1/addresses?back_off=true").await.json();
        if listed["total"] == 1 {
            assert_eq!(listed["items"][0]["address"], "127.0.7.1");
            assert!(listed["items"][0]["back_off_seconds"].as_f64().is_some_and(|s| s > 0.0));
            break;
        }
        is_refused_for(&gateway, client(1), &unique("guess"), "key_unknown").await;
    }
    let mut guesses = 0;
    while gateway.refusals("address_back_off").await < 3.0 {
        // The right key is not looked at either; a slow machine may just have let the time pass.
        let mut socket = connect(&gateway, client(1)).await;
        let guess = unique("guess");
        let hello = request_relay("key", "", &guess, ConnType::Default);
        socket.write_all(&frame::encode(&hello).expect("a frame")).await.expect("it reads");
        assert_eq!(read_to_end(&mut socket).await, b"");
        guesses += 1;
        assert!(guesses < 100, "it never has to wait");
    }
    is_let_wait(&gateway, client(2), "right").await;
    // A probe is let in, and so is who asks for something else.
    drop(is_let_in(&gateway, client(1)).await);
}

#[tokio::test]
async fn the_wait_ends_and_a_right_key_settles_everything() {
    let gateway = gateway(|config| {
        config.key = Secret::new("right");
        config.access.wrong_keys = 3;
        config.access.max_back_off = config::Duration::from_millis(1);
    })
    .await;
    for _ in 0..3 {
        for guess in ["a", "b", "c"] {
            is_refused_for(&gateway, client(1), guess, "key_unknown").await;
        }
        eventually("the wait is over", async || {
            gateway.get("/api/v1/addresses?back_off=true").await.json()["total"] == 0
        })
        .await;
        is_let_wait(&gateway, client(1), "right").await;
        gateway.until_quiet().await;
    }
}

#[tokio::test]
async fn one_machine_with_a_stale_key_does_not_lock_out_its_office() {
    let gateway = gateway(|config| {
        config.key = Secret::new("right");
        config.access.wrong_keys = 3;
        config.access.max_back_off = config::Duration::from_secs(3600);
    })
    .await;
    for _ in 0..2 {
        for _ in 0..20 {
            is_refused_for(&gateway, client(1), "stale", "key_unknown").await;
        }
        is_let_wait(&gateway, client(1), "right").await;
    }
    assert_eq!(gateway.refusals("address_back_off").await, 0.0);
    // Nor does it ever hold up the exempt, whatever they send.
    for n in 0..20 {
        is_refused_for(&gateway, Ipv4Addr::LOCALHOST, &n.to_string(), "key_unknown").await;
    }
}

#[tokio::test]
async fn addresses_are_listed_with_what_they_have() {
    let gateway = gateway(|config| config.access.connections_per_address = 2).await;
    let _first = leg(&gateway, Tcp, "waits", client(1)).await;
    gateway.until_waiting("waits").await;
    let _second = is_let_in(&gateway, client(1)).await;
    is_turned_away(&gateway, client(1)).await;
    let _other = is_let_in(&gateway, client(2)).await;
    let listed = gateway.get("/api/v1/addresses").await.json();
    assert_eq!(
        listed["items"],
        json!([
            { "address": "127.0.7.1", "connections_open": 2, "legs_waiting": 1, "refused": 1 },
            { "address": "127.0.7.2", "connections_open": 1, "legs_waiting": 0, "refused": 0 },
        ])
    );
    let one = gateway.get("/api/v1/addresses?address=127.0.7.2").await.json();
    assert_eq!(one["total"], 1);
}
