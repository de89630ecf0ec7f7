//! TLS in the generator: a certificate of its own, and a client on a blocking socket.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;

use crate::dial::dial;

const NAME: &str = "relay.bench";

/// How long a byte may take to come or go before the case fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a client comes with what it was given the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// Every handshake is the first.
    Never,
    /// Every one but the first is resumed.
    Always,
}

/// A certificate for this run, in files.
pub(crate) struct Certificate {
    dir: TempDir,
    der: CertificateDer<'static>,
}

/// A client's end of a connection, TLS or not.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Certificate {
    /// The same for all that is measured. ECDSA on P-256, as certificates of the web mostly are.
    pub(crate) fn get() -> anyhow::Result<&'static Self> {
        static MADE: OnceLock<Result<Certificate, String>> = OnceLock::new();
        let made = MADE.get_or_init(|| Self::make().map_err(|error| format!("{error:#}")));
        made.as_ref().map_err(|why| anyhow!("no certificate: {why}"))
    }

    fn make() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let dir = tempfile::tempdir()?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(dir.path().join("cert.pem"), &cert)?;
        fs::write(dir.path().join("key.pem"), &key)?;
        // HAProxy has both in one.
        fs::write(dir.path().join("both.pem"), [cert, key].concat())?;
        Ok(Self { dir, der: made.cert.der().clone() })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// TLS 1.3, as every client of today.
    pub(crate) fn client(&self, ticket: Ticket) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = match ticket {
            Ticket::Never => Resumption::disabled(),
            Ticket::Always => Resumption::in_memory_sessions(8),
        };
        Ok(Arc::new(config))
    }
}

impl Socket {
    /// Connects, and shakes hands with TLS if there is a `config` for it.
    pub(crate) fn connect(
        addr: SocketAddr,
        config: Option<&Arc<ClientConfig>>,
    ) -> anyhow::Result<Self> {
        let socket = dial(addr)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let Some(config) = config else { return Ok(Self::Plain(socket)) };
        let name = ServerName::try_from(NAME).context("a name")?;
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("no handshake")?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    /// That the handshake was of the kind that is measured.
    pub(crate) fn ensure_resumed(&self, is_resumed: bool) -> anyhow::Result<()> {
        if let Self::Tls(stream) = self {
            let kind = stream.conn.handshake_kind();
            ensure!(
                (kind == Some(HandshakeKind::Resumed)) == is_resumed,
                "a handshake is {kind:?}"
            );
        }
        Ok(())
    }

    /// Its socket, to end what others wait for.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
