//! A certificate as an authority issues it: in PEM with its key, and ready to be shown.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::AcmeConfig;

/// A certificate that was issued, as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Issued {
    /// By whom.
    directory: String,
    /// For whom.
    domains: Vec<String>,
    /// In PEM, and those that vouch for it behind it.
    certificate: String,
    /// In PEM.
    key: Zeroizing<String>,
}

/// A certificate that can be shown.
#[derive(Debug)]
pub(super) struct Certificate {
    /// With its key.
    pub(super) certified: Arc<CertifiedKey>,
    not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("it is malformed")]
    Malformed,
    #[error("its key: {0}")]
    Key(#[from] rustls::Error),
}

impl Issued {
    pub(super) fn new(config: &AcmeConfig, certificate: String, key: String) -> Self {
        Self {
            directory: config.directory.clone(),
            domains: config.domains.clone(),
            certificate,
            key: Zeroizing::new(key),
        }
    }

    /// Whether it is what `config` asks for.
    pub(super) fn is_for(&self, config: &AcmeConfig) -> bool {
        self.directory == config.directory && self.domains == config.domains
    }

    pub(super) fn parse(&self, provider: &CryptoProvider) -> Result<Certificate, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain: Vec<_> =
            chain.collect::<Result<_, _>>().map_err(|_| CertificateError::Malformed)?;
        let [not_before, not_after] =
            chain.first().and_then(validity).ok_or(CertificateError::Malformed)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let key = key.map_err(|_| CertificateError::Malformed)?;
        let certified = Arc::new(CertifiedKey::from_der(chain, key, provider)?);
        Ok(Certificate { certified, not_before, not_after })
    }
}

impl Certificate {
    /// When the next is due: once two thirds of its time are over.
    pub(super) fn renewal(&self) -> Timestamp {
        let whole = self.not_after.duration_since(self.not_before);
        self.not_after - SignedDuration::from_millis((whole.as_millis() / 3) as i64)
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Option<[Timestamp; 2]> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = certificate.validity();
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some([at(validity.not_before)?, at(validity.not_after)?])
}
