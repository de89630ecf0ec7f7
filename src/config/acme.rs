//! `[tls.acme]`: a certificate that the relay fetches and renews itself.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::rules::Rules;

/// Let's Encrypt, the one whose certificates count.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The `[tls.acme]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// The names that the certificate is for; none for no ACME.
    pub domains: Vec<String>,
    /// Where the authority may write to; empty for nowhere.
    pub email: String,
    /// Where the account and the certificate are kept.
    pub cache_dir: PathBuf,
    /// The authority's directory.
    pub directory: String,
    /// A PEM file with the roots by which the authority's own certificate is checked; empty for
    /// those of the web.
    pub directory_ca: PathBuf,
}

impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            email: String::new(),
            cache_dir: PathBuf::from("acme"),
            directory: LETS_ENCRYPT.to_owned(),
            directory_ca: PathBuf::new(),
        }
    }
}

impl AcmeConfig {
    /// Whether a certificate is wanted.
    pub const fn is_on(&self) -> bool {
        !self.domains.is_empty()
    }

    pub(super) fn validate(&self, rules: &mut Rules) {
        for domain in self.domains.iter().filter(|domain| !is_name(domain)) {
            let what = format!(
                "{domain:?} is no name that can be proved on this port: write it in full, in lower \
                 case, without * and without a dot at its end"
            );
            rules.require(false, &["tls.acme.domains"], what);
        }
        rules.require(
            self.email.is_empty() || self.email.contains('@'),
            &["tls.acme.email"],
            "expected an address such as \"admin@example.org\"",
        );
        rules.require(
            !self.cache_dir.as_os_str().is_empty(),
            &["tls.acme.cache_dir"],
            "empty: without a place to keep it every start would order a certificate",
        );
        rules.require(
            self.directory.starts_with("https://"),
            &["tls.acme.directory"],
            "expected an address that begins with \"https://\"",
        );
    }
}

/// Whether `text` is a host's name: no address, no wildcard.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label) && text.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_told_from_what_cannot_be_proved() {
        for name in ["relay.example.org", "localhost", "a-b.xn--bcher-kva.example", "1.example"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "*.example.org",
            "example.org.",
            "Relay.example",
            "-a.example",
            "a b",
            "127.0.0.1",
            "::1",
            &long,
        ] {
            assert!(!is_name(text), "{text}");
        }
    }
}
