//! The admin API: who may ask, and that what it says is so.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;
use mini_rust_desk_relay_server::wire::{
    Transport::{self, Tcp, WebSocket},
    rendezvous::{ConnType, request_relay},
};

use crate::{
    by_hand::{Wire, upgrade_request},
    support::{Answer, Client, TOKEN, TestGateway, eventually, http},
};

const API: [&str; 6] = [
    "/api/v1/relays",
    "/api/v1/relays/some",
    "/api/v1/waiting",
    "/api/v1/stats",
    "/api/v1/nothing",
    "/metrics",
];

fn is_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], "about:blank");
    assert!(problem["title"].is_string());
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
}

/// A pair with all that a relay can be told apart by.
async fn relay(
    gateway: &TestGateway,
    uuid: &str,
    target: &str,
    conn_type: ConnType,
    transports: [Transport; 2],
) -> (Client, Client) {
    let controlling = request_relay(uuid, target, "", conn_type);
    let controlled = request_relay(uuid, "", "", ConnType::Default);
    let first = gateway.leg_with(transports[0], &controlling).await;
    gateway.until_waiting(uuid).await;
    let second = gateway.leg_with(transports[1], &controlled).await;
    gateway.until_active(uuid).await;
    (first, second)
}

fn uuids(answer: &Answer) -> Vec<String> {
    let items = answer.json()["items"].as_array().expect("a list").clone();
    items.iter().map(|item| item["uuid"].as_str().expect("a uuid").to_owned()).collect()
}

#[tokio::test]
async fn nobody_gets_in_without_the_whole_token() {
    let gateway = TestGateway::start().await;
    let wrong = [
        String::new(),
        "Authorization: Bearer\r\n".into(),
        "Authorization: Bearer \r\n".into(),
        "Authorization: Bearer wrong\r\n".into(),
        format!("Authorization: Bearer {}\r\n", &TOKEN[..TOKEN.len() - 1]),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {}\r\n", TOKEN.to_uppercase()),
        format!("Authorization: {TOKEN}\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer wrong\r\nAuthorization: Bearer {TOKEN}\r\n"),
        format!("X-Token: {TOKEN}\r\n"),
    ];
    for path in API {
        for method in ["GET", "DELETE", "POST", "HEAD", "OPTIONS"] {
            for headers in &wrong {
                let answer = gateway.request(method, path, headers).await;
                assert_eq!(answer.status, 401, "{method} {path} {headers}");
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
                if method != "HEAD" {
                    is_problem(&answer, 401);
                }
            }
        }
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let answer = gateway
            .request("GET", "/api/v1/stats", &format!("Authorization: {scheme} {TOKEN}\r\n"))
            .await;
        assert_eq!(answer.status, 200);
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(gateway.request("GET", path, "").await.status, 200);
    }
}

#[tokio::test]
async fn a_relay_is_shown_whole_and_as_it_is() {
    let gateway = TestGateway::start().await;
    let before = Timestamp::now();
    let pair = relay(&gateway, "whole", "417866831", ConnType::FileTransfer, [Tcp, WebSocket]);
    let (mut first, mut second) = pair.await;
    let after = Timestamp::now();
    first.send(&[1; 1000]).await;
    second.receive().await;
    second.send(&[2; 50]).await;
    first.receive().await;

    let shown = gateway.get("/api/v1/relays/whole").await.json();
    let listed = gateway.get("/api/v1/relays").await.json();
    assert_eq!(listed["total"], 1);
    assert_eq!(listed["items"][0]["id"], shown["id"]);
    assert_eq!(shown["uuid"], "whole");
    assert_eq!(shown["target_id"], "417866831");
    assert_eq!(shown["connection_type"], "file_transfer");
    let started: Timestamp = shown["started"].as_str().unwrap().parse().unwrap();
    assert!(before <= started && started <= after);
    // Framing included: a header of 2 bytes; one of 2, a mask of 4.
    assert_eq!(shown["legs"][0]["sent_bytes"], 1002);
    assert_eq!(shown["legs"][1]["sent_bytes"], 56);
    assert_eq!(shown["bytes"], 1058);
    let (first, second) = (first.tcp(), second.websocket());
    for (leg, socket, transport) in [(0, &first, "tcp"), (1, second.get_ref(), "websocket")] {
        let address = socket.local_addr().unwrap().to_string();
        assert_eq!(shown["legs"][leg]["address"], address);
        assert_eq!(shown["legs"][leg]["transport"], transport);
    }
    let seconds = |what: &str| shown[what].as_f64().unwrap();
    assert!(seconds("age_seconds") >= seconds("idle_seconds"));
    assert!(seconds("waited_seconds") < 20.0);
    let later = gateway.get("/api/v1/relays/whole").await.json();
    assert!(later["idle_seconds"].as_f64() > shown["idle_seconds"].as_f64(), "nothing moves");
    assert!(later["age_seconds"].as_f64() > shown["age_seconds"].as_f64());
    assert_eq!(later["started"], shown["started"]);
}

