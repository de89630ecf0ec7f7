//! What is shown in a handshake: the certificate, once there is one, and to the authority the proof
//! that it asks for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::certificate::Certificate;

/// The protocol that an authority asks for, alone, to see a proof.
pub(super) const ALPN: &[u8] = b"acme-tls/1";

/// The certificate and the proofs.
#[derive(Debug, Default)]
pub(super) struct Shown {
    certificate: ArcSwapOption<Certificate>,
    /// By the name that each is for. Never held across an await.
    proofs: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

/// A proof that is shown until this is dropped.
pub(super) struct Proof<'a> {
    shown: &'a Shown,
    domain: String,
}

impl Shown {
    pub(super) fn show(&self, certificate: Certificate) {
        self.certificate.store(Some(Arc::new(certificate)));
    }

    pub(super) fn has_certificate(&self) -> bool {
        self.certificate.load().is_some()
    }

    /// Until when what is shown is valid.
    pub(super) fn not_after(&self) -> Option<Timestamp> {
        self.certificate.load().as_ref().map(|certificate| certificate.not_after)
    }

    pub(super) fn prove(&self, domain: String, certificate: CertifiedKey) -> Proof<'_> {
        self.proofs().insert(domain.clone(), Arc::new(certificate));
        Proof { shown: self, domain }
    }

    fn proofs(&self) -> MutexGuard<'_, HashMap<String, Arc<CertifiedKey>>> {
        // A map operation that panicked left the map as it was.
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.alpn().is_some_and(|protocols| protocols.eq([ALPN])) {
            return self.proofs().get(hello.server_name()?).cloned();
        }
        self.certificate.load().as_ref().map(|certificate| Arc::clone(&certificate.certified))
    }
}

impl Drop for Proof<'_> {
    fn drop(&mut self) {
        self.shown.proofs().remove(&self.domain);
    }
}
