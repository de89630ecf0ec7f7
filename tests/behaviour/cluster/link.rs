//! Two nodes on the wire, and somebody who stands between them: what he records, changes, cuts or
//! plays again gets him nothing.

mod between;
mod gateways;
mod tls;

use std::{path::Path, sync::Arc, time::Duration};

use mini_rust_desk_relay_server::{
    cluster::{
        directory::{Instance, Node},
        link::{Door, Go, Link, LinkError, Links, Purpose, Verdict, Visit, Want},
    },
    config::{ClusterTlsConfig, Secret},
    metrics,
    net::{
        listener::{ConnectionLimit, Listener},
        liveness::Liveness,
        refusals::Refusals,
        stream::Stream,
        tls::mutual::MutualTls,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::between::{Between, Change, Way};
use crate::support::PATIENCE;

const SECRET: &str = "what all nodes know, 32 and more";

/// A node: it can be dialed, and dials.
struct TestNode {
    links: Arc<Links>,
    node: Arc<Node>,
    visits: mpsc::UnboundedReceiver<Visit>,
    refusals: Arc<Refusals>,
    stop: CancellationToken,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl TestNode {
    fn start(instance: u64) -> Self {
        Self::start_with(instance, SECRET, PATIENCE, None)
    }

    fn start_with(
        instance: u64,
        secret: &str,
        patience: Duration,
        tls: Option<(&ClusterTlsConfig, &Path)>,
    ) -> Self {
        let liveness = Liveness::new(PATIENCE, PATIENCE);
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(any, liveness).expect("a listener");
        let node = Arc::new(Node {
            instance: Instance(instance),
            name: format!("node-{instance}").into(),
            address: listener.addr().to_string().into(),
        });
        let tls = tls.and_then(|(tls, dir)| MutualTls::load(tls, dir).expect("certificates"));
        let secret = Secret::new(secret);
        let links = Links::new(Arc::clone(&node), &secret, tls, patience, liveness);
        let links = Arc::new(links.expect("keys"));
        let metrics = Arc::new(metrics::start().expect("metrics").0);
        let refusals = Refusals::new(Arc::clone(&metrics));
        let told = Arc::clone(&refusals);
        let clients = ConnectionLimit::new(1000, metrics, Arc::clone(&refusals));
        let door = Door::new(Arc::clone(&links), &clients, told, TaskTracker::new().into());
        let ((came, visits), stop) = (mpsc::unbounded_channel(), CancellationToken::new());
        let serve = move |visit| {
            let _ = came.send(visit);
            std::future::ready(())
        };
        tokio::spawn(Arc::new(door).accept_until(listener, stop.clone(), serve));
        Self { links, node, visits, refusals, stop }
    }

    /// As it is reached through somebody.
    fn through(&self, between: &Between) -> Arc<Node> {
        Arc::new(Node { address: between.addr.to_string().into(), ..(*self.node).clone() })
    }

    /// How many it has refused for a reason.
    fn refused(&self, reason: &str) -> u64 {
        self.refusals.totals().find(|(name, _)| *name == reason).expect("a reason").1
    }

    async fn until_refused(&self, reason: &str, count: u64) {
        crate::support::eventually(reason, async || self.refused(reason) >= count).await;
    }

    /// Nobody has come in.
    fn assert_alone(&mut self) {
        assert!(self.visits.try_recv().is_err(), "somebody was let in");
    }
}

/// A hand-over as the caller sees it, up to the stream.
async fn hand_over(caller: &Links, to: &Arc<Node>) -> Result<Stream, LinkError> {
    let mut link = caller.dial(to, Purpose::Leg).await?;
    let want = Want { uuid: "a name".into(), leg: 7, ..Want::default() };
    link.send(&want).await?;
    if link.receive::<Verdict>().await? != Verdict::here() {
        return Err(LinkError::Malformed);
    }
    link.send(&Go {}).await?;
    Ok(link.into_stream().0)
}

/// The same as the host sees it.
async fn take_over(mut link: Link) -> Result<(Stream, Vec<u8>), LinkError> {
    let want: Want = link.receive().await?;
    assert_eq!((&*want.uuid, want.leg), ("a name", 7), "what was not said was heard");
    link.send(&Verdict::here()).await?;
    link.receive::<Go>().await?;
    let (stream, early) = link.into_stream();
    Ok((stream, early.to_vec()))
}

/// Hosts one hand-over, and sees every byte cross both ways, each way ended by itself.
async fn hosted(visits: &mut mpsc::UnboundedReceiver<Visit>) {
    let visit = timeout(PATIENCE, visits.recv()).await.expect("in time").expect("a visit");
    assert_eq!((&*visit.node.name, visit.node.version), ("node-2", 1));
    let (mut stream, mut heard) = take_over(visit.link).await.expect("a hand-over");
    stream.read_to_end(&mut heard).await.expect("an end");
    stream.write_all(&heard).await.expect("room");
    stream.shutdown().await.expect("an end");
}

/// A whole hand-over of a leg that sends much, ends, and hears it again.
async fn crosses(caller: &Links, to: &Arc<Node>, host: &mut TestNode) {
    let bytes: Vec<u8> = (0..400_000_u32).map(|at| (at >> 2) as u8).collect();
    let calling = async {
        let mut stream = hand_over(caller, to).await.expect("a hand-over");
        stream.write_all(&bytes).await.expect("room");
        stream.shutdown().await.expect("an end");
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("all of it");
        heard
    };
    let (heard, ()) = timeout(PATIENCE, async { tokio::join!(calling, hosted(&mut host.visits)) })
        .await
        .expect("in time");
    assert!(heard == bytes);
}

#[tokio::test]
async fn a_recorded_hand_over_played_again_is_none() {
    let (mut host, mut other, caller) =
        (TestNode::start(1), TestNode::start(3), TestNode::start(2));
    let mut between = Between::start(&host.node.address, Change::None).await;
    crosses(&caller.links, &host.through(&between), &mut host).await;
    let [up, down] = between.recorded().await;
    assert!(up.len() > 400_000 && down.len() > 400_000);
    for node in [&mut host, &mut other] {
        let mut again = TcpStream::connect(&*node.node.address).await.unwrap();
        again.write_all(&up[..2000]).await.unwrap();
        node.until_refused("node_secret", 1).await;
        node.assert_alone();
    }
    // A host that has only heard one, and knows no secret.
    let fake = Between::play(down).await;
    let fault = hand_over(&caller.links, &host.through(&fake)).await.unwrap_err();
    assert!(matches!(fault, LinkError::NotAuthentic), "{fault}");
}

#[tokio::test]
async fn what_a_node_says_proves_nothing_when_it_is_said_back_to_it_or_to_another() {
    let (mut host, mut other, mut caller) =
        (TestNode::start(1), TestNode::start(3), TestNode::start(2));
    // Said back: the greeting is the host's, and every answer the caller's own.
    let between = Between::start(&host.node.address, Change::Reflect).await;
    let fault = hand_over(&caller.links, &host.through(&between)).await.unwrap_err();
    assert!(matches!(fault, LinkError::NotAuthentic | LinkError::Malformed), "{fault}");
    // Led to another node, or to itself.
    for node in [&mut other, &mut caller] {
        let between = Between::start(&node.node.address, Change::None).await;
        let to = host.through(&between);
        let links = Arc::clone(&node.links);
        let fault = hand_over(&links, &to).await.unwrap_err();
        assert!(matches!(fault, LinkError::OtherInstance), "{fault}");
        node.assert_alone();
    }
    host.assert_alone();
}

#[tokio::test]
async fn another_secret_is_refused_and_both_say_so() {
    let mut host = TestNode::start(1);
    let caller = TestNode::start_with(2, "another secret of 32 characters!", PATIENCE, None);
    let fault = hand_over(&caller.links, &host.node).await.unwrap_err();
    assert!(fault.to_string().contains("refused our secret"), "{fault}");
    host.until_refused("node_secret", 1).await;
    host.assert_alone();
}

/// What a conversation is cut to, or changed in: nobody panics, nobody is let in by it, and a leg
/// is only ever handed over in whole.
async fn never_handed_over(changes: impl Iterator<Item = Change>) {
    let mut host = TestNode::start_with(1, SECRET, Duration::from_millis(1500), None);
    let caller = TestNode::start_with(2, SECRET, Duration::from_millis(1500), None);
    let mut callers = JoinSet::new();
    for change in changes {
        let between = Between::start(&host.node.address, change).await;
        let (links, to) = (Arc::clone(&caller.links), host.through(&between));
        callers.spawn(async move {
            let called = hand_over(&links, &to).await;
            drop(between);
            (change, called.is_ok())
        });
    }
    let mut hosts = JoinSet::new();
    let mut calls = 0;
    while !callers.is_empty() {
        tokio::select! {
            Some(visit) = host.visits.recv() => { hosts.spawn(take_over(visit.link)); }
            Some(call) = callers.join_next() => {
                let (change, went) = call.expect("no panic");
                calls += 1;
                // What is cut or changed behind the caller's last word is for the host to find.
                assert!(!went || matches!(change.way(), Some(Way::Up)), "{change:?}");
            }
        }
    }
    assert!(calls > 100, "{calls}");
    while let Ok(visit) = host.visits.try_recv() {
        hosts.spawn(take_over(visit.link));
    }
    while let Some(hosted) = hosts.join_next().await {
        assert!(hosted.expect("no panic").is_err(), "a leg was handed over");
    }
}

/// How many bytes a conversation has, each way, up to the stream.
async fn lengths() -> [usize; 2] {
    let (mut host, caller) = (TestNode::start(1), TestNode::start(2));
    let mut between = Between::start(&host.node.address, Change::None).await;
    let to = host.through(&between);
    let calling = async { drop(hand_over(&caller.links, &to).await.expect("a hand-over")) };
    let hosting = async {
        let visit = host.visits.recv().await.expect("a visit");
        drop(take_over(visit.link).await.expect("a hand-over"));
    };
    tokio::join!(calling, hosting);
    between.recorded().await.map(|bytes| bytes.len())
}

#[tokio::test]
async fn a_conversation_that_is_cut_at_any_byte_hands_nothing_over() {
    let [up, down] = lengths().await;
    let cut = |way| move |at| Change::Cut { way, at };
    never_handed_over((0..up).map(cut(Way::Up)).chain((0..down).map(cut(Way::Down)))).await;
}

#[tokio::test]
async fn a_conversation_that_is_changed_at_any_byte_hands_nothing_over() {
    let [up, down] = lengths().await;
    let flip = |way| move |at| Change::Flip { way, at };
    never_handed_over((0..up).map(flip(Way::Up)).chain((0..down).map(flip(Way::Down)))).await;
}

#[tokio::test]
async fn who_sends_a_byte_now_and_then_is_not_waited_for_beyond_the_deadline() {
    let mut host = TestNode::start_with(1, SECRET, Duration::from_millis(300), None);
    let mut slow = TcpStream::connect(&*host.node.address).await.unwrap();
    let trickle = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        // The beginning of a hello that is as long as one may be.
        let bytes = [&[16, 0, 2][..], &[0; 4000]].concat();
        for byte in bytes {
            ticks.tick().await;
            if slow.write_all(&[byte]).await.is_err() {
                return;
            }
        }
        panic!("it was borne");
    };
    timeout(PATIENCE, trickle).await.expect("it is sent away");
    host.until_refused("timeout", 1).await;
    host.assert_alone();
}
