//! The PROXY header, version 1 or 2, by which a proxy says whose connection it passes on.
//!
//! The crate parses; here are the bounds, and what the crate leaves out of the specification. From
//! whom a header is taken is the caller's affair.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ParseConfig, ProxyHeader};

/// How version 1 begins.
const V1: &[u8] = b"PROXY ";

/// How version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1.
const V1_MAX: usize = 107;

/// The part of version 2 that says how long the rest is.
const V2_FIXED: usize = 16;

/// The longest header of version 2 that is read, whatever length it claims. Twice what the
/// specification warns of; it has room for every field there, a client's certificate aside.
const V2_MAX: usize = 1024;

/// Version 2, and a connection of the proxy's own: a health check.
const LOCAL: u8 = 0x20;

/// Version 2, and a client's connection.
const PROXY: u8 = 0x21;

/// What a proxy said before it passed bytes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// Whose connection it is; `None` when it is the proxy's own, or the proxy does not know.
    pub client: Option<SocketAddr>,
    /// How many bytes it took to say so. What follows is the client's.
    pub len: usize,
}

/// Why a proxy's connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntroductionError {
    /// It begins with something else, where a header must be.
    #[error("it is a trusted proxy and sends no PROXY header, which proxy.protocol requires")]
    Missing,
    /// Not what the specification allows.
    #[error("its PROXY header is malformed")]
    Malformed,
    /// Longer than any that is read.
    #[error("its PROXY header is longer than {V2_MAX} bytes")]
    TooLong,
}

impl IntroductionError {
    /// Its name as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "proxy_header_missing",
            Self::Malformed | Self::TooLong => "proxy_header",
        }
    }
}

/// The PROXY header that `head` begins with; `None` while it is not whole, or may still become
/// one. Without any, if none is `required`, it is of no bytes.
pub fn introduction(
    head: &[u8],
    required: bool,
) -> Option<Result<Introduction, IntroductionError>> {
    if head.starts_with(V2) {
        v2(head)
    } else if head.starts_with(V1) {
        v1(head)
    } else if V1.starts_with(head) || V2.starts_with(head) {
        None
    } else if required {
        Some(Err(IntroductionError::Missing))
    } else {
        Some(Ok(Introduction { client: None, len: 0 }))
    }
}

/// Whether `head` begins with a PROXY header, as it must not where none is taken.
pub fn is_begun(head: &[u8]) -> bool {
    head.starts_with(V1) || head.starts_with(V2)
}

fn v1(head: &[u8]) -> Option<Result<Introduction, IntroductionError>> {
    let line = &head[..head.len().min(V1_MAX)];
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(at) => Some(parse(&line[..at + 2])),
        None if line.len() == V1_MAX => Some(Err(IntroductionError::Malformed)),
        None => None,
    }
}

fn v2(head: &[u8]) -> Option<Result<Introduction, IntroductionError>> {
    let fixed: &[u8; V2_FIXED] = head.first_chunk()?;
    let [.., command, _family, len_high, len_low] = *fixed;
    let len = V2_FIXED + usize::from(u16::from_be_bytes([len_high, len_low]));
    if ![LOCAL, PROXY].contains(&command) {
        return Some(Err(IntroductionError::Malformed));
    }
    if len > V2_MAX {
        return Some(Err(IntroductionError::TooLong));
    }
    let whole = head.get(..len)?;
    if command == LOCAL {
        // "The family is ignored": the crate would refuse one that it does not know.
        return Some(Ok(Introduction { client: None, len }));
    }
    Some(parse(whole))
}

fn parse(header: &[u8]) -> Result<Introduction, IntroductionError> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let parsed = ProxyHeader::parse(header, config);
    let (parsed, len) = parsed.map_err(|_| IntroductionError::Malformed)?;
    let client = parsed.proxied_address().map(|address| canonical(address.source));
    Ok(Introduction { client, len })
}

