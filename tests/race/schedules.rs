//! What must hold in whatever order the steps of those who come, sweep and close are taken.

mod lending;

use std::{
    io::{ErrorKind, Read as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    pin::pin,
    task::{Context, Waker},
};

use futures_util::FutureExt as _;
use mini_rust_desk_relay_server::{
    config::{Config, Live, PairingConfig},
    key_ring::{Grant, KeyRing, Keys},
    metrics::{self, Exposition, Metrics},
    net::{
        access::Access,
        first_message,
        leg::{Arriving, Leg},
        listener::ConnectionLimit,
        refusals::Refusals,
    },
    relay::{
        capacity::Capacity,
        request::{Match, RelayError, RelayRequest},
    },
    wire::{
        Transport, frame,
        rendezvous::{ConnType, request_relay},
    },
};
use room::{
    pairing::{Pairing, WaitingRoom},
    sync::Arc,
    time::{Duration, advance},
};
use shuttle::thread::{self, JoinHandle};
use socket2::SockRef;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

/// So many schedules at random, and as many that seek out rare orders.
const SCHEDULES: usize = 2_000;

/// How many changes of thread a rare order needs, at most.
const DEPTH: usize = 4;

const TIMEOUT: Duration = Duration::from_secs(30);

fn in_every_order(scenario: fn()) {
    // For the sockets of those who are paired, and for the clock of the sweep: a sweep begins with
    // it, and it stands still.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    let _guard = runtime.enter();
    shuttle::check_random(scenario, SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, DEPTH);
    let told = COUNTS.with(|(_, exposition)| exposition.render(&[]));
    assert!(told.contains("\nrelay_waiting_legs 0\n"), "places were not given back: {told}");
}

thread_local! {
    /// What the rooms of a test count.
    static COUNTS: (Arc<Metrics>, Exposition) = {
        let (metrics, exposition) = metrics::start().unwrap();
        (Arc::new(metrics), exposition)
    };
    static LISTENER: TcpListener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
}

/// A room, and when it closes.
struct House {
    room: Arc<WaitingRoom>,
    stop: CancellationToken,
}

/// A client, and what became of its leg.
struct Arrived {
    client: TcpStream,
    became: Result<Match, RelayError>,
}

impl House {
    fn new(max_waiting: usize) -> Self {
        let mut limits = PairingConfig { max_waiting, ..PairingConfig::default() };
        limits.timeout = "30s".parse().unwrap();
        let open = Keys::read(&Config::default(), Path::new("/nonexistent")).unwrap();
        let ring = Arc::new(KeyRing::new(open, None));
        let (config, nowhere) = (Config::default(), Path::new("/nonexistent"));
        let access = Arc::new(Access::new(&config.access, &config.proxy, nowhere));
        let capacity = Capacity::new(Live::default());
        let room = WaitingRoom::new(Live::new(limits), ring, access, capacity, metrics());
        Self { room, stop: CancellationToken::new() }
    }

    /// Somebody comes, in a thread of its own.
    fn arrives(&self, uuid: &'static str) -> JoinHandle<Arrived> {
        let room = Arc::clone(&self.room);
        let (request, client) = request(uuid);
        thread::spawn(move || {
            let arriving = Pairing::new(room).call(request).now_or_never();
            Arrived { client, became: arriving.expect("nobody waits here") }
        })
    }

    /// Somebody comes, and waits.
    fn waits(&self, uuid: &'static str) -> TcpStream {
        let arrived = self.arrives(uuid).join().unwrap();
        assert!(matches!(arrived.became, Ok(Match::Parked(_))));
        arrived.client
    }

    /// Somebody waited, and is gone.
    fn waits_and_dies(&self, uuid: &'static str) {
        let (request, client) = request(uuid);
        let Arriving::Plain(ours) = &request.leg.connection.socket else { panic!("not plain") };
        let ours = ours.try_clone().unwrap();
        assert!(matches!(
            Pairing::new(Arc::clone(&self.room)).call(request).now_or_never(),
            Some(Ok(Match::Parked(_)))
        ));
        drop(client);
        // The reset takes its time on a busy machine.
        ours.set_nonblocking(false).unwrap();
        let _ = (&ours).read(&mut [0]);
    }

    /// One sweep, in a thread of its own; the room's last act where `stop` was cancelled before.
    fn sweeps(&self) -> JoinHandle<()> {
        let (room, stop) = (Arc::clone(&self.room), self.stop.clone());
        thread::spawn(move || {
            let mut sweeping = pin!(room.sweep_until(stop));
            // Once for every part of the room, and then it waits for the clock, which stands still.
            for _ in 0..20 {
                if sweeping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
            }
        })
    }

    fn closes(&self) -> JoinHandle<()> {
        self.stop.cancel();
        self.sweeps()
    }

    /// Whoever is in the room has a place, and nobody else has.
    fn is_consistent(&self, waiting: usize) {
        assert_eq!(self.room.list().len(), waiting, "who waits");
        assert_eq!(self.room.len(), waiting, "places that are taken");
    }

    /// Closes it, so that nobody is left in it.
    fn ends(self) {
        self.closes().join().unwrap();
        self.is_consistent(0);
    }
}

impl Arrived {
    fn is_paired(&self) -> bool {
        matches!(self.became, Ok(Match::Paired(_)))
    }

    fn is_parked(&self) -> bool {
        matches!(self.became, Ok(Match::Parked(_)))
    }

    /// Whether the relay has let go of its socket.
    fn is_closed(&self) -> bool {
        is_closed(&self.client)
    }
}

fn is_closed(mut client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    !matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn metrics() -> Arc<Metrics> {
    COUNTS.with(|(metrics, _)| Arc::clone(metrics))
}

/// A request over a real socket, and the client's end of it.
fn request(uuid: &str) -> (RelayRequest, TcpStream) {
    let (client, (socket, peer)) = LISTENER.with(|listener| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap())
    });
    // So that thousands leave no address behind that is busy for a minute.
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let limit = ConnectionLimit::new(1, metrics(), Refusals::new(metrics()));
    let connection = limit.admit(socket, peer).unwrap();
    let connection = connection.with_socket(Arriving::Plain);
    let head = frame::encode(&request_relay(uuid, "", "", ConnType::Default)).unwrap();
    let (hello, _) = first_message::of(&head, 4096).unwrap().unwrap();
    let leg = Leg { connection, transport: Transport::Tcp, early: Box::default() };
    (RelayRequest { hello, leg, grant: Grant::default() }, client)
}

