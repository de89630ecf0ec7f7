//! `[tls]`: the certificate that clients of wss and https are shown.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{AcmeConfig, rules::Rules};

/// The `[tls]` section.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file with the certificate, and those that vouch for it behind it; empty for no TLS.
    pub cert: PathBuf,
    /// A PEM file with its private key.
    pub key: PathBuf,
    /// The certificate that the relay fetches itself, instead.
    pub acme: AcmeConfig,
}

impl TlsConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.require(
            self.cert.as_os_str().is_empty() == self.key.as_os_str().is_empty(),
            &["tls.cert", "tls.key"],
            "of cert and key only one is set: TLS needs both",
        );
        rules.require(
            self.cert.as_os_str().is_empty() || !self.acme.is_on(),
            &["tls.acme.domains", "tls.cert"],
            "a certificate in tls.cert and one by ACME: leave one of them empty",
        );
        self.acme.validate(rules);
    }
}
