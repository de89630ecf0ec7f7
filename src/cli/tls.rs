//! TLS as a client has it: whom to trust, and a stream that is plain or within it.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::{Context as _, bail};
use clap::Args;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Which certificates are believed.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Trust {
    /// With TLS: believe the certificates that this PEM file has, or that one of them vouches for,
    /// instead of the public authorities.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// With TLS: believe any certificate. Who stands in between can read and change everything.
    #[arg(long, global = true)]
    insecure: bool,
}

/// A connection, within TLS or not.
pub(super) enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What begins TLS.
#[derive(Clone)]
pub(super) struct TlsClient(TlsConnector);

impl Trust {
    /// A client with this trust.
    pub(super) fn client(&self) -> anyhow::Result<TlsClient> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("cannot set up TLS")?;
        let config = if self.insecure || self.ca.is_some() {
            let given = self.ca.as_deref().map(|path| Given::read(path, &provider)).transpose()?;
            let believer = Arc::new(Believer { given, provider });
            config.dangerous().with_custom_certificate_verifier(believer)
        } else {
            let public = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
            config.with_root_certificates(public.collect::<RootCertStore>())
        };
        Ok(TlsClient(TlsConnector::from(Arc::new(config.with_no_client_auth()))))
    }
}

impl TlsClient {
    /// Begins TLS with `host`, which is a name or an address.
    pub(super) async fn begin(&self, host: &str, socket: TcpStream) -> io::Result<ClientStream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(ClientStream::Tls(Box::new(self.0.connect(name, socket).await?)))
    }
}

impl ClientStream {
    /// Whence it goes.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(socket) => socket.local_addr(),
            Self::Tls(stream) => stream.get_ref().0.local_addr(),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Believes the certificates of a file, and those that they vouch for.
#[derive(Debug)]
struct Given {
    certificates: Vec<CertificateDer<'static>>,
    vouched: Arc<WebPkiServerVerifier>,
}

impl Given {
    fn read(path: &Path, provider: &Arc<CryptoProvider>) -> anyhow::Result<Self> {
        let pem = fs::read(path).with_context(|| format!("cannot read --ca {}", path.display()))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if roots.is_empty() {
            bail!("--ca {} holds no certificate: PEM is wanted", path.display());
        }
        let vouched =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .context("cannot set up TLS")?;
        Ok(Self { certificates, vouched })
    }

    fn verify(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.vouched.verify_server_cert(shown, between, name, &[], now) {
            // `openssl req -x509` makes an authority's certificate, which otherwise would be no
            // server's; one that is out of date is another error.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.certificates.contains(shown) =>
            {
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }
}

/// Believes what it was given, or else any certificate, as long as whoever shows it has its key.
#[derive(Debug)]
struct Believer {
    given: Option<Given>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.given {
            Some(given) => given.verify(shown, between, name, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
