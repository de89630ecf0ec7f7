//! Certificates of an ACME authority such as Let's Encrypt (RFC 8555), proved on the relay's own
//! port by TLS-ALPN-01 (RFC 8737): ordered, kept, shown, and renewed in time.
//!
//! The authority's faults are not the relay's: what fails is logged and counted, tried again later,
//! and later still, while the old certificate is shown and plain connections are served.

mod authority;
mod cache;
mod certificate;
mod order;
mod shown;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    authority::Authority,
    cache::Cache,
    certificate::{Certificate, CertificateError},
    shown::{ALPN, Shown},
};
use crate::{
    config::AcmeConfig,
    metrics::Metrics,
    net::tls::{TlsSetupError, TlsTerminator},
};

/// How long an order may take. Proving a name takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// After a failure: first this long, then twice as long each time. Let's Encrypt allows five proofs
/// of a name to fail in an hour.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// The longest wait after a failure.
const LAST_RETRY: Duration = Duration::from_secs(6 * 3600);

/// How often the clock is looked at: it may be set, or the machine have slept.
const TICK: Duration = Duration::from_secs(30);

/// How often it is looked whether a certificate is wanted again.
const LOOK: Duration = Duration::from_secs(1);

/// Fetches the certificate for the configured domains, and has it shown.
pub struct Acme {
    config: AcmeConfig,
    authority: Authority,
    cache: Arc<Cache>,
    shown: Arc<Shown>,
    terminator: Arc<TlsTerminator>,
    metrics: Arc<Metrics>,
}

