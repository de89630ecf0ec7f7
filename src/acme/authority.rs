//! The way to the authority: HTTPS, one exchange a connection, each bounded in time and size; and
//! the account there.

use std::{error::Error, fs, path::Path, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, Uri,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use instant_acme::{Account, BodyWrapper, BytesResponse, HttpClient, NewAccount};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{AcmeError, AcmeSetupError, blocking, cache::Cache};
use crate::{config::AcmeConfig, net::tls::TlsSetupError};

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer; a chain of certificates is some KiB.
const MAX_ANSWER: usize = 1 << 20;

type Failure = Box<dyn Error + Send + Sync>;

/// An ACME authority.
pub(super) struct Authority {
    https: Https,
}

#[derive(Clone)]
struct Https(TlsConnector);

impl Authority {
    /// One whose own certificate is vouched for by a root in the file `roots`, where
    /// `config.directory_ca` names one, or else by one of the web's.
    pub(super) fn new(
        roots: &Path,
        config: &AcmeConfig,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, AcmeSetupError> {
        let roots = if config.directory_ca.as_os_str().is_empty() {
            // Brought along: a container may have none.
            RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
        } else {
            read_roots(roots).ok_or_else(|| AcmeSetupError::Roots { path: roots.to_owned() })?
        };
        let client = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsSetupError::from)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { https: Https(TlsConnector::from(Arc::new(client))) })
    }

    /// The account there: the one that was kept, or a new one, which is then kept.
    pub(super) async fn account(
        &self,
        config: &AcmeConfig,
        cache: &Arc<Cache>,
    ) -> Result<Account, AcmeError> {
        let builder = Account::builder_with_http(Box::new(self.https.clone()));
        let (kept, asked) = (Arc::clone(cache), config.clone());
        if let Some(credentials) = blocking(move || kept.account(&asked)).await? {
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact = format!("mailto:{}", config.email);
        let contact = [contact.as_str()];
        let new = NewAccount {
            contact: if config.email.is_empty() { &[] } else { &contact },
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder.create(&new, config.directory.clone(), None).await?;
        let (cache, config) = (Arc::clone(cache), config.clone());
        blocking(move || cache.keep_account(&config, credentials)).await?;
        Ok(account)
    }
}

fn read_roots(path: &Path) -> Option<RootCertStore> {
    let pem = fs::read(path).ok()?;
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let (added, _) = roots.add_parsable_certificates(found);
    (added > 0).then_some(roots)
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let https = self.clone();
        Box::pin(async move {
            let uri = request.uri().clone();
            let answer = timeout(PATIENCE, https.exchange(request)).await;
            let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
            answer.map(BytesResponse::from).map_err(|error| {
                instant_acme::Error::Other(format!("cannot ask {uri}: {error}").into())
            })
        })
    }
}

impl Https {
    async fn exchange(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        let uri = request.uri();
        let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err("no address that begins with https://".into());
        };
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let host_header = HeaderValue::from_str(authority)?;
        let host = host.trim_matches(['[', ']']);
        let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = self.0.connect(name, socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = Uri::try_from(path)?;
        request.headers_mut().insert(HOST, host_header);
        let exchange = async move {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, Full::new(body)))
        };
        // The connection ends with the exchange, which owns the only sender.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}
