//! What a trusted proxy says first: decided within its bounds, and never otherwise by what follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::net::proxy_protocol::{Introduction, introduction};

/// More than the longest header that is read.
const DECIDED: usize = 1100;

fuzz_target!(|data: &[u8]| {
    for required in [false, true] {
        let mut said = None;
        for end in 0..=data.len().min(DECIDED) {
            let now = introduction(&data[..end], required);
            assert!(said.is_none() || now == said, "changed its mind at {end}");
            said = now;
        }
        assert!(said.is_some() || data.len() < DECIDED, "undecided");
        assert_eq!(said, introduction(data, required));
        if let Some(Ok(Introduction { client, len })) = said {
            assert!(len <= data.len() && (client.is_none() || len > 0));
            assert!(!required || len > 0, "none where one is required");
        }
    }
});
