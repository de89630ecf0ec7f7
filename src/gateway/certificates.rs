//! Where the certificate comes from that clients of TLS are shown: files, or an ACME authority.

use std::{path::Path, sync::Arc};

use super::GatewayError;
use crate::{
    acme::Acme, config::TlsConfig, metrics::Metrics, net::tls::files::CertificateFiles,
    shutdown::Shutdown,
};

/// What keeps the certificate a valid one.
pub(super) struct Certificates {
    pub(super) files: Arc<CertificateFiles>,
    acme: Option<Acme>,
}

impl Certificates {
    /// Shows what `config` names, relative to `dir`, if there is anything to show yet.
    pub(super) fn show(
        config: &TlsConfig,
        dir: &Path,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, GatewayError> {
        let files = CertificateFiles::show(config, dir, Arc::clone(metrics))?;
        let acme = Acme::new(&config.acme, dir, files.terminator(), metrics)?;
        Ok(Self { files, acme })
    }

    /// Follows changes of the files, and has the other renewed. No order is begun in the drain: the
    /// authority would find nobody listening.
    pub(super) fn look_after(self, shutdown: &Shutdown) {
        let tracker = shutdown.tracker();
        tracker.spawn(self.files.watch_until(shutdown.hard().clone()));
        if let Some(acme) = self.acme {
            tracker.spawn(acme.run_until(shutdown.soft().clone()));
        }
    }
}
