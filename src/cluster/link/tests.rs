//! Two nodes over real sockets, and whoever gets between them.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    cluster::directory::Instance,
    net::{
        listener::{ConnectionLimit, Listener},
        refusals::Refusals,
    },
};

const SECRET: &str = "a secret of 32 characters or more";
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients that may be connected.
const FEW: usize = 10;

fn links(instance: u64, address: &str, secret: &str) -> Links {
    let node = Node {
        instance: Instance(instance),
        name: format!("node-{instance}").into(),
        address: address.into(),
    };
    let liveness = Liveness::new(PATIENCE, PATIENCE);
    Links::new(Arc::new(node), &Secret::new(secret), None, PATIENCE, liveness).unwrap()
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
    assert!(matches!(accepted.unwrap_err(), LinkError::OnlyLooked));
}

/// A door that tells who came in, and where it is; few clients may be at the others.
fn door(patience: Duration) -> (Links, Arc<Node>, mpsc::UnboundedReceiver<Visit>) {
    let liveness = Liveness::new(PATIENCE, PATIENCE);
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), liveness).unwrap();
    let address = listener.addr().to_string();
    let mut host = links(1, &address, SECRET);
    host.timeout = patience;
    let metrics = Arc::new(crate::metrics::start().unwrap().0);
    let refusals = Refusals::new(Arc::clone(&metrics));
    let clients = ConnectionLimit::new(FEW, metrics, Arc::clone(&refusals));
    let (me, (came, visits)) = (Arc::clone(&host.me), mpsc::unbounded_channel());
    let door = Door::new(Arc::new(host), &clients, refusals, TaskTracker::new().into());
    let serve = move |visit| {
        let _ = came.send(visit);
        std::future::ready(())
    };
    tokio::spawn(Arc::new(door).accept_until(listener, CancellationToken::new(), serve));
    (links(2, "127.0.0.1:9", SECRET), me, visits)
}

/// More of them than may be there, and none says a word.
#[tokio::test]
async fn a_flood_of_strangers_keeps_no_node_out() {
    let (caller, host, mut visits) = door(Duration::from_secs(60));
    let mut strangers = Vec::new();
    for round in 0..3 {
        for _ in 0..400 {
            strangers.push(tokio::net::TcpStream::connect(&*host.address).await.unwrap());
        }
        let mut link = caller.dial(&host, Purpose::Leg).await.unwrap();
        link.send(&Go {}).await.unwrap();
        let mut visit = visits.recv().await.unwrap();
        visit.link.receive::<Go>().await.unwrap();
        assert_eq!(&*visit.node.name, "node-2", "{round}");
    }
    // The first of them had to go, and were told nothing but the greeting.
    let mut heard = Vec::new();
    tokio::time::timeout(PATIENCE, strangers[0].read_to_end(&mut heard)).await.unwrap().unwrap();
    assert!(heard.len() < 100);
}

/// Nor does it take more descriptors than it may, and others that come meanwhile are only put off.
#[tokio::test]
async fn a_node_that_does_not_stop_connecting_gets_so_many_connections_and_no_more() {
    let (caller, host, mut visits) = door(PATIENCE);
    let mut open = Vec::new();
    for _ in 0..FEW + NODES_RESERVE {
        let mut link = caller.dial(&host, Purpose::Leg).await.unwrap();
        link.send(&Go {}).await.unwrap();
        open.push((link, visits.recv().await.unwrap()));
    }
    for _ in 0..3 {
        let fault = caller.dial(&host, Purpose::Leg).await.unwrap_err();
        assert!(!matches!(fault, LinkError::TimedOut), "it hears that at once");
    }
    // Nobody who is let in gives way.
    let (mut link, mut visit) = open.swap_remove(0);
    visit.link.receive::<Go>().await.unwrap();
    visit.link.send(&Verdict::here()).await.unwrap();
    assert!(link.receive::<Verdict>().await.unwrap() == Verdict::here());
    drop((link, visit));
    let mut link = caller.dial(&host, Purpose::Leg).await.unwrap();
    link.send(&Go {}).await.unwrap();
    visits.recv().await.unwrap();
}

#[tokio::test]
async fn whoever_says_nothing_or_too_much_or_too_slowly_is_sent_away_in_time() {
    let (_caller, host, mut visits) = door(Duration::from_millis(200));
    for said in [&b""[..], b"\0\x40\x02", b"\xff\xff\x02", b"GET / HTTP/1.1\r\n\r\n", b"\0\x01\x09"]
    {
        let mut stranger = tokio::net::TcpStream::connect(&*host.address).await.unwrap();
        stranger.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        // A reset, where something was left unread.
        let _ = tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut heard)).await.unwrap();
        assert!(heard.len() < 100, "{said:?}");
    }
    assert!(visits.try_recv().is_err());
}

/// What a later release might want to know besides.
#[derive(Clone, PartialEq, prost::Message)]
struct LaterWant {
    #[prost(string, tag = "1")]
    uuid: String,
    #[prost(bytes = "vec", tag = "900")]
    more: Vec<u8>,
}

#[tokio::test]
async fn releases_that_are_one_apart_hand_over_both_ways() {
    for later_is_host in [true, false] {
        let (listener, mut host, mut caller) = nodes([SECRET; 2]).await;
        let later = if later_is_host { &mut host } else { &mut caller };
        later.versions = 1..=2;
        let hosting = async {
            let (mut link, _, peer) = host.accept(next(&listener).await).await.unwrap();
            assert_eq!(peer.version, 1);
            let want: Want = link.receive().await.unwrap();
            link.send(&Verdict::here()).await.unwrap();
            link.receive::<Go>().await.unwrap();
            want
        };
        let calling = async {
            let mut link = caller.dial(&host.me, Purpose::Leg).await.unwrap();
            let want = LaterWant { uuid: "a name".into(), more: vec![7; 1000] };
            link.send(&want).await.unwrap();
            assert!(link.receive::<Verdict>().await.unwrap() == Verdict::here());
            link.send(&Go {}).await.unwrap();
            link
        };
        let (want, _link) = tokio::join!(hosting, calling);
        assert_eq!(want.uuid, "a name");
    }
}
