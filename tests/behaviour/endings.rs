//! Every way in which a relay ends that no leg asked for: idleness, an operator, the gateway's own
//! end, clients that do not answer.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config,
    wire::{
        Transport::{self, Tcp, WebSocket},
        frame,
        rendezvous::{ConnType, request_relay},
    },
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    raw_websocket::{BINARY, CLOSE, Frame, PING, RawWebSocket, masked},
    support::{Client, PATIENCE, TOKEN, TestGateway, eventually, read_to_end, unique},
};

const TRANSPORTS: [(Transport, Transport); 4] =
    [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)];

async fn pair_for(gateway: &TestGateway, first: ConnType, second: ConnType) -> (Client, Client) {
    let uuid = unique("idle");
    let first = gateway.leg_with(Tcp, &request_relay(&uuid, "", "", first)).await;
    gateway.until_waiting(&uuid).await;
    let second = gateway.leg_with(WebSocket, &request_relay(&uuid, "", "", second)).await;
    gateway.until_active(&uuid).await;
    (first, second)
}

#[tokio::test]
async fn an_idle_relay_is_closed_unless_its_kind_is_quiet() {
    let gateway = TestGateway::start_with(|config| {
        config.relay.idle_timeout = config::Duration::from_millis(400);
    })
    .await;
    let quiet = [
        pair_for(&gateway, ConnType::PortForward, ConnType::Default).await,
        pair_for(&gateway, ConnType::Default, ConnType::PortForward).await,
        pair_for(&gateway, ConnType::Rdp, ConnType::Default).await,
        pair_for(&gateway, ConnType::Default, ConnType::Rdp).await,
    ];
    for round in 1..4 {
        let since = Instant::now();
        let (mut first, mut second) =
            pair_for(&gateway, ConnType::Default, ConnType::FileTransfer).await;
        assert_eq!(first.receive().await, None);
        assert_eq!(second.receive().await, None);
        assert!(since.elapsed() >= Duration::from_millis(400), "{:?}", since.elapsed());
        second.finish().await;
        drop((first, second));
        gateway.until_metric("relay_ends_total{reason=\"idle\"}", f64::from(round)).await;
    }
    for (mut first, mut second) in quiet {
        first.send(b"awake").await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"awake"[..]));
        second.send(b"and well").await;
        assert_eq!(first.receive().await.as_deref(), Some(&b"and well"[..]));
    }
}

#[tokio::test]
async fn a_quiet_relay_has_a_limit_of_its_own() {
    let gateway = TestGateway::start_with(|config| {
        config.relay.port_forward_idle_timeout = config::Duration::from_millis(200);
    })
    .await;
    let (mut first, mut second) = pair_for(&gateway, ConnType::Rdp, ConnType::Default).await;
    assert_eq!(first.receive().await, None);
    assert_eq!(second.receive().await, None);
    gateway.until_metric("relay_ends_total{reason=\"idle\"}", 1.0).await;
}

#[tokio::test]
async fn bytes_of_either_side_keep_a_relay_from_being_idle() {
    let gateway = TestGateway::start_with(|config| {
        config.relay.idle_timeout = config::Duration::from_millis(1_500);
    })
    .await;
    let (mut first, mut second) = gateway.pair(Tcp, WebSocket).await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        second.send(b"").await;
        assert_eq!(first.receive().await.as_deref(), Some(&b""[..]));
    }
}

