//! Connections that have not said who they are: when there is no room for one more, the oldest of
//! them gives way, and nobody else.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
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
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    by_hand::{Wire, binary, upgrade_request},
    support::{TOKEN, TestGateway, eventually, unique},
};

/// So long that nothing can be closed because of it.
const NEVER: config::Duration = config::Duration::from_secs(3600);

/// A gateway with room for so few, and an admin listener that does not ask for theirs.
async fn small(most: usize) -> TestGateway {
    TestGateway::start_with(|config| {
        config.front_door.max_connections = most;
        config.front_door.first_frame_timeout = NEVER;
        config.pairing.timeout = NEVER;
        config.relay.idle_timeout = NEVER;
        config.admin.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    })
    .await
}

/// Connects, and waits until the gateway has counted `open` beside the one that asks.
async fn connect(gateway: &TestGateway, open: u64) -> Wire {
    let wire = Wire::connect(gateway.addr).await;
    until_open(gateway, open).await;
    wire
}

async fn until_open(gateway: &TestGateway, open: u64) {
    eventually(&format!("{open} are open"), async || {
        gateway.get("/api/v1/stats").await.json()["connections_open"] == open + 1
    })
    .await;
}

#[tokio::test]
async fn the_oldest_of_them_gives_way_with_nothing_sent() {
    let gateway = small(3).await;
    let mut silent = Vec::new();
    for open in 1..=3 {
        silent.push(connect(&gateway, open).await);
    }
    let mut legs = Vec::new();
    for (number, oldest) in silent.into_iter().enumerate() {
        let uuid = unique("leg");
        legs.push(gateway.leg(Tcp, &uuid).await);
        assert_eq!(oldest.rest().await, b"");
        gateway.until_waiting(&uuid).await;
        assert_eq!(gateway.refusals("displaced").await, number as f64 + 1.0);
        until_open(&gateway, 3).await;
    }
    assert_eq!(gateway.all_refusals().await, 3.0);
    drop(legs);
    gateway.until_quiet().await;
}

/// However far a connection got, it is a stranger until it is a leg.
#[tokio::test]
async fn whatever_it_has_begun_to_say_a_stranger_gives_way() {
    let request = upgrade_request("/");
    let (half, whole) = (&request.as_bytes()[..40], request.as_bytes());
    for (said, heard) in [
        (&b""[..], ""),
        (b"\x16\x03", ""),
        (b"\x01\x20\x92\x01", ""),
        (half, ""),
        (whole, "HTTP/1.1 101 "),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 "),
    ] {
        let gateway = small(1).await;
        let mut wire = connect(&gateway, 1).await;
        wire.send(said).await;
        if !heard.is_empty() {
            let answer = wire.answer().await;
            assert!(heard.contains(&answer.status.to_string()), "{}", answer.status);
        }
        let _leg = gateway.leg(Tcp, "leg").await;
        assert_eq!(wire.rest().await, b"", "{said:x?}");
        gateway.until_waiting("leg").await;
        assert_eq!(gateway.refusals("displaced").await, 1.0, "{said:x?}");
        until_open(&gateway, 1).await;
    }
}

#[tokio::test]
async fn no_leg_and_no_relay_gives_way() {
    let gateway = small(6).await;
    let (mut first, mut second) = gateway.pair(Tcp, WebSocket).await;
    let _waiting = [gateway.leg(Tcp, "waits").await, gateway.leg(WebSocket, "waits too").await];
    gateway.until_waiting("waits too").await;
    let (mut third, mut fourth) = {
        let third = gateway.leg(WebSocket, "late").await;
        gateway.until_waiting("late").await;
        // Slow in what it says, so that it was a stranger for a while.
        let mut wire = connect(&gateway, 6).await;
        wire.send(upgrade_request("/")).await;
        wire.upgraded().await;
        wire.send(binary(&request_relay("late", "", "", ConnType::Default))).await;
        gateway.until_active("late").await;
        (third, wire)
    };
    for _ in 0..5 {
        assert_eq!(Wire::connect(gateway.addr).await.rest().await, b"");
    }
    assert_eq!(gateway.refusals("connection_limit").await, 5.0);
    assert_eq!(gateway.refusals("displaced").await, 0.0);
    first.send(b"still").await;
    assert_eq!(second.receive().await.as_deref(), Some(&b"still"[..]));
    fourth.send(binary(b"here")).await;
    assert_eq!(third.receive().await.as_deref(), Some(&b"here"[..]));
    assert_eq!(gateway.get("/api/v1/stats").await.json()["legs_waiting"], 2);
}

/// Who has shown the token is no stranger, so that a flood does not end an operator's session.
#[tokio::test]
async fn an_operator_does_not_give_way() {
    const SILENT: usize = 5;
    let gateway = TestGateway::start_with(|config| {
        config.front_door.max_connections = 2;
        config.front_door.first_frame_timeout = NEVER;
    })
    .await;
    let mut operator = Wire::connect(gateway.addr).await;
    let ask = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    operator.send(&ask).await;
    assert_eq!(operator.answer().await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..=SILENT {
        silent.push(Wire::connect(gateway.addr).await);
    }
    let all_but_one = format!("relay_rejected_total{{reason=\"displaced\"}} {SILENT}");
    eventually("one silent connection is left", async || {
        operator.send(&ask).await;
        operator.answer().await.body.contains(&all_but_one)
    })
    .await;
}

/// Many that say nothing, and many that say a byte now and then, have all the places there are:
/// honest clients get theirs, and all are given back.
#[tokio::test]
async fn honest_clients_pair_beside_many_that_are_slow() {
    const SLOW: usize = 600;
    const ROOM: usize = 120;
    const PAIRS: usize = 50;
    let gateway = small(ROOM).await;
    let mut slow = JoinSet::new();
    for index in 0..SLOW {
        slow.spawn(slow_client(gateway.addr, index % 2 == 0));
    }
    eventually("they have all the places", async || {
        gateway.refusals("displaced").await >= (SLOW - ROOM) as f64
    })
    .await;
    for index in 0..PAIRS {
        let uuid = unique("beside");
        let transport = if index % 4 == 0 { WebSocket } else { Tcp };
        let mut first = gateway.leg(Tcp, &uuid).await;
        let mut second = gateway.leg(transport, &uuid).await;
        first.send(b"hello").await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"hello"[..]));
        second.send(b"hello").await;
        assert_eq!(first.receive().await.as_deref(), Some(&b"hello"[..]));
    }
    let open = gateway.get("/api/v1/stats").await.json()["connections_open"].clone();
    assert!(open.as_u64().is_some_and(|open| open <= ROOM as u64 + 1), "{open}");
    assert_eq!(gateway.refusals("connection_limit").await, 0.0);
    slow.shutdown().await;
    gateway.until_quiet().await;
}

/// Comes again and again, as who means harm does.
async fn slow_client(addr: SocketAddr, is_silent: bool) {
    loop {
        let mut socket = TcpStream::connect(addr).await.expect("the kernel accepts");
        if !is_silent {
            let endless = b"GET / HTTP/1.1\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x'));
            for byte in endless {
                if socket.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        // Until it is closed.
        let _ = socket.read_to_end(&mut Vec::new()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
