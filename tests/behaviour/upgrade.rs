//! The HTTP door: what becomes a leg, what does not, and how long any of it may take.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config,
    wire::{
        Transport::{Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};

use crate::{
    by_hand::{WEBSOCKET_KEY, Wire, binary, masked, upgrade_request},
    support::{PATIENCE, TOKEN, TestGateway, unique},
};

async fn impatient(millis: u64) -> TestGateway {
    TestGateway::start_with(|config| {
        config.front_door.first_frame_timeout = config::Duration::from_millis(millis);
    })
    .await
}

fn hello(uuid: &str) -> Vec<u8> {
    request_relay(uuid, "", "", ConnType::Default)
}

#[tokio::test]
async fn any_path_but_the_admins_own_is_a_leg() {
    let gateway = TestGateway::start().await;
    for path in ["/", "/ws/relay", "/ws/relay?x=1&y", "/?", "/any/where", "/metrics/", "/apis"] {
        let uuid = unique("path");
        let mut wire = Wire::connect(gateway.addr).await;
        wire.send(upgrade_request(path)).await;
        wire.upgraded().await;
        wire.send(binary(&hello(&uuid))).await;
        gateway.until_waiting(&uuid).await;
        let mut second = gateway.leg(Tcp, &uuid).await;
        second.send(b"!").await;
        let mut frame = [0; 3];
        wire.socket.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame, [0x82, 1, b'!'], "{path}");
    }
}

