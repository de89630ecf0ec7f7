//! Whole gateways on the wire: within TLS, with a secret of their own, and with clocks of their own.

use std::process::Command;

use mini_rust_desk_relay_server::{
    config::{Config, Secret},
    wire::Transport::Tcp,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::tls::Authority;
use crate::{
    cluster::{
        redis::Redis,
        support::{Cluster, Processes, started_by},
    },
    process::PROGRAM,
    requirement,
    support::{Client, eventually, unique},
    tls::{Io, Kind},
};

/// Two nodes that show each other certificates, whose files are changed on the way.
#[tokio::test]
async fn within_tls_legs_of_every_kind_meet_and_a_changed_certificate_is_taken_up() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let files = before.files("relay-node", &before, false);
    let dir = files.0.path().to_owned();
    let configure = |config: &mut Config| {
        config.cluster.tls.cert = dir.join("cert.pem");
        config.cluster.tls.key = dir.join("key.pem");
        config.cluster.tls.ca = dir.join("ca.pem");
    };
    let cluster = Cluster::start_with(2, |_, config| configure(config));
    let Some(mut cluster) = cluster.await else { return };
    for (first, second) in Kind::ALL.into_iter().flat_map(|one| Kind::ALL.map(|two| (one, two))) {
        let mut pair = cluster.pair((0, first), (1, second)).await;
        for message in [&b"one way"[..], &[7; 200_000]] {
            pair.first.send(message).await;
            assert_eq!(pair.second.receive().await.as_deref(), Some(message));
            pair.second.send(message).await;
            assert_eq!(pair.first.receive().await.as_deref(), Some(message));
        }
        if first.is_websocket() || second.is_websocket() {
            pair.first.finish().await;
            assert_eq!(pair.second.receive().await, None, "{first:?} {second:?}");
            continue;
        }
        let (first, second) = (pair.first.io(), pair.second.io());
        tokio::join!(sends_and_ends(first, 1, 2), sends_and_ends(second, 2, 1));
    }
    let mut pair = cluster.pair((0, Kind::Tcp), (1, Kind::Tcp)).await;
    // An authority of which no node has heard yet: the new one knows no other.
    after.write(&files, "relay-node", &after, false);
    cluster.nodes.push(Cluster::node(&cluster.redis, 2, &configure).await);
    for other in [0, 1] {
        // Either may have it by the time that the two speak with each other.
        let uuid = unique("after");
        let mut first = cluster.leg(2, Kind::Tcp, &uuid).await;
        let mut second = cluster.leg(other, Kind::Ws, &uuid).await;
        first.send(b"after").await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"after"[..]));
    }
    pair.first.send(b"before").await;
    assert_eq!(pair.second.receive().await.as_deref(), Some(&b"before"[..]));
    drop(pair);
    cluster.until_quiet().await;
}

/// Much each way at once, and each way ends by itself: the second long after the first.
async fn sends_and_ends(io: Box<dyn Io>, mine: u8, theirs: u8) {
    const LEN: usize = 4 << 20;
    let (mut reading, mut writing) = tokio::io::split(io);
    let (mut received, mine) = (vec![0; LEN], vec![mine; LEN]);
    let (sent, got) = tokio::join!(writing.write_all(&mine), reading.read_exact(&mut received));
    sent.expect("the relay reads");
    got.expect("all that was sent");
    assert!(received.iter().all(|byte| *byte == theirs));
    if mine[0] == 1 {
        writing.shutdown().await.expect("the relay reads");
    } else {
        assert_eq!(reading.read(&mut received).await.expect("an end in order"), 0);
        writing.write_all(&mine).await.expect("the other way goes on");
        return writing.shutdown().await.expect("the relay reads");
    }
    reading.read_exact(&mut received).await.expect("all that was sent after the end");
    assert_eq!(reading.read(&mut received).await.expect("an end in order"), 0);
}

/// What it cannot hand over it still pairs at home, and both nodes say what is wrong.
#[tokio::test]
async fn a_node_with_another_secret_pairs_its_own_and_is_told_of() {
    let cluster = Cluster::start_with(2, |node, config| {
        if node == 1 {
            config.cluster.secret = Secret::new("another secret of 32 characters!");
        }
    });
    let Some(cluster) = cluster.await else { return };
    let uuid = unique("secret");
    let mut waits = cluster.leg(0, Kind::Tcp, &uuid).await;
    cluster.until_claimed(0, &uuid).await;
    let comes = cluster.leg(1, Kind::Ws, &uuid).await;
    let series = "relay_rejected_total{reason=\"node_secret\"}";
    eventually("a node is refused", async || {
        cluster[0].metric(series).await + cluster[1].metric(series).await > 0.0
    })
    .await;
    // Neither is refused: a peer that lands where one waits is a peer.
    let mut peer = cluster.leg(0, Kind::Ws, &uuid).await;
    waits.send(b"at home").await;
    assert_eq!(peer.receive().await.as_deref(), Some(&b"at home"[..]));
    drop((waits, peer, comes));
    cluster.until_quiet().await;
}

/// Nodes whose clocks are hours and years apart from each other's, and from Redis'.
#[tokio::test]
async fn nodes_with_different_clocks_hand_over_to_each_other() {
    let Some(faketime) = requirement::program("faketime", "apt-get install faketime") else {
        return;
    };
    let Some(redis) = Redis::start().await else { return };
    let mut nodes = Vec::new();
    for (n, offset) in ["-7h", "+5h", "+3y"].iter().enumerate() {
        let mut command = Command::new(&faketime);
        command.args(["-f", offset, PROGRAM]).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        nodes.push(started_by(command, &redis, n, "").await);
    }
    let year = |line: &str| line.get(..4).and_then(|year| year.parse::<i16>().ok());
    let (now, then) = (jiff::Timestamp::now().to_string(), nodes[2].log());
    assert!(year(&then[0]) >= year(&now).map(|year| year + 2), "{then:?} is no other time");
    let nodes = Processes::of(redis, nodes);
    for (holder, other) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
        let mut pair = nodes.clients((holder, Tcp), (other, Tcp)).await;
        talk(&mut pair.first, &mut pair.second).await;
    }
}

async fn talk(first: &mut Client, second: &mut Client) {
    first.send(b"a question").await;
    assert_eq!(second.receive().await.as_deref(), Some(&b"a question"[..]));
    second.send(b"an answer").await;
    assert_eq!(first.receive().await.as_deref(), Some(&b"an answer"[..]));
}
