//! Two nodes over real sockets, and whoever gets between them.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::cluster::directory::Instance;

const SECRET: &str = "a secret of 32 characters or more";
const PATIENCE: Duration = Duration::from_secs(5);

fn links(instance: u64, address: &str, secret: &str) -> Links {
    let node = Node {
        instance: Instance(instance),
        name: format!("node-{instance}").into(),
        address: address.into(),
    };
    let liveness = Liveness::new(PATIENCE, PATIENCE);
    Links::new(Arc::new(node), &Secret::new(secret), PATIENCE, liveness).unwrap()
}

/// A host that listens, and the caller that knows it.
async fn nodes(secrets: [&str; 2]) -> (TcpListener, Links, Links) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, links(1, &address, secrets[0]), links(2, "127.0.0.1:9", secrets[1]))
}

async fn next(listener: &TcpListener) -> Stream {
    Stream::connected(listener.accept().await.unwrap().0)
}

type Accepted = Result<(Link, Purpose, Peer), LinkError>;

/// What comes of a call for both, once the caller has said something and heard an answer.
async fn call(
    (listener, host, caller): &(TcpListener, Links, Links),
    purpose: Purpose,
) -> (Accepted, Result<(Link, Verdict), LinkError>) {
    let hosting = async {
        let mut accepted = host.accept(next(listener).await).await?;
        let want: Want = accepted.0.receive().await?;
        assert_eq!(want.uuid, "a name");
        accepted.0.send(&Verdict::refused("relay_limit")).await?;
        Ok(accepted)
    };
    let calling = async {
        let mut link = caller.dial(&host.me, purpose).await?;
        link.send(&Want { uuid: "a name".into(), ..Want::default() }).await?;
        let verdict = link.receive().await?;
        Ok((link, verdict))
    };
    tokio::join!(hosting, calling)
}

#[tokio::test]
async fn two_nodes_meet_and_the_leg_behind_is_a_stream() {
    let nodes = nodes([SECRET; 2]).await;
    let (accepted, called) = call(&nodes, Purpose::Leg).await;
    let ((mut host, purpose, peer), (mut caller, verdict)) = (accepted.unwrap(), called.unwrap());
    assert_eq!(purpose, Purpose::Leg);
    assert_eq!((peer.instance, &*peer.name, peer.version), (Instance(2), "node-2", 1));
    assert!(verdict == Verdict::refused("relay_limit"));
    caller.send(&Go {}).await.unwrap();
    let (mut stream, read) = caller.into_stream();
    assert!(read.is_empty());
    stream.write_all(b"early").await.unwrap();
    host.receive::<Go>().await.unwrap();
    let (mut other, early) = host.into_stream();
    stream.write_all(b" and late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = early.to_vec();
    other.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"early and late");
    other.write_all(b"back").await.unwrap();
    drop(other);
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"back");
}

#[tokio::test]
async fn a_sealed_stream_carries_both_ways_and_ends_as_it_was_ended() {
    let nodes = nodes([SECRET; 2]).await;
    let (listener, host, caller) = &nodes;
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at >> 3) as u8).collect();
    let hosting = async {
        let (link, purpose, _) = host.accept(next(listener).await).await.unwrap();
        assert_eq!(purpose, Purpose::Api);
        let mut stream = link.into_sealed();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let calling = async {
        let link = caller.dial(&host.me, Purpose::Api).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(link.into_sealed());
        let saying = async {
            writer.write_all(&bytes).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (_, read) = tokio::join!(saying, reader.read_to_end(&mut heard));
        read.unwrap();
        heard
    };
    let ((), heard) = tokio::join!(hosting, calling);
    assert!(heard == bytes);
}

#[tokio::test]
async fn a_wrong_secret_is_found_by_both_and_named() {
    let nodes = nodes([SECRET, "another secret of as many characters"]).await;
    let (accepted, called) = call(&nodes, Purpose::Leg).await;
    let (host, caller) = (accepted.unwrap_err(), called.err().unwrap());
    assert!(matches!(host, LinkError::Unproved), "{host}");
    assert!(matches!(caller, LinkError::SecretRefused), "{caller}");
    for said in [host.to_string(), caller.to_string()] {
        assert!(said.contains("cluster.secret differs"), "{said}");
        assert!(!said.contains(SECRET) && !said.contains("another"), "{said}");
    }
}

#[tokio::test]
async fn a_node_that_was_started_anew_is_not_the_one_that_was_meant() {
    let (listener, host, caller) = nodes([SECRET; 2]).await;
    let before = Arc::new(Node { instance: Instance(99), ..(*host.me).clone() });
    let (accepted, called) =
        tokio::join!(async { host.accept(next(&listener).await).await }, async {
            caller.dial(&before, Purpose::Leg).await
        });
    assert!(matches!(called.unwrap_err(), LinkError::OtherInstance));
    assert!(matches!(accepted.unwrap_err(), LinkError::HungUp));
}