#[tokio::test]
async fn an_upgrade_on_an_admin_path_is_no_leg() {
    let gateway = TestGateway::start().await;
    for (path, status) in [
        ("/api/v1/relays", 401),
        ("/api/v1/nothing", 401),
        ("/api/v1", 401),
        ("/api/v1/", 401),
        ("/api", 401),
        ("/api/", 401),
        ("/api/v2/relays", 401),
        ("/metrics", 401),
        ("/healthz", 200),
        ("/readyz", 200),
    ] {
        let mut wire = Wire::connect(gateway.addr).await;
        wire.send(upgrade_request(path)).await;
        assert_eq!(wire.answer().await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_is_told_so() {
    let gateway = TestGateway::start().await;
    let mut refused = 0.0;
    let good = upgrade_request("/");
    let key = format!("Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\n");
    for (what, request) in [
        ("no key", good.replace(&key, "")),
        ("a key of 4 bytes", good.replace(WEBSOCKET_KEY, "AAAAAA==")),
        ("a key that is not base64", good.replace(WEBSOCKET_KEY, "&&&&&&&&&&&&&&&&&&&&&&==")),
        ("version 8", good.replace("Version: 13", "Version: 8")),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0")),
        ("POST", good.replace("GET", "POST")),
        ("no Connection", good.replace("Connection: Upgrade\r\n", "")),
        ("another protocol", good.replace("Upgrade: websocket", "Upgrade: h2c")),
    ] {
        let mut wire = Wire::connect(gateway.addr).await;
        wire.send(request).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 400, "{what}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
        assert_eq!(answer.json()["status"], 400, "{what}");
        refused += 1.0;
        assert_eq!(gateway.refusals("bad_handshake").await, refused, "{what}");
    }
    gateway.until_metric("relay_connections_open", 1.0).await;
}

/// Whether it is answered is up to hyper, which may be done with the connection before that.
#[tokio::test]
async fn an_upgrade_with_a_body_is_none() {
    let gateway = TestGateway::start().await;
    let request = upgrade_request("/").replace("Host: relay", "Host: relay\r\nContent-Length: 5");
    let mut wire = Wire::connect(gateway.addr).await;
    wire.send(request).await;
    let answer = String::from_utf8(wire.rest().await).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(gateway.refusals("bad_handshake").await, 1.0);
    assert_eq!(gateway.all_refusals().await, 1.0);
}

#[tokio::test]
async fn without_an_upgrade_there_is_nothing_here_and_problems_are_said_in_json() {
    let gateway = TestGateway::start().await;
    for (path, status) in [("/", 426), ("/ws/relay", 426), ("/nothing", 404), ("/apis", 404)] {
        let answer = gateway.request("GET", path, "").await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.json()["status"], status);
        assert_eq!(answer.json()["type"], "about:blank");
        assert!(answer.json()["title"].is_string() && answer.json()["detail"].is_string());
    }
    assert_eq!(gateway.request("GET", "/", "").await.headers["upgrade"], "websocket");
}

#[tokio::test]
async fn requests_in_one_segment_are_answered_in_order_and_the_last_may_upgrade() {
    let gateway = TestGateway::start().await;
    let uuid = unique("pipelined");
    let mut wire = Wire::connect(gateway.addr).await;
    let mut bytes =
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    bytes.extend(upgrade_request("/").bytes());
    bytes.extend(binary(&hello(&uuid)));
    bytes.extend(binary(b"said early"));
    wire.send(bytes).await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(wire.answer().await.status, 426);
    wire.upgraded().await;
    gateway.until_waiting(&uuid).await;
    let mut second = gateway.leg(WebSocket, &uuid).await;
    assert_eq!(second.receive().await.as_deref(), Some(&b"said early"[..]));
}

#[tokio::test]
async fn a_connection_that_was_kept_alive_may_still_become_a_leg() {
    let gateway = impatient(3000).await;
    let uuid = unique("late");
    let mut wire = Wire::connect(gateway.addr).await;
    // Past the deadline that counts from accept.
    for _ in 0..4 {
        wire.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(wire.answer().await.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    wire.send(upgrade_request("/ws/relay")).await;
    wire.upgraded().await;
    wire.send(binary(&hello(&uuid))).await;
    gateway.until_waiting(&uuid).await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let gateway = TestGateway::start().await;
    let head = |len: usize| {
        let filler = "x".repeat(len);
        format!("GET /nothing HTTP/1.1\r\nHost: a\r\nCookie: {filler}\r\nConnection: close\r\n\r\n")
    };
    let mut wire = Wire::connect(gateway.addr).await;
    wire.send(head(9_000)).await;
    assert_eq!(wire.answer().await.status, 404);
    for len in [20_000, 100_000, 10_000_000] {
        let mut wire = Wire::connect(gateway.addr).await;
        // It may be closed before all is sent.
        let _ = wire.socket.write_all(head(len).as_bytes()).await;
        let said = String::from_utf8(wire.rest().await).unwrap();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{len}: {said}");
    }
}

#[tokio::test]
async fn the_whole_way_to_the_first_message_is_under_one_deadline() {
    let deadline = Duration::from_secs(2);
    let gateway = impatient(2000).await;
    let late = Duration::from_millis(1500);
    let request = upgrade_request("/");
    let (first, rest) = request.split_at(3);
    // Half a head, and a whole one without a message after it.
    for second in [&rest[..40], rest] {
        let since = Instant::now();
        let mut wire = Wire::connect(gateway.addr).await;
        wire.send(first).await;
        tokio::time::sleep(late).await;
        wire.send(second).await;
        let said = String::from_utf8(wire.rest().await).unwrap();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 101 "), "{said}");
        assert!(said.ends_with("\r\n\r\n") || said.is_empty(), "nothing after the 101: {said}");
        let took = since.elapsed();
        assert!(took >= deadline && took < deadline + Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn a_dribbled_head_is_closed_at_the_deadline() {
    let gateway = impatient(300).await;
    let mut wire = Wire::connect(gateway.addr).await;
    wire.send("GET / HTTP/1.1\r\nX: ").await;
    let said = wire.dribble(b'x', Duration::from_millis(20)).await;
    assert_eq!(String::from_utf8(said).unwrap(), "");
    gateway.until_metric("relay_connections_open", 1.0).await;
    assert_eq!(gateway.refusals("timeout").await, 1.0);
}

/// A connection that never says one whole request is refused like any other.
#[tokio::test]
async fn http_that_is_none_is_counted_by_its_reason() {
    let gateway = TestGateway::start().await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    for (bytes, reason) in [
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "malformed"),
        ("POST \x01 HTTP/1.1\r\n\r\n", "malformed"),
        (&long, "frame_too_long"),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "hung_up"),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n", ""),
    ] {
        let before = gateway.all_refusals().await;
        let mut wire = Wire::connect(gateway.addr).await;
        // It may be closed before all is sent.
        let _ = wire.socket.write_all(bytes.as_bytes()).await;
        let _ = wire.socket.shutdown().await;
        wire.rest().await;
        let after = gateway.all_refusals().await - before;
        assert_eq!(after, if reason.is_empty() { 0.0 } else { 1.0 }, "{bytes:.60}");
        if !reason.is_empty() {
            assert!(gateway.refusals(reason).await > 0.0, "{reason}");
        }
    }
}

/// What a leg says while it waits is heard, without a task that reads it; what is its peer's is
/// left alone.
#[tokio::test]
async fn a_leg_that_waits_is_answered() {
    let gateway = TestGateway::start().await;
    let uuid = unique("waits");
    let mut wire = Wire::connect(gateway.addr).await;
    wire.send(upgrade_request("/")).await;
    wire.upgraded().await;
    wire.send(binary(&hello(&uuid))).await;
    gateway.until_waiting(&uuid).await;
    for payload in ["", "p", &"q".repeat(125)] {
        wire.send(masked(0x89, payload.as_bytes())).await;
        let mut pong = vec![0; 2 + payload.len()];
        timeout(PATIENCE, wire.socket.read_exact(&mut pong)).await.unwrap().unwrap();
        assert_eq!(pong[..2], [0x8a, payload.len() as u8]);
        assert_eq!(&pong[2..], payload.as_bytes());
    }
    // In two pieces, a Pong that nobody asked for, and then data.
    let ping = masked(0x89, b"in two");
    wire.send(&ping[..5]).await;
    gateway.round_trip().await;
    wire.send([&ping[5..], &masked(0x8a, b""), &binary(b"for the peer")].concat()).await;
    let mut pong = [0; 8];
    timeout(PATIENCE, wire.socket.read_exact(&mut pong)).await.unwrap().unwrap();
    assert_eq!(&pong, b"\x8a\x06in two");
    let mut peer = gateway.leg(Tcp, &uuid).await;
    assert_eq!(peer.receive().await.as_deref(), Some(&b"for the peer"[..]));

    let mut closing = Wire::connect(gateway.addr).await;
    closing.send(upgrade_request("/")).await;
    closing.upgraded().await;
    closing.send(binary(&hello("closes"))).await;
    gateway.until_waiting("closes").await;
    closing.send(masked(0x88, &1000_u16.to_be_bytes())).await;
    assert_eq!(closing.rest().await, b"\x88\x02\x03\xe8");
    gateway.until_metric("relay_waiting_legs", 0.0).await;
}

#[tokio::test]
async fn an_upgraded_connection_that_is_silent_gets_its_101_and_no_more() {
    let gateway = impatient(200).await;
    let mut wire = Wire::connect(gateway.addr).await;
    wire.send(upgrade_request("/")).await;
    wire.upgraded().await;
    assert_eq!(wire.rest().await, b"");
    assert_eq!(gateway.refusals("timeout").await, 1.0);
}

#[tokio::test]
async fn an_idle_kept_alive_connection_is_closed() {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for listen in [vec![], vec![admin]] {
        let gateway = TestGateway::start_with(|config| {
            config.front_door.first_frame_timeout = config::Duration::from_millis(300);
            config.admin.listen = listen;
        })
        .await;
        for addr in [gateway.addr, gateway.admin_addr] {
            let mut wire = Wire::connect(addr).await;
            wire.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(wire.answer().await.status, 200);
            assert_eq!(wire.rest().await, b"");
            // Nor may it say nothing at all.
            assert_eq!(Wire::connect(addr).await.rest().await, b"");
            // To be idle after an answer is no fault.
            assert_eq!(gateway.refusals("timeout").await, 0.0);
        }
    }
}

/// Without the token: who has it may ask for ever.
#[tokio::test]
async fn a_connection_makes_a_bounded_number_of_requests() {
    let gateway = TestGateway::start().await;
    for (token, most) in [("", Some(100)), (&*format!("Authorization: Bearer {TOKEN}\r\n"), None)] {
        let mut wire = Wire::connect(gateway.addr).await;
        let request = format!("GET /api/v1/stats HTTP/1.1\r\nHost: a\r\n{token}\r\n");
        for number in 1..=most.unwrap_or(250) {
            wire.send(&request).await;
            let is_last = wire.answer().await.headers.contains_key("connection");
            assert_eq!(is_last, most == Some(number), "request {number}");
        }
        if most.is_some() {
            assert_eq!(wire.rest().await, b"");
        }
    }
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_closed() {
    let gateway = impatient(300).await;
    // With little room of its own, so that the gateway's answers soon have nowhere to go.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(gateway.addr).await.unwrap();
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let asking = async { while socket.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, asking).await.expect("the gateway closes in time");
    gateway.until_metric("relay_connections_open", 1.0).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_holds_nothing_up() {
    let gateway = impatient(300).await;
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        for (method, path) in
            [("DELETE", "/api/v1/relays/none"), ("POST", "/"), ("GET", "/healthz")]
        {
            let mut wire = Wire::connect(gateway.addr).await;
            wire.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            ))
            .await;
            let said = wire.dribble(b'0', Duration::from_millis(20)).await;
            let said = String::from_utf8(said).unwrap();
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 "), "{said}");
        }
    }
    gateway.until_metric("relay_connections_open", 1.0).await;
}
