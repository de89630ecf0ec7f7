//! Nodes that are not set up as they should be: what is said of it, and what is never said.

use std::process::Command;

use mini_rust_desk_relay_server::wire::{
    Transport::{Tcp, WebSocket},
    rendezvous::{ConnType, request_relay},
};

use super::{redis::Redis, support::SECRET};
use crate::{
    handover::talk,
    process::{PROGRAM, Process},
    support::{read_to_end, unique},
};

/// A node in a directory of its own with this `config.toml`, and a secret in a file.
async fn node(redis: &str, secret: &str, toml: &str) -> Process {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.toml"), toml).expect("a file");
    std::fs::write(dir.path().join("secret"), secret).expect("a file");
    let mut command = Command::new(PROGRAM);
    command
        .env("RELAY__CLUSTER__REDIS", redis)
        .env("RELAY__CLUSTER__LISTEN", "[\"127.0.0.1:0\"]")
        .env("RELAY__CLUSTER__SECRET_FILE", "secret");
    Process::start_by(command, dir, &["--admin-listen", "127.0.0.1:0"]).await
}

/// A node at this address, which it need not be reached at.
async fn at(redis: &Redis, name: &str, address: &str) -> Process {
    let toml = format!(
        "cluster.node = \"{name}\"\ncluster.advertise = \"{address}\"\ncluster.heartbeat = \"50ms\"\n"
    );
    node(&redis.url(), SECRET, &toml).await
}

#[tokio::test]
async fn two_nodes_of_one_address_or_one_name_are_told_of_once() {
    let Some(redis) = Redis::start().await else { return };
    let one = at(&redis, "one", "127.0.0.1:9").await;
    let same_address = at(&redis, "other", "127.0.0.1:9").await;
    let same_name = at(&redis, "one", "127.0.0.1:10").await;
    let line = one.line("is reached where this one is").await;
    assert!(line.contains("node=other address=127.0.0.1:9"), "{line}");
    assert!(line.contains("give each its own cluster.advertise"), "{line}");
    let line = one.line("has the name of this one").await;
    assert!(line.contains("give each its own cluster.node"), "{line}");
    same_address.line("is reached where this one is").await;
    same_name.line("has the name of this one").await;
    let told = one.log().iter().filter(|line| line.contains("another node")).count();
    assert_eq!(told, 2, "once each: {:?}", one.log());
}

/// By label: what it lets in at one node, it must at the other.
#[tokio::test]
async fn legs_whose_nodes_have_different_keys_are_both_refused_and_both_nodes_say_why() {
    let Some(redis) = Redis::start().await else { return };
    let key = |label: &str| format!("[[keys]]\nlabel = \"{label}\"\nkey = \"for-{label}\"\n");
    let toml = |name: &str, keys: &[&str]| {
        let keys: String = keys.iter().map(|label| key(label)).collect();
        format!("cluster.node = \"{name}\"\n{keys}")
    };
    let holds = node(&redis.url(), SECRET, &toml("holds", &["both"])).await;
    let comes = node(&redis.url(), SECRET, &toml("comes", &["both", "one"])).await;
    let leg = async |node: &Process, key: &str, uuid: &str| {
        let hello = request_relay(uuid, "", key, ConnType::Default);
        node.gateway.leg_with(Tcp, &hello).await
    };
    let uuid = unique("keys");
    let first = leg(&holds, "for-both", &uuid).await;
    redis.until_claimed("holds", &uuid).await;
    let second = leg(&comes, "for-one", &uuid).await;
    assert_eq!(read_to_end(&mut second.tcp()).await, b"");
    assert_eq!(read_to_end(&mut first.tcp()).await, b"");
    let said = holds.line("give all nodes the same keys").await;
    assert!(said.contains("node=comes key=\"one\""), "{said}");
    let said = comes.line("the node where its peer waits refuses it").await;
    assert!(said.contains("one") && said.contains("key_revoked"), "{said}");
    // With a key that both have, they meet.
    let uuid = unique("keys");
    let mut first = leg(&holds, "for-both", &uuid).await;
    redis.until_claimed("holds", &uuid).await;
    let mut second = leg(&comes, "for-both", &uuid).await;
    talk(&mut first, &mut second).await;
}

/// Whatever the level, and whoever asks.
#[tokio::test]
async fn no_secret_is_in_a_log_or_an_answer() {
    const SECRETS: [&str; 2] = ["known-to-nodes-and-to-nobody-else", "hunter-of-two"];
    let Some(redis) = Redis::start_with(&["--requirepass", SECRETS[1]]).await else { return };
    let url = format!("redis://:{}@{}", SECRETS[1], redis.addr);
    let toml = |name: &str| format!("cluster.node = \"{name}\"\nlog.level = \"trace\"\n");
    // An editor's newline is no part of it.
    let secrets = [SECRETS[0].to_owned(), format!("  {}\r\n", SECRETS[0])];
    let one = node(&url, &secrets[0], &toml("one")).await;
    let other = node(&url, &secrets[1], &toml("other")).await;
    one.gateway.until_metric("relay_cluster_nodes", 2.0).await;
    let uuid = unique("secret");
    let mut first = one.gateway.leg(Tcp, &uuid).await;
    let mut second = other.gateway.leg(WebSocket, &uuid).await;
    talk(&mut first, &mut second).await;
    redis.stop();
    one.line("Redis does not answer").await;
    let mut said = Vec::new();
    for node in [&one, &other] {
        let answers =
            ["/metrics", "/api/v1/nodes", "/api/v1/stats?scope=cluster", "/api/v1/keys", "/readyz"];
        for path in answers {
            said.push(node.gateway.get(path).await.body);
        }
        said.push(node.gateway.post("/api/v1/reload").await.body);
        said.extend(node.log());
        said.extend(node.stderr());
    }
    assert!(said.iter().any(|line| line.contains("DEBUG")), "it is all there");
    for text in &said {
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
}
