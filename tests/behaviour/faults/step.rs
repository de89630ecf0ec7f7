//! How far a client has come when it fails.

use std::sync::Arc;

use mini_rust_desk_relay_server::wire::{
    Transport::{self, Tcp, WebSocket},
    frame,
    rendezvous::{ConnType, request_relay},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{client::TlsStream, rustls::ClientConnection};

use super::{BEHIND_PROXY, CLIENTS, House, PROXY};
use crate::{
    by_hand::{binary, masked, opening, upgrade_request},
    support::{PATIENCE, unique},
    tls::shake_hands,
};

/// A step on the way of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Accepted,
    InProxyLine,
    InProxyHeader,
    BehindProxy,
    InClientHello,
    /// It has said its part of a TLS handshake, and nothing since.
    InHandshake,
    /// It has shaken hands, and is silent.
    InTls,
    WaitingInTls,
    InHttpHead,
    Upgraded,
    InFirstMessage,
    Waiting,
    RelayedInTls,
    /// Its peer waits, and it says its first message and fails at once.
    AtMatch,
    Relayed,
    /// In the middle of a message that it sends.
    WithinMessage,
    /// In the middle of one that it receives.
    WithinTheirs,
    /// It has said that it ends.
    Ending,
    /// Its peer has.
    Ended,
}

/// A client about to fail, and its peer, who does as it should.
pub(super) struct Scene {
    pub(super) client: TcpStream,
    pub(super) peer: Option<Peer>,
}

/// A client that does as it should.
pub(super) struct Peer {
    socket: TcpStream,
    transport: Transport,
}

const GREETING: &[u8] = b"a greeting";

/// The bytes of a message that has just begun.
const BEGUN: usize = 100;

impl Step {
    pub(super) const ALL: [Self; 19] = [
        Self::Accepted,
        Self::InProxyLine,
        Self::InProxyHeader,
        Self::BehindProxy,
        Self::InClientHello,
        Self::InHandshake,
        Self::InTls,
        Self::WaitingInTls,
        Self::InHttpHead,
        Self::Upgraded,
        Self::InFirstMessage,
        Self::Waiting,
        Self::RelayedInTls,
        Self::AtMatch,
        Self::Relayed,
        Self::WithinMessage,
        Self::WithinTheirs,
        Self::Ending,
        Self::Ended,
    ];

    pub(super) const fn exists_on(self, transport: Transport) -> bool {
        match self {
            Self::InHttpHead | Self::Upgraded => matches!(transport, WebSocket),
            Self::Accepted
            | Self::InProxyLine
            | Self::InProxyHeader
            | Self::BehindProxy
            | Self::InClientHello
            | Self::InHandshake
            | Self::InTls
            | Self::WaitingInTls
            | Self::RelayedInTls => matches!(transport, Tcp),
            _ => true,
        }
    }

    pub(super) const fn has_peer(self) -> bool {
        matches!(
            self,
            Self::RelayedInTls
                | Self::AtMatch
                | Self::Relayed
                | Self::WithinMessage
                | Self::WithinTheirs
                | Self::Ending
                | Self::Ended
        )
    }

    /// Brings a client as far as this.
    pub(super) async fn reach(
        self,
        house: &House,
        transport: Transport,
        across: Transport,
    ) -> Scene {
        if self.has_peer() {
            return self.reach_with_peer(house, transport, across).await;
        }
        let uuid = unique("fault");
        let from = match self {
            Self::InProxyLine | Self::InProxyHeader | Self::BehindProxy => PROXY,
            _ => CLIENTS,
        };
        let mut client = house.connect_from(from).await;
        if matches!(self, Self::InTls | Self::WaitingInTls) {
            let mut tls = shaken(house, client).await;
            if self == Self::WaitingInTls {
                say_hello(&mut tls, &uuid).await;
                house.gateway().until_waiting(&uuid).await;
            }
            return Scene { client: tls.into_inner().0, peer: None };
        }
        let hello = opening(transport, &request_relay(&uuid, "", "", ConnType::Default));
        let upgrade = upgrade_request("/");
        let sent: &[u8] = match self {
            Self::InProxyLine => b"PROXY TCP4 192.0.2.7 192.",
            Self::InProxyHeader => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0",
            Self::BehindProxy => &proxy_line(),
            Self::InClientHello => &client_hello(house)[..40],
            Self::InHandshake => &client_hello(house),
            Self::InHttpHead => &upgrade.as_bytes()[..40],
            Self::Upgraded => upgrade.as_bytes(),
            Self::InFirstMessage => &hello[..hello.len() - 5],
            Self::Waiting => &hello,
            _ => b"",
        };
        client.write_all(sent).await.expect("the gateway reads");
        if transport == WebSocket && self != Self::InHttpHead {
            upgraded(&mut client).await;
        }
        if self == Self::Waiting {
            house.gateway().until_waiting(&uuid).await;
        }
        Scene { client, peer: None }
    }

