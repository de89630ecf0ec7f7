//! TLS between nodes, where both show a certificate of one authority.
//!
//! A node believes whom the authority in `ca` vouches for, and no other authority in the world. Who
//! is dialed must show a certificate for the host by which it is reached, or for [`ANY_NODE`]: so
//! one certificate can serve many nodes, as in Kubernetes, whose addresses nobody knows before. Who
//! dials may have a certificate for any name.
//!
//! What is in the files is read again when it has changed; connections that there are go on.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError as Fault, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, DnsName, ServerName, UnixTime, pem::PemObject as _},
    server::{
        NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::SingleCertAndKey,
    version::TLS13,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    HandshakeError, Session,
    certificate::{CertificateError, Contents, Paths, read},
    shake_hands,
};
use crate::{config::ClusterTlsConfig, net::stream::Stream};

/// How often the files are read.
const EVERY: Duration = Duration::from_secs(3);

/// The name for which a certificate does for every node.
pub const ANY_NODE: &str = "relay-node";

/// TLS with other nodes.
pub struct MutualTls {
    paths: Paths,
    ca: PathBuf,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Configs>,
    // Held to compare and to swap.
    seen: Mutex<Seen>,
}

/// What both sides of a handshake are told.
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// What the files hold.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    pair: Contents,
    ca: Result<Vec<u8>, io::ErrorKind>,
}

struct Seen {
    /// What is in use, or was refused.
    files: Files,
    /// What will not do, and may be half of a change.
    suspect: Option<Files>,
}

/// Why there can be no TLS between nodes.
#[derive(Debug, thiserror::Error)]
pub enum MutualTlsError {
    /// The certificate or its key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The authority cannot be read.
    #[error("cluster.tls.ca: cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is none.
    #[error("cluster.tls.ca: {0} holds no certificate of an authority: PEM is wanted")]
    NoAuthority(PathBuf),
    /// TLS itself.
    #[error("cannot set up TLS between nodes")]
    Setup(#[from] Error),
    /// The same.
    #[error("cannot set up TLS between nodes")]
    Verifier(#[from] VerifierBuilderError),
}

impl MutualTls {
    /// TLS by the files that `config` names, relative to `dir`; `None` where it names none.
    ///
    /// # Errors
    /// When these will not do.
    pub fn load(
        config: &ClusterTlsConfig,
        dir: &Path,
    ) -> Result<Option<Arc<Self>>, MutualTlsError> {
        if !config.is_on() {
            return Ok(None);
        }
        let section = "cluster.tls";
        let paths = Paths { cert: dir.join(&config.cert), key: dir.join(&config.key), section };
        let ca = dir.join(&config.ca);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files::read(&paths, &ca);
        let current = ArcSwap::from_pointee(files.configs(&paths, &ca, &provider)?);
        let seen = Mutex::new(Seen { files, suspect: None });
        Ok(Some(Arc::new(Self { paths, ca, provider, current, seen })))
    }

    /// The stream within TLS, as the node that was dialed. Has no deadline of its own.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn accept(&self, stream: Stream) -> Result<Stream, HandshakeError> {
        let session = Session::new(Arc::clone(&self.current.load().server))?;
        shaken(stream, session).await
    }

    /// The stream within TLS, as the node that has dialed `host`: a name or an address. Has no
    /// deadline of its own. That the other does not believe this node is found out by the first
    /// read only.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(&self, stream: Stream, host: &str) -> Result<Stream, HandshakeError> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| Error::General(format!("{host} is no host's name")))?;
        let session = Session::client(Arc::clone(&self.current.load().client), name)?;
        shaken(stream, session).await
    }

    /// Looks at the files every few seconds until `stop` is cancelled.
    pub async fn watch_until(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let this = Arc::clone(&self);
            // A file system may hang.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// Takes what is in the files now, if that has changed and will do.
    fn look(&self) {
        let files = Files::read(&self.paths, &self.ca);
        // Whatever panicked left it as it was.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.files == files {
            seen.suspect = None;
            return;
        }
        match files.configs(&self.paths, &self.ca, &self.provider) {
            Ok(configs) => {
                self.current.store(Arc::new(configs));
                *seen = Seen { files, suspect: None };
                tracing::info!("the certificates between nodes have changed, and are in use");
            }
            // The files may be written one after the other.
            Err(_) if seen.suspect.as_ref() != Some(&files) => seen.suspect = Some(files),
            Err(fault) => {
                *seen = Seen { files, suspect: None };
                tracing::error!(
                    "the certificates between nodes have changed and will not do, those before are kept: {fault}"
                );
            }
        }
    }
}

async fn shaken(stream: Stream, session: Session) -> Result<Stream, HandshakeError> {
    let mut stream = stream.within(Box::new(session));
    shake_hands(&mut stream).await?;
    Ok(stream)
}

impl Files {
    fn read(paths: &Paths, ca: &Path) -> Self {
        Self { pair: paths.read(), ca: read(ca).map_err(|error| error.kind()) }
    }

    fn configs(
        &self,
        paths: &Paths,
        ca: &Path,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Configs, MutualTlsError> {
        let own = Arc::new(SingleCertAndKey::from(paths.parse(&self.pair, provider)?.certified));
        let roots = Arc::new(self.roots(ca)?);
        let callers =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
        let callers: Arc<dyn ClientCertVerifier> = callers.build()?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(callers)
            .with_cert_resolver(own.clone());
        // Each connection is proved anew, by the certificates that are there then.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let hosts =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build()?;
        let any = DnsName::try_from(ANY_NODE).map_err(|_| Error::General(ANY_NODE.to_owned()))?;
        let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Hosts { hosts, any: any.into() }))
            .with_client_cert_resolver(own);
        client.resumption = Resumption::disabled();
        Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
    }

    fn roots(&self, ca: &Path) -> Result<RootCertStore, MutualTlsError> {
        let pem = self.ca.as_ref().map_err(|kind| MutualTlsError::Unreadable {
            path: ca.to_owned(),
            source: (*kind).into(),
        })?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
        if roots.is_empty() {
            return Err(MutualTlsError::NoAuthority(ca.to_owned()));
        }
        Ok(roots)
    }
}

/// Believes a node that was dialed.
#[derive(Debug)]
struct Hosts {
    hosts: Arc<WebPkiServerVerifier>,
    any: ServerName<'static>,
}

impl ServerCertVerifier for Hosts {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name: &ServerName<'_>| {
            self.hosts.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        match verify(server_name) {
            Err(Error::InvalidCertificate(
                Fault::NotValidForName | Fault::NotValidForNameContext { .. },
            )) => verify(&self.any),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.hosts.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.hosts.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.hosts.supported_verify_schemes()
    }
}
