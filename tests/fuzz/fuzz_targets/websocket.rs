//! Frames on a WebSocket: however a stream is cut the same are found, and a message stays within
//! its limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::wire::{
    Event,
    websocket::{Decoder, Fault, Mask},
};

#[path = "../cut.rs"]
mod cut;

#[derive(Debug, PartialEq)]
enum Found {
    Frame { len: usize, first: bool, last: bool, payload: Vec<u8> },
    Ping(Vec<u8>),
    Pong,
    Close(Vec<u8>, Vec<u8>),
    Broken(Fault),
}

fuzz_target!(|data: &[u8]| {
    let Some((&max, data)) = data.split_first() else { return };
    let Some((stream, pieces)) = cut::cut(data) else { return };
    let max = usize::from(max) << 2;
    let whole = decoded(&[stream], max);
    assert_eq!(decoded(&pieces, max), whole);
    within(&whole, max);
});

fn decoded(pieces: &[&[u8]], max: usize) -> Vec<Found> {
    let mut decoder = Decoder::new(max);
    let mut found = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (taken, event) = match decoder.next(rest) {
                Ok(next) => next,
                Err(fault) => {
                    found.push(Found::Broken(fault));
                    return found;
                }
            };
            assert!(taken > 0, "no way forward");
            rest = &rest[taken..];
            match event {
                Event::More => {}
                Event::Frame(start) => found.push(Found::Frame {
                    len: start.len,
                    first: start.first,
                    last: start.last,
                    payload: Vec::new(),
                }),
                Event::Payload(bytes, mask) => unmask(bytes, mask, &mut found),
                Event::Ping(payload) => found.push(Found::Ping(payload.as_slice().to_vec())),
                Event::Pong => found.push(Found::Pong),
                Event::Close(payload) => {
                    let reply = payload.close_reply();
                    let (said, reply) = (payload.as_slice().to_vec(), reply.as_slice().to_vec());
                    found.push(Found::Close(said, reply));
                    return found;
                }
            }
        }
    }
    found
}

fn unmask(bytes: &[u8], mask: Mask, found: &mut [Found]) {
    let Some(Found::Frame { payload, .. }) = found.last_mut() else {
        panic!("a payload without a frame");
    };
    mask.append(bytes, payload);
}

fn within(found: &[Found], max: usize) {
    let mut message = 0;
    for one in found {
        match one {
            Found::Frame { len, first, payload, .. } => {
                message = if *first { *len } else { message + len };
                assert!(message <= max && payload.len() <= *len);
            }
            Found::Ping(payload) => assert!(payload.len() <= 125),
            Found::Close(_, reply) => assert!(reply.is_empty() || reply.len() == 2),
            Found::Pong | Found::Broken(_) => {}
        }
    }
}