/// Why certificates cannot even be asked for.
#[derive(Debug, thiserror::Error)]
pub enum AcmeSetupError {
    /// They could not be kept.
    #[error("tls.acme.cache_dir: cannot keep certificates in {path}: {source}", path = path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The roots for the authority are not to be had.
    #[error("tls.acme.directory_ca: {path} holds no root certificate in PEM", path = path.display())]
    Roots {
        /// The file.
        path: PathBuf,
    },
    /// There is no TLS, from clients or to the authority.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum AcmeError {
    #[error("{0}")]
    Authority(#[from] instant_acme::Error),
    #[error("{domain}: the authority offers no TLS-ALPN-01")]
    NoProof { domain: String },
    #[error("{domain}: the authority refuses, for it is {status:?} there")]
    Refused { domain: String, status: instant_acme::AuthorizationStatus },
    #[error("the authority says that the order is {0:?}")]
    Order(instant_acme::OrderStatus),
    #[error("cannot make a certificate for the proof: {0}")]
    Proof(#[from] rcgen::Error),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("the certificate that was issued will not do: {0}")]
    Issued(#[from] CertificateError),
    #[error("tls.acme.cache_dir: {0}")]
    Cache(#[from] io::Error),
    #[error("the order took longer than {} s", PATIENCE.as_secs())]
    TooLong,
}

impl Acme {
    /// Ready to fetch what `config` asks for, and to have it shown by `terminator`; paths are
    /// relative to `dir`. `None` where nothing is asked for.
    ///
    /// # Errors
    /// When it cannot be kept, or the authority not be told from another.
    pub fn new(
        config: &AcmeConfig,
        dir: &Path,
        terminator: &Arc<TlsTerminator>,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, AcmeSetupError> {
        if !config.is_on() {
            return Ok(None);
        }
        let path = dir.join(&config.cache_dir);
        let cache =
            Cache::open(path.clone()).map_err(|source| AcmeSetupError::Cache { path, source })?;
        let roots = dir.join(&config.directory_ca);
        let authority = Authority::new(&roots, config, terminator.provider())?;
        let shown = Arc::<Shown>::default();
        // From the start: the authority wants to see its proofs before there is a certificate.
        terminator.present_otherwise(terminator.prepare(Arc::clone(&shown) as _, &[ALPN])?);
        Ok(Some(Self {
            config: config.clone(),
            authority,
            cache: Arc::new(cache),
            shown,
            terminator: Arc::clone(terminator),
            metrics: Arc::clone(metrics),
        }))
    }

    /// Fetches and renews until `stop` is cancelled.
    pub async fn run_until(self, stop: CancellationToken) {
        stop.run_until_cancelled_owned(self.run()).await;
    }

    async fn run(self) {
        tracing::info!(
            domains = %self.config.domains.join(", "),
            directory = %self.config.directory,
            "certificates by ACME: with this setting you accept the authority's terms of service"
        );
        let mut due = self.recall().await;
        let mut failures = 0;
        loop {
            self.wait_until(due).await;
            match timeout(PATIENCE, self.renew()).await.unwrap_or(Err(AcmeError::TooLong)) {
                Ok(certificate) => {
                    self.metrics.tls.acme_ordered(true);
                    tracing::info!(until = %certificate.not_after, "a new certificate by ACME");
                    due = self.show(certificate);
                    let now = Timestamp::now();
                    if due > now {
                        failures = 0;
                        continue;
                    }
                    // Ordered anew at once it would be no better, and soon there were none at all.
                    let wait = retry_after(failures);
                    failures += 1;
                    due = now + wait;
                    tracing::error!(
                        retry_s = wait.as_secs(),
                        "the new certificate is due to be renewed already: is this machine's clock right?"
                    );
                }
                Err(error) => {
                    let wait = retry_after(failures);
                    failures += 1;
                    self.metrics.tls.acme_ordered(false);
                    tracing::error!(
                        failures,
                        retry_s = wait.as_secs(),
                        has_certificate = self.shown.has_certificate(),
                        "no certificate by ACME: {error}; are the names those of this machine, and does its port 443 lead here?"
                    );
                    due = Timestamp::now() + wait;
                }
            }
        }
    }

    /// Shows what was kept, if it is what is asked for. When the next is due.
    async fn recall(&self) -> Timestamp {
        let (cache, config) = (Arc::clone(&self.cache), self.config.clone());
        let kept = blocking(move || cache.certificate(&config)).await;
        let certificate = match kept {
            Ok(None) => return Timestamp::now(),
            Ok(Some(kept)) => kept.parse(self.terminator.provider()).map_err(AcmeError::from),
            Err(error) => Err(error.into()),
        };
        match certificate {
            Ok(certificate) => {
                tracing::info!(until = %certificate.not_after, "the certificate by ACME that was kept");
                self.show(certificate)
            }
            Err(error) => {
                tracing::warn!(
                    "the certificate that was kept will not do, a new one is ordered: {error}"
                );
                Timestamp::now()
            }
        }
    }

    /// Orders a certificate, and keeps it.
    async fn renew(&self) -> Result<Certificate, AcmeError> {
        let account = self.authority.account(&self.config, &self.cache).await?;
        let provider = self.terminator.provider();
        let issued = order::certificate(&account, &self.config, &self.shown, provider).await?;
        let certificate = issued.parse(provider)?;
        let cache = Arc::clone(&self.cache);
        if let Err(error) = blocking(move || cache.keep_certificate(&issued)).await {
            // It is good all the same; but the next start will order another.
            tracing::error!(%error, "the new certificate cannot be kept in tls.acme.cache_dir");
        }
        Ok(certificate)
    }

    /// When the next is due.
    fn show(&self, certificate: Certificate) -> Timestamp {
        let due = certificate.renewal();
        self.shown.show(certificate);
        due
    }

    async fn wait_until(&self, due: Timestamp) {
        loop {
            if !self.terminator.stands_in() {
                // A reload has set tls.cert: the authority would see no proof.
                sleep(LOOK).await;
                continue;
            }
            if let Some(not_after) = self.shown.not_after() {
                let left = not_after.as_second() - Timestamp::now().as_second();
                self.metrics.tls.certificate_expiry.set(left as f64);
            }
            let left = Duration::try_from(due - Timestamp::now()).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            sleep(left.min(TICK)).await;
        }
    }
}

fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LAST_RETRY)
}

/// Files may be on a file system that hangs: no relay is to wait for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_refuses_is_asked_ever_more_seldom() {
        let waits: Vec<_> = (0..12).map(|failures| retry_after(failures).as_secs() / 60).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]);
        assert_eq!(retry_after(u32::MAX), LAST_RETRY);
    }
}
