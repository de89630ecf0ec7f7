//! One view over all nodes: whichever is asked answers for them all, or has another one answer.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config::Config,
    wire::Transport::{Tcp, WebSocket},
};
use rustix::process::Signal;
use serde_json::Value;

use super::support::{Cluster, Processes, name};
use crate::{
    process::PROGRAM,
    requirement::program,
    support::{Answer, TOKEN, TestGateway, eventually},
};

/// A heartbeat that is not waited for long.
pub(super) fn beats(config: &mut Config) {
    config.cluster.heartbeat = "100ms".parse().expect("a duration");
}

/// Every node knows so many.
pub(super) async fn until_known(nodes: &[&TestGateway], count: usize) {
    for node in nodes {
        eventually("the nodes know each other", async || {
            let stats = node.get("/api/v1/stats?scope=cluster").await.json();
            stats["nodes"].as_array().is_some_and(|nodes| nodes.len() == count)
        })
        .await;
    }
}

/// Nodes that know each other.
async fn known(count: usize) -> Option<Cluster> {
    let cluster = Cluster::start_with(count, |_, config| beats(config)).await?;
    let nodes: Vec<_> = (0..count).map(|n| &cluster[n]).collect();
    until_known(&nodes, count).await;
    Some(cluster)
}

async fn delete(gateway: &TestGateway, path: &str) -> Answer {
    gateway.request("DELETE", path, &format!("Authorization: Bearer {TOKEN}\r\n")).await
}

fn column(answer: &Answer, field: &str) -> Vec<String> {
    let items = answer.json()["items"].as_array().expect("a list").clone();
    items.iter().map(|item| item[field].as_str().expect("text").to_owned()).collect()
}

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
        let detail = answer.json()["detail"].as_str().expect("it is so").to_owned();
        assert!(detail.contains(part), "{path}: {detail}");
    }
    let drain = gateway.post("/api/v1/drain?scope=cluster").await;
    assert_eq!(drain.status, 400, "{}", drain.body);
    let answer = gateway.request("GET", "/api/v1/relays?scope=cluster", "").await;
    assert_eq!(answer.status, 401);
    let answer = gateway.request("GET", "/api/v1/relays?node=other", "").await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn whichever_node_is_asked_answers_for_all() {
    let Some(cluster) = known(3).await else { return };
    let uuids = ["view-c", "view-a", "view-b", "view-d"];
    let mut pairs = Vec::new();
    for (uuid, node) in uuids.iter().zip([0, 1, 2, 1]) {
        pairs.push(cluster[node].named_pair(uuid, Tcp, WebSocket).await);
    }
    for asked in 0..3 {
        let node = &cluster[asked];
        let all = node.get("/api/v1/relays?scope=cluster&sort=uuid").await;
        assert_eq!(column(&all, "uuid"), ["view-a", "view-b", "view-c", "view-d"], "{}", all.body);
        assert_eq!(column(&all, "node"), ["node-1", "node-2", "node-0", "node-1"]);
        assert_eq!(all.json()["partial"], false);
        let mut paged = Vec::new();
        for offset in 0..5 {
            let path = format!("/api/v1/relays?limit=1&scope=cluster&sort=-age&offset={offset}");
            let page = node.get(&path).await;
            assert_eq!(page.json()["total"], 4);
            paged.extend(column(&page, "uuid"));
        }
        assert_eq!(paged, uuids, "the oldest first");
        let of_two = node.get("/api/v1/relays?node=node-2").await;
        assert_eq!(column(&of_two, "uuid"), ["view-b"]);
        let stats = node.get("/api/v1/stats?scope=cluster").await.json();
        assert_eq!(stats["relays_active"], 4, "{stats}");
        assert_eq!(stats["nodes"][1]["relays_active"], 2, "{stats}");
        let shown = node.get("/api/v1/relays/view-b?scope=cluster").await.json();
        assert_eq!(shown["node"], "node-2");
        let nodes = node.get("/api/v1/nodes").await;
        assert_eq!(column(&nodes, "name"), ["node-0", "node-1", "node-2"]);
        let nodes = nodes.json()["items"].as_array().expect("it is so").clone();
        let this: Vec<_> = nodes.iter().map(|node| node["this"] == true).collect();
        assert_eq!(this, [0, 1, 2].map(|node| node == asked));
        eventually("each has said what it counts", async || {
            let nodes = node.get("/api/v1/nodes").await.json();
            [1, 2, 1]
                == [0, 1, 2]
                    .map(|at| nodes["items"][at]["relays_active"].as_u64().expect("it is so"))
        })
        .await;
    }
    let metrics = cluster[1].get("/metrics?scope=cluster").await.body;
    for node in 0..3 {
        let line = format!("relay_cluster_node_up{{node=\"{}\"}} 1", name(node));
        assert!(metrics.lines().any(|said| said == line), "{line} in {metrics}");
    }
    has_nothing_to_object(&metrics);
}

