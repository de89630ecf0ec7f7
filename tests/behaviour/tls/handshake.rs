//! The handshake, and what can be wrong with it.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use mini_rust_desk_relay_server::{
    config,
    wire::{
        frame,
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion,
    version::{TLS12, TLS13},
};

use super::{
    Kind, Peer, TlsGateway,
    client::{Identity, read_to_end, shake_hands, version, write},
};
use crate::{
    requirement::program,
    support::{PATIENCE, TOKEN, TestGateway, parse_answer, unique},
};

const NEVER: config::Duration = config::Duration::from_secs(600);

/// A client that takes all bytes of its ClientHello out of its own hands.
async fn client_hello(client: ClientConfig) -> Vec<u8> {
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let connect = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client)).connect(name, near);
    let hello = async {
        let mut bytes = vec![0; 64 << 10];
        let len = far.read(&mut bytes).await.expect("a ClientHello");
        bytes.truncate(len);
        bytes
    };
    tokio::select! {
        _ = connect => unreachable!("nobody answers"),
        hello = hello => hello,
    }
}

async fn outcomes(gateway: &TestGateway, outcome: &str) -> f64 {
    gateway.metric(&format!("relay_tls_handshakes_total{{outcome=\"{outcome}\"}}")).await
}

async fn until_refused(gateway: &TestGateway, reason: &str, count: f64) {
    gateway.until_metric(&format!("relay_rejected_total{{reason=\"{reason}\"}}"), count).await;
}

#[tokio::test]
async fn both_versions_are_spoken_and_each_alone() {
    let gateway = TlsGateway::start().await;
    for (only, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let stream = gateway.tls_by(gateway.identity.client_of(&[only])).await;
        assert_eq!(version(&stream), Some(expected));
        let uuid = unique("version");
        let mut first = Peer::greeting(Box::new(stream), Kind::Tls, &uuid).await;
        gateway.gateway.until_waiting(&uuid).await;
        let stream = gateway.tls_by(gateway.identity.client_of(&[only])).await;
        let mut second = Peer::greeting(Box::new(stream), Kind::Wss, &uuid).await;
        let message = vec![9; 300_000];
        first.send(&message).await;
        assert!(second.receive().await.as_ref() == Some(&message));
        second.send(&message).await;
        assert!(first.receive().await.as_ref() == Some(&message));
        second.finish().await;
        assert_eq!(first.receive().await, None);
    }
}

#[tokio::test]
async fn a_ticket_spares_a_handshake_in_either_version() {
    let gateway = TlsGateway::start().await;
    for only in [&TLS12, &TLS13] {
        let client = gateway.identity.client_of(&[only]);
        let before = outcomes(&gateway.gateway, "resumed").await;
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = gateway.tls_by(client.clone()).await;
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
            // The tickets of 1.3 come behind the handshake: before any answer.
            write(&mut stream, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .await;
            read_to_end(&mut stream).await;
        }
        assert_eq!(outcomes(&gateway.gateway, "resumed").await, before + 1.0);
    }
}

#[tokio::test]
async fn browsers_are_given_http_1() {
    let gateway = TlsGateway::start().await;
    let mut client = gateway.identity.client();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = gateway.tls_by(client.clone()).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    client.alpn_protocols = vec![b"h2".to_vec()];
    let error = shake_hands(gateway.gateway.connect().await, client).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    until_refused(&gateway.gateway, "tls_handshake", 1.0).await;
    assert_eq!(outcomes(&gateway.gateway, "incompatible").await, 1.0);
}

