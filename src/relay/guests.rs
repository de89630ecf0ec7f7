//! Between nodes: a leg that another node hands in becomes one of a relay here, and one that leaves
//! is carried to where it is relayed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Core, Parts,
    pairing::{Comer, Lent, Reserved},
    request::{Paired, Via},
    route::Details,
    splice::Splicer,
};
use crate::{
    config::{Duration as Lasting, Live, RelayConfig},
    key_ring::Grant,
    net::{
        leg::Leg,
        listener::{Connection, ConnectionPermit},
        stream::Stream,
    },
    wire::Transport,
};

/// A leg that another node has handed over.
pub struct HandedIn {
    /// What that node says of it.
    pub details: Details,
    /// What its key gives it here.
    pub grant: Grant,
    /// Its bytes, whatever they are in at that node.
    pub stream: Stream,
    /// What has come of them already.
    pub early: Bytes,
    /// The place of `stream` among the nodes' connections.
    pub permit: ConnectionPermit,
    /// What that node is called.
    pub node: Arc<str>,
}

/// Makes pipes between clients and other nodes.
#[derive(Clone)]
pub(super) struct Carrier {
    splicer: Splicer,
    /// Of these are `splicer`'s.
    limits: Live<RelayConfig>,
    made_of: Arc<Mutex<Arc<RelayConfig>>>,
}

/// In seconds, longer than anybody is silent: ending who is idle is for the node that relays.
const EVER: u64 = 10 * 365 * 24 * 60 * 60;

/// How much longer than the node that relays a leg is given that takes nothing.
const MARGIN: Duration = Duration::from_secs(5);

impl Core {
    /// Relays a leg that waited here and one that another node has handed over.
    pub fn hand_in(&self, reserved: Reserved, guest: HandedIn) {
        let HandedIn { details, grant, stream, early, permit, node } = guest;
        let Details { target, conn_type, peer, transport, tls, .. } = details;
        let connection = Connection { socket: stream, peer, permit };
        let leg = Leg { connection, transport, early: early[..].into() };
        let via = Some(Via { node, tls });
        // A drain that finds the room empty finds this: between the two a leg is nowhere.
        let _on_its_way = self.parts.legs.token();
        match reserved.meet(Comer { leg, target, conn_type, grant, via }) {
            Ok(matched) => self.settle(matched),
            Err(refusal) => self.parts.refusals.refuse(peer, refusal.label(), &refusal),
        }
    }

    /// Carries a leg that waited here to `node`, by `stream`; `early` has come from there already.
    /// Whether it has left: where `stream` has broken off by now, it is back in the room.
    pub fn carry(&self, lent: Lent, stream: Stream, early: Bytes, node: &Arc<str>) -> bool {
        let (Some(peer), Ok(there)) = (lent.peer(), stream.peer_addr()) else { return false };
        // It was in no list when others were turned out, and is not put back into one.
        if self.parts.access.is_blocked(peer.ip()) {
            return false;
        }
        let connection =
            Connection { socket: stream, peer: there, permit: ConnectionPermit::uncounted() };
        // As above.
        let _on_its_way = self.parts.legs.token();
        match pipe(lent, connection, early, node) {
            Ok(pipe) => drop(self.parts.legs.spawn(self.carrier.splicer().splice(pipe))),
            Err(error) => self.parts.refusals.refuse(peer, "io", &error),
        }
        true
    }
}

impl Carrier {
    pub(super) fn new(parts: &Parts, relays: &Splicer) -> Self {
        let limits = parts.limits.share();
        let registry = Arc::clone(&parts.carried);
        let splicer = Splicer { registry, limits: Live::new(unlimited(&limits)), ..relays.clone() };
        let made_of = Arc::new(Mutex::new(limits));
        Self { splicer, limits: parts.limits.clone(), made_of }
    }

    /// By the limits that are in force now.
    fn splicer(&self) -> &Splicer {
        let now = self.limits.share();
        // Whatever panicked left it as it was.
        let mut made_of = self.made_of.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&made_of, &now) {
            self.splicer.limits.replace(unlimited(&now));
            *made_of = now;
        }
        &self.splicer
    }
}

