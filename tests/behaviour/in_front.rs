//! A real HAProxy and a real nginx in front of the relay: legs have their clients' own addresses,
//! and nobody takes another's.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::SinkExt as _;
use mini_rust_desk_relay_server::wire::{
    Transport::{self, Tcp, WebSocket},
    frame,
    rendezvous::{ConnType, request_relay},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        http::{HeaderName, HeaderValue},
    },
};

use crate::{
    by_hand::Wire,
    process::Process,
    servers::{PROXY, Server, haproxy, nginx, websocket_location},
    support::{Client, unique},
};

const KEY: &str = "the-key-of-these-tests";

/// A client's own address.
const ALICE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const BOB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// What somebody would like to be taken for.
const SPOOFED: &str = "203.0.113.66";

/// nginx as it is usually set up.
const USUAL_HEADERS: &str = "proxy_set_header X-Real-IP $remote_addr;\n\
                             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n";

/// A relay that trusts `trusted`.
async fn relay(trusted: &str, protocol: &str) -> Process {
    let dir = tempfile::tempdir().expect("a directory");
    let config = format!(
        "key = '{KEY}'\n[proxy]\ntrusted = [{trusted}]\nprotocol = '{protocol}'\n\
         [log]\nlevel = 'debug'\n"
    );
    std::fs::write(dir.path().join("config.toml"), config).expect("a file");
    Process::start_in(dir, &[]).await
}

async fn trusting(protocol: &str) -> Process {
    relay(&format!("'{PROXY}'"), protocol).await
}

/// A client at `ip` and its end of a leg, which goes by `way`.
struct Dialled {
    client: Client,
    own: SocketAddr,
}

async fn dial(ip: Ipv4Addr, way: SocketAddr, transport: Transport, uuid: &str) -> Dialled {
    dial_with(ip, way, transport, uuid, &[]).await.expect("an upgrade")
}

async fn dial_with(
    ip: Ipv4Addr,
    way: SocketAddr,
    transport: Transport,
    uuid: &str,
    headers: &[(&'static str, &str)],
) -> Result<Dialled, Error> {
    let hello = request_relay(uuid, "", KEY, ConnType::Default);
    let mut wire = Wire::connect_from(ip, way).await;
    let own = wire.socket.local_addr().expect("an address");
    let client = match transport {
        Tcp => {
            wire.send(frame::encode(&hello).expect("a frame")).await;
            Client::Tcp(wire.socket)
        }
        WebSocket => {
            let mut request = format!("ws://{way}/ws/relay").into_client_request()?;
            for (name, value) in headers {
                let value = HeaderValue::from_str(value).expect("a value");
                request.headers_mut().append(HeaderName::from_static(name), value);
            }
            let (mut socket, _) = client_async(request, wire.socket).await?;
            socket.send(Message::binary(hello)).await?;
            Client::WebSocket(Box::new(socket))
        }
    };
    Ok(Dialled { client, own })
}

/// Pairs a leg by each way, sees that both have the addresses that `seen` makes of their own, in
/// the API and in the log, and that what goes through arrives as it was.
async fn pairs(
    relay: &Process,
    ways: [(SocketAddr, Transport); 2],
    seen: [fn(SocketAddr) -> String; 2],
) {
    let uuid = unique("in-front");
    let [(way, transport), (other_way, other_transport)] = ways;
    let mut alice = dial(ALICE, way, transport, &uuid).await;
    relay.gateway.until_waiting(&uuid).await;
    let mut bob = dial(BOB, other_way, other_transport, &uuid).await;
    relay.gateway.until_active(&uuid).await;
    let shown = relay.gateway.get(&format!("/api/v1/relays/{uuid}")).await.json();
    for (leg, own, seen) in [(0, alice.own, seen[0]), (1, bob.own, seen[1])] {
        assert_eq!(shown["legs"][leg]["address"], seen(own));
    }
    relay.line(&format!("New relay request {uuid} from {}", seen[0](alice.own))).await;
    relay.line(&format!("Relayrequest {uuid} from {} got paired", seen[1](bob.own))).await;
    crosses(&mut alice.client, &mut bob.client).await;
    crosses(&mut bob.client, &mut alice.client).await;
}

async fn crosses(from: &mut Client, to: &mut Client) {
    let message = |number: u32| -> Vec<u8> {
        let bytes =
            (0..65_536_u32).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(7919)) as u8);
        bytes.collect()
    };
    let sent = async {
        for number in 0..64 {
            from.send(&message(number)).await;
        }
    };
    let received = async {
        for number in 0..64 {
            assert!(to.receive().await.expect("a message") == message(number), "{number} differs");
        }
    };
    tokio::join!(sent, received);
}

fn own(addr: SocketAddr) -> String {
    addr.to_string()
}

/// A header names no port.
fn own_ip(addr: SocketAddr) -> String {
    format!("{}:0", addr.ip())
}

#[tokio::test]
async fn haproxy_says_who_its_clients_are_by_a_proxy_header() {
    for options in ["send-proxy", "send-proxy-v2", "send-proxy-v2 check inter 100ms"] {
        let relay = trusting("required").await;
        let Some(front) = haproxy("mode tcp", relay.gateway.addr, options).await else { return };
        let (way, direct) = (front.addr, relay.gateway.addr);
        pairs(&relay, [(way, Tcp), (way, Tcp)], [own, own]).await;
        pairs(&relay, [(way, WebSocket), (way, Tcp)], [own, own]).await;
        pairs(&relay, [(direct, Tcp), (way, WebSocket)], [own, own]).await;
        assert_eq!(relay.gateway.all_refusals().await, 0.0, "{options}");
    }
}

