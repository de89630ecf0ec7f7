//! What crosses a relay of which a leg is in TLS.

use std::{io::IoSlice, time::Duration};

use mini_rust_desk_relay_server::{
    config,
    wire::{
        frame,
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    Kind, Peer, TlsGateway,
    client::{read_to_end, write},
};
use crate::support::{PATIENCE, eventually, unique};

/// Bytes that tell their place.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn hello(uuid: &str) -> Vec<u8> {
    frame::encode(&request_relay(uuid, "", "", ConnType::Default)).expect("a frame")
}

/// Sends every message to the other, while the other sends its own.
async fn exchange(first: Peer, second: Peer, messages: &[Vec<u8>]) -> (Peer, Peer) {
    async fn talk(mut peer: Peer, messages: Vec<Vec<u8>>) -> Peer {
        // Both ways at once, or a full socket would stop both.
        for message in &messages {
            peer.send(message).await;
            assert!(peer.receive().await.as_ref() == Some(message), "of {}", message.len());
        }
        peer
    }
    let one = tokio::spawn(talk(first, messages.to_vec()));
    let other = tokio::spawn(talk(second, messages.to_vec()));
    (one.await.expect("no panic"), other.await.expect("no panic"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_crosses_every_pairing() {
    let gateway = TlsGateway::start().await;
    let sizes = [0, 1, 60, 125, 126, 16_383, 16_384, 16_385, 65_536, 3 << 20];
    let messages: Vec<_> =
        sizes.iter().enumerate().map(|(at, &len)| pattern(len, at as u64 + 7)).collect();
    for first in Kind::ALL {
        for second in Kind::ALL {
            let (one, other, uuid) = gateway.pair(first, second).await;
            let shown = gateway.gateway.get(&format!("/api/v1/relays/{uuid}")).await.json();
            for (leg, kind) in [first, second].into_iter().enumerate() {
                assert_eq!(shown["legs"][leg]["tls"], kind.is_tls(), "{kind:?}");
                let transport = if kind.is_websocket() { "websocket" } else { "tcp" };
                assert_eq!(shown["legs"][leg]["transport"], transport, "{kind:?}");
            }
            let (mut one, mut other) = exchange(one, other, &messages).await;
            one.finish().await;
            assert_eq!(other.receive().await, None, "{first:?} {second:?}");
            other.finish().await;
            assert_eq!(one.receive().await, None, "{first:?} {second:?}");
        }
    }
    gateway.gateway.until_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_goes_through_in_bulk_and_small_talk_after_it() {
    let gateway = TlsGateway::start().await;
    let file = pattern(24 << 20, 3);
    for (from, to) in [
        (Kind::Tls, Kind::Tls),
        (Kind::Tcp, Kind::Tls),
        (Kind::Tls, Kind::Tcp),
        (Kind::Wss, Kind::Wss),
        (Kind::Tls, Kind::Wss),
    ] {
        let (mut one, mut other, uuid) = gateway.pair(from, to).await;
        let sent = file.clone();
        let sending = tokio::spawn(async move {
            for piece in sent.chunks(1 << 20) {
                one.send(piece).await;
            }
            one
        });
        let mut received = Vec::with_capacity(file.len());
        while received.len() < file.len() {
            received.extend(other.receive().await.expect("the rest"));
        }
        assert!(received == file, "{from:?} to {to:?}");
        let mut one = sending.await.unwrap();
        // Back from the threads for bulk: nothing is lost on the way.
        eventually("it has calmed down", async || {
            let relay = gateway.gateway.get(&format!("/api/v1/relays/{uuid}")).await;
            relay.json()["plane"] == "light"
        })
        .await;
        for round in 0..20_u8 {
            one.send(&[round; 77]).await;
            assert_eq!(other.receive().await.as_deref(), Some(&[round; 77][..]));
            other.send(&[round; 33]).await;
            assert_eq!(one.receive().await.as_deref(), Some(&[round; 33][..]));
        }
    }
}

#[tokio::test]
async fn what_was_sent_ahead_is_the_peers() {
    let gateway = TlsGateway::start().await;
    for len in [1, 700, 40_000, 400_000] {
        let uuid = unique("early");
        let ahead = pattern(len, 5);
        let mut first = gateway.tls().await;
        // In one flight with Finished.
        let flight = [IoSlice::new(&hello(&uuid)), IoSlice::new(&ahead)]
            .iter()
            .flat_map(|part| part.to_vec())
            .collect::<Vec<_>>();
        let (mut reading, mut writing) = tokio::io::split(&mut first);
        let sent = async {
            writing.write_all(&flight).await.unwrap();
            writing.flush().await.unwrap();
        };
        let received = async {
            gateway.gateway.until_waiting(&uuid).await;
            let mut second = gateway.leg(Kind::Tcp, &uuid).await.io();
            let mut bytes = vec![0; len];
            timeout(PATIENCE, second.read_exact(&mut bytes)).await.unwrap().unwrap();
            write(&mut second, b"heard").await;
            (bytes, second)
        };
        let ((), (bytes, _second)) = tokio::join!(sent, received);
        assert!(bytes == ahead, "{len}");
        let mut heard = [0; 5];
        timeout(PATIENCE, reading.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(&heard, b"heard");
    }
}

#[tokio::test]
async fn a_half_closed_leg_goes_on_hearing() {
    let gateway = TlsGateway::start().await;
    for (ends, goes_on) in [(Kind::Tls, Kind::Tcp), (Kind::Tcp, Kind::Tls), (Kind::Tls, Kind::Tls)]
    {
        let (one, other, _) = gateway.pair(ends, goes_on).await;
        let (mut one, mut other) = (one.io(), other.io());
        write(&mut one, b"the last of it").await;
        one.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut other).await, b"the last of it");
        let answer = pattern(2 << 20, 9);
        let reading = tokio::spawn(async move { read_to_end(&mut one).await });
        write(&mut other, &answer).await;
        other.shutdown().await.unwrap();
        assert!(reading.await.unwrap() == answer, "{ends:?} {goes_on:?}");
    }
    gateway.gateway.until_quiet().await;
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    let gateway = TlsGateway::start().await;
    let (mut tls, uuid) = (gateway.tls().await, unique("cut"));
    write(&mut tls, &hello(&uuid)).await;
    gateway.gateway.until_waiting(&uuid).await;
    let mut other = gateway.leg(Kind::Tcp, &uuid).await.io();
    gateway.gateway.until_active(&uuid).await;
    write(&mut tls, b"said").await;
    // FIN, and nothing before it.
    tls.get_mut().0.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut other).await, b"said");
    drop((tls, other));
    gateway.gateway.until_quiet().await;
}

#[tokio::test]
async fn a_slow_reader_in_tls_stops_its_peer_and_gets_all_of_it() {
    let gateway = TlsGateway::start().await;
    for kind in [Kind::Tls, Kind::Wss] {
        let (mut source, mut sink, uuid) = gateway.pair(Kind::Tcp, kind).await;
        let message = pattern(1 << 20, 11);
        let expected = message.clone();
        let sending = tokio::spawn(async move {
            for _ in 0..48 {
                source.send(&message).await;
            }
            source
        });
        // Until nothing moves any more: less was taken than there is.
        let mut before = u64::MAX;
        eventually("it stops", async || {
            let now = gateway.gateway.taken(&uuid).await[0];
            tokio::time::sleep(Duration::from_millis(300)).await;
            std::mem::replace(&mut before, now) == now
        })
        .await;
        assert!(before < 40 << 20, "{before} bytes were taken");
        for _ in 0..48 {
            assert!(sink.receive().await.as_ref() == Some(&expected));
        }
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_given_up() {
    let gateway = TlsGateway::start_with(|config| {
        config.relay.write_timeout = config::Duration::from_millis(1_500);
    })
    .await;
    for kind in [Kind::Tls, Kind::Wss] {
        let before = gateway.gateway.metric("relay_ends_total{reason=\"write_timeout\"}").await;
        let (source, _sink, _) = gateway.pair(Kind::Tcp, kind).await;
        let mut source = source.io();
        let frames = frame::encode(&vec![0; 1 << 20]).unwrap().repeat(60);
        // Until the relay gives up: it drops what is left, or resets this side.
        let poured = timeout(PATIENCE, source.write_all(&frames)).await;
        let _ = poured.expect("it ends in time");
        let series = "relay_ends_total{reason=\"write_timeout\"}";
        gateway.gateway.until_metric(series, before + 1.0).await;
    }
    gateway.gateway.until_quiet().await;
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_record_ends_the_relay() {
    let gateway = TlsGateway::start().await;
    let (mut tls, uuid) = (gateway.tls().await, unique("reset"));
    write(&mut tls, &hello(&uuid)).await;
    gateway.gateway.until_waiting(&uuid).await;
    let mut other = gateway.leg(Kind::Tls, &uuid).await.io();
    gateway.gateway.until_active(&uuid).await;
    let (socket, _) = tls.get_mut();
    socket.write_all(b"\x17\x03\x03\x40\x00half of a rec").await.unwrap();
    socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(tls);
    assert_eq!(read_to_end(&mut other).await, b"");
    drop(other);
    gateway.gateway.until_quiet().await;
}

#[tokio::test]
async fn a_forged_record_ends_the_relay_after_what_came_before_it() {
    let gateway = TlsGateway::start().await;
    let (mut tls, uuid) = (gateway.tls().await, unique("forged"));
    write(&mut tls, &hello(&uuid)).await;
    gateway.gateway.until_waiting(&uuid).await;
    let mut other = gateway.leg(Kind::Tcp, &uuid).await.io();
    gateway.gateway.until_active(&uuid).await;
    write(&mut tls, b"genuine").await;
    tls.get_mut()
        .0
        .write_all(&[b"\x17\x03\x03\x00\x20".as_slice(), &[7; 32]].concat())
        .await
        .unwrap();
    assert_eq!(read_to_end(&mut other).await, b"genuine");
    // The peer is told why: bad_record_mac.
    let error = timeout(PATIENCE, tls.read_u8()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    drop((tls, other));
    gateway.gateway.until_quiet().await;
}

#[tokio::test]
async fn a_ping_is_answered_in_tls_while_the_leg_waits() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    let gateway = TlsGateway::start().await;
    let uuid = unique("waits");
    let Peer::Messages(mut first) = gateway.leg(Kind::Wss, &uuid).await else { unreachable!() };
    gateway.gateway.until_waiting(&uuid).await;
    for round in 0..4_u8 {
        first.send(Message::Ping(vec![round; 125].into())).await.unwrap();
        let pong = timeout(PATIENCE, first.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(pong, Message::Pong(vec![round; 125].into()));
    }
    first.send(Message::binary(pattern(50_000, 1))).await.unwrap();
    first.send(Message::binary(b"and then".to_vec())).await.unwrap();
    let mut second = gateway.leg(Kind::Tcp, &uuid).await;
    assert!(second.receive().await == Some(pattern(50_000, 1)));
    assert_eq!(second.receive().await.as_deref(), Some(&b"and then"[..]));
}

#[tokio::test]
async fn a_leg_that_closes_while_it_waits_is_gone() {
    let gateway = TlsGateway::start().await;
    for kind in Kind::ALL {
        let uuid = unique("leaves");
        let mut first = gateway.leg(kind, &uuid).await;
        gateway.gateway.until_waiting(&uuid).await;
        first.finish().await;
        gateway.gateway.until_metric("relay_waiting_legs", 0.0).await;
    }
    gateway.gateway.until_metric("relay_unpaired_total{reason=\"hung_up\"}", 4.0).await;
}

#[tokio::test]
async fn a_drain_says_goodbye_in_tls() {
    let gateway = TlsGateway::start_with(|config| {
        config.shutdown.drain_timeout = config::Duration::from_millis(1);
    })
    .await;
    let (tls, mut wss, _) = gateway.pair(Kind::Tls, Kind::Wss).await;
    let mut tls = tls.io();
    gateway.gateway.shutdown.drain();
    // A Close, and close_notify before the FIN of each: an end without it would be an error here.
    assert_eq!(wss.receive().await, None);
    assert_eq!(read_to_end(&mut tls).await, b"");
}

/// RFC 8446, section 6.1: an end without close_notify would be an error here.
#[tokio::test]
async fn whomever_the_relay_leaves_is_told_in_tls() {
    let gateway = TlsGateway::start_with(|config| {
        config.key = config::Secret::new("the key");
        config.front_door.first_frame_timeout = config::Duration::from_millis(1_500);
    })
    .await;
    let malformed = b"\x08\x92\x01".to_vec();
    let stranger = b"SSH-2.0-OpenSSH_9\r\n".to_vec();
    for (sent, reason) in [
        (Vec::new(), "silent"),
        (stranger, "unknown_protocol"),
        (malformed, "malformed"),
        (hello("without a key"), "key_empty"),
    ] {
        let mut tls = gateway.tls().await;
        write(&mut tls, &sent).await;
        assert_eq!(read_to_end(&mut tls).await, b"", "{reason}");
        assert_eq!(gateway.gateway.refusals(reason).await, 1.0, "{reason}");
    }
}

#[tokio::test]
async fn a_leg_whose_peer_does_not_come_is_told_in_tls() {
    let gateway = TlsGateway::start_with(|config| {
        config.pairing.timeout = config::Duration::from_millis(500);
    })
    .await;
    let mut leg = gateway.leg(Kind::Tls, &unique("alone")).await.io();
    assert_eq!(read_to_end(&mut leg).await, b"");
    gateway.gateway.until_metric("relay_unpaired_total{reason=\"timeout\"}", 1.0).await;
}

#[tokio::test]
async fn who_gives_way_is_told_in_tls() {
    let gateway = TlsGateway::start_with(|config| {
        config.front_door.max_connections = 1;
        config.admin.listen = vec![(std::net::Ipv4Addr::LOCALHOST, 0).into()];
    })
    .await;
    let mut stranger = gateway.tls().await;
    let _leg = gateway.leg(Kind::Tcp, &unique("leg")).await;
    assert_eq!(read_to_end(&mut stranger).await, b"");
    assert_eq!(gateway.gateway.refusals("displaced").await, 1.0);
}