/// What a leg sends and never reads, with nobody to read it at the other end either.
async fn saturate(client: &mut Client) {
    let message = vec![0; 64 << 10];
    let saturated = async {
        loop {
            match client {
                Client::Tcp(socket) => {
                    let frame = frame::encode(&message).expect("a frame");
                    if socket.write_all(&frame).await.is_err() {
                        return;
                    }
                }
                Client::WebSocket(socket) => {
                    let frame = masked(BINARY, &message);
                    if (**socket).get_mut().write_all(&frame).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let _ = timeout(Duration::from_millis(700), saturated).await;
}

#[tokio::test]
async fn an_operator_ends_a_saturated_relay_promptly() {
    let gateway = TestGateway::start().await;
    for (at, (first, second)) in TRANSPORTS.into_iter().enumerate() {
        let uuid = unique("saturated");
        let (mut a, mut b) = gateway.named_pair(&uuid, first, second).await;
        tokio::join!(saturate(&mut a), saturate(&mut b));
        let since = Instant::now();
        delete(&gateway, &uuid).await;
        gateway.until_metric("relay_ends_total{reason=\"admin\"}", at as f64 + 1.0).await;
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        drop((a, b));
    }
    gateway.until_quiet().await;
}

async fn delete(gateway: &TestGateway, uuid: &str) {
    let authorized = format!("Authorization: Bearer {TOKEN}\r\n");
    let answer = gateway.request("DELETE", &format!("/api/v1/relays/{uuid}"), &authorized).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Both clients read and write all the while: each must see whole frames, then a Close.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_websocket_that_is_cut_gets_whole_frames_and_a_close() {
    let gateway = TestGateway::start().await;
    for round in 0..5_usize {
        let uuid = unique("busy");
        let first = RawWebSocket::leg(&gateway, &uuid).await;
        gateway.until_waiting(&uuid).await;
        let second = RawWebSocket::leg(&gateway, &uuid).await;
        gateway.until_active(&uuid).await;
        let ends = [first, second].map(|leg| tokio::spawn(busy(leg)));
        eventually("the relay is busy", async || {
            gateway.taken(&uuid).await.iter().all(|&taken| taken > 4 << 20)
        })
        .await;
        if round == 4 {
            gateway.shutdown.end();
        } else {
            delete(&gateway, &uuid).await;
        }
        for end in ends {
            let last = timeout(PATIENCE, end).await.expect("the end comes in time");
            let going_away = Frame(CLOSE, 1001_u16.to_be_bytes().to_vec());
            assert_eq!(last.expect("whole frames"), going_away, "round {round}");
        }
    }
}

/// Sends and receives until a frame that is not Binary comes. Then it ends as a WebSocket must: with
/// the frame that it is sending, the rest of which is its peer's, and a Close.
async fn busy(leg: RawWebSocket) -> Frame {
    let stream = leg.socket.into_std().expect("a socket");
    let mut writer = stream.try_clone().expect("another handle");
    writer.set_nonblocking(false).expect("an option");
    let is_told = Arc::new(AtomicBool::new(false));
    let may_write = Arc::clone(&is_told);
    let writing = tokio::task::spawn_blocking(move || {
        let frame = masked(BINARY, &vec![5; 300_000]);
        while !may_write.load(Ordering::Relaxed) && writer.write_all(&frame).is_ok() {}
        // Whoever was cut off for good has nobody to tell.
        let _ = writer.write_all(&masked(CLOSE, &1001_u16.to_be_bytes()));
    });
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = std::io::BufReader::new(stream);
        loop {
            let Frame(first, payload) = read_frame(&mut reader);
            if first != BINARY {
                is_told.store(true, Ordering::Relaxed);
                return Frame(first, payload);
            }
            assert!(payload == [5; 300_000]);
        }
    });
    let last = reading.await.expect("whole frames");
    writing.await.expect("it ends");
    last
}

fn read_frame(reader: &mut impl std::io::Read) -> Frame {
    let mut head = [0; 2];
    reader.read_exact(&mut head).expect("a header");
    let len = match head[1] {
        126 => {
            let mut len = [0; 2];
            reader.read_exact(&mut len).expect("a length");
            u64::from(u16::from_be_bytes(len))
        }
        127 => {
            let mut len = [0; 8];
            reader.read_exact(&mut len).expect("a length");
            u64::from_be_bytes(len)
        }
        short => u64::from(short),
    };
    let mut payload = vec![0; len as usize];
    reader.read_exact(&mut payload).expect("a payload");
    Frame(head[0], payload)
}

/// A flood of Pings moves no byte to the peer, so nothing of the peer's holds it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_holds_up_nobody() {
    let gateway = TestGateway::start().await;
    let uuid = unique("pings");
    let mut tcp = gateway.leg(Tcp, &uuid).await;
    gateway.until_waiting(&uuid).await;
    let mut websocket = RawWebSocket::leg(&gateway, &uuid).await;
    gateway.until_active(&uuid).await;
    websocket.send(BINARY, b"before").await;
    assert_eq!(tcp.receive().await.as_deref(), Some(&b"before"[..]));
    let flooding = std::thread::spawn(move || {
        let mut socket = websocket.socket.into_std().expect("a socket");
        socket.set_nonblocking(false).expect("an option");
        let pings = masked(PING, &[1; 100]).repeat(10_000);
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(18) {
            if socket.write_all(&pings).is_err() {
                return;
            }
        }
    });
    eventually("the flood has begun", async || gateway.taken(&uuid).await[1] > 8 << 20).await;
    let since = Instant::now();
    tcp.send(b"and the other relays, and this").await;
    let (mut other, mut others_peer) = gateway.pair(Tcp, Tcp).await;
    other.send(b"go on").await;
    assert_eq!(others_peer.receive().await.as_deref(), Some(&b"go on"[..]));
    delete(&gateway, &uuid).await;
    gateway.until_metric("relay_ends_total{reason=\"admin\"}", 1.0).await;
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    flooding.join().expect("the flood ends");
}

/// Ten seconds of silence after our Close are enough.
#[tokio::test]
async fn a_websocket_that_never_answers_a_close_is_let_go() {
    let gateway = TestGateway::start().await;
    let uuid = unique("unanswered");
    let mut tcp = gateway.leg(Tcp, &uuid).await;
    gateway.until_waiting(&uuid).await;
    let mut websocket = RawWebSocket::leg(&gateway, &uuid).await;
    gateway.until_active(&uuid).await;
    let since = Instant::now();
    tcp.finish().await;
    websocket.expect_close(1000).await;
    assert_eq!(tcp.receive().await, None);
    assert_eq!(websocket.frame().await, None);
    let waited = since.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&waited), "{waited:?}");
    drop((tcp, websocket));
    gateway.until_quiet().await;
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 1.0).await;
}