#[tokio::test]
async fn rates_are_positive_under_load_and_nothing_in_silence() {
    let gateway = TestGateway::start().await;
    let (mut first, mut second) = gateway.pair(Tcp, WebSocket).await;
    let load = async {
        loop {
            first.send(&[7; 10_000]).await;
            second.receive().await;
        }
    };
    let rate = async |of: &str| gateway.get(of).await.json();
    let seen = async {
        eventually("the rate is seen", async || {
            let relay = rate("/api/v1/relays").await["items"][0].clone();
            relay["bytes_per_second"].as_u64() > Some(10_000)
                && relay["legs"][0]["sent_bytes_per_second"] == relay["bytes_per_second"]
                && relay["legs"][1]["sent_bytes_per_second"] == 0
                && rate("/api/v1/stats").await["bytes_per_second"].as_u64() > Some(10_000)
        })
        .await;
    };
    tokio::select! {
        () = load => {}
        () = seen => {}
    }
    eventually("the rate is nothing", async || {
        rate("/api/v1/relays").await["items"][0]["bytes_per_second"] == 0
    })
    .await;
}

#[tokio::test]
async fn every_filter_and_every_order_holds() {
    let gateway = TestGateway::start().await;
    let mut held = Vec::new();
    for (uuid, target, conn_type, transports, bytes) in [
        ("c", "300", ConnType::Default, [Tcp, Tcp], 10),
        ("a", "100", ConnType::Rdp, [Tcp, WebSocket], 3000),
        ("b", "", ConnType::Other(99), [WebSocket, WebSocket], 200),
    ] {
        let (mut first, mut second) = relay(&gateway, uuid, target, conn_type, transports).await;
        first.send(&vec![0; bytes]).await;
        second.receive().await;
        held.push((first, second));
    }
    for (query, expected) in [
        ("", "b a c"),
        ("uuid=a", "a"),
        ("uuid=A", ""),
        ("target_id=300", "c"),
        ("target_id=30", ""),
        ("connection_type=rdp", "a"),
        ("connection_type=default", "c"),
        ("connection_type=other_99", "b"),
        ("transport=tcp", "a c"),
        ("transport=websocket", "b a"),
        ("address=127.0.0.1", "b a c"),
        ("address=::ffff:127.0.0.1", "b a c"),
        ("address=127.0.0.2", ""),
        ("transport=tcp&connection_type=rdp&address=127.0.0.1", "a"),
        ("transport=tcp&connection_type=other_99", ""),
        ("sort=age", "b a c"),
        ("sort=-age", "c a b"),
        ("sort=idle", "b a c"),
        ("sort=-idle", "c a b"),
        ("sort=bytes", "c b a"),
        ("sort=-bytes", "a b c"),
        ("sort=uuid", "a b c"),
        ("sort=-uuid", "c b a"),
        ("sort=target_id", "b a c"),
        ("sort=-target_id", "c a b"),
        ("sort=uuid&limit=2", "a b"),
        ("sort=uuid&limit=2&offset=2", "c"),
        ("offset=100", ""),
    ] {
        let answer = gateway.get(&format!("/api/v1/relays?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        assert_eq!(uuids(&answer).join(" "), expected, "{query}");
    }
    for sort in ["rate", "-rate"] {
        let answer = gateway.get(&format!("/api/v1/relays?sort={sort}")).await;
        let items = answer.json()["items"].as_array().unwrap().clone();
        let rates: Vec<_> = items.iter().map(|item| item["bytes_per_second"].as_u64()).collect();
        assert_eq!(rates.len(), 3);
        assert!(if sort == "rate" { rates.is_sorted() } else { rates.is_sorted_by(|a, b| a >= b) });
    }
}

#[tokio::test]
async fn pages_do_not_overlap_and_their_bounds_are_kept() {
    let gateway = TestGateway::start().await;
    let mut held = Vec::new();
    for index in 0..7 {
        let uuid = format!("page-{index}");
        held.push(relay(&gateway, &uuid, "same", ConnType::Default, [Tcp, Tcp]).await);
        held.push(relay(&gateway, &uuid, "same", ConnType::Default, [Tcp, Tcp]).await);
    }
    // All alike in what they are ordered by.
    for sort in ["target_id", "-target_id", "bytes", "uuid", "-age"] {
        let mut ids = Vec::new();
        for offset in (0..14).step_by(4) {
            let path = format!("/api/v1/relays?sort={sort}&limit=4&offset={offset}");
            let page = gateway.get(&path).await.json();
            assert_eq!((&page["total"], &page["limit"]), (&14.into(), &4.into()));
            assert_eq!(page["offset"], offset);
            ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_u64()));
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 14, "{sort}");
    }
    for list in ["relays", "waiting"] {
        for limit in ["0", "1001", "-1", "x", "", "99999999999999999999999"] {
            let answer = gateway.get(&format!("/api/v1/{list}?limit={limit}")).await;
            is_problem(&answer, 400);
        }
        for query in ["limit=1", "limit=1000", "offset=18446744073709551615"] {
            assert_eq!(gateway.get(&format!("/api/v1/{list}?{query}")).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_parameter_that_does_not_exist_is_named_with_those_that_do() {
    let gateway = TestGateway::start().await;
    for (query, named) in [
        ("relays?colour=red", vec!["colour", "target_id", "connection_type", "sort", "offset"]),
        ("waiting?uuid=a", vec!["uuid", "limit", "offset"]),
        ("stats?since=1", vec!["since"]),
        ("relays?sort=colour", vec!["colour", "age", "target_id"]),
        ("relays?sort=--age", vec!["-age"]),
        ("relays?transport=udp", vec!["udp", "tcp", "websocket"]),
        ("relays?address=localhost", vec!["address"]),
        ("relays?limit=1&limit=2", vec!["limit"]),
        ("relays/%ff", vec![]),
    ] {
        let answer = gateway.get(&format!("/api/v1/{query}")).await;
        is_problem(&answer, 400);
        for name in named {
            assert!(answer.body.contains(name), "{query}: {name} in {}", answer.body);
        }
    }
}

#[tokio::test]
async fn closing_a_relay_ends_it_for_both_sides() {
    let gateway = TestGateway::start().await;
    for transports in [[Tcp, Tcp], [Tcp, WebSocket], [WebSocket, WebSocket]] {
        let (mut first, mut second) =
            relay(&gateway, "closed", "", ConnType::Default, transports).await;
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        let answer = gateway.request("DELETE", "/api/v1/relays/closed", &token).await;
        assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "closed": 1 })));
        assert_eq!(first.receive().await, None);
        assert_eq!(second.receive().await, None);
        eventually("it is gone", async || gateway.get("/api/v1/relays/closed").await.status == 404)
            .await;
        is_problem(&gateway.get("/api/v1/relays/closed").await, 404);
        is_problem(&gateway.request("DELETE", "/api/v1/relays/closed", &token).await, 404);
    }
    gateway.until_metric("relay_ends_total{reason=\"admin\"}", 3.0).await;
}

