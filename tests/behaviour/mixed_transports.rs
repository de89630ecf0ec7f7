//! A frame on TCP is a Binary message on a WebSocket, one to one, in both directions.

use std::time::Duration;

use mini_rust_desk_relay_server::wire::Transport::{Tcp, WebSocket};
use tokio::io::AsyncWriteExt as _;

use crate::{
    raw_websocket::{
        BINARY, CLOSE, CONTINUATION, FIRST_OF_BINARY, Frame, LAST, PING, PONG, RawWebSocket, TEXT,
        header,
    },
    support::{Client, TestGateway, read_to_end, unique},
};

async fn mixed(gateway: &TestGateway) -> (Client, RawWebSocket, String) {
    let uuid = unique("mixed");
    let tcp = gateway.leg(Tcp, &uuid).await;
    gateway.until_waiting(&uuid).await;
    let websocket = RawWebSocket::leg(gateway, &uuid).await;
    gateway.until_active(&uuid).await;
    (tcp, websocket, uuid)
}

async fn two_websockets(gateway: &TestGateway) -> (RawWebSocket, RawWebSocket) {
    let uuid = unique("two-websockets");
    let first = RawWebSocket::leg(gateway, &uuid).await;
    gateway.until_waiting(&uuid).await;
    let second = RawWebSocket::leg(gateway, &uuid).await;
    gateway.until_active(&uuid).await;
    (first, second)
}

fn binary(payload: &[u8]) -> Option<Frame> {
    Some(Frame(BINARY, payload.to_vec()))
}

#[tokio::test]
async fn one_frame_is_one_binary_message_empty_ones_too() {
    let gateway = TestGateway::start().await;
    let (mut tcp, mut websocket, _) = mixed(&gateway).await;
    for len in [0, 0, 1, 125, 126, 0, 65_535, 65_536, 0, 3 << 20] {
        let message = vec![0x5A; len];
        tcp.send(&message).await;
        assert_eq!(websocket.frame().await, binary(&message));
        websocket.send(BINARY, &message).await;
        assert_eq!(tcp.receive().await, Some(message));
    }
}

#[tokio::test]
async fn text_counts_as_bytes_valid_or_not() {
    let gateway = TestGateway::start().await;
    let (mut tcp, mut websocket, _) = mixed(&gateway).await;
    let (mut first, mut second) = two_websockets(&gateway).await;
    for text in [&b"text"[..], b"", b"\xFF\xC0 not UTF-8 \x80"] {
        websocket.send(TEXT, text).await;
        assert_eq!(tcp.receive().await.as_deref(), Some(text));
        first.send(TEXT, text).await;
        assert_eq!(second.frame().await, binary(text));
    }
}

#[tokio::test]
async fn fragments_become_one_frame_with_pings_answered_between() {
    let gateway = TestGateway::start().await;
    let (mut tcp, mut websocket, _) = mixed(&gateway).await;
    let big = vec![7; 200_000];
    for _ in 0..3 {
        websocket.send(FIRST_OF_BINARY, b"").await;
        websocket.send(PING, b"one").await;
        assert_eq!(websocket.frame().await, Some(Frame(PONG, b"one".to_vec())));
        websocket.send(CONTINUATION, &big).await;
        websocket.send(PONG, b"unasked").await;
        websocket.send(PING, b"").await;
        assert_eq!(websocket.frame().await, Some(Frame(PONG, Vec::new())));
        websocket.send(CONTINUATION, b"tail").await;
        websocket.send(CONTINUATION | LAST, b"").await;
        let whole = [&big[..], b"tail"].concat();
        assert_eq!(tcp.receive().await, Some(whole));
    }
    websocket.send(FIRST_OF_BINARY, b"").await;
    websocket.send(CONTINUATION | LAST, b"").await;
    assert_eq!(tcp.receive().await, Some(Vec::new()));
}

#[tokio::test]
async fn fragments_stay_fragments_between_websockets() {
    let gateway = TestGateway::start().await;
    let (mut first, mut second) = two_websockets(&gateway).await;
    first.send(FIRST_OF_BINARY, b"to").await;
    assert_eq!(second.frame().await, Some(Frame(FIRST_OF_BINARY, b"to".to_vec())));
    first.send(CONTINUATION | LAST, b"gether").await;
    assert_eq!(second.frame().await, Some(Frame(CONTINUATION | LAST, b"gether".to_vec())));
}