/// What `promtool` thinks of it.
fn has_nothing_to_object(metrics: &str) {
    let Some(promtool) = program("promtool", ".ci/install unpacks it") else { return };
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is so");
    child.stdin.take().expect("it is so").write_all(metrics.as_bytes()).expect("it is so");
    let done = child.wait_with_output().expect("it is so");
    let said = [done.stdout, done.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "", "{}", done.status);
}

#[tokio::test]
async fn a_leg_that_is_carried_is_shown_where_it_landed_and_where_it_is_relayed() {
    let Some(cluster) = known(2).await else { return };
    let pair = cluster.clients((0, Tcp), (1, WebSocket)).await;
    let relay = cluster[1].get(&format!("/api/v1/relays/{}?scope=cluster", pair.uuid)).await.json();
    assert_eq!((&relay["node"], &relay["via"]), (&"node-0".into(), &"node-1".into()), "{relay}");
    assert_eq!(relay["legs"][1]["transport"], "websocket");
    let mut carried = Value::Null;
    eventually("it is carried", async || {
        carried = cluster[0].get("/api/v1/carried?scope=cluster").await.json();
        carried["total"] == 1
    })
    .await;
    let leg = &carried["items"][0];
    assert_eq!((&leg["node"], &leg["via"]), (&"node-1".into(), &"node-0".into()), "{carried}");
    assert_eq!(leg["uuid"], *pair.uuid);
    assert_eq!(leg["legs"][0]["address"], relay["legs"][1]["address"], "the client's own");
    // It is one relay, of the node that relays it.
    let stats = cluster[0].get("/api/v1/stats?scope=cluster").await.json();
    assert_eq!(stats["relays_active"], 1, "{stats}");
    let path = format!("/api/v1/relays/{}?scope=cluster", pair.uuid);
    let closed = delete(&cluster[1], &path).await;
    assert_eq!(closed.json()["by_node"]["node-0"], 1);
    drop(pair);
    eventually("nothing is carried any more", async || {
        cluster[1].get("/api/v1/carried").await.json()["total"] == 0
    })
    .await;
}

