//! What breaks the WebSocket protocol, or is longer than may cross, ends the relay with a status.

use mini_rust_desk_relay_server::{
    config,
    wire::Transport::{self, Tcp, WebSocket},
};
use tokio::io::AsyncWriteExt as _;

use crate::{
    raw_websocket::{
        BINARY, CONTINUATION, FIRST_OF_BINARY, Frame, LAST, PING, RawWebSocket, TEXT, header,
        masked,
    },
    support::{Client, TestGateway, read_to_end, unique},
};

const MAX: usize = 64 << 10;

async fn small_gateway() -> TestGateway {
    TestGateway::start_with(|config| {
        config.relay.max_message_size = config::Size::from_bytes(MAX as u64);
    })
    .await
}

/// A raw WebSocket, and a peer of the transport asked for.
async fn with_peer(gateway: &TestGateway, peer: Transport) -> (RawWebSocket, Client) {
    let uuid = unique("frames");
    let peer = gateway.leg(peer, &uuid).await;
    gateway.until_waiting(&uuid).await;
    let websocket = RawWebSocket::leg(gateway, &uuid).await;
    gateway.until_active(&uuid).await;
    (websocket, peer)
}

fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8][..], payload].concat()
}

#[tokio::test]
async fn a_breach_is_answered_with_1002_and_what_came_before_is_delivered() {
    let gateway = small_gateway().await;
    let breaches = [
        unmasked(BINARY, b"bare"),
        masked(BINARY | 0x40, b"compressed"),
        masked(BINARY | 0x20, b"reserved"),
        masked(BINARY | 0x10, b"reserved"),
        masked(LAST | 0x3, b"no such data"),
        masked(LAST | 0xB, b"no such control"),
        masked(CONTINUATION | LAST, b"of nothing"),
        [masked(FIRST_OF_BINARY, b"one"), masked(BINARY, b"two")].concat(),
        [masked(FIRST_OF_BINARY, b"one"), masked(TEXT, b"two")].concat(),
        masked(PING & !LAST, b"in pieces"),
        masked(PING, &[0; 126]),
        header(PING, 1 << 40, [0; 4]),
    ];
    let count = breaches.len() as f64 * 2.0;
    for breach in breaches {
        for peer in [Tcp, WebSocket] {
            let (mut websocket, mut peer) = with_peer(&gateway, peer).await;
            websocket.send(BINARY, b"before").await;
            websocket.write(&breach).await;
            websocket.expect_close(1002).await;
            assert_eq!(websocket.frame().await, None, "{breach:x?}");
            assert_eq!(peer.receive().await.as_deref(), Some(&b"before"[..]));
            match peer {
                Client::WebSocket(mut socket) => until_closed(&mut socket, 1001).await,
                Client::Tcp(_) => assert_eq!(peer.receive().await, None),
            }
        }
    }
    gateway.until_metric("relay_ends_total{reason=\"websocket_protocol\"}", count).await;
    gateway.until_quiet().await;
}

/// Reads on, through the first part of a message that broke off, to the Close.
async fn until_closed(
    socket: &mut tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>,
    status: u16,
) {
    use futures_util::StreamExt as _;
    use tokio_tungstenite::tungstenite::Message;
    match socket.next().await {
        Some(Ok(Message::Close(Some(close)))) => assert_eq!(u16::from(close.code), status),
        other => panic!("{other:?}"),
    }
}

/// The status must arrive, though the client has sent much that nobody read.
#[tokio::test]
async fn a_message_too_long_from_a_websocket_is_answered_with_1009() {
    let gateway = small_gateway().await;
    let mut fragments = vec![masked(FIRST_OF_BINARY, &[0; MAX / 2])];
    fragments.extend((0..3).map(|_| masked(CONTINUATION, &[0; MAX / 4])));
    let just_over = masked(BINARY, &[0; MAX + 1]);
    let endless = [header(BINARY, 1 << 63, [1; 4]), vec![0; 2 << 20]].concat();
    let greatest = header(BINARY, u64::MAX, [1; 4]);
    let behind_fragment = [masked(FIRST_OF_BINARY, b"x"), header(CONTINUATION, u64::MAX, [0; 4])];
    let mut ends = 0.0;
    for long in [just_over, endless, greatest, behind_fragment.concat(), fragments.concat()] {
        for peer in [Tcp, WebSocket] {
            let (mut websocket, mut peer) = with_peer(&gateway, peer).await;
            websocket.send(BINARY, &[4; MAX]).await;
            websocket.write(&long).await;
            websocket.expect_close(1009).await;
            assert_eq!(websocket.frame().await, None);
            assert_eq!(peer.receive().await.as_deref(), Some(&[4; MAX][..]));
            match peer {
                Client::WebSocket(mut socket) => until_closed(&mut socket, 1009).await,
                Client::Tcp(_) => assert_eq!(peer.receive().await, None),
            }
            ends += 1.0;
        }
    }
    gateway.until_metric("relay_ends_total{reason=\"message_too_long\"}", ends).await;
    gateway.until_quiet().await;
}

#[tokio::test]
async fn a_message_too_long_from_tcp_ends_the_websocket_with_1009() {
    let gateway = small_gateway().await;
    for header in [&[0xFF; 4][..], &[0x02 | 0x04, 0x00, 0x04]] {
        let (mut websocket, mut tcp) = with_peer(&gateway, Tcp).await;
        tcp.send(&[4; MAX]).await;
        let mut tcp = tcp.tcp();
        tcp.write_all(header).await.unwrap();
        // Of such a message nobody reads a byte, and yet nobody is reset for it.
        tcp.write_all(&vec![0; 1 << 20]).await.unwrap();
        assert_eq!(websocket.frame().await, Some(Frame(BINARY, vec![4; MAX])));
        websocket.expect_close(1009).await;
        assert_eq!(read_to_end(&mut tcp).await, b"");
        tcp.shutdown().await.unwrap();
    }
    gateway.until_metric("relay_ends_total{reason=\"message_too_long\"}", 2.0).await;
    gateway.until_quiet().await;
}

/// A limit on messages is no limit on a raw relay.
#[tokio::test]
async fn between_tcp_legs_no_message_is_too_long() {
    let gateway = small_gateway().await;
    let (mut first, mut second) = gateway.pair(Tcp, Tcp).await;
    let long = vec![3; 4 * MAX];
    first.send(&long).await;
    assert_eq!(second.receive().await, Some(long));
}
