//! One view over all nodes: whichever is asked answers for them all, or has another one answer.

use mini_rust_desk_relay_server::wire::Transport::{Tcp, WebSocket};

use crate::support::{TOKEN, TestGateway};

#[tokio::test]
async fn a_node_without_others_is_the_whole_cluster() {
    let gateway = TestGateway::start_with(|config| config.cluster.node = "only".into()).await;
    let _pair = gateway.named_pair("single", Tcp, WebSocket).await;
    let relays = gateway.get("/api/v1/relays?scope=cluster&sort=-age&limit=5").await.json();
    assert_eq!(relays["total"], 1);
    assert_eq!(relays["limit"], 5);
    assert_eq!(relays["partial"], false);
    assert_eq!(relays["items"][0]["node"], "only");
    assert_eq!(relays["items"][0]["uuid"], "single");
    for path in ["waiting", "addresses", "blocklist", "throttlelist", "keys", "nodes"] {
        let answer = gateway.get(&format!("/api/v1/{path}?scope=cluster")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(answer.json()["items"].is_array(), "{path}: {}", answer.body);
    }
    let stats = gateway.get("/api/v1/stats?scope=cluster").await.json();
    assert_eq!(stats["relays_active"], 1);
    assert_eq!(stats["nodes"][0]["node"], "only");
    assert_eq!(gateway.get("/api/v1/stats?node=only").await.json()["relays_active"], 1);
    assert_eq!(gateway.get("/api/v1/stats?scope=node").await.json()["relays_active"], 1);
    let bandwidth = gateway.get("/api/v1/bandwidth?scope=cluster").await.json();
    assert_eq!(bandwidth["nodes"][0]["node"], "only");
    let nodes = gateway.get("/api/v1/nodes").await.json();
    assert_eq!(nodes["total"], 1);
    let node = &nodes["items"][0];
    assert_eq!((&node["name"], &node["this"]), (&"only".into(), &true.into()));
    assert_eq!(node["relays_active"], 1);
    let metrics = gateway.get("/metrics?scope=cluster").await;
    assert!(metrics.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    for line in [
        "relay_cluster_node_up{node=\"only\"} 1",
        "relay_active_relays{node=\"only\",transport=\"mixed\"} 1",
    ] {
        assert!(metrics.body.lines().any(|said| said == line), "{line} in {}", metrics.body);
    }
    let shown = gateway.get("/api/v1/relays/single?scope=cluster").await.json();
    assert_eq!(shown["node"], "only");
    let close = async |query: &str| {
        let headers = format!("Authorization: Bearer {TOKEN}\r\n");
        gateway.request("DELETE", &format!("/api/v1/relays{query}"), &headers).await
    };
    let closed = close("/single?scope=cluster").await.json();
    assert_eq!((&closed["closed"], &closed["by_node"]["only"]), (&1.into(), &1.into()));
    gateway.until_metric("relay_ends_total{reason=\"admin\"}", 1.0).await;
    assert_eq!(close("/single?scope=cluster").await.status, 404);
    assert_eq!(close("?key=none&scope=cluster").await.json()["closed"], 0);
}

#[tokio::test]
async fn what_cannot_be_asked_of_others_is_told() {
    let gateway = TestGateway::start_with(|config| config.cluster.node = "only".into()).await;
    for (path, status, part) in [
        ("/api/v1/relays?node=other", 404, "there is only"),
        ("/api/v1/relays?node=only&scope=cluster", 400, "leave one of them out"),
        ("/api/v1/relays?scope=all", 400, "scope"),
        ("/api/v1/relays?scope=cluster&offset=9999", 400, "10000"),
        ("/api/v1/relays?scope=cluster&offset=18446744073709551615", 400, "10000"),
        ("/api/v1/relays?scope=cluster&limit=1001", 400, "limit"),
        ("/api/v1/relays?scope=cluster&nothing=1", 400, "nothing"),
        ("/api/v1/relays/none?scope=cluster", 404, "no active relay of any node"),
        ("/api/v1/nothing?scope=cluster", 400, "node=NAME"),
        ("/api/v1/nothing?node=only", 404, "nothing at"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(part), "{path}: {detail}");
    }
    let drain = gateway.post("/api/v1/drain?scope=cluster").await;
    assert_eq!(drain.status, 400, "{}", drain.body);
    let answer = gateway.request("GET", "/api/v1/relays?scope=cluster", "").await;
    assert_eq!(answer.status, 401);
    let answer = gateway.request("GET", "/api/v1/relays?node=other", "").await;
    assert_eq!(answer.status, 401);
}
