//! A certificate and its key in two PEM files: read, and found to belong together.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::{
    Error, InconsistentKeys,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The certificate, and those that vouch for it behind it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The section of the configuration whose `cert` and `key` these are.
    pub section: &'static str,
}

/// What the two files hold, or why they cannot be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    cert: Result<Vec<u8>, io::ErrorKind>,
    key: Result<Zeroizing<Vec<u8>>, io::ErrorKind>,
}

/// A certificate that can be shown.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// With its key.
    pub certified: Arc<CertifiedKey>,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

/// What is wrong with the two files.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// One cannot be read.
    #[error("{section}.{setting}: cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The section.
        section: &'static str,
        /// The setting there that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no certificate.
    #[error(
        "{section}.cert: {path} holds no certificate: PEM is wanted, the server's own certificate first",
        section = .0.section, path = .0.cert.display()
    )]
    NoCertificate(Box<Paths>),
    /// There is no key.
    #[error(
        "{section}.key: {path} holds no private key: PEM is wanted, PKCS #8, PKCS #1 or SEC 1, not encrypted",
        section = .0.section, path = .0.key.display()
    )]
    NoKey(Box<Paths>),
    /// The first certificate is none.
    #[error(
        "{section}.cert: the first certificate in {path} is malformed: {source}",
        section = paths.section, path = paths.cert.display()
    )]
    Malformed {
        /// The files.
        paths: Box<Paths>,
        /// What is wrong.
        source: Error,
    },
    /// The key is none that can sign.
    #[error(
        "{section}.key: the key in {path} cannot be used: {source}",
        section = paths.section, path = paths.key.display()
    )]
    UnusableKey {
        /// The files.
        paths: Box<Paths>,
        /// What is wrong.
        source: Error,
    },
    /// They do not belong together.
    #[error(
        "{section}.cert, {section}.key: the key in {key} is not that of the first certificate in {cert}",
        section = .0.section, key = .0.key.display(), cert = .0.cert.display()
    )]
    Mismatch(Box<Paths>),
}

/// Longer than any chain; what is longer is some other file.
const LONGEST: u64 = 1 << 20;

impl Paths {
    /// What both files hold now.
    pub fn read(&self) -> Contents {
        let kind = |error: io::Error| error.kind();
        Contents {
            cert: read(&self.cert).map_err(kind),
            key: read(&self.key).map(Zeroizing::new).map_err(kind),
        }
    }

    /// The certificate that the files' contents are.
    ///
    /// # Errors
    /// When they are none.
    pub fn parse(
        &self,
        contents: &Contents,
        provider: &CryptoProvider,
    ) -> Result<Certificate, CertificateError> {
        let unreadable = |setting, path: &Path, kind: &io::ErrorKind| {
            let (section, path, source) = (self.section, path.to_owned(), (*kind).into());
            CertificateError::Unreadable { section, setting, path, source }
        };
        let cert = contents.cert.as_ref();
        let cert = cert.map_err(|kind| unreadable("cert", &self.cert, kind))?;
        let key = contents.key.as_ref();
        let key = key.map_err(|kind| unreadable("key", &self.key, kind))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert).filter_map(Result::ok).collect();
        let first = chain.first();
        let first = first.ok_or_else(|| CertificateError::NoCertificate(self.boxed()))?;
        let not_after = not_after(first).ok_or_else(|| self.malformed(malformed()))?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|_| CertificateError::NoKey(self.boxed()))?;
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|source| {
            let paths = self.boxed();
            CertificateError::UnusableKey { paths, source }
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // Some keys do not tell what their public half is.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(CertificateError::Mismatch(self.boxed()));
            }
            Err(fault) => return Err(self.malformed(fault)),
        }
        Ok(Certificate { certified: Arc::new(certified), not_after })
    }

    /// As errors have it, which are to be small.
    fn boxed(&self) -> Box<Self> {
        Box::new(self.clone())
    }

    fn malformed(&self, source: Error) -> CertificateError {
        CertificateError::Malformed { paths: self.boxed(), source }
    }
}

fn malformed() -> Error {
    Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
}

/// What a file of certificates or keys holds, if that is not too long for it.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}