#[tokio::test]
async fn haproxy_says_who_its_clients_are_by_x_forwarded_for() {
    let relay = trusting("optional").await;
    let mode = "mode http\n option forwardfor";
    let Some(front) = haproxy(mode, relay.gateway.addr, "").await else { return };
    let (way, direct) = (front.addr, relay.gateway.addr);
    pairs(&relay, [(way, WebSocket), (way, WebSocket)], [own_ip, own_ip]).await;
    pairs(&relay, [(direct, Tcp), (way, WebSocket)], [own, own_ip]).await;
    for lines in [
        &[("x-forwarded-for", SPOOFED)][..],
        &[("x-forwarded-for", "\",for=\""), ("x-forwarded-for", SPOOFED)],
    ] {
        is_seen_as_itself(&relay, &front, lines).await;
    }
}

#[tokio::test]
async fn nginx_says_who_its_clients_are_by_a_proxy_header() {
    let relay = trusting("required").await;
    let to = relay.gateway.addr;
    let front = nginx(|addr| {
        format!(
            "stream {{ server {{ listen {addr}; proxy_pass {to}; proxy_bind {PROXY}; proxy_protocol on; }} }}"
        )
    });
    let Some(front) = front.await else { return };
    pairs(&relay, [(front.addr, Tcp), (front.addr, Tcp)], [own, own]).await;
    pairs(&relay, [(front.addr, WebSocket), (to, Tcp)], [own, own]).await;
    assert_eq!(relay.gateway.all_refusals().await, 0.0);
}

#[tokio::test]
async fn nginx_says_who_its_clients_are_by_headers() {
    for (headers, seen) in [
        (USUAL_HEADERS, own_ip as fn(SocketAddr) -> String),
        ("proxy_set_header X-Real-IP $remote_addr;\n", own_ip),
        ("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n", own_ip),
        ("proxy_set_header Forwarded 'for=\"$remote_addr:$remote_port\";proto=http';\n", own),
    ] {
        let relay = trusting("optional").await;
        let to = relay.gateway.addr;
        let front = nginx(|addr| websocket_location(addr, to, headers)).await;
        let Some(front) = front else { return };
        pairs(&relay, [(to, Tcp), (front.addr, WebSocket)], [own, seen]).await;
        pairs(&relay, [(front.addr, WebSocket), (front.addr, WebSocket)], [seen, seen]).await;
    }
}

async fn is_seen_as_itself(relay: &Process, front: &Server, headers: &[(&'static str, &str)]) {
    let uuid = unique("spoof");
    let leg = dial_with(ALICE, front.addr, WebSocket, &uuid, headers).await.expect("an upgrade");
    assert_eq!(relay.gateway.address_of(&uuid).await, own_ip(leg.own), "{headers:?}");
}

async fn is_turned_away(relay: &Process, front: &Server, headers: &[(&'static str, &str)]) {
    let before = relay.gateway.refusals("forwarding_headers").await;
    let refused = dial_with(ALICE, front.addr, WebSocket, &unique("spoof"), headers).await;
    match refused.err().expect("no upgrade") {
        Error::Http(answer) => assert_eq!(answer.status(), 400, "{headers:?}"),
        other => panic!("{other}"),
    }
    assert_eq!(relay.gateway.refusals("forwarding_headers").await, before + 1.0);
}

#[tokio::test]
async fn nobody_behind_nginx_is_taken_for_another() {
    let relay = trusting("optional").await;
    let to = relay.gateway.addr;
    let front = nginx(|addr| websocket_location(addr, to, USUAL_HEADERS)).await;
    let Some(front) = front else { return };
    is_seen_as_itself(&relay, &front, &[("x-forwarded-for", SPOOFED)]).await;
    is_seen_as_itself(&relay, &front, &[("x-real-ip", SPOOFED)]).await;
    let forwarded = format!("for={SPOOFED}");
    // nginx passes on what it was not told to set.
    is_turned_away(&relay, &front, &[("forwarded", &forwarded)]).await;

    let real_ip = "proxy_set_header X-Real-IP $remote_addr;\n";
    let front = nginx(|addr| websocket_location(addr, to, real_ip)).await.expect("as before");
    is_turned_away(&relay, &front, &[("x-forwarded-for", SPOOFED)]).await;
    is_seen_as_itself(&relay, &front, &[("x-forwarded-for", "unknown")]).await;
}

/// Proxies that are not in the list have their own addresses, whatever they say of others.
#[tokio::test]
async fn whom_the_relay_does_not_trust_speaks_for_itself() {
    let relay = relay("'192.0.2.1'", "optional").await;
    let to = relay.gateway.addr;
    let front = nginx(|addr| websocket_location(addr, to, USUAL_HEADERS)).await;
    let Some(front) = front else { return };
    let uuid = unique("untrusted");
    let _leg = dial(ALICE, front.addr, WebSocket, &uuid).await;
    assert!(relay.gateway.address_of(&uuid).await.starts_with(&format!("{PROXY}:")));

    let front = haproxy("mode tcp", to, "send-proxy-v2").await.expect("it is there, as nginx is");
    let mut wire = Wire::connect_from(ALICE, front.addr).await;
    wire.send(b"\x01\x20").await;
    assert_eq!(wire.rest().await, b"");
    // More than one: HAProxy's header came also when the test looked whether it listens.
    assert!(relay.gateway.refusals("unknown_protocol").await >= 1.0);
    relay.line("is none of proxy.trusted").await;
}
