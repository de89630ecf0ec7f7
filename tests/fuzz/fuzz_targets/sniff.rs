//! What protocol the first bytes are: told within nine bytes, and never told otherwise by what
//! follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::{
    net::sniff::{Protocol, identify},
    wire::{frame::FrameHeader, rendezvous::REQUEST_RELAY_TAG},
};

fuzz_target!(|data: &[u8]| {
    let mut told = None;
    for end in 0..=data.len().min(64) {
        let now = identify(&data[..end]);
        assert!(told.is_none() || now == told, "changed its mind at {end}");
        told = now;
    }
    assert!(told.is_some() || data.len() < 9, "undecided");
    assert_eq!(told, identify(data));
    match told {
        Some(Protocol::Relay) => {
            let header = FrameHeader::parse(data).expect("a whole header");
            assert!(data[header.header_len()..].starts_with(&REQUEST_RELAY_TAG));
        }
        Some(Protocol::Http) => assert!(data[0].is_ascii_uppercase()),
        Some(Protocol::Tls) => assert_eq!(data[..2], [0x16, 3]),
        _ => {}
    }
});
