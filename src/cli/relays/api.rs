//! One request to the admin API: bounded in time and in size, and its failures in words.

use std::{fmt, io, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1,
    header::{AUTHORIZATION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    cli::tls::{ClientStream, TlsClient, Trust},
    config::Secret,
};

/// How long an answer may take as a whole.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is read: many times a full page of relays.
const MAX_ANSWER: usize = 16 << 20;

/// An admin API.
pub(in crate::cli) struct AdminApi {
    /// For https.
    tls: Option<TlsClient>,
    host: String,
    port: u16,
    /// What stands before `/api/v1`, behind a proxy.
    prefix: String,
    authorization: HeaderValue,
}

/// What it answered.
pub(in crate::cli) struct Answer {
    pub(in crate::cli) status: StatusCode,
    pub(in crate::cli) body: Bytes,
}

/// RFC 9457, as far as it is of use here.
#[derive(Deserialize)]
struct ProblemDocument {
    detail: String,
}

impl AdminApi {
    pub(super) fn new(url: &str, token: &Secret, trust: &Trust) -> anyhow::Result<Self> {
        let wanted = "--url must be like http://HOST:PORT or https://HOST:PORT";
        let uri: Uri = url.parse().ok().with_context(|| format!("{wanted}, not {url:?}"))?;
        let (tls, usual_port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(trust.client()?), 443),
            _ => bail!("{wanted}, not {url:?}"),
        };
        let authority = uri.authority().with_context(|| format!("{wanted}, not {url:?}"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            bail!("{wanted}, without a user, a password or a query");
        }
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .ok()
                .context("the admin token holds characters that no HTTP header can: check it")?;
        authorization.set_sensitive(true);
        Ok(Self {
            tls,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(usual_port),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            authorization,
        })
    }

    /// Asks for `path` below `/api/v1`.
    pub(in crate::cli) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{path}", self.prefix))
            .header(HOST, self.authority())
            .header(AUTHORIZATION, &self.authorization)
            .body(Empty::<Bytes>::new())
            .context("this cannot be asked")?;
        match timeout(PATIENCE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => bail!(
                "no answer from {self} within {} s: is it a relay's admin API, and does no firewall stand between?",
                PATIENCE.as_secs()
            ),
        }
    }

    async fn connect(&self) -> anyhow::Result<ClientStream> {
        let socket = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| self.unreachable(error))?;
        let Some(tls) = &self.tls else { return Ok(ClientStream::Plain(socket)) };
        tls.begin(&self.host, socket).await.with_context(|| {
            format!("no TLS with {self}: if its certificate is of your own making, give --ca FILE; if it has none, give --url http://…")
        })
    }

    async fn exchange(&self, request: Request<Empty<Bytes>>) -> anyhow::Result<Answer> {
        let stream = self.connect().await?;
        let not_http = || format!("{self} does not answer as an HTTP server: is --url right?");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.with_context(not_http)?;
        let exchange = async move {
            let response = sender.send_request(request).await.with_context(not_http)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            // Not the error itself: a boxed one is no cause that anyhow takes as it is.
            let body = body.map_err(|error| anyhow!("{error}"));
            let body = body.with_context(|| format!("the answer from {self} broke off"))?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        // The connection ends with the exchange, which owns the only sender.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }

    fn unreachable(&self, error: io::Error) -> anyhow::Error {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => anyhow!(
                "nothing listens at {self}: start the relay, or say with --url where its admin API is"
            ),
            _ => anyhow::Error::new(error)
                .context(format!("cannot connect to {self}: check --url and the network")),
        }
    }

    /// What an answer that is not 200 OK means.
    pub(in crate::cli) fn refusal(&self, answer: &Answer) -> anyhow::Error {
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => anyhow!(
                "{self} refuses this admin token: give the one that is configured there, or that it printed to standard error at its start, with --token-file, --token or RELAY__ADMIN__TOKEN"
            ),
            StatusCode::NOT_FOUND => anyhow!(
                "there is no admin API at {self}: if the relay has admin.listen set, give that address with --url"
            ),
            _ => self.says(answer),
        }
    }

    /// What is wrong, in the API's own words.
    pub(super) fn says(&self, answer: &Answer) -> anyhow::Error {
        match serde_json::from_slice::<ProblemDocument>(&answer.body) {
            Ok(problem) => {
                anyhow!("{self} says: {}", problem.detail.replace(char::is_control, "?"))
            }
            Err(_) => {
                let status = answer.status;
                anyhow!("{self} answers {status}, as no admin API does: is --url right?")
            }
        }
    }

    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for AdminApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl Answer {
    /// As it is, ended with a line break.
    pub(in crate::cli) fn text(&self) -> anyhow::Result<String> {
        let text = std::str::from_utf8(&self.body).context("the answer is not text")?;
        Ok(format!("{}\n", text.trim_end()))
    }
}
