//! What a leg sends before it has a peer is its peer's: kept, in order, however it was cut.

use std::{sync::Arc, time::Duration};

use mini_rust_desk_relay_server::wire::{
    Transport::{self, Tcp, WebSocket},
    frame,
    rendezvous::{ConnType, request_relay},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

use crate::{
    halves::Script,
    raw_websocket::{
        self, BINARY, CONTINUATION, FIRST_OF_BINARY, LAST, PING, RawWebSocket, header, masked,
    },
    support::{Client, PATIENCE, TestGateway, read_to_end, unique},
};

/// Everything that a client of this transport says to send `messages` after its first, all of it
/// in one piece.
fn in_one_piece(transport: Transport, uuid: &str, messages: &[Vec<u8>]) -> Vec<u8> {
    let hello = request_relay(uuid, "", "", ConnType::Default);
    let all = std::iter::once(&hello).chain(messages);
    match transport {
        Tcp => all.flat_map(|message| frame::encode(message).expect("a frame")).collect(),
        WebSocket => {
            let upgrade = raw_websocket::UPGRADE.bytes();
            upgrade.chain(all.flat_map(|message| masked(BINARY, message))).collect()
        }
    }
}

fn messages() -> Vec<Vec<u8>> {
    [0, 1, 5, 63, 64, 125, 126, 700, 0, 3_000].map(|len| vec![len as u8; len]).into()
}

async fn received(client: &mut Client, messages: &[Vec<u8>]) {
    for (at, message) in messages.iter().enumerate() {
        assert_eq!(client.receive().await.as_ref(), Some(message), "message {at}");
    }
}

#[tokio::test]
async fn bytes_in_the_segment_of_the_first_message_arrive() {
    let gateway = TestGateway::start().await;
    for (first, second) in [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
    {
        let uuid = unique("one-segment");
        let mut early = gateway.connect().await;
        early.write_all(&in_one_piece(first, &uuid, &messages())).await.unwrap();
        gateway.until_waiting(&uuid).await;
        let mut second = gateway.leg(second, &uuid).await;
        received(&mut second, &messages()).await;
    }
}

#[tokio::test]
async fn bytes_in_the_segment_of_the_second_legs_first_message_arrive() {
    let gateway = TestGateway::start().await;
    for (first, second) in [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
    {
        let uuid = unique("one-segment");
        let mut first = gateway.leg(first, &uuid).await;
        gateway.until_waiting(&uuid).await;
        let mut early = gateway.connect().await;
        early.write_all(&in_one_piece(second, &uuid, &messages())).await.unwrap();
        received(&mut first, &messages()).await;
    }
}

#[tokio::test]
async fn one_byte_at_a_time_changes_nothing() {
    let gateway = Arc::new(TestGateway::start().await);
    for (first, second) in [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
    {
        let uuid = unique("bytewise");
        let mut bytes = in_one_piece(first, &uuid, &messages());
        if first == WebSocket {
            bytes.extend(masked(FIRST_OF_BINARY, b"in "));
            bytes.extend(masked(PING, b"between"));
            bytes.extend(masked(CONTINUATION, b""));
            bytes.extend(masked(CONTINUATION | LAST, b"pieces"));
        } else {
            bytes.extend(frame::encode(b"in pieces").unwrap());
        }
        let mut slow = gateway.connect().await;
        let writing = tokio::spawn(async move {
            for byte in bytes {
                // Nagle is off: a write is a segment.
                slow.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            slow
        });
        let mut second = gateway.leg(second, &uuid).await;
        received(&mut second, &messages()).await;
        received(&mut second, &[b"in pieces".to_vec()]).await;
        drop(writing.await.unwrap());
    }
    gateway.until_metric("relay_active_relays{transport=\"mixed\"}", 0.0).await;
}

/// Fills the socket of a leg that waits: the relay reads none of it, and loses none of it.
#[tokio::test]
async fn a_waiting_leg_that_sends_on_is_held_back_and_loses_nothing() {
    const TOTAL: usize = 16 << 20;
    let gateway = TestGateway::start().await;
    for (first, second) in [(Tcp, Tcp), (Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)]
    {
        let uuid = unique("eager");
        let mut socket = match first {
            Tcp => gateway.leg(Tcp, &uuid).await.tcp(),
            WebSocket => RawWebSocket::leg(&gateway, &uuid).await.socket,
        };
        gateway.until_waiting(&uuid).await;
        let full = Arc::new(Notify::new());
        let writing = tokio::spawn({
            let full = Arc::clone(&full);
            async move {
                let bytes = script_on(first, TOTAL);
                let held_back = write_until_full(&mut socket, &bytes).await;
                full.notify_one();
                socket.write_all(&bytes[held_back..]).await.unwrap();
                (socket, held_back)
            }
        });
        timeout(PATIENCE, full.notified()).await.expect("the socket fills");
        gateway.until_waiting(&uuid).await;
        let mut second = gateway.leg(second, &uuid).await;
        let mut script = Script::new(7, TOTAL);
        while let Some(message) = script.next() {
            assert!(second.receive().await.as_deref() == Some(message));
        }
        let (_socket, held_back) = writing.await.unwrap();
        assert!(held_back < TOTAL, "the relay took everything before anybody wanted it");
    }
}

fn script_on(transport: Transport, total: usize) -> Vec<u8> {
    let mut script = Script::new(7, total);
    let mut bytes = Vec::new();
    while let Some(message) = script.next() {
        bytes.extend(match transport {
            Tcp => frame::encode(message).expect("a frame"),
            // A mask of zeros: it need not take time.
            WebSocket => [&header(BINARY, message.len() as u64, [0; 4])[..], message].concat(),
        });
    }
    bytes
}

/// Writes until the other side takes no more for a while; how much it took.
async fn write_until_full(socket: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match timeout(Duration::from_millis(300), socket.write(&bytes[written..])).await {
            Ok(taken) => written += taken.expect("the relay reads"),
            Err(_) => break,
        }
    }
    written
}

#[tokio::test]
async fn bytes_that_are_no_frames_pass_between_tcp_legs_untouched() {
    let gateway = TestGateway::start().await;
    let uuid = unique("raw");
    // Read as frames these would be too long, cut short, or both.
    let noise = [0xFF; 10_000];
    let mut first = gateway.connect().await;
    let mut bytes = in_one_piece(Tcp, &uuid, &[]);
    bytes.extend_from_slice(&noise);
    first.write_all(&bytes).await.unwrap();
    gateway.until_waiting(&uuid).await;
    let mut second = gateway.leg(Tcp, &uuid).await.tcp();
    gateway.until_active(&uuid).await;
    second.write_all(&noise[..5_001]).await.unwrap();
    second.shutdown().await.unwrap();
    first.shutdown().await.unwrap();
    assert!(read_to_end(&mut first).await == noise[..5_001]);
    assert!(read_to_end(&mut second).await == noise);
    assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
}
