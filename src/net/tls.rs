//! TLS on the relay's own port: what certificate is shown, and the handshake; and between nodes,
//! which is `mutual`'s.
//!
//! Whence a certificate comes is for whoever calls [`TlsTerminator::present`]: from files it is
//! `files`' and `certificate`'s. What a session does after its handshake is `session`'s.

pub mod certificate;
pub mod files;
pub mod mutual;
mod scratch;
mod session;

use std::{
    future::poll_fn,
    io,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use rustls::{
    Error, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
};
use tokio::io::AsyncWriteExt as _;

pub(super) use self::session::{Session, Socket};
use super::{listener::Connection, stream::Stream};

/// The only protocol within TLS that is ever agreed on: HTTP/1 is what browsers speak before they
/// upgrade. Who asks for none may speak whatever the port takes.
const HTTP_1: &[u8] = b"http/1.1";

/// Ends the TLS of those who come with it, once there is a certificate to show.
pub struct TlsTerminator {
    shown: ArcSwapOption<ServerConfig>,
    /// What is shown where nothing else is presented.
    stand_in: OnceLock<Arc<ServerConfig>>,
    provider: Arc<CryptoProvider>,
    /// Its keys change every six hours, and outlive every certificate.
    tickets: Arc<dyn ProducesTickets>,
}

/// Certificates that are ready to be shown.
pub struct Presentable(Arc<ServerConfig>);

/// How a handshake came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// In full.
    Full,
    /// By a ticket of an earlier session.
    Resumed,
}

/// Why there can be no TLS at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS")]
pub struct TlsSetupError(#[from] Error);

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer went.
    #[error("the peer hung up in its TLS handshake")]
    HungUp,
    /// TLS itself.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[from] Error),
    /// The socket.
    #[error("the connection failed in its TLS handshake")]
    Io(#[source] io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::HungUp,
            _ => Self::Io(error),
        }
    }
}

impl TlsTerminator {
    /// TLS is off before there is a certificate.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> Result<Arc<Self>, TlsSetupError> {
        Ok(Arc::new(Self {
            shown: ArcSwapOption::empty(),
            stand_in: OnceLock::new(),
            // Named: with two providers in the program rustls would choose none.
            provider: Arc::new(aws_lc_rs::default_provider()),
            tickets: aws_lc_rs::Ticketer::new()?,
        }))
    }

    /// What makes signatures here.
    pub const fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// Makes ready to show what `certificates` has for each ClientHello, to those also who ask for
    /// one of `further` protocols.
    ///
    /// # Errors
    /// When TLS cannot be set up at all.
    pub fn prepare(
        &self,
        certificates: Arc<dyn ResolvesServerCert>,
        further: &[&[u8]],
    ) -> Result<Presentable, TlsSetupError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols =
            [&[HTTP_1], further].concat().iter().map(|name| name.to_vec()).collect();
        config.ticketer = Arc::clone(&self.tickets);
        // Who comes again brings a ticket: nothing is kept here for those who do not.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Presentable(Arc::new(config)))
    }

    /// From now on shows this; without any, what stands in for it, or TLS is off. Sessions that
    /// there are go on.
    pub fn present(&self, certificates: Option<Presentable>) {
        let certificates = certificates.map(|Presentable(config)| config);
        self.shown.store(certificates.or_else(|| self.stand_in.get().cloned()));
    }

    /// Shows this from now on, and whenever nothing else is presented. Only the first call counts.
    pub fn present_otherwise(&self, Presentable(config): Presentable) {
        let stand_in = self.stand_in.get_or_init(|| config);
        self.shown.store(Some(Arc::clone(stand_in)));
    }

    /// Whether it is what stands in that is shown.
    pub fn stands_in(&self) -> bool {
        let shown = self.shown.load();
        self.stand_in.get().zip(shown.as_ref()).is_some_and(|(own, shown)| Arc::ptr_eq(own, shown))
    }

    /// Whether there is a certificate to show.
    pub fn is_on(&self) -> bool {
        self.shown.load().is_some()
    }

    /// The connection within the TLS that began with `head`. Has no deadline of its own.
    ///
    /// # Errors
    /// When the handshake fails. What TLS has to say of that was sent to the peer.
    pub async fn accept(
        &self,
        connection: Connection,
        head: &[u8],
    ) -> Result<(Connection, Handshake), HandshakeError> {
        // It was on when the door asked; a reload may have come in between.
        let Some(config) = self.shown.load_full() else { return Err(HandshakeError::HungUp) };
        let mut session = Box::new(Session::new(config)?);
        session.begin(head);
        let mut connection = connection.with_socket(|stream| stream.within(session));
        let handshake = shake_hands(&mut connection.socket).await?;
        Ok((connection, handshake))
    }
}

async fn shake_hands(stream: &mut Stream) -> Result<Handshake, HandshakeError> {
    loop {
        stream.flush().await?;
        let Some(session) = stream.session() else { return Err(HandshakeError::HungUp) };
        if let Some(fault) = session.fault() {
            return Err(fault.into());
        }
        if !session.is_handshaking() {
            let resumed = session.is_resumed();
            return Ok(if resumed { Handshake::Resumed } else { Handshake::Full });
        }
        if session.has_ended() {
            return Err(HandshakeError::HungUp);
        }
        poll_fn(|cx| stream.poll_progress(cx)).await?;
    }
}

impl Handshake {
    /// Its name as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
        }
    }
}

impl HandshakeError {
    /// Its name as a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::HungUp => "hung_up",
            Self::Io(_) => "io",
            Self::Tls(Error::AlertReceived(_)) => "refused_by_peer",
            Self::Tls(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => "incompatible",
            Self::Tls(_) => "protocol",
        }
    }
}