/// The address, an IPv4 address as such.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::{ProxiedAddress, Tlv};

    use super::*;

    type Said = Result<Introduction, IntroductionError>;

    /// Feeds every prefix: what is decided must stay so, whatever follows.
    fn fed_bytewise(bytes: &[u8], required: bool) -> Option<Said> {
        let mut decided = None;
        for end in 0..=bytes.len() {
            let now = introduction(&bytes[..end], required);
            assert!(decided.is_none() || now == decided, "changed its mind at {end}: {bytes:x?}");
            decided = now;
        }
        decided
    }

    fn of(client: &str, len: usize) -> Option<Said> {
        Some(Ok(Introduction { client: client.parse().ok(), len }))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &len, rest].concat()
    }

    #[test]
    fn version_1_is_read_to_its_end() {
        for (line, client) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 21117\r\n", "192.0.2.7:56324"),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", "192.0.2.7:0"),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 65535 21117\r\n", "[2001:db8::7]:65535"),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7:1"),
            ("PROXY UNKNOWN\r\n", ""),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ""),
        ] {
            let sent = [line.as_bytes(), b"(\x92\x01 and what follows"].concat();
            assert_eq!(fed_bytewise(&sent, true), of(client, line.len()), "{line}");
        }
    }

    #[test]
    fn version_2_is_read_to_its_end() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0x52, 0x7d];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let tlv = [&v4[..], b"\x02\x00\x07example"].concat();
        for (sent, client) in [
            (v2(0x21, 0x11, &v4), "192.0.2.7:56324"),
            (v2(0x21, 0x11, &tlv), "192.0.2.7:56324"),
            (v2(0x21, 0x21, &v6), "[2001:db8::7]:0"),
            (v2(0x21, 0x31, &[b'/'; 216]), ""),
            (v2(0x21, 0x00, b""), ""),
            (v2(0x20, 0x00, b""), ""),
            (v2(0x20, 0x11, &v4), ""),
            (v2(0x20, 0xff, b"whatever"), ""),
        ] {
            let len = sent.len();
            let sent = [&sent[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(fed_bytewise(&sent, true), of(client, len), "{sent:x?}");
        }
    }

    #[test]
    fn what_breaks_the_specification_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX));
        let claims = |len: u16| [V2, &[0x21, 0x11], &len.to_be_bytes()].concat();
        for (sent, fault) in [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n".to_vec(), IntroductionError::Malformed),
            (b"PROXY TCP4 192.0.2.256 \r\n".to_vec(), IntroductionError::Malformed),
            (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 65536\r\n".to_vec(), IntroductionError::Malformed),
            (b"PROXY TCP5 192.0.2.7 \r\n".to_vec(), IntroductionError::Malformed),
            (b"PROXY UNKNOWN\rGET / HTTP\r\n".to_vec(), IntroductionError::Malformed),
            (long.into_bytes(), IntroductionError::Malformed),
            (v2(0x22, 0x11, &[0; 12]), IntroductionError::Malformed),
            (v2(0x11, 0x11, &[0; 12]), IntroductionError::Malformed),
            (v2(0x21, 0x41, &[0; 12]), IntroductionError::Malformed),
            (v2(0x21, 0x11, &[0; 11]), IntroductionError::Malformed),
            (v2(0x21, 0x21, &[0; 35]), IntroductionError::Malformed),
            (v2(0x21, 0x31, &[0; 215]), IntroductionError::Malformed),
            (claims(u16::MAX), IntroductionError::TooLong),
            (claims(1009), IntroductionError::TooLong),
        ] {
            assert_eq!(fed_bytewise(&sent, false), Some(Err(fault)), "{sent:x?}");
        }
        assert_eq!(fed_bytewise(&claims(1008), false), None);
    }

    #[test]
    fn what_begins_with_something_else_has_none() {
        for sent in
            [&b"P\x92\x01"[..], b"POST / HTTP/1.1", b"\r\n\r\nGET /", b"\x16\x03\x01", b"PROXY\n"]
        {
            assert_eq!(fed_bytewise(sent, false), of("", 0), "{sent:x?}");
            assert_eq!(
                fed_bytewise(sent, true),
                Some(Err(IntroductionError::Missing)),
                "{sent:x?}"
            );
        }
        assert_eq!(introduction(b"", true), None);
        assert_eq!(introduction(b"PROXY", true), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decided_within_the_bounds(
            begin in prop::sample::select(vec![&b""[..], V1, b"PROXY TCP4 ", b"PROXY TCP6 ", V2, b"\r\n\r\n\0\r\nQUIT\n\x21"]),
            rest in prop::collection::vec(any::<u8>(), V2_MAX),
            required: bool,
        ) {
            let sent = [begin, &rest[..]].concat();
            let said = fed_bytewise(&sent, required);
            prop_assert!(said.is_some());
            if let Some(Ok(said)) = said {
                prop_assert!(said.len <= V2_MAX);
            }
        }

        #[test]
        fn what_another_encodes_is_read(client: SocketAddr, at: SocketAddr, tlv: Option<[u8; 9]>) {
            let at = SocketAddr::new(if client.is_ipv4() { [192, 0, 2, 1].into() } else { [1; 16].into() }, at.port());
            let address = ProxiedAddress::stream(SocketAddr::new(client.ip(), client.port()), at);
            let mut header = ProxyHeader::with_address(address);
            let mut buf = [0; 1024];
            let v1 = header.encode_to_slice_v1(&mut buf).unwrap();
            let said = Introduction { client: Some(canonical(SocketAddr::new(client.ip(), client.port()))), len: v1 };
            prop_assert_eq!(fed_bytewise(&buf[..v1], true), Some(Ok(said)));
            if let Some(tlv) = tlv {
                header.append_tlv(Tlv::Custom(0xe0, tlv[..].into()));
            }
            let v2 = header.encode_to_slice_v2(&mut buf).unwrap();
            prop_assert_eq!(fed_bytewise(&buf[..v2], true), Some(Ok(Introduction { len: v2, ..said })));
        }
    }
}