#[tokio::test]
async fn a_relay_is_changed_and_closed_wherever_it_is() {
    let Some(cluster) = known(3).await else { return };
    let _pair = cluster[2].named_pair("anywhere", Tcp, Tcp).await;
    let change = async |query: &str| {
        let body = "{\"bandwidth\": \"8Mbit/s\"}";
        let headers =
            format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
        let path = format!("/api/v1/relays/anywhere?{query}");
        crate::support::http_with_body(cluster[0].admin_addr, "PATCH", &path, &headers, body).await
    };
    for query in ["scope=cluster", "node=node-2"] {
        assert_eq!(change(query).await.json()["bandwidth"], "8Mbit/s", "{query}");
    }
    assert_eq!(change("node=node-1").await.status, 404);
    assert_eq!(delete(&cluster[0], "/api/v1/relays/anywhere").await.status, 404);
    assert_eq!(delete(&cluster[0], "/api/v1/relays/anywhere?node=node-1").await.status, 404);
    let closed = delete(&cluster[0], "/api/v1/relays/anywhere?scope=cluster").await.json();
    assert_eq!(closed["by_node"]["node-2"], 1, "{closed}");
    cluster[2].until_metric("relay_ends_total{reason=\"admin\"}", 1.0).await;
    let _pair = cluster[1].named_pair("there", Tcp, Tcp).await;
    assert_eq!(delete(&cluster[0], "/api/v1/relays/there?node=node-1").await.json()["closed"], 1);
    // One node drains, by another's hand.
    // Who means another node, and writes that in a way that is not known, changes nothing here.
    for path in ["drain", "reload", "upgrade", "blocklist"] {
        for query in ["nodes=node-1", "%6eode=node-1", "Scope=cluster"] {
            let answer = cluster[0].post(&format!("/api/v1/{path}?{query}")).await;
            assert_eq!(answer.status, 400, "{path}?{query}: {}", answer.body);
        }
    }
    assert_eq!(cluster[0].get("/api/v1/stats").await.json()["draining"], false);
    let drain = cluster[0].post("/api/v1/drain?node=node-1").await;
    assert_eq!(drain.status, 202, "{}", drain.body);
    cluster[1].shutdown.asked().cancelled().await;
    assert!(!cluster[0].shutdown.asked().is_cancelled());
}

/// What of all is missing, and how long the answer took.
async fn partial(gateway: &TestGateway) -> (Value, Duration) {
    let began = Instant::now();
    let answer = gateway.get("/api/v1/relays?scope=cluster&sort=uuid").await.json();
    (answer, began.elapsed())
}

#[tokio::test]
async fn without_a_frozen_and_a_killed_node_the_answer_comes_in_time_and_says_so() {
    let beats = "[cluster]\nheartbeat = \"2s\"\n";
    let Some(mut nodes) = Processes::start_with(4, beats).await else { return };
    until_known(&[&nodes[0], &nodes[1], &nodes[2], &nodes[3]], 4).await;
    let mut pairs = Vec::new();
    for node in 0..4 {
        pairs.push(nodes[node].named_pair(&format!("part-{node}"), Tcp, Tcp).await);
    }
    nodes.nodes[2].signal(Signal::STOP);
    nodes.nodes[3].signal(Signal::KILL);
    nodes.nodes[3].ended().await;
    let (answer, took) = partial(&nodes[0]).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(answer["partial"], true, "{answer}");
    let missing: Vec<_> = answer["missing"].as_array().expect("it is so").iter().collect();
    assert_eq!(missing.iter().map(|node| &node["node"]).collect::<Vec<_>>(), ["node-2", "node-3"]);
    assert!(
        missing.iter().all(|node| !node["why"].as_str().expect("it is so").is_empty()),
        "{answer}"
    );
    assert_eq!(answer["total"], 2);
    assert_eq!(answer["items"][1]["uuid"], "part-1");
    let metrics = nodes[0].get("/metrics?scope=cluster").await.body;
    for line in
        ["relay_cluster_node_up{node=\"node-1\"} 1", "relay_cluster_node_up{node=\"node-2\"} 0"]
    {
        assert!(metrics.lines().any(|said| said == line), "{line} in {metrics}");
    }
    // The command line says so too, and succeeds.
    let listed = Command::new(PROGRAM)
        .args(["relays", "list", "--scope", "cluster", "--token", TOKEN, "--url"])
        .arg(format!("http://{}", nodes[0].admin_addr))
        .output()
        .expect("it is so");
    let (said, told) =
        (String::from_utf8_lossy(&listed.stdout), String::from_utf8_lossy(&listed.stderr));
    assert!(listed.status.success(), "{told}");
    assert!(said.starts_with("NODE") && said.contains("part-1"), "{said}");
    assert!(told.contains("partial: without the node node-2: "), "{told}");
    let gone = delete(&nodes[0], "/api/v1/relays/part-2?scope=cluster").await;
    assert_eq!(gone.status, 404);
    assert!(
        gone.json()["problems"][0].as_str().expect("it is so").starts_with("node-2: "),
        "{}",
        gone.body
    );
    nodes.nodes[2].signal(Signal::CONT);
    eventually("the frozen one is back, and the dead one is forgotten", async || {
        let (answer, _) = partial(&nodes[0]).await;
        answer["partial"] == false && answer["total"] == 3
    })
    .await;
}