/// Only a bound is left, of what is not taken: and beyond that of the node that relays, whose it is
/// to say that a leg takes nothing.
fn unlimited(limits: &RelayConfig) -> RelayConfig {
    // Which gives it twice as long as a leg of its own.
    let longest = limits.write_timeout.get().saturating_mul(2).saturating_add(MARGIN).as_millis();
    RelayConfig {
        idle_timeout: Lasting::from_secs(EVER),
        port_forward_idle_timeout: Lasting::from_secs(EVER),
        write_timeout: Lasting::from_millis(u64::try_from(longest).unwrap_or(u64::MAX)),
        ..limits.clone()
    }
}

fn pipe(
    lent: Lent,
    connection: Connection<Stream>,
    early: Bytes,
    node: &Arc<str>,
) -> std::io::Result<Paired> {
    let (uuid, leg, conn_type, waited) = lent.leave()?;
    let via = Some(Via { node: Arc::clone(node), tls: connection.socket.is_tls() });
    let there = Leg { connection, transport: Transport::Tcp, early: early[..].into() };
    Ok(Paired {
        uuid,
        target: None,
        conn_type,
        legs: [leg, there],
        via,
        grants: Default::default(),
        seats: Default::default(),
        place: Default::default(),
        waited,
    })
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Instant};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::{
        config::{BandwidthConfig, PairingConfig, ThreadsConfig},
        metrics,
        net::{
            access::{Change, ListName},
            refusals::Refusals,
        },
        relay::{
            capacity::Capacity,
            pairing::WaitingRoom,
            plane::BulkPlane,
            registry::ActiveRelays,
            request::{Match, NotReserved, RelayError, RelayRequest, WaitId, Waits},
            route::Route,
            tests::{access, request},
            throttle::Throttle,
        },
        wire::rendezvous::{ConnType, RelayUuid},
    };

    /// A node without others, and what its legs are told to.
    struct House {
        core: Core,
        hard: CancellationToken,
        told: Arc<Told>,
    }

    #[derive(Default)]
    struct Told(Mutex<Vec<WaitId>>);

    impl Route for Told {
        fn waits(&self, leg: Waits) {
            self.0.lock().unwrap().push(leg.id);
        }
    }

    impl House {
        fn new(limits: RelayConfig) -> Self {
            let metrics = Arc::new(metrics::start().unwrap().0);
            let (access, hard) = (access(), CancellationToken::new());
            let limits = Live::new(limits);
            let ring = Arc::new(crate::key_ring::tests::ring(""));
            let bandwidth = BandwidthConfig::default();
            let throttle = Throttle::new(bandwidth, Arc::clone(&access), Arc::clone(&metrics));
            let registry = |new: fn(_, _, _) -> _| {
                new(hard.clone(), Arc::clone(&throttle), Arc::clone(&metrics))
            };
            let told = Arc::new(Told::default());
            let capacity = Capacity::new(limits.clone());
            let parts = Parts {
                refusals: Refusals::new(Arc::clone(&metrics)),
                proxies: Live::default(),
                draining: CancellationToken::new(),
                room: WaitingRoom::new(
                    Live::new(PairingConfig::default()),
                    Arc::clone(&ring),
                    Arc::clone(&access),
                    capacity.clone(),
                    Arc::clone(&metrics),
                ),
                ring,
                capacity,
                relays: registry(ActiveRelays::new),
                carried: registry(ActiveRelays::carrying),
                access,
                throttle,
                limits,
                bulk: BulkPlane::new(&ThreadsConfig::default()),
                legs: TaskTracker::new(),
                route: Some(Arc::clone(&told) as _),
                metrics,
            };
            Self { core: Core::new(&parts), hard, told }
        }

        fn parts(&self) -> &Parts {
            &self.core.parts
        }

        /// Somebody comes to wait; what is told of it, and its client.
        async fn waits(&self, change: impl FnOnce(&mut RelayRequest)) -> (Waits, TcpStream) {
            let (mut request, client) = request("uuid", "").await;
            change(&mut request);
            match self.parts().room.arrive(request, Instant::now()) {
                Ok(Match::Parked(Some(waits))) => (waits, client),
                other => panic!("parked, not {other:?}"),
            }
        }

        fn reserve(&self) -> Result<Reserved, NotReserved> {
            self.parts().room.reserve(&"uuid".into(), &Grant::default())
        }

        /// What another node hands over, and that node's end of it.
        async fn guest(&self) -> (HandedIn, TcpStream) {
            let (stream, node) = sockets().await;
            let details = Details {
                target: None,
                conn_type: ConnType::FileTransfer,
                label: None,
                peer: ([198, 51, 100, 7], 4711).into(),
                transport: Transport::Tcp,
                tls: true,
                waited: Duration::ZERO,
            };
            let permit = ConnectionPermit::uncounted();
            let early = Bytes::from_static(b"early ");
            let grant = Grant::default();
            (HandedIn { details, grant, stream, early, permit, node: "node-b".into() }, node)
        }

        async fn until(&self, holds: impl Fn(&Parts) -> bool) {
            let until = async {
                while !holds(self.parts()) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), until).await.unwrap();
        }
    }

    async fn sockets() -> (Stream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = listener.accept().await.unwrap().0.into_std().unwrap();
        (Stream::plain(near).unwrap(), far)
    }

    async fn says(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
        from.write_all(bytes).await.unwrap();
        hears(to, bytes).await;
    }

    async fn hears(to: &mut TcpStream, bytes: &[u8]) {
        let mut heard = vec![0; bytes.len()];
        to.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, bytes);
    }

    async fn hears_the_end(to: &mut TcpStream) {
        assert_eq!(to.read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_leg_that_is_handed_in_is_relayed_as_itself() {
        let house = House::new(RelayConfig::default());
        let (_, mut first) = house.waits(|_| {}).await;
        let (guest, mut node) = house.guest().await;
        house.core.hand_in(house.reserve().unwrap(), guest);
        hears(&mut first, b"early ").await;
        says(&mut node, &mut first, b"to the first").await;
        says(&mut first, &mut node, b"to the second").await;
        let relays = &house.parts().relays;
        let [relay] = &relays.all()[..] else { panic!("one relay") };
        assert_eq!(relays.via(relay).as_deref(), Some("node-b"));
        assert_eq!(relay.conn_type, ConnType::FileTransfer);
        let [one, other] = &relay.legs;
        assert_eq!((one.tls, other.tls), (false, true), "the client's own");
        assert_eq!(other.address, ([198, 51, 100, 7], 4711).into());
        assert_eq!(other.received(), 18);
        // One way ends, the other goes on.
        node.shutdown().await.unwrap();
        hears_the_end(&mut first).await;
        says(&mut first, &mut node, b"still").await;
        drop(first);
        hears_the_end(&mut node).await;
        house.until(|parts| parts.relays.count() == 0).await;
        assert_eq!(house.parts().room.len(), 0);
    }

    #[tokio::test]
    async fn a_leg_that_another_node_hands_in_ends_with_a_block_of_its_own_address() {
        let house = House::new(RelayConfig::default());
        let (_, mut first) = house.waits(|_| {}).await;
        let (guest, mut node) = house.guest().await;
        house.core.hand_in(house.reserve().unwrap(), guest);
        hears(&mut first, b"early ").await;
        house.parts().relays.turn_out(|ip| ip == Ipv4Addr::new(198, 51, 100, 7));
        hears_the_end(&mut first).await;
        hears_the_end(&mut node).await;
    }

    #[tokio::test]
    async fn a_limit_is_counted_once_and_both_sides_are_told_of_it() {
        let house = House::new(RelayConfig { max_active: 1, ..RelayConfig::default() });
        let (_, mut first) = house.waits(|_| {}).await;
        let (guest, mut node) = house.guest().await;
        house.core.hand_in(house.reserve().unwrap(), guest);
        hears(&mut first, b"early ").await;
        let (_, mut waits) = house.waits(|_| {}).await;
        let refused = house.reserve().err();
        let limit = |refused: &NotReserved| {
            matches!(refused, NotReserved::Refused(RelayError::TooManyRelays { limit: 1 }))
        };
        assert!(refused.as_ref().is_some_and(limit), "{refused:?}");
        hears_the_end(&mut waits).await;
        assert!(matches!(house.reserve().err(), Some(NotReserved::Nobody)));
        drop((first, node.shutdown().await));
        house.until(|parts| parts.relays.count() == 0).await;
        let (_, _waits) = house.waits(|_| {}).await;
        assert!(house.reserve().is_ok());
    }

    #[tokio::test]
    async fn a_reservation_that_comes_to_nothing_leaves_all_as_it_was() {
        let house = House::new(RelayConfig { max_active: 1, ..RelayConfig::default() });
        let (waits, mut first) = house.waits(|_| {}).await;
        let uuid: RelayUuid = "uuid".into();
        let room = &house.parts().room;
        let reserved = house.reserve().unwrap();
        assert!(room.waiting().is_empty() && room.details(&uuid, waits.id).is_none());
        assert_eq!(room.find(&uuid).unwrap().id, waits.id, "it is lent, and not gone");
        assert!(room.depart(&uuid, waits.id).is_none());
        drop(reserved);
        assert_eq!(*house.told.0.lock().unwrap(), [waits.id], "it is told of anew");
        let back = room.find(&uuid).unwrap();
        assert!(back.id == waits.id && back.remaining <= waits.remaining);
        // Whoever comes while it is lent meets it when it is back, in the place that was its own.
        let reserved = house.reserve().unwrap();
        let (_, mut second) = house.waits(|_| {}).await;
        drop(reserved);
        says(&mut first, &mut second, b"met").await;
        assert_eq!((house.parts().relays.count(), room.len()), (1, 0));
    }

    /// Whatever its transport: another node reads what its messages are.
    #[tokio::test]
    async fn a_leg_that_is_carried_is_raw_both_ways_and_counts_as_nothing_else() {
        let house = House::new(RelayConfig { max_active: 1, ..RelayConfig::default() });
        let websocket = |request: &mut RelayRequest| {
            request.leg.transport = Transport::WebSocket;
            request.leg.early = b"early ".as_slice().into();
        };
        let (waits, mut client) = house.waits(websocket).await;
        let parts = house.parts();
        let details = parts.room.details(&waits.uuid, waits.id).unwrap();
        assert_eq!((details.peer, details.tls), (client.local_addr().unwrap(), false));
        assert_eq!(details.transport, Transport::WebSocket);
        let lent = parts.room.depart(&waits.uuid, waits.id).unwrap();
        let (stream, mut node) = sockets().await;
        house.core.carry(lent, stream, Bytes::from_static(b"from there "), &"node-a".into());
        hears(&mut node, b"early ").await;
        hears(&mut client, b"from there ").await;
        says(&mut client, &mut node, &[0x82, 0xFF, 0, 1]).await;
        says(&mut node, &mut client, &[0x88, 0, 0x89]).await;
        let [carried] = &parts.carried.all()[..] else { panic!("one") };
        assert_eq!(parts.carried.via(carried).as_deref(), Some("node-a"));
        assert_eq!(carried.legs[0].transport, Transport::WebSocket);
        assert_eq!((carried.legs[0].received(), carried.legs[1].received()), (10, 14));
        assert_eq!((parts.relays.count(), parts.room.len()), (0, 0));
        // There is no half-closed WebSocket.
        drop(node);
        hears_the_end(&mut client).await;
        drop(client);
        house.until(|parts| parts.carried.count() == 0).await;
    }

    #[tokio::test]
    async fn a_tcp_leg_that_is_carried_may_end_one_way_and_go_on_the_other() {
        let house = House::new(RelayConfig::default());
        for by_client in [true, false] {
            let (waits, client) = house.waits(|_| {}).await;
            let lent = house.parts().room.depart(&waits.uuid, waits.id).unwrap();
            let (stream, node) = sockets().await;
            house.core.carry(lent, stream, Bytes::new(), &"node-a".into());
            let (mut ends, mut goes_on) = if by_client { (client, node) } else { (node, client) };
            ends.shutdown().await.unwrap();
            hears_the_end(&mut goes_on).await;
            says(&mut goes_on, &mut ends, b"still").await;
            drop(goes_on);
            hears_the_end(&mut ends).await;
            house.until(|parts| parts.carried.count() == 0).await;
        }
    }

    fn block(house: &House, network: &str) {
        let put = [(network.parse().unwrap(), Change::Put(None))];
        house.parts().access.change(ListName::Block, &put).unwrap();
    }

    /// Whoever looks for those who are unwanted finds neither leg where it looks.
    #[tokio::test]
    async fn a_block_that_comes_while_a_leg_is_lent_holds_for_both() {
        for (blocked, still_waits) in [("198.51.100.7", 1), ("127.0.0.1", 0)] {
            let house = House::new(RelayConfig { max_active: 1, ..RelayConfig::default() });
            let (_, mut first) = house.waits(|_| {}).await;
            let (guest, mut node) = house.guest().await;
            let reserved = house.reserve().unwrap();
            block(&house, blocked);
            house.parts().room.turn_out(|ip| house.parts().access.is_blocked(ip));
            house.core.hand_in(reserved, guest);
            hears_the_end(&mut node).await;
            assert_eq!((house.parts().relays.count(), house.parts().room.len()), (0, still_waits));
            if still_waits == 0 {
                hears_the_end(&mut first).await;
            }
        }
        let house = House::new(RelayConfig::default());
        let (waits, mut client) = house.waits(|_| {}).await;
        let lent = house.parts().room.depart(&waits.uuid, waits.id).unwrap();
        block(&house, "127.0.0.1");
        let (stream, mut node) = sockets().await;
        house.core.carry(lent, stream, Bytes::new(), &"node-a".into());
        hears_the_end(&mut node).await;
        hears_the_end(&mut client).await;
        assert_eq!((house.parts().carried.count(), house.parts().room.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_leg_whose_node_has_gone_before_it_could_leave_waits_on() {
        let house = House::new(RelayConfig::default());
        let (waits, _client) = house.waits(|_| {}).await;
        let lent = house.parts().room.depart(&waits.uuid, waits.id).unwrap();
        let (stream, node) = sockets().await;
        socket2::SockRef::from(&node).set_linger(Some(Duration::ZERO)).unwrap();
        drop(node);
        house.until(|_| stream.is_gone()).await;
        assert!(!house.core.carry(lent, stream, Bytes::new(), &"node-a".into()));
        assert_eq!((house.parts().carried.count(), house.parts().room.len()), (0, 1));
        assert_eq!(*house.told.0.lock().unwrap(), [waits.id], "it is told of anew");
    }

    /// It is for the other node to end who is idle; but who stays after it has ended is not kept.
    #[tokio::test]
    async fn a_leg_that_is_carried_may_be_silent_until_the_other_node_has_ended() {
        let brief = Lasting::from_millis(20);
        let limits = RelayConfig {
            idle_timeout: brief,
            port_forward_idle_timeout: brief,
            ..RelayConfig::default()
        };
        let house = House::new(limits);
        let (waits, _client) = house.waits(|_| {}).await;
        let lent = house.parts().room.depart(&waits.uuid, waits.id).unwrap();
        let (stream, mut node) = sockets().await;
        house.core.carry(lent, stream, Bytes::new(), &"node-a".into());
        // Ten times as long as a relay may be.
        tokio::time::sleep(10 * brief.get()).await;
        assert_eq!(house.parts().carried.count(), 1);
        // As the node that relays does.
        node.shutdown().await.unwrap();
        socket2::SockRef::from(&node).set_linger(Some(Duration::ZERO)).unwrap();
        drop(node);
        house.until(|parts| parts.carried.count() == 0).await;
    }

    #[tokio::test]
    async fn a_leg_that_is_carried_ends_with_a_block_and_with_the_gateway() {
        let house = House::new(RelayConfig::default());
        for by_block in [true, false] {
            let (waits, mut client) = house.waits(|_| {}).await;
            let lent = house.parts().room.depart(&waits.uuid, waits.id).unwrap();
            let (stream, mut node) = sockets().await;
            house.core.carry(lent, stream, Bytes::new(), &"node-a".into());
            says(&mut client, &mut node, b"carried").await;
            if by_block {
                house.parts().carried.turn_out(|_| true);
            } else {
                house.hard.cancel();
            }
            hears_the_end(&mut node).await;
            hears_the_end(&mut client).await;
        }
    }

    #[tokio::test]
    async fn what_carries_has_the_limits_in_force_and_more_time_to_write() {
        let limits = RelayConfig {
            write_timeout: Lasting::from_millis(700),
            max_message_size: "1MiB".parse().unwrap(),
            ..RelayConfig::default()
        };
        let house = House::new(RelayConfig::default());
        house.parts().limits.replace(limits.clone());
        let now = house.core.carrier.splicer().limits.share();
        assert_eq!(now.write_timeout, Lasting::from_millis(6_400));
        assert_eq!(now.max_message_size, limits.max_message_size);
    }
}