#[tokio::test]
async fn the_admin_api_answers_in_https_and_http_on_either_listener() {
    for of_its_own in [false, true] {
        let gateway = TlsGateway::start_with(|config| {
            if of_its_own {
                config.admin.listen = vec!["127.0.0.1:0".parse().unwrap()];
            }
        })
        .await;
        let socket = TcpStream::connect(gateway.gateway.admin_addr).await.unwrap();
        let mut stream = shake_hands(socket, gateway.identity.client()).await.unwrap();
        let ask = format!(
            "GET /api/v1/stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        );
        write(&mut stream, ask.as_bytes()).await;
        // To an orderly end: close_notify came before FIN.
        let answer = String::from_utf8(read_to_end(&mut stream).await).unwrap();
        assert_eq!(parse_answer(&answer).status, 200);
        assert_eq!(gateway.gateway.get("/api/v1/stats").await.status, 200);
    }
}

#[tokio::test]
async fn a_handshake_may_come_in_any_pieces() {
    let gateway = TlsGateway::start_with(|config| {
        config.front_door.first_frame_timeout = NEVER;
    })
    .await;
    let hello = client_hello(gateway.identity.client()).await;
    for cut in 1..hello.len() {
        let mut socket = gateway.gateway.connect().await;
        socket.write_all(&hello[..cut]).await.unwrap();
        if cut % 16 == 0 {
            // Now and then it is surely read in two.
            gateway.gateway.get("/healthz").await;
        }
        socket.write_all(&hello[cut..]).await.unwrap();
        let mut answer = [0; 6];
        timeout(PATIENCE, socket.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!((answer[0], answer[5]), (0x16, 2), "a ServerHello, cut at {cut}");
    }
}

#[tokio::test]
async fn a_client_that_dribbles_its_bytes_gets_through() {
    let gateway = TlsGateway::start().await;
    let socket = gateway.gateway.connect().await;
    let (near, far) = tokio::io::duplex(1);
    tokio::spawn(async move {
        let (mut reading, mut writing) = socket.into_split();
        let (mut from, mut to) = tokio::io::split(far);
        let up = async { tokio::io::copy(&mut from, &mut writing).await };
        let down = async { tokio::io::copy(&mut reading, &mut to).await };
        let _ = tokio::join!(up, down);
    });
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let client = std::sync::Arc::new(gateway.identity.client());
    let connected = tokio_rustls::TlsConnector::from(client).connect(name, near);
    let stream = timeout(PATIENCE, connected).await.unwrap().unwrap();
    let uuid = unique("dribble");
    let mut first = Peer::greeting(Box::new(stream), Kind::Wss, &uuid).await;
    gateway.gateway.until_waiting(&uuid).await;
    let mut second = gateway.leg(Kind::Tls, &uuid).await;
    first.send(&[1; 3000]).await;
    assert_eq!(second.receive().await, Some(vec![1; 3000]));
}

#[tokio::test]
async fn silence_and_garbage_after_a_client_hello_end_it() {
    let gateway = TlsGateway::start_with(|config| {
        config.front_door.first_frame_timeout = config::Duration::from_millis(1_500);
    })
    .await;
    let hello = client_hello(gateway.identity.client()).await;
    // Silence, in the middle of it and behind it.
    for (round, sent) in [&hello[..20], &hello[..]].into_iter().enumerate() {
        let mut socket = gateway.gateway.connect().await;
        socket.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it ends");
        assert_eq!(answer.is_empty(), round == 0, "nothing is said to half a ClientHello");
        until_refused(&gateway.gateway, "timeout", round as f64 + 1.0).await;
    }
    assert_eq!(outcomes(&gateway.gateway, "timeout").await, 2.0);
    // Garbage: an alert, and the end.
    let mut socket = gateway.gateway.connect().await;
    socket.write_all(&hello).await.unwrap();
    socket.write_all(&[0x55; 400]).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it ends");
    until_refused(&gateway.gateway, "tls_handshake", 1.0).await;
    assert_eq!(outcomes(&gateway.gateway, "protocol").await, 1.0);
    // What looks like a ClientHello and is none: one alert, decode_error or the like.
    let mut socket = gateway.gateway.connect().await;
    socket.write_all(b"\x16\x03\x01\x00\x0a\x01\x00\x00\x06\x03\x03garb").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it ends");
    assert_eq!((answer.len(), answer.first()), (7, Some(&0x15)), "{answer:x?}");
    // Somebody who goes.
    let mut socket = gateway.gateway.connect().await;
    socket.write_all(&hello).await.unwrap();
    socket.read_u8().await.unwrap();
    drop(socket);
    gateway.gateway.until_metric("relay_tls_handshakes_total{outcome=\"hung_up\"}", 1.0).await;
    gateway.gateway.until_quiet().await;
}

/// The handshake, the upgrade and the first message have one deadline together.
#[tokio::test]
async fn silence_within_tls_is_not_waited_for_longer() {
    let gateway = TlsGateway::start_with(|config| {
        config.front_door.first_frame_timeout = config::Duration::from_millis(1_500);
    })
    .await;
    let begun = tokio::time::Instant::now();
    let mut stream = gateway.tls().await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it ends");
    assert!(rest.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(15));
    until_refused(&gateway.gateway, "silent", 1.0).await;
}

#[tokio::test]
async fn a_handshake_and_no_more_is_no_probe() {
    let gateway = TlsGateway::start().await;
    let mut stream = gateway.tls().await;
    stream.shutdown().await.unwrap();
    until_refused(&gateway.gateway, "hung_up", 1.0).await;
    assert_eq!(outcomes(&gateway.gateway, "full").await, 1.0);
}

#[tokio::test]
async fn who_does_not_trust_the_certificate_is_counted_as_such() {
    let gateway = TlsGateway::start().await;
    let stranger = Identity::new();
    let refused = shake_hands(gateway.gateway.connect().await, stranger.client()).await;
    refused.expect_err("the certificate is not trusted");
    gateway
        .gateway
        .until_metric("relay_tls_handshakes_total{outcome=\"refused_by_peer\"}", 1.0)
        .await;
    until_refused(&gateway.gateway, "tls_handshake", 1.0).await;
}

#[tokio::test]
async fn tls_within_tls_is_refused_and_so_is_nonsense() {
    let gateway = TlsGateway::start().await;
    let hello = client_hello(gateway.identity.client()).await;
    for (round, inner) in [&hello[..], b"SSH-2.0-OpenSSH_9\r\n"].into_iter().enumerate() {
        let mut stream = gateway.tls().await;
        write(&mut stream, inner).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
        assert!(answer.is_empty(), "{answer:x?}");
        until_refused(&gateway.gateway, "unknown_protocol", round as f64 + 1.0).await;
    }
}

#[tokio::test]
async fn the_first_message_in_tls_is_bounded_as_any_other() {
    let gateway = TlsGateway::start().await;
    let mut stream = gateway.tls().await;
    write(&mut stream, b"\xff\xff\xff\xff\x92\x01").await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    assert!(answer.is_empty());
    until_refused(&gateway.gateway, "frame_too_long", 1.0).await;
}

#[tokio::test]
async fn without_a_certificate_a_client_hello_is_closed_with_nothing_sent() {
    let gateway = TestGateway::start().await;
    let hello = client_hello(Identity::new().client()).await;
    let mut socket = gateway.connect().await;
    socket.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it ends");
    assert!(answer.is_empty());
    until_refused(&gateway, "tls", 1.0).await;
}

/// A process that is ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A second implementation.
#[tokio::test]
async fn openssl_is_understood() {
    let Some(openssl) = program("openssl", "apt-get install openssl") else { return };
    let gateway = TlsGateway::start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let spawned = Command::new(&openssl)
            .args(["s_client", "-quiet", "-verify_return_error", version, "-connect"])
            .arg(gateway.gateway.addr.to_string())
            .args(["-servername", "localhost", "-CAfile"])
            .arg(gateway.files.path().join("cert.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut openssl = Ended(spawned.unwrap());
        let uuid = unique("openssl");
        let hello = frame::encode(&request_relay(&uuid, "", "", ConnType::Default)).unwrap();
        let mut to = openssl.0.stdin.take().unwrap();
        to.write_all(&[&hello[..], b"early"].concat()).unwrap();
        to.flush().unwrap();
        gateway.gateway.until_waiting(&uuid).await;
        let mut second = gateway.leg(Kind::Tcp, &uuid).await.io();
        let mut early = [0; 5];
        timeout(PATIENCE, second.read_exact(&mut early)).await.unwrap().unwrap();
        assert_eq!(&early, b"early");
        write(&mut second, b"answer").await;
        let mut from = openssl.0.stdout.take().unwrap();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = [0; 6];
            std::io::Read::read_exact(&mut from, &mut answer).map(|()| answer)
        });
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap();
        assert_eq!(&answer, b"answer");
    }
}