#[tokio::test]
async fn two_relays_with_one_uuid_are_two_and_closed_together() {
    let gateway = TestGateway::start().await;
    let one = relay(&gateway, "twice", "1", ConnType::Default, [Tcp, Tcp]).await;
    let two = relay(&gateway, "twice", "2", ConnType::Default, [Tcp, Tcp]).await;
    assert_eq!(uuids(&gateway.get("/api/v1/relays?uuid=twice").await), ["twice", "twice"]);
    assert_eq!(gateway.get("/api/v1/relays/twice").await.json()["target_id"], "2");
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let answer = gateway.request("DELETE", "/api/v1/relays/twice", &token).await;
    assert_eq!(answer.json()["closed"], 2);
    for mut client in [one.0, one.1, two.0, two.1] {
        assert_eq!(client.receive().await, None);
    }
}

#[tokio::test]
async fn strange_uuids_are_shown_as_they_are_and_found_percent_encoded() {
    let gateway = TestGateway::start().await;
    for (uuid, encoded) in [
        ("a b", "a%20b"),
        ("a/b?c#d", "a%2Fb%3Fc%23d"),
        ("100%", "100%25"),
        ("..", "%2E%2E"),
        ("ünïcode-中文", "%C3%BCn%C3%AFcode-%E4%B8%AD%E6%96%87"),
        ("line\nNew relay request x from y", "line%0ANew%20relay%20request%20x%20from%20y"),
        ("\u{1b}[31m\0\"\\", "%1B%5B31m%00%22%5C"),
    ] {
        let hello = request_relay(uuid, uuid, "", ConnType::Default);
        let _first = gateway.leg_with(Tcp, &hello).await;
        eventually("it waits", async || {
            let waiting = gateway.get("/api/v1/waiting").await;
            uuids(&waiting).iter().any(|waiting| waiting == uuid)
        })
        .await;
        let _second = gateway.leg_with(Tcp, &hello).await;
        gateway.until_active(encoded).await;
        let shown = gateway.get(&format!("/api/v1/relays/{encoded}")).await.json();
        assert_eq!((&shown["uuid"], &shown["target_id"]), (&uuid.into(), &uuid.into()));
        let listed = gateway.get(&format!("/api/v1/relays?uuid={encoded}")).await;
        assert_eq!(uuids(&listed), [uuid]);
    }
}

