//! What is not a relay's is closed, in time and with nothing sent.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config::{self, Size},
    net::sniff::{Protocol, identify},
    wire::{
        Transport::{Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::{
    by_hand::{Wire, binary, is_refused, opening, upgrade_request},
    support::{TestGateway, eventually, http, read_to_end},
};

/// So long that nothing can be closed because of it.
const NEVER: config::Duration = config::Duration::from_secs(3600);

async fn impatient(millis: u64) -> TestGateway {
    TestGateway::start_with(|config| {
        config.front_door.first_frame_timeout = config::Duration::from_millis(millis);
    })
    .await
}

async fn patient() -> TestGateway {
    TestGateway::start_with(|config| config.front_door.first_frame_timeout = NEVER).await
}

#[tokio::test]
async fn garbage_of_every_protocol_is_closed_at_once_with_nothing_sent() {
    let gateway = patient().await;
    for (bytes, reason) in [
        (&b"SSH-2.0-OpenSSH_9.7\r\n"[..], "unknown_protocol"),
        (b"EHLO mail.example.org\r\n", "unknown_protocol"),
        (b"USER anonymous\r\n", "unknown_protocol"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "unknown_protocol"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "unknown_protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "unknown_protocol"),
        (b"h\n", "unknown_protocol"),
        (b"usage\n", "unknown_protocol"),
        (b"blacklist-add 192.0.2.1\n", "unknown_protocol"),
        (b"\0", "unknown_protocol"),
        (&[0; 4096], "unknown_protocol"),
        (&[0xff; 4096], "unknown_protocol"),
        (b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0", "unknown_protocol"),
        // Both a method of HTTP and the header of a frame, of 135 MB.
        (b"GET \x92\x01", "frame_too_long"),
    ] {
        let before = gateway.refusals(reason).await;
        is_refused(&gateway, Tcp, bytes).await;
        assert_eq!(gateway.refusals(reason).await, before + 1.0, "{bytes:x?}");
    }
}

/// Random bytes, and requests with a few bytes changed.
#[test]
fn whatever_is_sent_nothing_comes_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let gateway = runtime.block_on(TestGateway::start_with(|config| {
        config.pairing.timeout = config::Duration::from_millis(20);
    }));
    let request = opening(Tcp, &request_relay("uuid", "123456789", "key", ConnType::Rdp));
    let changes = proptest::collection::vec((0..request.len(), any::<u8>()), 1..6);
    let perturbed = changes.prop_map(move |changes| {
        let mut bytes = request.clone();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes
    });
    let bytes = prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), perturbed];
    let mut runner = TestRunner::new(ProptestConfig::with_cases(300));
    let tested = runner.run(&bytes, |bytes| {
        prop_assume!(identify(&bytes) != Some(Protocol::Http));
        let sent = runtime.block_on(async {
            let mut socket = gateway.connect().await;
            // The gateway may close before it has taken all.
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            read_to_end(&mut socket).await
        });
        prop_assert_eq!(sent, b"");
        Ok(())
    });
    tested.unwrap();
}

#[tokio::test]
async fn a_silent_connection_is_closed_at_the_deadline_with_nothing_sent() {
    let gateway = impatient(150).await;
    let since = Instant::now();
    assert_eq!(Wire::connect(gateway.addr).await.rest().await, b"");
    assert!(since.elapsed() >= Duration::from_millis(150));
    assert_eq!(gateway.refusals("silent").await, 1.0);
    // The gateway's own clients were not among them.
    assert_eq!(gateway.all_refusals().await, 1.0);
}

#[tokio::test]
async fn a_first_message_that_does_not_get_done_is_closed_at_the_deadline() {
    let gateway = impatient(300).await;
    let pace = Duration::from_millis(20);
    // Undecided: the third byte of a header never comes; decided: the frame is never whole.
    for (head, transport) in [
        (b"\x16\x03".to_vec(), Tcp),
        (b"\x01\x20\x92\x01".to_vec(), Tcp),
        (upgrade_request("/").into_bytes(), WebSocket),
    ] {
        let before = gateway.refusals("timeout").await;
        let mut wire = Wire::connect(gateway.addr).await;
        wire.send(&head).await;
        let sent = match transport {
            Tcp if head.len() == 2 => wire.rest().await,
            Tcp => wire.dribble(0, pace).await,
            WebSocket => {
                wire.upgraded().await;
                // A fragment that is long in coming.
                wire.send(&binary(&[0; 1000])[..8]).await;
                wire.dribble(0, pace).await
            }
        };
        assert_eq!(sent, b"", "{head:x?}");
        assert_eq!(gateway.refusals("timeout").await, before + 1.0, "{head:x?}");
    }
}

#[tokio::test]
async fn a_first_frame_too_long_is_closed_as_soon_as_it_says_so() {
    let gateway = TestGateway::start_with(|config| {
        config.front_door.first_frame_timeout = NEVER;
        config.front_door.max_first_frame = Size::from_kib(4);
    })
    .await;
    let mut one_too_many = opening(Tcp, &[0; 4097])[..2].to_vec();
    one_too_many.extend_from_slice(&[0x92, 0x01]);
    is_refused(&gateway, Tcp, &one_too_many).await;
    is_refused(&gateway, Tcp, b"\xff\xff\xff\xff\x92\x01").await;
    let mut huge = upgrade_request("/").into_bytes();
    huge.extend_from_slice(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    is_refused(&gateway, WebSocket, &huge).await;
    assert_eq!(gateway.refusals("frame_too_long").await, 3.0);

    // The longest that is allowed: a request, and a field that nobody knows.
    let mut longest = request_relay("longest", "", "", ConnType::Default);
    let unknown = 4096 - longest.len() - 4;
    longest.extend_from_slice(&[0xea, 0x04]);
    longest.extend_from_slice(&[unknown as u8 & 0x7f | 0x80, (unknown >> 7) as u8]);
    longest.resize(4096, b'x');
    let _first = gateway.leg_with(Tcp, &longest).await;
    gateway.until_waiting("longest").await;
    let _second = gateway.leg_with(WebSocket, &longest).await;
    gateway.until_active("longest").await;
}

#[tokio::test]
async fn who_connects_and_closes_is_counted_but_not_refused() {
    let gateway = TestGateway::start().await;
    drop(gateway.connect().await);
    let probe = gateway.connect().await;
    // Health checks close like this: HAProxy's do.
    socket2::SockRef::from(&probe).set_linger(Some(Duration::ZERO)).unwrap();
    drop(probe);
    gateway.until_metric("relay_connections_total{protocol=\"none\"}", 2.0).await;
    assert_eq!(gateway.all_refusals().await, 0.0);
}

#[tokio::test]
async fn the_connection_limit_refuses_and_gives_places_back() {
    let gateway = TestGateway::start_with(|config| {
        config.front_door.max_connections = 3;
        config.front_door.first_frame_timeout = NEVER;
        config.admin.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    })
    .await;
    // Legs, since who has not said who it is gives way.
    let mut held = Vec::new();
    for uuid in ["one", "two", "three"] {
        held.push(gateway.leg(Tcp, uuid).await);
        gateway.until_waiting(uuid).await;
    }
    assert_eq!(Wire::connect(gateway.addr).await.rest().await, b"");
    // Who looks after the relay must get in just then.
    gateway.round_trip().await;
    assert_eq!(gateway.refusals("connection_limit").await, 1.0);
    assert_eq!(gateway.get("/api/v1/stats").await.json()["connections_open"], 4);

    held.pop();
    eventually("a place is given back", async || {
        let _leg = gateway.leg(Tcp, "late").await;
        gateway.round_trip().await;
        gateway.get("/api/v1/waiting").await.body.contains("late")
    })
    .await;
    drop(held);
    gateway.until_metric("relay_connections_open", 1.0).await;
}

#[tokio::test]
async fn one_listener_takes_both_families_and_shows_ipv4_as_such() {
    let dual = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))];
    let gateway = TestGateway::start_with(|config| config.listen = dual.to_vec()).await;
    let port = gateway.addr.port();
    let mut clients = vec![("v4", SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "127.0.0.1:")];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
        clients.push(("v6", SocketAddr::from((Ipv6Addr::LOCALHOST, port)), "[::1]:"));
    } else {
        println!("SKIPPED: this machine has no IPv6, so ::1 is not tried");
    }
    for (uuid, addr, shown) in clients {
        let mut leg = TcpStream::connect(addr).await.unwrap();
        let payload = request_relay(uuid, "", "", ConnType::Default);
        leg.write_all(&opening(Tcp, &payload)).await.unwrap();
        let seen = format!("{shown}{}", leg.local_addr().unwrap().port());
        eventually("it waits", async || {
            let answer = http_get_waiting(addr).await;
            let items = answer["items"].as_array().unwrap().clone();
            items.iter().any(|item| item["uuid"] == uuid && item["address"] == seen.as_str())
        })
        .await;
    }
}

async fn http_get_waiting(addr: SocketAddr) -> serde_json::Value {
    let token = format!("Authorization: Bearer {}\r\n", crate::support::TOKEN);
    http(addr, "GET", "/api/v1/waiting", &token).await.json()
}