    async fn reach_with_peer(
        self,
        house: &House,
        transport: Transport,
        across: Transport,
    ) -> Scene {
        let uuid = unique("fault");
        let mut peer = Peer { socket: arrive(house, across, &uuid).await, transport: across };
        if self == Self::AtMatch {
            house.gateway().until_waiting(&uuid).await;
            let client = arrive(house, transport, &uuid).await;
            return Scene { client, peer: Some(peer) };
        }
        if self == Self::RelayedInTls {
            let mut tls = shaken(house, house.connect_from(CLIENTS).await).await;
            say_hello(&mut tls, &uuid).await;
            tls.write_all(&message(Tcp, GREETING)).await.expect("the relay reads");
            tls.flush().await.expect("the relay reads");
            peer.receive(across).await;
            return Scene { client: tls.into_inner().0, peer: Some(peer) };
        }
        let mut client = arrive(house, transport, &uuid).await;
        client.write_all(&message(transport, GREETING)).await.expect("the relay reads");
        peer.receive(across).await;
        match self {
            Self::WithinMessage => {
                let begun = &message(transport, &[7; 10 * BEGUN])[..BEGUN];
                client.write_all(begun).await.expect("the relay reads");
            }
            Self::WithinTheirs => {
                // Its rest comes too, some time.
                let whole = message(across, &[7; 10 * BEGUN]);
                peer.socket.write_all(&whole[..BEGUN]).await.expect("the relay reads");
                client.read_u8().await.expect("its beginning arrives");
                peer.socket.write_all(&whole[BEGUN..]).await.expect("the relay reads");
            }
            Self::Ending => end(&mut client, transport).await,
            Self::Ended => {
                end(&mut peer.socket, across).await;
                // Whether as a Close or as a FIN.
                let _ = timeout(PATIENCE, client.read(&mut [0; 64])).await.expect("the end");
            }
            _ => {}
        }
        Scene { client, peer: Some(peer) }
    }
}

/// Says whose connection it is.
pub(super) fn proxy_line() -> Vec<u8> {
    format!("PROXY TCP4 {BEHIND_PROXY} 192.0.2.1 40000 21117\r\n").into_bytes()
}

fn client_hello(house: &House) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let client = ClientConnection::new(Arc::new(house.identity.client()), name);
    let mut bytes = Vec::new();
    client.expect("a client").write_tls(&mut bytes).expect("a vector");
    bytes
}

async fn shaken(house: &House, socket: TcpStream) -> TlsStream<TcpStream> {
    shake_hands(socket, house.identity.client()).await.expect("a handshake")
}

async fn say_hello(tls: &mut TlsStream<TcpStream>, uuid: &str) {
    let hello = opening(Tcp, &request_relay(uuid, "", "", ConnType::Default));
    tls.write_all(&hello).await.expect("the gateway reads");
    tls.flush().await.expect("the gateway reads");
}

/// A leg that has said its first message.
async fn arrive(house: &House, transport: Transport, uuid: &str) -> TcpStream {
    let mut socket = house.connect_from(CLIENTS).await;
    let hello = opening(transport, &request_relay(uuid, "", "", ConnType::Default));
    socket.write_all(&hello).await.expect("the gateway reads");
    if transport == WebSocket {
        upgraded(&mut socket).await;
    }
    socket
}

async fn upgraded(socket: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, socket.read_u8()).await.expect("an answer in time");
        head.push(byte.expect("an answer"));
    }
}

/// A message, as a client sends it.
fn message(transport: Transport, payload: &[u8]) -> Vec<u8> {
    match transport {
        Tcp => frame::encode(payload).expect("a frame"),
        WebSocket => binary(payload),
    }
}

async fn end(socket: &mut TcpStream, transport: Transport) {
    // Who is told of it may have gone.
    let _ = match transport {
        Tcp => socket.shutdown().await,
        WebSocket => socket.write_all(&masked(0x88, &1000_u16.to_be_bytes())).await,
    };
}

impl Peer {
    async fn receive(&mut self, transport: Transport) {
        let header = if transport == Tcp { 1 } else { 2 };
        let mut bytes = vec![0; header + GREETING.len()];
        let read = timeout(PATIENCE, self.socket.read_exact(&mut bytes)).await;
        read.expect("it arrives in time").expect("it arrives");
        assert_eq!(&bytes[header..], GREETING);
    }

    /// Reads until the other leg has ended, and ends then; if it `floods`, it sends without end
    /// meanwhile. It must come to that.
    pub(super) async fn until_its_end(self, floods: bool) {
        let Self { socket, transport } = self;
        let (mut from, mut to) = socket.into_split();
        let flood = tokio::spawn(async move {
            let message = message(transport, &[7; 16 << 10]);
            while floods && to.write_all(&message).await.is_ok() {}
            to
        });
        let mut tail = Vec::new();
        let ended = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                // A reset is an end too.
                let len = from.read(&mut buffer).await.unwrap_or(0);
                tail.extend_from_slice(&buffer[..len]);
                tail.drain(..tail.len().saturating_sub(4));
                let close = transport == WebSocket && tail.starts_with(&[0x88, 2]);
                if len == 0 || close {
                    return;
                }
            }
        };
        timeout(PATIENCE, ended).await.expect("the end comes in time");
        flood.abort();
        // A leg that is told of the end and closes is all that the relay waits for.
        drop(flood.await);
    }
}
