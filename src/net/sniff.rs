//! What protocol the first bytes of a connection are: reads until all but one are excluded.
//!
//! One byte is not enough: `P`, `H`, `D` and `T` are also headers of one byte. What follows a
//! relay frame's header decides, since a relay request begins with a fixed tag. Nothing is
//! consumed: what was read is handed on.

use std::io;

use super::{read::read_some, stream::Stream};
use crate::wire::{frame::FrameHeader, rendezvous::REQUEST_RELAY_TAG};
use bytes::BytesMut;

/// The methods of HTTP/1, each with the space that follows. (`PRI `, HTTP/2's, is not among them.)
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"HEAD ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
];

/// A TLS record that holds a ClientHello: handshake, version 3.x, a length of at most 2^14, and
/// the message's own type. `None` where any byte will do.
const CLIENT_HELLO: [Option<(u8, u8)>; 6] =
    [Some((0x16, 0x16)), Some((3, 3)), Some((0, 4)), Some((0, 0x40)), None, Some((1, 1))];

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A relay request in a TCP frame.
    Relay,
    /// HTTP/1.
    Http,
    /// A TLS ClientHello.
    Tls,
    /// None of these.
    Unknown,
}

impl Protocol {
    /// Its name in the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Unknown => "unknown",
        }
    }
}

/// Reads into `head` until `see`, such as [`identify`], has seen enough of it; `None` when the peer
/// hung up before, in good order or not. Has no deadline, and no bound but that of `see`.
///
/// # Errors
/// When reading fails.
pub async fn read_until<T>(
    stream: &mut Stream,
    head: &mut BytesMut,
    mut see: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    loop {
        if let Some(seen) = see(head) {
            return Ok(Some(seen));
        }
        if read_some(stream, head).await? == 0 {
            return Ok(None);
        }
    }
}

/// What `head` is the beginning of; `None` while more than one protocol is possible. At most 9
/// bytes are needed. Of two that fit to the end it is the first: `GET ` and the tag of a relay
/// request are also a frame, if one of 135 MB.
pub fn identify(head: &[u8]) -> Option<Protocol> {
    let candidates = [
        (Protocol::Relay, relay(head)),
        (Protocol::Http, http(head)),
        (Protocol::Tls, client_hello(head)),
    ];
    let mut possible = candidates.iter().filter(|(_, fit)| *fit != Fit::No);
    match (possible.next(), possible.next()) {
        (None, _) => Some(Protocol::Unknown),
        (Some((protocol, Fit::Whole)), None | Some((_, Fit::Whole))) => Some(*protocol),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// Excluded.
    No,
    /// Not excluded by the bytes so far.
    SoFar,
    /// All that there is to look at fits.
    Whole,
}

fn relay(head: &[u8]) -> Fit {
    let Some(&first) = head.first() else { return Fit::SoFar };
    let header_len = FrameHeader::len_from(first);
    if FrameHeader::parse(head).is_some_and(|header| header.payload_len() < REQUEST_RELAY_TAG.len())
    {
        return Fit::No;
    }
    prefix(head.get(header_len..).unwrap_or_default(), &REQUEST_RELAY_TAG)
}

fn http(head: &[u8]) -> Fit {
    METHODS.iter().map(|method| prefix(head, method)).find(|fit| *fit != Fit::No).unwrap_or(Fit::No)
}

fn client_hello(head: &[u8]) -> Fit {
    let fits = head
        .iter()
        .zip(CLIENT_HELLO)
        .all(|(byte, expected)| expected.is_none_or(|(least, most)| (least..=most).contains(byte)));
    match fits {
        false => Fit::No,
        true if head.len() >= CLIENT_HELLO.len() => Fit::Whole,
        true => Fit::SoFar,
    }
}

fn prefix(head: &[u8], whole: &[u8]) -> Fit {
    if head.starts_with(whole) {
        Fit::Whole
    } else if whole.starts_with(head) {
        Fit::SoFar
    } else {
        Fit::No
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame;

    /// Feeds every prefix: what is certain must stay so, whatever follows.
    fn fed_bytewise(bytes: &[u8]) -> Option<Protocol> {
        let mut certain = None;
        for end in 0..=bytes.len() {
            let now = identify(&bytes[..end]);
            assert!(certain.is_none() || now == certain, "changed its mind at {end}: {bytes:x?}");
            certain = now;
        }
        certain
    }

    #[test]
    fn every_protocol_is_told_by_its_first_bytes() {
        let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        for (bytes, protocol) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Protocol::Http)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(Protocol::Http)),
            (b"PRI * HTTP/2.0\r\n", Some(Protocol::Unknown)),
            (b"get / HTTP/1.1\r\n", Some(Protocol::Unknown)),
            (tls, Some(Protocol::Tls)),
            (b"\x16\x03\x01\x92\x01", Some(Protocol::Relay)),
            (b"P\x92\x01", Some(Protocol::Relay)),
            (b"H\x92\x01", Some(Protocol::Relay)),
            (b"D\x92\x01", Some(Protocol::Relay)),
            (b"T\x92\x01", Some(Protocol::Relay)),
            (b"GET \x92\x01", Some(Protocol::Relay)),
            (b"GET \x92/", Some(Protocol::Http)),
            (b"\x00", Some(Protocol::Unknown)),
            (b"\x04", Some(Protocol::Unknown)),
            (b"SSH-2.0-OpenSSH_9\r\n", Some(Protocol::Unknown)),
            (b"", None),
            (b"P", None),
            (b"\x16\x03\x01", None),
        ] {
            assert_eq!(fed_bytewise(bytes), protocol, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_told_and_never_retold(bytes: Vec<u8>) {
            let told = fed_bytewise(&bytes);
            prop_assert!(told.is_some() || bytes.len() < 9);
        }

        /// Random bytes seldom begin like anything.
        #[test]
        fn any_bytes_after_a_known_beginning_are_told(
            head in prop::sample::select(vec![
                &b"GET "[..], b"POST ", b"OPTIONS ", b"CONNECT ", b"\x16\x03\x01", b"\x16\x03",
            ]),
            tag: bool,
            rest: [u8; 9],
        ) {
            let mut bytes = head.to_vec();
            if tag {
                bytes.extend_from_slice(&REQUEST_RELAY_TAG);
            }
            bytes.extend_from_slice(&rest);
            prop_assert!(fed_bytewise(&bytes).is_some(), "{:x?}", bytes);
        }

        #[test]
        fn a_relay_request_of_any_length_is_one(len in 2_usize..70_000) {
            let mut payload = vec![0; len];
            payload[..2].copy_from_slice(&REQUEST_RELAY_TAG);
            let bytes = frame::encode(&payload).unwrap();
            prop_assert_eq!(fed_bytewise(&bytes[..8.min(bytes.len())]), Some(Protocol::Relay));
        }
    }
}
