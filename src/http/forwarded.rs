//! Who asks, where a trusted proxy asks for somebody: X-Forwarded-For, Forwarded (RFC 7239) and
//! X-Real-IP.
//!
//! A list is walked from the right, where the nearest proxy wrote, past proxies that are trusted
//! themselves, up to the first who is not: that is the client. What stands further left anybody may
//! have written. An entry that is no address, because it is malformed or its proxy hides who it was,
//! ends the walk at the one before.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header::FORWARDED};

use crate::{
    config::{ForwardingHeader, ProxyConfig},
    relay::entrance::Arrival,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// The connection's peer, for itself.
    Peer,
    /// Somebody for whom the peer speaks; port 0 where it does not say.
    Client(SocketAddr),
    /// The headers name different clients: the proxy lets one of them through that it did not
    /// write, and which one cannot be told.
    Contradictory,
}

impl Asker {
    /// The arrival of who asks over a connection of `arrival`.
    pub(super) fn arrival(self, arrival: Arrival) -> Arrival {
        match self {
            Self::Client(peer) => Arrival { peer, ..arrival },
            Self::Peer | Self::Contradictory => arrival,
        }
    }
}

/// Who asks with `headers` over a connection of `peer`.
///
/// All headers that are there must lead to the same client. One that leads to a trusted address
/// only, as a proxy's X-Real-IP behind another proxy does, says less than one that leads past it.
pub(super) fn asker(headers: &HeaderMap, peer: SocketAddr, proxies: &ProxyConfig) -> Asker {
    if !proxies.trusts(peer.ip()) {
        return Asker::Peer;
    }
    let named = proxies.headers.iter().filter_map(|&header| named_by(header, headers, proxies));
    let mut client: Option<SocketAddr> = None;
    for other in named {
        match client {
            Some(known) if known.ip() == other.ip() => {
                client = Some(if known.port() == 0 { other } else { known });
            }
            Some(_) if proxies.trusts(other.ip()) => {}
            Some(known) if !proxies.trusts(known.ip()) => return Asker::Contradictory,
            _ => client = Some(other),
        }
    }
    client.map_or(Asker::Peer, Asker::Client)
}

fn named_by(
    header: ForwardingHeader,
    headers: &HeaderMap,
    proxies: &ProxyConfig,
) -> Option<SocketAddr> {
    match header {
        ForwardingHeader::Forwarded => {
            walk(from_right(headers, &FORWARDED, forwarded_for), proxies)
        }
        ForwardingHeader::XForwardedFor => {
            walk(from_right(headers, &X_FORWARDED_FOR, node), proxies)
        }
        ForwardingHeader::XRealIp => walk(from_right(headers, &X_REAL_IP, node), proxies),
    }
}

fn walk(
    entries: impl Iterator<Item = Option<SocketAddr>>,
    proxies: &ProxyConfig,
) -> Option<SocketAddr> {
    let mut reached = None;
    for entry in entries.map_while(|entry| entry) {
        reached = Some(entry);
        if !proxies.trusts(entry.ip()) {
            break;
        }
    }
    reached
}

/// The entries of a list, several lines of which are one, the last first. Empty ones are none
/// (RFC 9110, section 5.6.1).
fn from_right<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    read: fn(&'a [u8]) -> Option<SocketAddr>,
) -> impl Iterator<Item = Option<SocketAddr>> + 'a {
    let lines = headers.get_all(name).iter().rev();
    let entries = lines.flat_map(|line| FromRight::new(line.as_bytes(), b','));
    entries.filter(|entry| !entry.is_empty()).map(read)
}

/// The address in one element of Forwarded, such as `for="[2001:db8::7]:4711";proto=https`.
fn forwarded_for(element: &[u8]) -> Option<SocketAddr> {
    let mut named = None;
    for pair in FromRight::new(element, b';').filter(|pair| !pair.is_empty()) {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        if pair[..equals].eq_ignore_ascii_case(b"for") {
            let twice = named.replace(node(unquoted(&pair[equals + 1..])?)?).is_some();
            if twice {
                return None;
            }
        }
    }
    named
}

/// No address needs an escape, so that one within quotes is no address.
fn unquoted(value: &[u8]) -> Option<&[u8]> {
    match value.strip_prefix(b"\"") {
        Some(quoted) => quoted.strip_suffix(b"\""),
        None => Some(value),
    }
}

