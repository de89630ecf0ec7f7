//! The balancers' configurations under `deploy/`, with addresses of a test's own: what they promise
//! of several relays that know nothing of each other, and what they cannot do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mini_rust_desk_relay_server::{
    config::ProxyProtocol,
    wire::{
        Transport::{self, Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::client_async;

use crate::{
    by_hand::{Wire, opening},
    servers::{PROXY, Server, haproxy_with, nginx},
    support::{Client, PATIENCE, TestGateway, eventually, unique},
};

const BY_UUID: &str = include_str!("../../deploy/haproxy/by-uuid.cfg");
const BY_ADDRESS: &str = include_str!("../../deploy/nginx/by-address.conf");

/// A configuration that is shipped, with these addresses instead of its own. What it dials it dials
/// from [`PROXY`].
pub(crate) fn shipped(text: &str, at: SocketAddr, nodes: &[(SocketAddr, SocketAddr)]) -> String {
    let mut text = replaced(text, "bind :21117\n", &format!("bind {at}\n"));
    text = replaced(&text, "    bind :21119\n", "");
    text = replaced(&text, "    balance ", &format!("    source {PROXY}\n    balance "));
    for (n, (relay, admin)) in nodes.iter().enumerate() {
        let name = format!("relay-{}", n + 1);
        let server = format!("server {name} {relay} port {}", admin.port());
        // Where health is asked for is every node's own here.
        let server =
            if text.contains("httpchk") { server } else { format!("server {name} {relay}") };
        text = replaced(&text, &format!("server {name} {name}:21117"), &server);
    }
    text
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in\n{text}");
    text.replace(from, to)
}

/// A relay that takes the balancer's word.
async fn relay() -> TestGateway {
    TestGateway::start_with(|config| {
        config.proxy.trusted = vec![IpAddr::from(PROXY).into()];
        config.proxy.protocol = ProxyProtocol::Required;
        config.admin.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    })
    .await
}

async fn relays() -> [TestGateway; 2] {
    [relay().await, relay().await]
}

/// Ends a relay, and waits until whoever dials it is refused.
async fn end(relay: TestGateway) {
    let addr = relay.addr;
    drop(relay);
    eventually("nobody listens", async || TcpStream::connect(addr).await.is_err()).await;
}

fn addrs(relays: &[TestGateway; 2]) -> [(SocketAddr, SocketAddr); 2] {
    [0, 1].map(|n: usize| (relays[n].addr, relays[n].admin_addr))
}

fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, n)
}

/// A TCP leg's first message, as the controlling side sends it if there is a target, in pieces of
/// `split` bytes.
async fn leg(from: Ipv4Addr, front: SocketAddr, hello: &[u8], split: usize) -> Wire {
    let mut wire = Wire::connect_from(from, front).await;
    for piece in opening(Tcp, hello).chunks(split) {
        wire.send(piece).await;
        tokio::task::yield_now().await;
    }
    wire
}

/// Two TCP legs from two addresses meet, whatever surrounds the uuid in their first messages.
async fn meet(front: &Server, n: u8) {
    let uuid = unique("by-uuid");
    // The frame's header is of one byte or of two; the uuid is the first field, or the second.
    let (key, target) = if n.is_multiple_of(2) { ("", "417866831") } else { ("k", "") };
    let hello = request_relay(&uuid, target, &key.repeat(44), ConnType::Default);
    let other = request_relay(&uuid, "", &"k".repeat(usize::from(n)), ConnType::Default);
    let split = if n.is_multiple_of(3) { 7 } else { usize::MAX };
    let mut first = leg(client(n), front.addr, &hello, split).await;
    let mut second = leg(client(n + 100), front.addr, &other, usize::MAX).await;
    second.send(uuid.as_bytes()).await;
    let mut came = vec![0; uuid.len()];
    let read = tokio::time::timeout(PATIENCE, first.socket.read_exact(&mut came)).await;
    read.unwrap_or_else(|_| panic!("{n}: they did not meet")).expect("the relay goes on");
    assert_eq!(came, uuid.as_bytes());
    first.socket.shutdown().await.expect("a FIN");
}

async fn pairs(relay: &TestGateway) -> f64 {
    relay.metric("relay_pairs_total{transport=\"tcp\"}").await
}