#[tokio::test]
async fn a_ping_is_answered_while_the_leg_waits_and_after() {
    let gateway = TestGateway::start().await;
    let uuid = unique("waits");
    let mut websocket = RawWebSocket::connect(&gateway).await;
    websocket.send(PING, b"before the first message").await;
    let pong = Frame(PONG, b"before the first message".to_vec());
    assert_eq!(websocket.frame().await, Some(pong));
    websocket.write(&crate::raw_websocket::hello(&uuid)).await;
    gateway.until_waiting(&uuid).await;
    for round in 0..6_u8 {
        websocket.send(PING, &[round; 125]).await;
        assert_eq!(websocket.frame().await, Some(Frame(PONG, vec![round; 125])));
    }
    websocket.send(PING, b"then data").await;
    websocket.send(BINARY, b"data").await;
    assert_eq!(websocket.frame().await, Some(Frame(PONG, b"then data".to_vec())));
    let mut tcp = gateway.leg(Tcp, &uuid).await;
    assert_eq!(tcp.receive().await.as_deref(), Some(&b"data"[..]));
    websocket.send(PING, b"paired").await;
    assert_eq!(websocket.frame().await, Some(Frame(PONG, b"paired".to_vec())));
}

/// A Pong cannot stand in the middle of the frame that is passing: it comes right behind it.
#[tokio::test]
async fn a_ping_is_answered_while_a_big_message_passes_the_other_way() {
    const LEN: usize = 2 << 20;
    let gateway = TestGateway::start().await;
    let (tcp, mut websocket, uuid) = mixed(&gateway).await;
    let mut tcp = tcp.tcp();
    let frame = mini_rust_desk_relay_server::wire::frame::encode(&vec![9; LEN]).unwrap();
    tcp.write_all(&frame[..LEN / 2]).await.unwrap();
    websocket.send(PING, b"in the middle").await;
    crate::support::eventually("the ping has arrived", async || gateway.taken(&uuid).await[1] > 0)
        .await;
    tcp.write_all(&frame[LEN / 2..]).await.unwrap();
    assert_eq!(websocket.frame().await, binary(&vec![9; LEN]));
    assert_eq!(websocket.frame().await, Some(Frame(PONG, b"in the middle".to_vec())));
}

#[tokio::test]
async fn a_websockets_close_is_answered_with_its_status_and_ends_tcp_after_all_its_data() {
    let gateway = TestGateway::start().await;
    for (close, answer) in [
        (&[0x03, 0xE9, b'b', b'y', b'e'][..], &[0x03, 0xE9][..]),
        (&[0x0B, 0xB8], &[0x0B, 0xB8]),
        (b"", b""),
        // Half a status, and one that no frame may carry: RFC 6455, section 7.4.1.
        (&[0x03], &[0x03, 0xEA]),
        (&[0x03, 0xED], &[0x03, 0xEA]),
        (&[0x03, 0xEE], &[0x03, 0xEA]),
        (&[0x00, 0x01], &[0x03, 0xEA]),
    ] {
        let (mut tcp, mut websocket, _) = mixed(&gateway).await;
        let big = vec![1; 1 << 20];
        websocket.send(BINARY, &big).await;
        websocket.send(CLOSE, close).await;
        assert_eq!(websocket.frame().await, Some(Frame(CLOSE, answer.to_vec())), "{close:?}");
        assert_eq!(websocket.frame().await, None);
        assert_eq!(tcp.receive().await, Some(big));
        assert_eq!(tcp.receive().await, None);
    }
    gateway.until_quiet().await;
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 7.0).await;
}

