//! Frames on TCP: however a stream is cut the same are found, as a reader of the whole finds them,
//! and what is written is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::wire::{
    Event,
    frame::{self, FrameDecoder, FrameHeader},
};

#[path = "../cut.rs"]
mod cut;

/// Every frame's announced length and as much of it as came; and whether one was too long.
type Found = (Vec<(usize, Vec<u8>)>, bool);

fuzz_target!(|data: &[u8]| {
    let Some((&max, data)) = data.split_first() else { return };
    let Some((stream, pieces)) = cut::cut(data) else { return };
    // Both a limit that is met and one that is not.
    let max = usize::from(max) << 2;
    assert_eq!(decoded(&pieces, max), read(stream, max));

    let encoded = frame::encode(stream).expect("short enough");
    assert_eq!(read(&encoded, stream.len()), (vec![(stream.len(), stream.to_vec())], false));
});

fn decoded(pieces: &[&[u8]], max: usize) -> Found {
    let mut decoder = FrameDecoder::new(max);
    let mut frames: Vec<(usize, Vec<u8>)> = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let Ok((taken, event)) = decoder.next(rest) else { return (frames, true) };
            assert!(taken > 0, "no way forward");
            rest = &rest[taken..];
            match event {
                Event::More => {}
                Event::Frame(start) => frames.push((start.len, Vec::new())),
                Event::Payload(bytes, _) => {
                    frames.last_mut().expect("a header came first").1.extend_from_slice(bytes);
                }
                other => panic!("never on TCP: {other:?}"),
            }
        }
    }
    (frames, false)
}

/// The model: the table in `wire`, over bytes that are all there.
fn read(mut stream: &[u8], max: usize) -> Found {
    let mut frames = Vec::new();
    while let Some(first) = stream.first() {
        let header_len = usize::from(first & 3) + 1;
        let Some(header) = stream.get(..header_len) else { break };
        let word = header.iter().rev().fold(0, |word, byte| word << 8 | usize::from(*byte));
        let len = word >> 2;
        let parsed = FrameHeader::parse(stream).expect("a whole header");
        assert_eq!((parsed.header_len(), parsed.payload_len()), (header_len, len));
        if len > max {
            return (frames, true);
        }
        let end = stream.len().min(header_len + len);
        frames.push((len, stream[header_len..end].to_vec()));
        stream = &stream[end..];
    }
    (frames, false)
}
