//! The certificate that comes from files: shown, and shown anew when what is in the files changes.
//!
//! Contents are compared, not times or names: Kubernetes swaps a symbolic link above the files. A
//! pair that will not do is reported once, and the one before stays.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rustls::sign::SingleCertAndKey;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Presentable, TlsSetupError, TlsTerminator,
    certificate::{Certificate, CertificateError, Contents, Paths},
};
use crate::{config::TlsConfig, metrics::Metrics};

/// How often the files are read.
const EVERY: Duration = Duration::from_secs(3);

/// Shows the certificate of the files that the configuration names.
pub struct CertificateFiles {
    terminator: Arc<TlsTerminator>,
    metrics: Arc<Metrics>,
    // Held to look and to swap, never across an await.
    watched: Mutex<Option<Watched>>,
}

/// A certificate of files, ready to be shown.
pub struct Prepared {
    watched: Watched,
    presentable: Presentable,
}

/// Why the configured certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The files are at fault.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS is.
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
}

#[derive(Clone)]
struct Watched {
    paths: Paths,
    /// What was shown last, or else refused.
    seen: Contents,
    /// What will not do, and was there the last time already: no half of a change.
    suspect: Option<Contents>,
    not_after: Timestamp,
}

impl CertificateFiles {
    /// Shows what `config` names, relative to `dir`, if it names anything.
    ///
    /// # Errors
    /// When that is no certificate with its key.
    pub fn show(
        config: &TlsConfig,
        dir: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, TlsError> {
        let terminator = TlsTerminator::new()?;
        let files = Self { terminator, metrics, watched: Mutex::default() };
        files.apply(files.prepare(config, dir)?);
        Ok(Arc::new(files))
    }

    /// What shows the certificate.
    pub const fn terminator(&self) -> &Arc<TlsTerminator> {
        &self.terminator
    }

    /// Reads what `config` names, relative to `dir`; `None` when it names nothing. Changes nothing.
    ///
    /// # Errors
    /// When that is no certificate with its key.
    pub fn prepare(&self, config: &TlsConfig, dir: &Path) -> Result<Option<Prepared>, TlsError> {
        let Some(paths) = paths(config, dir) else { return Ok(None) };
        let contents = paths.read();
        let certificate = paths.parse(&contents, self.terminator.provider())?;
        self.ready(paths, contents, certificate).map(Some).map_err(TlsError::from)
    }

    /// Shows what was prepared; without any, what stands in for it, or TLS is off.
    pub fn apply(&self, prepared: Option<Prepared>) {
        let (watched, presentable) =
            prepared.map(|prepared| (prepared.watched, prepared.presentable)).unzip();
        if watched.is_none() && self.lock().is_none() {
            // Nothing changes.
            return;
        }
        let changed = match (&*self.lock(), &watched) {
            (Some(before), Some(now)) => before.seen != now.seen,
            _ => true,
        };
        if let Some(watched) = watched.as_ref().filter(|_| changed) {
            tell(watched);
        }
        *self.lock() = watched;
        self.terminator.present(presentable);
        self.count_down();
    }

    /// Looks at the files every few seconds until `stop` is cancelled.
    pub async fn watch_until(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let Some(paths) = self.lock().as_ref().map(|watched| watched.paths.clone()) else {
                continue;
            };
            let reading = paths.clone();
            // A file system may hang: no relay is to wait for it.
            let Ok(contents) = tokio::task::spawn_blocking(move || reading.read()).await else {
                continue;
            };
            self.compare(paths, contents);
            self.count_down();
        }
    }

    fn compare(&self, paths: Paths, contents: Contents) {
        let mut watched = self.lock();
        // A reload may have come in between.
        let Some(now) = watched.as_mut().filter(|watched| watched.paths == paths) else { return };
        if now.seen == contents {
            now.suspect = None;
            return;
        }
        let parsed = paths.parse(&contents, self.terminator.provider()).map_err(TlsError::from);
        let ready = parsed.and_then(|certificate| {
            self.ready(paths, contents.clone(), certificate).map_err(TlsError::from)
        });
        match ready {
            Ok(Prepared { watched: fresh, presentable }) => {
                tell(&fresh);
                *now = fresh;
                self.terminator.present(Some(presentable));
                self.metrics.tls.reloaded(true);
            }
            // The two files may be written one after the other.
            Err(_) if now.suspect.as_ref() != Some(&contents) => now.suspect = Some(contents),
            Err(fault) => {
                (now.seen, now.suspect) = (contents, None);
                self.metrics.tls.reloaded(false);
                tracing::error!(
                    "the certificate on disk has changed and will not do, the one before is kept: {fault}"
                );
            }
        }
    }

    fn ready(
        &self,
        paths: Paths,
        seen: Contents,
        certificate: Certificate,
    ) -> Result<Prepared, TlsSetupError> {
        let Certificate { certified, not_after } = certificate;
        let shown = Arc::new(SingleCertAndKey::from(certified));
        let presentable = self.terminator.prepare(shown, &[])?;
        Ok(Prepared { watched: Watched { paths, seen, suspect: None, not_after }, presentable })
    }

    fn count_down(&self) {
        let left = match &*self.lock() {
            Some(watched) => seconds_left(watched.not_after),
            // Whose certificate it is that stands in counts down itself.
            None if self.terminator.is_on() => return,
            None => 0,
        };
        self.metrics.tls.certificate_expiry.set(left as f64);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Watched>> {
        // Whatever panicked left it as it was.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when the certificate is valid that `config` names, relative to `dir`; `None` when it names
/// none.
///
/// # Errors
/// When that is no certificate with its key.
pub fn validity(config: &TlsConfig, dir: &Path) -> Result<Option<Timestamp>, CertificateError> {
    let Some(paths) = paths(config, dir) else { return Ok(None) };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(Some(paths.parse(&paths.read(), &provider)?.not_after))
}

/// Where the certificate is that `config` names, if it names one.
fn paths(config: &TlsConfig, dir: &Path) -> Option<Paths> {
    let is_set = !config.cert.as_os_str().is_empty();
    is_set.then(|| Paths {
        cert: dir.join(&config.cert),
        key: dir.join(&config.key),
        section: "tls",
    })
}

fn seconds_left(not_after: Timestamp) -> i64 {
    not_after.as_second() - Timestamp::now().as_second()
}

fn tell(watched: &Watched) {
    let (cert, until) = (watched.paths.cert.display(), watched.not_after);
    if seconds_left(until) <= 0 {
        tracing::warn!(%cert, %until, "the certificate has expired: clients will refuse it");
    } else {
        tracing::info!(%cert, %until, "TLS is on: wss and https on every port");
    }
}