#[tokio::test]
async fn without_redis_the_nodes_that_were_known_are_asked() {
    let Some(cluster) = known(2).await else { return };
    let _pair = cluster[1].named_pair("without", Tcp, Tcp).await;
    cluster.redis.stop();
    let (answer, _) = partial(&cluster[0]).await;
    assert_eq!((&answer["partial"], &answer["total"]), (&false.into(), &1.into()), "{answer}");
    let nodes = cluster[0].get("/api/v1/nodes").await.json();
    assert_eq!(nodes["items"][1]["name"], "node-1");
    assert_eq!(nodes["items"][1]["relays_active"], Value::Null);
}

/// As while one process takes over from another.
#[tokio::test]
async fn two_of_one_name_are_told_apart() {
    let twins = Cluster::start_with(2, |_, config| {
        beats(config);
        config.cluster.node = "twin".into();
    });
    let Some(cluster) = twins.await else { return };
    until_known(&[&cluster[0], &cluster[1]], 2).await;
    let _pair = cluster[1].named_pair("of-the-other", Tcp, Tcp).await;
    let nodes = cluster[0].get("/api/v1/nodes").await;
    let names = column(&nodes, "name");
    assert_eq!(names[0], "twin");
    let instance = nodes.json()["items"][1]["instance"].as_str().expect("text").to_owned();
    assert_eq!(names[1], format!("twin:{instance}"));
    let relays = cluster[0].get("/api/v1/relays?scope=cluster").await;
    assert_eq!(column(&relays, "node"), names[1..]);
    let path = format!("/api/v1/relays/of-the-other?node={}", names[1]);
    assert_eq!(cluster[0].get(&path).await.status, 200);
    assert_eq!(cluster[0].get("/api/v1/relays/of-the-other?node=twin").await.status, 404);
    has_nothing_to_object(&cluster[0].get("/metrics?scope=cluster").await.body);
}

#[tokio::test]
async fn the_command_line_lists_nodes_and_reaches_each() {
    let Some(cluster) = known(2).await else { return };
    let _pair = cluster[1].named_pair("by-command", Tcp, Tcp).await;
    let url = format!("http://{}", cluster[0].admin_addr);
    let run = async |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).args(["--token", TOKEN, "--url", &url]);
        let done = tokio::task::spawn_blocking(move || command.output()).await;
        let done = done.expect("no panic").expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.success(), text(&done.stdout), text(&done.stderr))
    };
    let (done, nodes, told) = run(&["nodes"]).await;
    assert!(done && told.is_empty(), "{told}");
    let lines: Vec<_> = nodes.lines().collect();
    assert!(lines[1].starts_with("node-0") && lines[1].contains("this"), "{nodes}");
    assert!(lines[2].starts_with("node-1") && lines[2].contains("ago"), "{nodes}");
    let (_, here, _) = run(&["relays", "list"]).await;
    assert_eq!(here, "0 of 0 relays\n");
    let (_, there, _) = run(&["relays", "list", "--node", "node-1"]).await;
    assert!(there.contains("by-command"), "{there}");
    let (done, _, told) = run(&["relays", "list", "--node", "node-7"]).await;
    assert!(!done && told.contains("there is no node of this name"), "{told}");
    let (_, shown, _) = run(&["relays", "show", "by-command", "--scope", "cluster"]).await;
    assert!(shown.starts_with("node ") && shown.contains("node-1"), "{shown}");
    let (done, closed, _) = run(&["relays", "close", "by-command", "--scope", "cluster"]).await;
    assert!(done, "{closed}");
    assert_eq!(closed, "closed 1 relay with the uuid by-command on node-1\n");
}