/// An address, with a port or without, in the brackets of IPv6 or without. (`unknown` is none, nor
/// is a name that begins with `_`; as a port such a name is unknown.)
fn node(text: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(text).ok()?;
    let text = text.rsplit_once(":_").map_or(text, |(ip, _name)| ip);
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip: Option<IpAddr> = match bracketed {
        Some(ip) => ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    let (ip, port) = match ip {
        Some(ip) => (ip, 0),
        None => text.parse().map(|address: SocketAddr| (address.ip(), address.port())).ok()?,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// What stands between delimiters outside of quotes, the last first, without the spaces around it.
///
/// From the right also where quotes are concerned: a quote that somebody further left opened and
/// did not close swallows nothing of what proxies wrote behind it.
struct FromRight<'a> {
    rest: Option<&'a [u8]>,
    delimiter: u8,
}

impl<'a> FromRight<'a> {
    const fn new(bytes: &'a [u8], delimiter: u8) -> Self {
        Self { rest: Some(bytes), delimiter }
    }
}

impl<'a> Iterator for FromRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        let mut quoted = false;
        for (at, &byte) in rest.iter().enumerate().rev() {
            if byte == b'"' && !is_escaped(&rest[..at]) {
                quoted = !quoted;
            } else if byte == self.delimiter && !quoted {
                self.rest = Some(&rest[..at]);
                return Some(rest[at + 1..].trim_ascii());
            }
        }
        Some(rest.trim_ascii())
    }
}