fn joined<T, const N: usize>(threads: [JoinHandle<T>; N]) -> [T; N] {
    threads.map(|thread| thread.join().unwrap())
}

#[test]
fn two_legs_that_arrive_together_always_meet() {
    in_every_order(|| {
        let house = House::new(10);
        let legs = joined([house.arrives("uuid"), house.arrives("uuid")]);
        assert_eq!(legs.iter().filter(|leg| leg.is_paired()).count(), 1);
        assert_eq!(legs.iter().filter(|leg| leg.is_parked()).count(), 1);
        house.is_consistent(0);
        house.ends();
    });
}

#[test]
fn of_many_legs_all_are_paired_but_an_odd_one() {
    in_every_order(|| {
        let house = House::new(10);
        let legs = joined(["one", "two", "one", "one", "two"].map(|uuid| house.arrives(uuid)));
        assert_eq!(legs.iter().filter(|leg| leg.is_paired()).count(), 2);
        house.is_consistent(1);
        house.ends();
    });
}

/// A dead leg is not met, and its removal is nobody else's.
#[test]
fn a_sweep_takes_the_dead_and_leaves_the_living() {
    in_every_order(|| {
        let house = House::new(10);
        house.waits_and_dies("uuid");
        let sweeping = house.sweeps();
        let [living] = joined([house.arrives("uuid")]);
        sweeping.join().unwrap();
        assert!(living.is_parked() && !living.is_closed());
        house.is_consistent(1);
        assert!(house.arrives("uuid").join().unwrap().is_paired());
        house.ends();
    });
}

#[test]
fn a_sweep_keeps_nobody_from_meeting() {
    in_every_order(|| {
        let house = House::new(10);
        house.waits_and_dies("uuid");
        let sweeping = house.sweeps();
        let legs = joined([house.arrives("uuid"), house.arrives("uuid")]);
        sweeping.join().unwrap();
        assert_eq!(legs.iter().filter(|leg| leg.is_paired()).count(), 1, "they missed each other");
        house.is_consistent(0);
        house.ends();
    });
}

#[test]
fn who_is_late_is_met_or_gone_and_who_is_not_stays() {
    in_every_order(|| {
        let house = House::new(10);
        let late = house.waits("uuid");
        advance(TIMEOUT);
        let sweeping = house.sweeps();
        let [leg] = joined([house.arrives("uuid")]);
        sweeping.join().unwrap();
        assert_ne!(leg.is_paired(), is_closed(&late), "met, or gone");
        assert!(!leg.is_closed(), "it has only just come");
        let left = usize::from(leg.is_parked());
        house.is_consistent(left);
        let [last] = joined([house.arrives("uuid")]);
        assert_eq!(last.is_paired(), leg.is_parked());
        house.is_consistent(1 - left);
        house.ends();
    });
}

/// Also who comes while the room closes: nobody waits there for ever.
#[test]
fn nobody_is_left_in_a_room_that_closes() {
    in_every_order(|| {
        let house = House::new(10);
        let waiting = house.waits("other");
        let closing = house.closes();
        let legs = joined([house.arrives("uuid"), house.arrives("uuid"), house.arrives("other")]);
        closing.join().unwrap();
        house.is_consistent(0);
        let [first, second, other] = &legs;
        for leg in &legs {
            let refused = matches!(leg.became, Err(RelayError::Draining));
            assert!(refused || leg.became.is_ok());
            assert!(!refused || leg.is_closed());
        }
        // Paired with each other, or both let go of.
        assert!(first.is_paired() || second.is_paired() || first.is_closed() && second.is_closed());
        assert_eq!(other.is_paired(), !is_closed(&waiting));
    });
}

#[test]
fn no_more_wait_than_may() {
    in_every_order(|| {
        let house = House::new(2);
        let legs = joined(["one", "two", "three"].map(|uuid| house.arrives(uuid)));
        let full = |leg: &&Arrived| matches!(leg.became, Err(RelayError::WaitingRoomFull));
        assert_eq!(legs.iter().filter(full).count(), 1);
        assert!(legs.iter().filter(full).all(|leg| leg.is_closed()));
        house.is_consistent(2);
        // Who is met makes room.
        let met = if legs[0].is_parked() { "one" } else { "two" };
        assert!(house.arrives(met).join().unwrap().is_paired());
        house.is_consistent(1);
        let _client = house.waits("four");
        house.ends();
    });
}
