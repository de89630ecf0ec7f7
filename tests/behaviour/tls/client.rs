//! A gateway with a certificate, and clients of every kind: TCP and WebSocket, each plain and in TLS.

use std::{path::Path, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _};
use mini_rust_desk_relay_server::{
    config::Config,
    wire::{
        frame,
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ProtocolVersion, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName},
        version::{TLS12, TLS13},
    },
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, error::ProtocolError},
};

use crate::support::{PATIENCE, TestGateway, unique};

/// How a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Ws,
    Tls,
    Wss,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Ws, Self::Tls, Self::Wss];

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// Any connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A client's end of a leg.
pub(crate) enum Peer {
    Frames(Box<dyn Io>),
    Messages(Box<WebSocketStream<Box<dyn Io>>>),
}

/// A certificate of our own making, for `localhost`.
pub(crate) struct Identity {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    der: CertificateDer<'static>,
}

/// A gateway that shows one.
pub(crate) struct TlsGateway {
    pub(crate) gateway: TestGateway,
    pub(crate) identity: Identity,
    pub(crate) files: tempfile::TempDir,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        Self {
            cert_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
        }
    }

    pub(crate) fn write(&self, dir: &Path) {
        std::fs::write(dir.join("cert.pem"), &self.cert_pem).expect("a file");
        std::fs::write(dir.join("key.pem"), &self.key_pem).expect("a file");
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_of(&[&TLS12, &TLS13])
    }

    pub(crate) fn client_of(
        &self,
        versions: &[&'static tokio_rustls::rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

impl TlsGateway {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let (identity, files) = (Identity::new(), tempfile::tempdir().expect("a directory"));
        identity.write(files.path());
        let gateway = TestGateway::start_with(|config| {
            config.tls.cert = files.path().join("cert.pem");
            config.tls.key = files.path().join("key.pem");
            change(config);
        })
        .await;
        Self { gateway, identity, files }
    }

    pub(crate) async fn tls(&self) -> TlsStream<TcpStream> {
        self.tls_by(self.identity.client()).await
    }

    pub(crate) async fn tls_by(&self, client: ClientConfig) -> TlsStream<TcpStream> {
        shake_hands(self.gateway.connect().await, client).await.expect("a handshake")
    }

    pub(crate) async fn connect(&self, kind: Kind) -> Box<dyn Io> {
        if kind.is_tls() {
            Box::new(self.tls().await)
        } else {
            Box::new(self.gateway.connect().await)
        }
    }

    /// A leg that names `uuid`.
    pub(crate) async fn leg(&self, kind: Kind, uuid: &str) -> Peer {
        Peer::greeting(self.connect(kind).await, kind, uuid).await
    }

    /// Two legs that are paired: the one that waited, and the one that came.
    pub(crate) async fn pair(&self, first: Kind, second: Kind) -> (Peer, Peer, String) {
        let uuid = unique("tls");
        let first = self.leg(first, &uuid).await;
        self.gateway.until_waiting(&uuid).await;
        let second = self.leg(second, &uuid).await;
        self.gateway.until_active(&uuid).await;
        (first, second, uuid)
    }
}

pub(crate) async fn shake_hands(
    socket: TcpStream,
    client: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let connected = TlsConnector::from(Arc::new(client)).connect(name, socket);
    timeout(PATIENCE, connected).await.expect("a handshake in time")
}

pub(crate) fn version(stream: &TlsStream<TcpStream>) -> Option<ProtocolVersion> {
    stream.get_ref().1.protocol_version()
}

impl Peer {
    pub(crate) async fn greeting(mut io: Box<dyn Io>, kind: Kind, uuid: &str) -> Self {
        let hello = request_relay(uuid, "", "", ConnType::Default);
        if !kind.is_websocket() {
            write(&mut io, &frame::encode(&hello).expect("a frame")).await;
            return Self::Frames(io);
        }
        let upgraded = client_async("ws://localhost/ws/relay", io).await;
        let mut socket = upgraded.expect("the gateway upgrades").0;
        socket.send(Message::binary(hello)).await.expect("the gateway reads");
        Self::Messages(Box::new(socket))
    }

    pub(crate) async fn send(&mut self, message: &[u8]) {
        match self {
            Self::Frames(io) => write(io, &frame::encode(message).expect("a frame")).await,
            Self::Messages(socket) => {
                let sent = socket.send(Message::binary(message.to_vec()));
                timeout(PATIENCE, sent).await.expect("in time").expect("the gateway reads");
            }
        }
    }

    /// The next message; `None` at the orderly end.
    pub(crate) async fn receive(&mut self) -> Option<Vec<u8>> {
        let received = async {
            match self {
                Self::Frames(io) => read_frame(io).await,
                Self::Messages(socket) => loop {
                    match socket.next().await?.expect("a whole message") {
                        Message::Binary(bytes) => return Some(bytes.to_vec()),
                        Message::Close(_) => return None,
                        _ => {}
                    }
                },
            }
        };
        timeout(PATIENCE, received).await.expect("something comes in time")
    }

    /// Ends what this side sends: close_notify and FIN, or a Close.
    pub(crate) async fn finish(&mut self) {
        match self {
            Self::Frames(io) => io.shutdown().await.expect("an end"),
            Self::Messages(socket) => match socket.as_mut().close(None).await {
                Err(Error::Protocol(ProtocolError::SendAfterClosing)) => {
                    socket.flush().await.expect("a Close");
                }
                closed => closed.expect("a Close"),
            },
        }
    }

    /// The stream of a leg that has no messages of its own.
    pub(crate) fn io(self) -> Box<dyn Io> {
        match self {
            Self::Frames(io) => io,
            Self::Messages(_) => panic!("a WebSocket"),
        }
    }
}

pub(crate) async fn write(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let written = async {
        io.write_all(bytes).await?;
        io.flush().await
    };
    timeout(PATIENCE, written).await.expect("in time").expect("the gateway reads");
}

/// Everything until the end, which must be an orderly one.
pub(crate) async fn read_to_end(io: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, io.read_to_end(&mut bytes)).await;
    read.expect("the end comes in time").expect("an orderly end");
    bytes
}

async fn read_frame(io: &mut Box<dyn Io>) -> Option<Vec<u8>> {
    let mut head = vec![0; 1];
    if io.read(&mut head).await.expect("no reset, and close_notify before the end") == 0 {
        return None;
    }
    head.resize(frame::FrameHeader::len_from(head[0]), 0);
    io.read_exact(&mut head[1..]).await.expect("a whole header");
    let header = frame::FrameHeader::parse(&head).expect("a header");
    let mut payload = vec![0; header.payload_len()];
    io.read_exact(&mut payload).await.expect("a whole frame");
    Some(payload)
}