/// Whether what follows `before` is escaped: by a backslash that is not escaped itself.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.1:4711";

    fn proxies() -> ProxyConfig {
        let trusted = ["10.0.0.0/8", "2001:db8:f::/48"].map(|network| network.parse().unwrap());
        ProxyConfig { trusted: trusted.to_vec(), ..ProxyConfig::default() }
    }

    fn map(lines: &[(&'static str, impl AsRef<[u8]>)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_ref()).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    fn ask(lines: &[(&'static str, impl AsRef<[u8]>)]) -> Asker {
        asker(&map(lines), PEER.parse().unwrap(), &proxies())
    }

    fn client(address: &str) -> Asker {
        Asker::Client(address.parse().unwrap())
    }

    #[test]
    fn a_list_is_walked_from_the_right_past_trusted_addresses() {
        for (list, reached) in [
            ("203.0.113.7", "203.0.113.7:0"),
            ("198.51.100.1, 203.0.113.7", "203.0.113.7:0"),
            ("198.51.100.1, 203.0.113.7, 10.0.0.2,10.9.9.9", "203.0.113.7:0"),
            ("203.0.113.7:4711", "203.0.113.7:4711"),
            ("2001:db8::7", "[2001:db8::7]:0"),
            ("[2001:db8::7]", "[2001:db8::7]:0"),
            ("[2001:db8::7]:4711, 2001:db8:f::1", "[2001:db8::7]:4711"),
            ("::ffff:203.0.113.7, ::ffff:10.0.0.2", "203.0.113.7:0"),
            (" 203.0.113.7 ,, ,10.0.0.2,", "203.0.113.7:0"),
            // The first of several proxies, where nobody else is named.
            ("10.0.0.3, 10.0.0.2", "10.0.0.3:0"),
            // What is no address ends the walk.
            ("203.0.113.7, unknown, 10.0.0.2", "10.0.0.2:0"),
            ("203.0.113.7, 10.0.0.256, 10.0.0.2", "10.0.0.2:0"),
            ("203.0.113.7 10.0.0.3, 10.0.0.2", "10.0.0.2:0"),
        ] {
            assert_eq!(ask(&[("x-forwarded-for", list)]), client(reached), "{list}");
        }
        for nobody in [
            "",
            " , ",
            "unknown",
            "_proxy",
            "203.0.113.7, unknown",
            "fe80::1%eth0",
            "1.2.3.4:99999",
        ] {
            assert_eq!(ask(&[("x-forwarded-for", nobody)]), Asker::Peer, "{nobody}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (list, reached) in [
            ("for=203.0.113.7", "203.0.113.7:0"),
            ("For=\"203.0.113.7:4711\";proto=http;by=10.0.0.1", "203.0.113.7:4711"),
            ("by=_x;FOR=\"[2001:db8::7]:4711\"", "[2001:db8::7]:4711"),
            ("for=\"[2001:db8::7]\"", "[2001:db8::7]:0"),
            ("for=\"203.0.113.7:_port\"", "203.0.113.7:0"),
            ("for=198.51.100.1, for=203.0.113.7;, for=10.0.0.2", "203.0.113.7:0"),
            ("for=203.0.113.7;host=\"a, for=6.6.6.6\"", "203.0.113.7:0"),
            (r#"for=203.0.113.7;host="a\", for=6.6.6.6""#, "203.0.113.7:0"),
            (r#"host="a\\",for=203.0.113.7;host="\\\"""#, "203.0.113.7:0"),
            // A quote that is never closed swallows nothing.
            ("for=\", for=203.0.113.7", "203.0.113.7:0"),
            ("for=\\, for=203.0.113.7", "203.0.113.7:0"),
            ("for=203.0.113.7, for=_hidden, for=10.0.0.2", "10.0.0.2:0"),
            ("for=203.0.113.7, proto=https, for=10.0.0.2", "10.0.0.2:0"),
        ] {
            assert_eq!(ask(&[("forwarded", list)]), client(reached), "{list}");
        }
        for nobody in [
            "for=unknown",
            "for=_x",
            "proto=https",
            "203.0.113.7",
            "for=1.2.3.4;for=1.2.3.4",
            "for=\"1.2.3.4",
        ] {
            assert_eq!(ask(&[("forwarded", nobody)]), Asker::Peer, "{nobody}");
        }
    }

    #[test]
    fn lines_of_one_header_are_one_list() {
        let lines = ["198.51.100.1", "203.0.113.7, 10.0.0.3", "10.0.0.2"];
        assert_eq!(ask(&lines.map(|line| ("x-forwarded-for", line))), client("203.0.113.7:0"));
    }

    #[test]
    fn headers_that_agree_add_to_each_other() {
        let real = ("x-real-ip", "203.0.113.7");
        assert_eq!(ask(&[real]), client("203.0.113.7:0"));
        let with_port = ("x-forwarded-for", "6.6.6.6, 203.0.113.7:4711");
        assert_eq!(ask(&[real, with_port]), client("203.0.113.7:4711"));
        assert_eq!(ask(&[real, ("forwarded", "for=unknown")]), client("203.0.113.7:0"));
        // The second of two proxies knows the first as who it is.
        let first = ("x-real-ip", "10.0.0.2");
        assert_eq!(ask(&[first, with_port]), client("203.0.113.7:4711"));
        assert_eq!(ask(&[first, ("forwarded", "for=203.0.113.7")]), client("203.0.113.7:0"));
    }

    #[test]
    fn headers_that_contradict_each_other_are_found_out() {
        let real = ("x-real-ip", "203.0.113.7");
        for spoofed in [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")] {
            assert_eq!(ask(&[real, spoofed]), Asker::Contradictory);
            assert_eq!(ask(&[spoofed, real]), Asker::Contradictory);
        }
    }

    #[test]
    fn only_headers_of_the_list_count_and_only_of_trusted_peers() {
        let headers = map(&[("x-real-ip", "203.0.113.7"), ("x-forwarded-for", "6.6.6.6")]);
        let peer = PEER.parse().unwrap();
        let only = |list| ProxyConfig { headers: list, ..proxies() };
        let listed = asker(&headers, peer, &only(vec![ForwardingHeader::XRealIp]));
        assert_eq!(listed, client("203.0.113.7:0"));
        assert_eq!(asker(&headers, peer, &only(Vec::new())), Asker::Peer);
        let stranger = "192.0.2.1:4711".parse().unwrap();
        assert_eq!(asker(&headers, stranger, &proxies()), Asker::Peer);
    }

    /// What may stand in a header.
    fn any_value() -> impl Strategy<Value = Vec<u8>> {
        let telling = prop::sample::select(b"\",;=\\:[]. _10for\t\x80".to_vec());
        let any_byte =
            any::<u8>().prop_filter("no control", |byte| (32..127).contains(byte) || *byte > 127);
        prop::collection::vec(prop_oneof![telling, any_byte], 0..60)
    }

    fn headers() -> impl Strategy<Value = [(&'static str, &'static str, SocketAddr); 1]> {
        prop::sample::select(vec![
            [("x-forwarded-for", "203.0.113.7", "203.0.113.7:0".parse().unwrap())],
            [("x-forwarded-for", "203.0.113.7:80, 10.0.0.2", "203.0.113.7:80".parse().unwrap())],
            [("forwarded", "for=203.0.113.7", "203.0.113.7:0".parse().unwrap())],
            [(
                "forwarded",
                "by=x;for=\"[2001:db8::7]:4\";host=\"a,\\\"b\"",
                "[2001:db8::7]:4".parse().unwrap(),
            )],
        ])
    }

    proptest! {
        #[test]
        fn what_a_client_wrote_never_wins(spoofed in any_value(), same_line: bool, [(name, written, real)] in headers()) {
            let asker = if same_line {
                ask(&[(name, [&spoofed[..], b", ", written.as_bytes()].concat())])
            } else {
                ask(&[(name, &spoofed[..]), (name, written.as_bytes())])
            };
            prop_assert_eq!(asker, Asker::Client(real));
        }

        #[test]
        fn another_header_of_the_clients_never_wins(
            spoofed in any_value(),
            like_an_address: Option<IpAddr>,
            other in prop::sample::select(vec!["x-real-ip", "forwarded", "x-forwarded-for"]),
            [(name, written, real)] in headers(),
        ) {
            prop_assume!(other != name);
            let spoofed = match like_an_address {
                Some(ip) if other == "forwarded" => format!("for=\"{}\"", SocketAddr::new(ip, 1)).into_bytes(),
                Some(ip) => ip.to_string().into_bytes(),
                None => spoofed,
            };
            let asker = ask(&[(other, &spoofed[..]), (name, written.as_bytes())]);
            let is_safe = match asker {
                Asker::Client(client) => client.ip() == real.ip(),
                Asker::Contradictory => true,
                Asker::Peer => false,
            };
            prop_assert!(is_safe, "{:?}", asker);
        }

        #[test]
        fn every_address_is_read_as_it_is_written(address: SocketAddr) {
            let address = SocketAddr::new(address.ip(), address.port());
            let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
            prop_assert_eq!(node(address.to_string().as_bytes()), Some(canonical));
            let bare = SocketAddr::new(canonical.ip(), 0);
            prop_assert_eq!(node(address.ip().to_string().as_bytes()), Some(bare));
        }
    }
}