/// The bytes for a leg that is gone are dropped for five seconds, however late they began to be.
/// Its peer has ended and still reads, so that nothing stalls and nobody is silent.
#[tokio::test]
async fn a_websocket_that_sends_on_after_a_close_is_let_go_as_well() {
    let gateway = TestGateway::start_with(|config| {
        config.relay.idle_timeout = config::Duration::from_millis(400);
    })
    .await;
    let (first, second) = gateway.pair(Tcp, WebSocket).await;
    let (mut tcp, websocket) = (first.tcp(), second.websocket());
    let (mut from, mut to) = websocket.into_inner().into_split();
    let sending = tokio::spawn(async move {
        while to.write_all(&masked(BINARY, b"and another thing")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tcp.shutdown().await.unwrap();
    let since = Instant::now();
    assert!(!read_to_end(&mut tcp).await.is_empty());
    // It is told, and has time: what was on its way is its peer's.
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    let mut told = Vec::new();
    let _ = from.read_to_end(&mut told).await;
    assert_eq!(told, [0x88, 2, 0x03, 0xe8]);
    timeout(PATIENCE, sending).await.expect("it is let go").unwrap();
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 1.0).await;
    gateway.until_quiet().await;
}

#[tokio::test]
async fn a_tcp_leg_whose_peer_closed_late_is_let_go_in_time() {
    let gateway = TestGateway::start().await;
    let uuid = unique("lingers");
    let mut tcp = gateway.leg(Tcp, &uuid).await.tcp();
    gateway.until_waiting(&uuid).await;
    let mut websocket = RawWebSocket::leg(&gateway, &uuid).await;
    gateway.until_active(&uuid).await;
    SockRef::from(&websocket.socket).set_recv_buffer_size(16 << 10).unwrap();
    let message = vec![0; 64 << 10];
    let frame = frame::encode(&message).unwrap();
    let mut written = 0;
    while let Ok(taken) =
        timeout(Duration::from_millis(300), tcp.write(&frame[written % frame.len()..])).await
    {
        written += taken.unwrap();
    }
    websocket.send(CLOSE, &1000_u16.to_be_bytes()).await;
    // The end reaches the other leg; its own way is still blocked.
    assert_eq!(read_to_end(&mut tcp).await, b"");
    let the_rest = async { tcp.write_all(&frame[written % frame.len()..]).await.unwrap() };
    let everything = async {
        while let Some(Frame(BINARY, payload)) = websocket.frame().await {
            assert!(payload == message);
        }
    };
    tokio::join!(the_rest, everything);
    let since = Instant::now();
    eventually("the relay is over", async || {
        gateway.metric("relay_active_relays{transport=\"mixed\"}").await == 0.0
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
}
