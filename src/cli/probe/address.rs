//! `HOST[:PORT]`: what to probe.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// Where relays listen unless told otherwise.
const USUAL_PORT: u16 = 21117;

/// A relay, by name or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// The same host with another port, as URLs write it.
    pub(super) fn with_port(&self, port: u16) -> String {
        let host = &self.host;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_port(self.port))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Err("expected HOST or HOST:PORT, not a URL".to_owned());
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("the bracket is not closed")?,
            // Without brackets all of it is the address.
            None if text.parse::<Ipv6Addr>().is_ok() => (text, ""),
            None if text.matches(':').count() > 1 => {
                return Err("an IPv6 address with a port is written [::1]:21117".to_owned());
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err("expected HOST or HOST:PORT".to_owned());
        }
        if text.starts_with('[') && host.parse::<Ipv6Addr>().is_err() {
            return Err("only an IPv6 address stands in brackets".to_owned());
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => USUAL_PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("{port:?} is no port: expected 1 to 65535"))?,
            None => return Err("expected a colon and a port after the bracket".to_owned()),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_with_and_without_a_port() {
        for (text, shown) in [
            ("relay.example.com", "relay.example.com:21117"),
            ("relay.example.com:1", "relay.example.com:1"),
            ("127.0.0.1:5", "127.0.0.1:5"),
            ("::1", "[::1]:21117"),
            ("[::1]", "[::1]:21117"),
            ("[::1]:21119", "[::1]:21119"),
            ("2001:db8::1", "[2001:db8::1]:21117"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let unclear = "2001:db8::1:21117".parse::<Address>().unwrap_err();
        assert!(unclear.contains("[::1]:21117"), "{unclear}");
        for text in
            ["", ":1", "a:", "a:0", "a:70000", "a:b", "http://a", "[::1", "[a]:1", "[::1]5", "a b"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