#[tokio::test]
async fn waiting_legs_are_shown_and_gone_when_they_are() {
    let gateway = TestGateway::start().await;
    let hello = request_relay("waits", "417866831", "", ConnType::Terminal);
    let leg = gateway.leg_with(WebSocket, &hello).await.websocket();
    gateway.until_waiting("waits").await;
    let shown = gateway.get("/api/v1/waiting").await.json()["items"][0].clone();
    assert_eq!(shown["uuid"], "waits");
    assert_eq!(shown["target_id"], "417866831");
    assert_eq!(shown["connection_type"], "terminal");
    assert_eq!(shown["transport"], "websocket");
    assert_eq!(shown["address"], leg.get_ref().local_addr().unwrap().to_string());
    let sum =
        shown["age_seconds"].as_f64().unwrap() + shown["expires_in_seconds"].as_f64().unwrap();
    assert!((sum - 30.0).abs() < 0.01, "{sum}");
    drop(leg);
    eventually("it is gone", async || gateway.get("/api/v1/waiting").await.json()["total"] == 0)
        .await;
}

#[tokio::test]
async fn stats_are_the_truth_while_legs_come_and_go() {
    let gateway = TestGateway::start().await;
    let stats = async || gateway.get("/api/v1/stats").await.json();
    let mut pairs = Vec::new();
    let mut lone = Vec::new();
    for round in 1_u64..=5 {
        pairs.push(gateway.pair(Tcp, WebSocket).await);
        pairs.push(gateway.pair(Tcp, Tcp).await);
        let uuid = format!("lone-{round}");
        lone.push(gateway.leg(Tcp, &uuid).await);
        gateway.until_waiting(&uuid).await;
        let now = stats().await;
        assert_eq!(now["relays_active"], pairs.len());
        assert_eq!(now["relays_total"], 3 * round - 1);
        assert_eq!(now["legs_waiting"], 1);
        // Our own question is a connection too.
        assert_eq!(now["connections_open"], 2 * pairs.len() + 2);
        drop((pairs.pop(), lone.pop()));
        let active = pairs.len();
        eventually("it is over", async || {
            let now = stats().await;
            now["relays_active"] == active && now["legs_waiting"] == 0
        })
        .await;
        pairs.push(gateway.pair(WebSocket, WebSocket).await);
    }
    let before = stats().await["bytes_total"].as_u64().unwrap();
    assert_eq!(before, 0);
    let (mut first, mut second) = pairs.pop().unwrap();
    first.send(&[0; 100]).await;
    second.receive().await;
    assert_eq!(stats().await["bytes_total"], 106);
    drop((first, second));
    let active = pairs.len();
    eventually("it is over", async || stats().await["relays_active"] == active).await;
    // A WebSocket's Close frame may have been counted.
    assert!(stats().await["bytes_total"].as_u64() >= Some(106));
    let now = stats().await;
    assert_eq!(now["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&now["draining"], &now["open_relay"]), (&false.into(), &true.into()));
    assert!(now["uptime_seconds"].as_f64() > Some(0.0));
    assert!(now["started"].as_str().unwrap().parse::<Timestamp>().is_ok());
}

#[tokio::test]
async fn what_does_not_exist_is_said_in_full() {
    let gateway = TestGateway::start().await;
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/api/v1/nothing", "/api/v1", "/api/v1/", "/api/v1/relays/a/b", "/api", "/api/v2"]
    {
        let answer = gateway.request("GET", path, &token).await;
        is_problem(&answer, 404);
        let named = format!("at {path};");
        assert!(answer.body.contains(&named), "{named} in {}", answer.body);
    }
    for (method, path, allow) in [
        ("POST", "/api/v1/relays", "GET"),
        ("PUT", "/api/v1/relays", "GET"),
        ("PUT", "/api/v1/relays/x", "DELETE"),
        ("DELETE", "/api/v1/stats", "GET"),
        ("POST", "/api/v1/waiting", "GET"),
        ("POST", "/metrics", "GET"),
        ("POST", "/healthz", "GET"),
        ("DELETE", "/readyz", "GET"),
    ] {
        let answer = gateway.request(method, path, &token).await;
        is_problem(&answer, 405);
        assert!(answer.headers["allow"].contains(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn a_listener_of_its_own_takes_the_admin_off_the_front_door() {
    let gateway = TestGateway::start_with(|config| {
        config.admin.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    })
    .await;
    assert_ne!(gateway.addr, gateway.admin_addr);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in API {
        is_problem(&http(gateway.addr, "GET", path, &token).await, 404);
        is_problem(&http(gateway.admin_addr, "GET", path, "").await, 401);
    }
    assert_eq!(gateway.get("/api/v1/stats").await.status, 200);
    assert_eq!(gateway.get("/metrics").await.status, 200);
    for addr in [gateway.addr, gateway.admin_addr] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(http(addr, "GET", path, "").await.status, 200);
        }
    }
    // There it is a path like any other: a leg.
    let mut wire = Wire::connect(gateway.addr).await;
    wire.send(upgrade_request("/api/v1/relays")).await;
    wire.upgraded().await;
    // Nor does the admin's listener take legs.
    let mut wire = Wire::connect(gateway.admin_addr).await;
    wire.send(upgrade_request("/")).await;
    is_problem(&wire.answer().await, 404);
    let relay = request_relay("uuid", "", "", ConnType::Default);
    let mut wire = Wire::connect(gateway.admin_addr).await;
    wire.send(crate::by_hand::opening(Tcp, &relay)).await;
    let said = String::from_utf8(wire.rest().await).unwrap();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
}

/// The token that is made when none is set lets one in, and is not the same twice.
#[tokio::test]
async fn a_token_is_made_where_none_is_set() {
    use mini_rust_desk_relay_server::{config::Config, gateway::Gateway};
    let dir = tempfile::tempdir().unwrap();
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let gateway = Gateway::bind(Config { listen, ..Config::default() }, dir.path()).unwrap();
        let token = gateway.generated_token().unwrap().expose().to_owned();
        let (addr, shutdown) = (gateway.addrs()[0], gateway.shutdown().clone());
        let running = tokio::spawn(gateway.run());
        let headers = format!("Authorization: Bearer {token}\r\n");
        assert_eq!(http(addr, "GET", "/api/v1/stats", &headers).await.status, 200);
        assert_eq!(http(addr, "GET", "/api/v1/stats", "").await.status, 401);
        shutdown.end();
        tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
        tokens.push(token);
    }
    assert_eq!(tokens[0].len(), 64);
    assert_ne!(tokens[0], tokens[1]);
}
