//! The PROXY header: believed of trusted proxies, and of nobody else.

use std::net::IpAddr;

use mini_rust_desk_relay_server::{
    config::{self, ProxyProtocol},
    wire::{
        Transport::{Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};

use crate::{
    by_hand::{Wire, binary, opening, upgrade_request},
    servers::PROXY,
    support::{TestGateway, unique},
    tls::{Kind, Peer, TlsGateway, shake_hands},
};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 21117\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\x00\x71\x07\xc6\x33\x64\x01\xdc\x04\x52\x7d";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const CLIENT: &str = "203.0.113.7:56324";

async fn gateway(protocol: ProxyProtocol) -> TestGateway {
    TestGateway::start_with(|config| {
        config.proxy.trusted = vec![IpAddr::from(PROXY).into()];
        config.proxy.protocol = protocol;
    })
    .await
}

async fn proxied(gateway: &TestGateway, sent: &[&[u8]]) -> Wire {
    let mut wire = Wire::connect_from(PROXY, gateway.addr).await;
    wire.send(sent.concat()).await;
    wire
}

fn request(uuid: &str) -> Vec<u8> {
    request_relay(uuid, "", "", ConnType::Default)
}

/// Asserts that what was sent on `wire` closes it, for `reason`, with nothing sent.
async fn is_turned_away(gateway: &TestGateway, wire: Wire, reason: &str) {
    assert_eq!(wire.rest().await, b"", "{reason}");
    assert_eq!(gateway.refusals(reason).await, 1.0, "{reason}");
    assert_eq!(gateway.all_refusals().await, 1.0, "{reason}");
}

#[tokio::test]
async fn a_leg_has_the_address_that_its_proxy_says() {
    for protocol in [ProxyProtocol::Optional, ProxyProtocol::Required] {
        let gateway = gateway(protocol).await;
        for header in [V1, V2] {
            let uuid = unique("proxied");
            let _leg = proxied(&gateway, &[header, &opening(Tcp, &request(&uuid))]).await;
            assert_eq!(gateway.address_of(&uuid).await, CLIENT);
        }
        assert_eq!(gateway.all_refusals().await, 0.0);
    }
}

#[tokio::test]
async fn a_header_may_be_split_at_any_byte() {
    let gateway = gateway(ProxyProtocol::Required).await;
    for header in [V1, V2] {
        for at in 0..=header.len() {
            let uuid = unique("split");
            let sent = [header, &opening(Tcp, &request(&uuid))].concat();
            let mut wire = proxied(&gateway, &[&sent[..at]]).await;
            // The gateway has seen that much, and not more.
            gateway.round_trip().await;
            wire.send(&sent[at..]).await;
            assert_eq!(gateway.address_of(&uuid).await, CLIENT, "{at}");
        }
    }
    assert_eq!(gateway.all_refusals().await, 0.0);
}

#[tokio::test]
async fn what_follows_a_header_may_be_any_protocol() {
    let gateway = gateway(ProxyProtocol::Required).await;
    let healthz = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut http = proxied(&gateway, &[V2, healthz]).await;
    assert_eq!(http.answer().await.status, 200);

    let uuid = unique("websocket");
    let mut websocket = proxied(&gateway, &[V1, upgrade_request("/ws/relay").as_bytes()]).await;
    websocket.upgraded().await;
    websocket.send(binary(&request(&uuid))).await;
    assert_eq!(gateway.address_of(&uuid).await, CLIENT);

    let client_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    is_turned_away(&gateway, proxied(&gateway, &[V1, client_hello]).await, "tls").await;
}

#[tokio::test]
async fn tls_may_follow_and_is_the_clients() {
    let relay = TlsGateway::start_with(|config| {
        config.proxy.trusted = vec![IpAddr::from(PROXY).into()];
        config.proxy.protocol = ProxyProtocol::Required;
    })
    .await;
    for (header, kind) in [(V1, Kind::Wss), (V2, Kind::Tls)] {
        let wire = proxied(&relay.gateway, &[header]).await;
        let stream = shake_hands(wire.socket, relay.identity.client()).await.unwrap();
        let uuid = unique("proxied-tls");
        let _leg = Peer::greeting(Box::new(stream), kind, &uuid).await;
        assert_eq!(relay.gateway.address_of(&uuid).await, CLIENT);
    }
}

/// Who is behind a proxy that forwards bytes cannot add a header to the proxy's own.
#[tokio::test]
async fn a_second_header_is_none() {
    let gateway = gateway(ProxyProtocol::Required).await;
    is_turned_away(&gateway, proxied(&gateway, &[V1, V2]).await, "unknown_protocol").await;
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_keeps_its_address() {
    let gateway = gateway(ProxyProtocol::Required).await;
    for header in [V2_LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ::1 ::2 3 4\r\n"] {
        let uuid = unique("itself");
        let leg = proxied(&gateway, &[header, &opening(Tcp, &request(&uuid))]).await;
        let own = leg.socket.local_addr().unwrap().to_string();
        assert_eq!(gateway.address_of(&uuid).await, own);
    }
}

#[tokio::test]
async fn whether_a_header_must_come_is_a_setting() {
    for (protocol, refusal) in [
        (ProxyProtocol::Off, None),
        (ProxyProtocol::Optional, None),
        (ProxyProtocol::Required, Some("proxy_header_missing")),
    ] {
        let gateway = gateway(protocol).await;
        let uuid = unique("bare");
        let leg = proxied(&gateway, &[&opening(Tcp, &request(&uuid))]).await;
        match refusal {
            Some(reason) => is_turned_away(&gateway, leg, reason).await,
            None => {
                let own = leg.socket.local_addr().unwrap().to_string();
                assert_eq!(gateway.address_of(&uuid).await, own);
            }
        }
        // Others are plain clients whatever is set.
        let _plain = gateway.leg(WebSocket, "plain").await;
        gateway.until_waiting("plain").await;
    }
}

#[tokio::test]
async fn a_header_that_nobody_asked_for_is_an_unknown_protocol() {
    for header in [V1, V2] {
        let opening = opening(Tcp, &request("spoof"));
        let off = gateway(ProxyProtocol::Off).await;
        is_turned_away(&off, proxied(&off, &[header, &opening]).await, "unknown_protocol").await;
        let gateway = gateway(ProxyProtocol::Optional).await;
        let mut untrusted = Wire::connect(gateway.addr).await;
        untrusted.send([header, &opening].concat()).await;
        is_turned_away(&gateway, untrusted, "unknown_protocol").await;
    }
}

#[tokio::test]
async fn a_malformed_header_closes_with_nothing_sent() {
    let endless = [V2, &[b'x'; 2000]].concat();
    for sent in [
        &b"PROXY TCP4 203.0.113.7\r\n"[..],
        b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 99999\r\n",
        &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        // It claims more than anybody has to say.
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x04\0", &endless[..1000]].concat(),
    ] {
        let gateway = gateway(ProxyProtocol::Optional).await;
        is_turned_away(&gateway, proxied(&gateway, &[sent]).await, "proxy_header").await;
    }
}

/// The deadline is one for the whole, and a header does not wind it up again.
#[tokio::test]
async fn a_header_that_does_not_get_done_is_closed_at_the_deadline() {
    let gateway = TestGateway::start_with(|config| {
        config.proxy.trusted = vec![IpAddr::from(PROXY).into()];
        config.front_door.first_frame_timeout = config::Duration::from_millis(300);
    })
    .await;
    for (sent, reason) in [(&V2[..14], "timeout"), (b"", "silent"), (V1, "silent")] {
        let before = gateway.refusals(reason).await;
        assert_eq!(proxied(&gateway, &[sent]).await.rest().await, b"", "{reason}");
        assert_eq!(gateway.refusals(reason).await, before + 1.0, "{reason}");
    }
    let begun = proxied(&gateway, &[&V1[..20]]).await;
    drop(begun);
    gateway.until_metric("relay_rejected_total{reason=\"hung_up\"}", 1.0).await;
}

/// What HAProxy and load balancers do every few seconds.
#[tokio::test]
async fn a_health_check_of_a_proxy_is_no_offence() {
    let gateway = gateway(ProxyProtocol::Required).await;
    for sent in [&b""[..], V2_LOCAL, V1] {
        drop(proxied(&gateway, &[sent]).await);
    }
    gateway.until_metric("relay_connections_total{protocol=\"none\"}", 3.0).await;
    assert_eq!(gateway.all_refusals().await, 0.0);
}

/// It is the client that is let in or not; its proxy is neither blocked nor counted.
#[tokio::test]
async fn a_proxied_client_is_judged_by_its_own_address() {
    let gateway = TestGateway::start_with(|config| {
        config.proxy.trusted = vec![IpAddr::from(PROXY).into()];
        config.access.blocklist = vec!["198.51.100.0/24".parse().unwrap()];
        config.access.connections_per_address = 1;
    })
    .await;
    let blocked = b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2\r\n";
    is_turned_away(&gateway, proxied(&gateway, &[blocked]).await, "blocked").await;
    let _first = proxied(&gateway, &[V1, &opening(Tcp, &request("first"))]).await;
    gateway.until_waiting("first").await;
    assert_eq!(proxied(&gateway, &[V1]).await.rest().await, b"");
    assert_eq!(gateway.refusals("address_connections").await, 1.0);
    let another = b"PROXY TCP4 203.0.113.8 192.0.2.1 1 2\r\n";
    let _another = proxied(&gateway, &[another, &opening(Tcp, &request("another"))]).await;
    gateway.until_waiting("another").await;
}

#[tokio::test]
async fn whom_to_trust_changes_while_the_relay_runs() {
    let gateway = TestGateway::start().await;
    let sent = |uuid| [V1, &opening(Tcp, &request(uuid))].concat();
    is_turned_away(&gateway, proxied(&gateway, &[&sent("before")]).await, "unknown_protocol").await;
    let answer =
        gateway.reload_with(|config| config.proxy.trusted = vec![IpAddr::from(PROXY).into()]).await;
    assert_eq!(answer.json()["applied"], serde_json::json!(["proxy.trusted"]));
    let _leg = proxied(&gateway, &[&sent("trusted")]).await;
    assert_eq!(gateway.address_of("trusted").await, CLIENT);
    gateway.reload_with(|config| config.proxy.protocol = ProxyProtocol::Off).await;
    assert_eq!(proxied(&gateway, &[&sent("after")]).await.rest().await, b"");
    // What was said before stands.
    assert_eq!(gateway.address_of("trusted").await, CLIENT);
}
