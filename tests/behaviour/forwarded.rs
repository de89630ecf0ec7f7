//! Who asks over HTTP: what trusted proxies say of their clients, request by request.

use std::net::{IpAddr, Ipv4Addr};

use mini_rust_desk_relay_server::wire::{
    Transport::Tcp,
    rendezvous::{ConnType, request_relay},
};

use crate::{
    by_hand::{Wire, binary, upgrade_request},
    process::Process,
    servers::PROXY,
    support::{TOKEN, TestGateway, unique},
};

const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

async fn gateway() -> TestGateway {
    TestGateway::start_with(|config| {
        config.proxy.trusted = vec![IpAddr::from(PROXY).into()];
        config.access.blocklist = vec![IpAddr::from([198, 51, 100, 7]).into()];
        config.access.connections_per_address = 1;
    })
    .await
}

fn upgrade_with(headers: &str) -> String {
    upgrade_request("/ws/relay").replacen("\r\n\r\n", &format!("\r\n{headers}\r\n\r\n"), 1)
}

/// A leg that a proxy at `ip` brings, over a connection that it used for something else before.
async fn leg_from(ip: Ipv4Addr, gateway: &TestGateway, headers: &str, uuid: &str) -> Wire {
    let mut wire = Wire::connect_from(ip, gateway.addr).await;
    wire.send("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Real-IP: 203.0.113.99\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send(upgrade_with(headers)).await;
    wire.upgraded().await;
    wire.send(binary(&request_relay(uuid, "", "", ConnType::Default))).await;
    wire
}

#[tokio::test]
async fn a_leg_is_its_clients_whoever_asked_before_over_the_connection() {
    let gateway = gateway().await;
    for (header, address) in [
        ("X-Real-IP: 203.0.113.1", "203.0.113.1:0"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.2:4711", "203.0.113.2:4711"),
        ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.3", "203.0.113.3:0"),
        ("Forwarded: for=6.6.6.6, for=\"[2001:db8::7]:4711\";proto=https", "[2001:db8::7]:4711"),
    ] {
        let uuid = unique("forwarded");
        let _leg = leg_from(PROXY, &gateway, header, &uuid).await;
        assert_eq!(gateway.address_of(&uuid).await, address, "{header}");
    }
    let uuid = unique("itself");
    let leg = leg_from(PROXY, &gateway, "X-Forwarded-For: unknown", &uuid).await;
    let own = leg.socket.local_addr().unwrap().to_string();
    assert_eq!(gateway.address_of(&uuid).await, own);
    assert_eq!(gateway.all_refusals().await, 0.0);
}

#[tokio::test]
async fn the_headers_of_strangers_are_ignored() {
    let gateway = gateway().await;
    let headers =
        "X-Real-IP: 203.0.113.1\r\nX-Forwarded-For: 203.0.113.2\r\nForwarded: for=203.0.113.3";
    let leg = leg_from(STRANGER, &gateway, headers, "stranger").await;
    let own = leg.socket.local_addr().unwrap().to_string();
    assert_eq!(gateway.address_of("stranger").await, own);
}

#[tokio::test]
async fn a_client_behind_a_proxy_is_judged_before_it_is_upgraded() {
    let gateway = gateway().await;
    let _first = leg_from(PROXY, &gateway, "X-Real-IP: 203.0.113.1", "first").await;
    gateway.until_waiting("first").await;
    for (headers, status, reason) in [
        ("X-Real-IP: 198.51.100.7", 403, "blocked"),
        ("X-Real-IP: 203.0.113.1", 429, "address_connections"),
        ("X-Real-IP: 203.0.113.2\r\nX-Forwarded-For: 203.0.113.3", 400, "forwarding_headers"),
    ] {
        let mut wire = Wire::connect_from(PROXY, gateway.addr).await;
        wire.send(upgrade_with(headers)).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{headers}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(gateway.refusals(reason).await, 1.0, "{headers}");
    }
    // Its proxy is not counted for it.
    let _another = leg_from(PROXY, &gateway, "X-Real-IP: 203.0.113.2", "another").await;
    gateway.until_waiting("another").await;
}

#[tokio::test]
async fn a_place_behind_a_proxy_is_given_back() {
    let gateway = gateway().await;
    let first = leg_from(PROXY, &gateway, "X-Real-IP: 203.0.113.1", "first").await;
    gateway.until_waiting("first").await;
    drop(first);
    gateway.until_quiet().await;
    let _second = leg_from(PROXY, &gateway, "X-Real-IP: 203.0.113.1", "second").await;
    gateway.until_waiting("second").await;
}

#[tokio::test]
async fn an_operator_behind_a_proxy_has_its_own_address_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("[proxy]\ntrusted = ['{PROXY}']\n");
    std::fs::write(dir.path().join("config.toml"), config).unwrap();
    let process = Process::start_in(dir, &["--admin-listen", "127.0.0.1:0"]).await;
    let relay = process.gateway.named_pair("cut", Tcp, Tcp).await;
    let mut operator = Wire::connect_from(PROXY, process.gateway.admin_addr).await;
    operator
        .send(format!(
            "DELETE /api/v1/relays/cut HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
             X-Forwarded-For: 6.6.6.6, 203.0.113.1\r\n\r\n"
        ))
        .await;
    assert_eq!(operator.answer().await.status, 200);
    let line = process.line("closing a relay on an operator's request").await;
    assert!(line.contains("203.0.113.1:0"), "{line}");
    drop(relay);
}
