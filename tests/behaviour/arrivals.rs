//! How connections come in: with all of their first message or a part of it, many at once, on
//! several threads.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mini_rust_desk_relay_server::{
    config::{self, Config, ThreadCount},
    gateway::Gateway,
    wire::{
        Transport::Tcp,
        frame,
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::support::{PATIENCE, TestGateway, http, read_to_end, unique};

fn hello(uuid: &str) -> Vec<u8> {
    frame::encode(&request_relay(uuid, "417866831", "", ConnType::Default)).expect("a frame")
}

async fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).await.expect("the kernel accepts");
    socket.set_nodelay(true).expect("an option");
    socket
}

/// Nobody accepts before the gateway runs, so that what was sent by then is there at once.
#[tokio::test]
async fn however_much_of_a_first_message_came_with_the_connection_the_pair_is_made() {
    let texts: [&[u8]; 2] = [b"from the first", b"from the second"];
    let spoken = |uuid: &str, leg: usize| [&hello(uuid), texts[leg]].concat();
    let cuts = 0..=spoken("uuid-00", 0).len();
    let (gateway, legs) = TestGateway::start_after(
        |_| {},
        async |addr| {
            let mut legs = Vec::new();
            for cut in cuts.clone() {
                for leg in [0, 1] {
                    let mut socket = connect(addr).await;
                    let spoken = spoken(&format!("uuid-{cut:02}"), leg);
                    let (now, later) = spoken.split_at(cut);
                    socket.write_all(now).await.expect("the kernel takes it");
                    legs.push((socket, later.to_vec(), texts[1 - leg]));
                }
            }
            legs
        },
    )
    .await;
    let mut sockets = Vec::new();
    for (mut socket, later, expected) in legs {
        socket.write_all(&later).await.expect("the gateway reads");
        sockets.push((socket, expected));
    }
    for (cut, (socket, expected)) in sockets.iter_mut().enumerate() {
        let mut heard = vec![0; expected.len()];
        let read = timeout(PATIENCE, socket.read_exact(&mut heard)).await;
        read.unwrap_or_else(|_| panic!("in vain: leg {cut}")).expect("the peer's bytes");
        assert_eq!(&heard, expected, "leg {cut}");
    }
    gateway.until_metric("relay_pairs_total{transport=\"tcp\"}", cuts.count() as f64).await;
    drop(sockets);
    gateway.until_quiet().await;
}

#[tokio::test]
async fn what_is_no_leg_is_told_at_once_and_hears_nothing() {
    let too_long = [&[0xff, 0xff, 0, 0, 0x92, 1][..], &[0; 100]].concat();
    let malformed = frame::encode(&[0x92, 1, 5, 1]).expect("a frame");
    let strange: [(&[u8], &str); 4] = [
        (b"SSH-2.0-OpenSSH_9.7\r\n", "unknown_protocol"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls"),
        (&too_long, "frame_too_long"),
        (&malformed, "malformed"),
    ];
    let change = |config: &mut Config| {
        // So long that nothing can be closed because of it.
        config.front_door.first_frame_timeout = config::Duration::from_secs(3600);
    };
    let (gateway, sockets) = TestGateway::start_after(change, async |addr| {
        let mut sockets = Vec::new();
        for (bytes, _) in strange {
            let mut socket = connect(addr).await;
            socket.write_all(bytes).await.expect("the kernel takes it");
            sockets.push(socket);
        }
        drop(connect(addr).await);
        sockets
    })
    .await;
    for mut socket in sockets {
        assert_eq!(read_to_end(&mut socket).await, b"");
    }
    for (_, reason) in strange {
        gateway.until_metric(&format!("relay_rejected_total{{reason=\"{reason}\"}}"), 1.0).await;
    }
    gateway.until_metric("relay_connections_total{protocol=\"none\"}", 1.0).await;
    gateway.until_metric("relay_connections_total{protocol=\"relay\"}", 2.0).await;
    assert_eq!(http(gateway.addr, "GET", "/healthz", "").await.status, 200);
}

/// A client whose SYN is dropped tries again after a second: none of a burst may have to.
#[tokio::test]
async fn of_a_burst_of_connections_none_waits_for_a_second_try() {
    const BURST: usize = 1_500;
    let backlog = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    if backlog.trim().parse::<usize>().is_ok_and(|backlog| backlog < BURST) {
        println!("SKIPPED: net.core.somaxconn is {backlog}");
        return;
    }
    // An address of its own has all its ports, whatever else this machine is busy with.
    let own = Ipv4Addr::new(127, 83, std::process::id().to_be_bytes()[2], 1);
    let (gateway, sockets) = TestGateway::start_after(
        |_| {},
        async |addr| {
            let mut connecting = JoinSet::new();
            for index in 0..BURST {
                connecting.spawn(async move {
                    let socket = TcpSocket::new_v4().expect("a socket");
                    socket.bind((own, 0).into()).expect("a loopback address");
                    let connected = timeout(Duration::from_millis(900), socket.connect(addr)).await;
                    let mut socket = connected.expect("at the first try").expect("a connection");
                    socket.write_all(&hello(&format!("burst-{}", index / 2))).await.expect("room");
                    socket
                });
            }
            connecting.join_all().await
        },
    )
    .await;
    gateway.until_metric("relay_pairs_total{transport=\"tcp\"}", (BURST / 2) as f64).await;
    drop(sockets);
    gateway.until_quiet().await;
}

#[tokio::test]
async fn several_threads_accept_from_one_listener_and_end_with_the_gateway() {
    let mut gateway =
        TestGateway::start_with(|config| config.threads.light = ThreadCount::Exactly(3)).await;
    let taken = Config { listen: vec![gateway.addr], ..Config::default() };
    assert!(Gateway::bind(taken, gateway.dir()).is_err(), "a second one splits pairs");
    let mut pairs = JoinSet::new();
    let addr = gateway.addr;
    for _ in 0..300 {
        pairs.spawn(async move {
            let uuid = unique("threads");
            let (mut first, mut second) = (connect(addr).await, connect(addr).await);
            first.write_all(&hello(&uuid)).await.expect("the gateway reads");
            second.write_all(&hello(&uuid)).await.expect("the gateway reads");
            for _ in 0..3 {
                first.write_all(b"ping").await.expect("the gateway reads");
                let mut heard = [0; 4];
                second.read_exact(&mut heard).await.expect("the peer's bytes");
                second.write_all(&heard).await.expect("the gateway reads");
                first.read_exact(&mut heard).await.expect("the peer's bytes");
            }
        });
    }
    timeout(PATIENCE, pairs.join_all()).await.expect("none is lost");
    gateway.until_quiet().await;
    let (_first, _second) = gateway.pair(Tcp, Tcp).await;
    gateway.shutdown.end();
    timeout(PATIENCE, &mut gateway.running).await.expect("it ends in time").expect("no panic");
}
