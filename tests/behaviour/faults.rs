//! Clients that fail, in every way and at every step of their way: nothing is left of them, and
//! others do not notice.
//!
//! The relay is a process of its own, so that its descriptors and its memory are nobody else's.

mod fault;
mod soak;
mod step;

use std::net::Ipv4Addr;

use futures_util::{StreamExt as _, stream};
use mini_rust_desk_relay_server::wire::{
    Transport::{self, Tcp, WebSocket},
    rendezvous::{ConnType, request_relay},
};
use rustix::process::Signal;
use tokio::net::{TcpSocket, TcpStream};

use self::{
    fault::Fault,
    step::{Scene, Step},
};
use crate::{
    by_hand::opening,
    process::Process,
    support::{TestGateway, eventually, unique},
    tls::Identity,
};

/// Where those who fail come from, so that they have a limit of their own.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(127, 0, 8, 1);

/// Who is believed when it names a client, and the client that it names.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 8, 9);
const BEHIND_PROXY: &str = "192.0.2.7";

/// How many connections an address may have.
const CONNECTIONS: usize = 200;

/// So many cases at once: each has two connections at most.
const AT_ONCE: usize = 48;

/// What memory may vary by from round to round, in a build that was not made to be small. A tenth
/// of a KiB for each case of a round would be seen.
const MEMORY: u64 = 8 << 20;

/// The pool of pipes, both ends of each, and what each thread polls with.
const OTHERS: usize = 2 * 48 + 40;

/// One client's failure.
#[derive(Debug, Clone, Copy)]
struct Case {
    step: Step,
    fault: Fault,
    transport: Transport,
    /// Of its peer, if it has one by then.
    across: Transport,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for transport in [Tcp, WebSocket] {
            for step in Step::ALL.into_iter().filter(|step| step.exists_on(transport)) {
                let peers = if step.has_peer() { &[Tcp, WebSocket][..] } else { &[Tcp][..] };
                for &across in peers {
                    for fault in Fault::ALL {
                        cases.push(Self { step, fault, transport, across });
                    }
                }
            }
        }
        cases
    }

    async fn run(self, house: &House) {
        self.befall(self.step.reach(house, self.transport, self.across).await).await;
    }

    async fn befall(self, Scene { client, peer }: Scene) {
        // What a stalled leg does not read, somebody has to send.
        let floods = self.fault == Fault::Stalls;
        let its_end = peer.map(|peer| tokio::spawn(peer.until_its_end(floods)));
        let held = self.fault.befall(client, self.transport, its_end.is_some()).await;
        if let Some(its_end) = its_end {
            assert!(its_end.await.is_ok(), "{self:?}: its peer saw no end");
        }
        assert!(held.is_ok(), "{self:?}: it saw no end");
    }
}

/// A relay whose clients fail.
struct House {
    process: Process,
    identity: Identity,
}

impl House {
    async fn start(connections: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = format!(
            r#"
            [front_door]
            first_frame_timeout = "3s"
            [proxy]
            trusted = ["{PROXY}"]
            [access]
            exempt = ["127.0.0.1"]
            connections_per_address = {connections}
            connection_rate = 0
            [pairing]
            timeout = "4s"
            [relay]
            idle_timeout = "6s"
            write_timeout = "2s"
            [tls]
            cert = "cert.pem"
            key = "key.pem"
            [shutdown]
            drain_timeout = "1s"
            "#
        );
        std::fs::write(dir.path().join("config.toml"), settings).expect("a file");
        let admin = ["--admin-listen", "127.0.0.1:0"];
        let identity = Identity::new();
        identity.write(dir.path());
        Self { process: Process::start_in(dir, &admin).await, identity }
    }

    const fn gateway(&self) -> &TestGateway {
        &self.process.gateway
    }

    /// How many descriptors it has open.
    fn sockets_and_others(&self) -> (usize, usize) {
        let all = std::fs::read_dir(self.process.proc("fd")).expect("it runs");
        // One that is closed meanwhile is none.
        let links = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let (sockets, others): (Vec<_>, Vec<_>) =
            links.partition(|link| link.to_string_lossy().starts_with("socket:"));
        (sockets.len(), others.len())
    }

    async fn connect_from(&self, ip: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((ip, 0).into()).expect("an address of loopback's");
        let socket = socket.connect(self.gateway().addr).await.expect("the gateway accepts");
        socket.set_nodelay(true).expect("an option");
        socket
    }

    /// Every case once, many at a time; how many they were.
    async fn round(&self) -> usize {
        let cases = Case::all();
        let count = cases.len();
        let run = stream::iter(cases).for_each_concurrent(AT_ONCE, |case| case.run(self));
        run.await;
        self.gateway().until_quiet().await;
        count
    }

    /// Connections that an address may have, it still may have: all of them, and not one more.
    async fn has_every_place(&self, head: &[u8], from: Ipv4Addr) {
        let refusals = async || self.gateway().refusals("address_connections").await;
        let before = refusals().await;
        let mut held = Vec::new();
        for count in 0..=CONNECTIONS {
            assert_eq!(refusals().await, before, "refused with {count} open");
            let mut wire = self.connect_from(from).await;
            // Waiting legs: silent ones would be closed while this goes on.
            let hello = request_relay(&unique("place"), "", "", ConnType::Default);
            let bytes = [head, &opening(Tcp, &hello)].concat();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut wire, &bytes).await;
            held.push(wire);
            let opened = held.len().min(CONNECTIONS) as f64 + 1.0;
            self.gateway().until_metric("relay_connections_open", opened).await;
        }
        eventually("one too many is refused", async || refusals().await == before + 1.0).await;
        drop(held);
        self.gateway().until_quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_fails_wherever_nothing_is_left_of_it() {
    let house = House::start(CONNECTIONS).await;
    // What is made once and kept is made now.
    let count = house.round().await;
    assert!(count > 150, "only {count} cases");
    let (sockets, _) = house.sockets_and_others();
    let memory = house.process.memory();
    house.round().await;
    eventually("every socket is closed", async || house.sockets_and_others().0 == sockets).await;
    let (_, others) = house.sockets_and_others();
    assert!(others <= OTHERS, "{others} descriptors that are no sockets");
    house.has_every_place(b"", CLIENTS).await;
    house.has_every_place(&step::proxy_line(), PROXY).await;
    eventually("memory is given back", async || house.process.memory() <= memory + MEMORY).await;
    let aborted = house.gateway().metric("relay_ends_total{reason=\"aborted\"}").await;
    assert_eq!(aborted, 0.0, "a relay's task ended without saying why");
    let log = house.process.log();
    let faults: Vec<_> = log.iter().filter(|line| line.contains("ERROR")).collect();
    assert!(faults.is_empty() && house.process.stderr().is_empty(), "{faults:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_fails_while_it_drains_the_relay_ends_in_time() {
    let mut house = House::start(10 * CONNECTIONS).await;
    let reached = stream::iter(Case::all())
        .map(async |case| (case, case.step.reach(&house, case.transport, case.across).await));
    let reached: Vec<_> = reached.buffer_unordered(AT_ONCE).collect().await;
    house.process.signal(Signal::TERM);
    house.process.line("draining: no new").await;
    stream::iter(reached).for_each_concurrent(None, |(case, scene)| case.befall(scene)).await;
    assert_eq!(house.process.ended().await, 0);
    let log = house.process.log();
    let faults: Vec<_> = log.iter().filter(|line| line.contains("ERROR")).collect();
    assert!(faults.is_empty() && house.process.stderr().is_empty(), "{faults:?}");
}