#[tokio::test]
async fn haproxy_sends_both_sides_of_a_uuid_to_the_same_relay() {
    let relays = relays().await;
    let front = haproxy_with(|at| shipped(BY_UUID, at, &addrs(&relays))).await;
    let Some(front) = front else { return };
    for n in 0..60 {
        meet(&front, n).await;
    }
    let made = [pairs(&relays[0]).await, pairs(&relays[1]).await];
    assert_eq!(made.iter().sum::<f64>(), 60.0);
    assert!(made.iter().all(|made| *made > 0.0), "{made:?}");

    // The clients' own addresses have come along.
    let uuid = unique("own");
    let hello = request_relay(&uuid, "", "", ConnType::Default);
    let wire = leg(client(7), front.addr, &hello, usize::MAX).await;
    let own = wire.socket.local_addr().expect("an address").to_string();
    eventually("the leg waits under its own address", async || {
        let mut waiting = String::new();
        for relay in &relays {
            waiting += &relay.get("/api/v1/waiting").await.body;
        }
        waiting.contains(&own)
    })
    .await;

    // One of them goes: all uuids are the other's.
    let [gone, left] = relays;
    end(gone).await;
    let before = pairs(&left).await;
    for n in 0..10 {
        meet(&front, n).await;
    }
    assert_eq!(pairs(&left).await, before + 10.0);
}

/// What is said after an upgrade, no balancer has seen when it must choose: each side of a pair of
/// WebSockets goes where its address belongs.
#[tokio::test]
async fn haproxy_leads_websockets_by_address_and_two_sides_miss_each_other() {
    let relays = relays().await;
    let front = haproxy_with(|at| shipped(BY_UUID, at, &addrs(&relays))).await;
    let Some(front) = front else { return };
    let home = async |n: u8| home_of(&front, &relays, client(n), WebSocket).await;
    let first = home(1).await;
    assert_eq!(home(1).await, first, "one address, one relay");
    let mut elsewhere = None;
    for n in 2..40 {
        if home(n).await != first {
            elsewhere = Some(n);
            break;
        }
    }
    assert!(elsewhere.is_some(), "forty addresses at one relay");
}

/// At which relay a leg from `ip` waits.
async fn home_of(
    front: &Server,
    relays: &[TestGateway; 2],
    ip: Ipv4Addr,
    transport: Transport,
) -> usize {
    let uuid = unique("home");
    let hello = request_relay(&uuid, "", "", ConnType::Default);
    let wire = Wire::connect_from(ip, front.addr).await;
    let _leg = match transport {
        Tcp => {
            let mut wire = wire;
            wire.send(opening(Tcp, &hello)).await;
            Client::Tcp(wire.socket)
        }
        WebSocket => {
            let url = format!("ws://{}/ws/relay", front.addr);
            let (socket, _) = client_async(url, wire.socket).await.expect("an upgrade");
            let mut client = Client::WebSocket(Box::new(socket));
            client.send(&hello).await;
            client
        }
    };
    let mut home = None;
    eventually("the leg waits", async || {
        for (n, relay) in relays.iter().enumerate() {
            if relay.get("/api/v1/waiting?limit=1000").await.body.contains(&uuid) {
                home = Some(n);
            }
        }
        home.is_some()
    })
    .await;
    home.expect("just seen")
}

#[tokio::test]
async fn nginx_keeps_an_address_at_one_relay_and_finds_another_when_that_is_gone() {
    let relays = relays().await;
    let front = nginx(|at| {
        let mut text = replaced(BY_ADDRESS, "listen 21117;", &format!("listen {at};"));
        text = replaced(&text, "        listen 21119;\n", "");
        text = replaced(
            &text,
            "proxy_pass relays;",
            &format!("proxy_pass relays; proxy_bind {PROXY};"),
        );
        for (n, relay) in relays.iter().enumerate() {
            text = replaced(&text, &format!("relay-{}:21117", n + 1), &relay.addr.to_string());
        }
        text
    });
    let Some(front) = front.await else { return };
    let mut homes = Vec::new();
    for n in 1..30 {
        homes.push(home_of(&front, &relays, client(n), Tcp).await);
    }
    for n in [1, 5, 9] {
        let again = home_of(&front, &relays, client(n), WebSocket).await;
        assert_eq!(again, homes[usize::from(n) - 1], "whatever it speaks");
    }
    assert!(homes.contains(&0) && homes.contains(&1), "{homes:?}");
    for relay in &relays {
        assert_eq!(relay.all_refusals().await, 0.0, "each came with its address");
    }

    let [gone, left] = relays;
    end(gone).await;
    for n in 1..30 {
        let uuid = unique("left");
        let hello = request_relay(&uuid, "", "", ConnType::Default);
        let _leg = leg(client(n), front.addr, &hello, usize::MAX).await;
        left.until_waiting(&uuid).await;
    }
}
