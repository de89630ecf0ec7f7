//! `[proxy]`: who stands in front of the relay, and speaks for clients.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Network, rules::Rules};

/// The `[proxy]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Whose word on a client's address is taken.
    pub trusted: Vec<Network>,
    /// Whether these begin their connections with a PROXY header.
    pub protocol: ProxyProtocol,
    /// Which headers of theirs name the client of an HTTP request.
    pub headers: Vec<ForwardingHeader>,
}

/// Whether a trusted proxy begins its connections with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// It does not; one that does speaks what the relay does not.
    Off,
    /// It may.
    Optional,
    /// It does; one that does not is refused.
    Required,
}

/// A header by which a proxy names who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardingHeader {
    /// RFC 7239.
    Forwarded,
    /// A list that every proxy appends to.
    XForwardedFor,
    /// One address, which a proxy sets.
    XRealIp,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        use ForwardingHeader::{Forwarded, XForwardedFor, XRealIp};
        Self {
            trusted: Vec::new(),
            protocol: ProxyProtocol::Optional,
            headers: vec![Forwarded, XForwardedFor, XRealIp],
        }
    }
}

impl ProxyConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        for everyone in self.trusted.iter().filter(|network| network.is_everyone()) {
            let what =
                format!("{everyone} lets every client name any address: list the proxies alone");
            rules.require(false, &["proxy.trusted"], what);
        }
    }

    /// Whether the word of `ip` is taken.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(ip))
    }

    /// Whether a connection from `ip` begins with a PROXY header: off for who is not trusted.
    pub fn protocol_from(&self, ip: IpAddr) -> ProxyProtocol {
        // In most places nobody is.
        if self.trusts(ip) { self.protocol } else { ProxyProtocol::Off }
    }
}