#[tokio::test]
async fn a_close_between_websockets_reaches_both() {
    let gateway = TestGateway::start().await;
    let (mut first, mut second) = two_websockets(&gateway).await;
    first.send(BINARY, b"last words").await;
    first.send(CLOSE, &1001_u16.to_be_bytes()).await;
    first.expect_close(1001).await;
    assert_eq!(first.frame().await, None);
    assert_eq!(second.frame().await, binary(b"last words"));
    second.expect_close(1000).await;
    second.send(CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(second.frame().await, None);
    gateway.until_quiet().await;
}

#[tokio::test]
async fn tcps_end_is_a_close_after_all_its_data_and_what_the_websocket_still_sends_arrives() {
    let gateway = TestGateway::start().await;
    let (tcp, mut websocket, _) = mixed(&gateway).await;
    let mut tcp = tcp.tcp();
    let big = vec![1; 1 << 20];
    let frame = mini_rust_desk_relay_server::wire::frame::encode(&big).unwrap();
    tcp.write_all(&frame).await.unwrap();
    tcp.shutdown().await.unwrap();
    assert_eq!(websocket.frame().await, binary(&big));
    websocket.expect_close(1000).await;
    for _ in 0..4 {
        websocket.send(BINARY, &big).await;
    }
    websocket.send(PING, b"nobody may answer behind a Close").await;
    websocket.send(CLOSE, &1000_u16.to_be_bytes()).await;
    let mut expected = Vec::new();
    (0..4).for_each(|_| expected.extend_from_slice(&frame));
    assert!(read_to_end(&mut tcp).await == expected);
    assert_eq!(websocket.frame().await, None);
    gateway.until_quiet().await;
}

/// A Close behind the beginning of a message that never ends would stand inside it.
#[tokio::test]
async fn a_frame_that_its_sender_leaves_unfinished_ends_the_other_leg_at_once() {
    let gateway = TestGateway::start().await;
    let since = std::time::Instant::now();
    let (tcp, mut websocket, _) = mixed(&gateway).await;
    let mut tcp = tcp.tcp();
    // A frame of 100 bytes, half of it.
    tcp.write_all(&[0x91, 0x01]).await.unwrap();
    tcp.write_all(&[6; 50]).await.unwrap();
    tcp.shutdown().await.unwrap();
    let rest = read_to_end(&mut websocket.socket).await;
    assert_eq!(rest, [&[BINARY, 100][..], &[6; 50]].concat());
    drop((tcp, websocket));

    let (mut first, mut second) = two_websockets(&gateway).await;
    first.write(&header(BINARY, 100, [0; 4])).await;
    first.write(&[6; 50]).await;
    drop(first);
    let rest = read_to_end(&mut second.socket).await;
    assert_eq!(rest, [&[BINARY, 100][..], &[6; 50]].concat());
    drop(second);

    let (tcp, mut websocket, _) = mixed(&gateway).await;
    websocket.write(&header(BINARY, 100, [0; 4])).await;
    websocket.write(&[6; 50]).await;
    drop(websocket);
    let rest = read_to_end(&mut tcp.tcp()).await;
    assert_eq!(rest, [&[0x91, 0x01][..], &[6; 50]].concat());
    gateway.until_quiet().await;
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

/// A Close that comes while a frame is passing the other way is answered behind that frame.
#[tokio::test]
async fn a_close_in_the_middle_of_a_frame_is_answered_behind_it() {
    const LEN: usize = 2 << 20;
    let gateway = TestGateway::start().await;
    let (tcp, mut websocket, uuid) = mixed(&gateway).await;
    let mut tcp = tcp.tcp();
    let frame = mini_rust_desk_relay_server::wire::frame::encode(&vec![9; LEN]).unwrap();
    tcp.write_all(&frame[..LEN / 2]).await.unwrap();
    websocket.send(CLOSE, &1000_u16.to_be_bytes()).await;
    crate::support::eventually("the Close has arrived", async || gateway.taken(&uuid).await[1] > 0)
        .await;
    tcp.write_all(&frame[LEN / 2..]).await.unwrap();
    assert_eq!(websocket.frame().await, binary(&vec![9; LEN]));
    websocket.expect_close(1000).await;
    assert_eq!(websocket.frame().await, None);
    assert_eq!(read_to_end(&mut tcp).await, b"");
    drop(tcp);
    gateway.until_quiet().await;
}

/// Both ends at once, each with data before it.
#[tokio::test]
async fn ends_that_cross_lose_nothing() {
    let gateway = TestGateway::start().await;
    for _ in 0..20 {
        let (mut tcp, websocket) = gateway.pair(Tcp, WebSocket).await;
        let mut websocket = RawWebSocket { socket: websocket.websocket().into_inner() };
        tcp.send(b"from tcp").await;
        websocket.send(BINARY, b"from websocket").await;
        let close = async {
            let frame = websocket.frame().await;
            websocket.send(CLOSE, &1000_u16.to_be_bytes()).await;
            (frame, websocket.frame().await, websocket.frame().await)
        };
        let (seen, ()) = tokio::join!(close, tcp.finish());
        let answer = Some(Frame(CLOSE, 1000_u16.to_be_bytes().to_vec()));
        assert_eq!(seen, (binary(b"from tcp"), answer, None));
        assert_eq!(tcp.receive().await.as_deref(), Some(&b"from websocket"[..]));
        assert_eq!(tcp.receive().await, None);
    }
    gateway.until_quiet().await;
}
