//! Frames on TCP: a header of 1 to 4 bytes that announces a payload's length, and the payload.

use super::{Event, FrameStart, Header, websocket::Mask};

/// The longest header, in bytes.
pub const MAX_HEADER: usize = 4;

/// The longest payload that a header can announce, in bytes (1 GiB − 1).
pub const MAX_PAYLOAD: usize = 0x3FFF_FFFF;

/// The header of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    header_len: u8,
    payload_len: u32,
}

/// A payload longer than [`MAX_PAYLOAD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payload of {0} bytes does not fit a frame, whose limit is {MAX_PAYLOAD}")]
pub struct PayloadTooLong(pub usize);

impl FrameHeader {
    /// How many bytes a header has that begins with `first`.
    pub const fn len_from(first: u8) -> usize {
        (first & 3) as usize + 1
    }

    /// Reads the header at the start of `bytes`; `None` when it is not whole yet.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header_len = Self::len_from(*bytes.first()?);
        let header = bytes.get(..header_len)?;
        let mut word = [0; MAX_HEADER];
        word[..header_len].copy_from_slice(header);
        Some(Self { header_len: header_len as u8, payload_len: u32::from_le_bytes(word) >> 2 })
    }

    /// The shortest header for a payload of `len` bytes.
    pub const fn for_payload(len: usize) -> Result<Self, PayloadTooLong> {
        let header_len = match len {
            0..=0x3F => 1,
            0x40..=0x3FFF => 2,
            0x4000..=0x3F_FFFF => 3,
            0x40_0000..=MAX_PAYLOAD => 4,
            _ => return Err(PayloadTooLong(len)),
        };
        Ok(Self { header_len, payload_len: len as u32 })
    }

    /// How many bytes the header itself takes.
    pub const fn header_len(self) -> usize {
        self.header_len as usize
    }

    /// How many bytes follow the header.
    pub const fn payload_len(self) -> usize {
        self.payload_len as usize
    }

    /// The header, as it goes out.
    pub fn bytes(self) -> Header {
        let word = (self.payload_len << 2) | u32::from(self.header_len - 1);
        let mut header = Header { len: self.header_len, ..Header::default() };
        header.bytes[..MAX_HEADER].copy_from_slice(&word.to_le_bytes());
        header
    }
}

/// `payload` as one frame.
///
/// # Errors
/// When the payload is longer than [`MAX_PAYLOAD`].
pub fn encode(payload: &[u8]) -> Result<Vec<u8>, PayloadTooLong> {
    let mut out = Vec::with_capacity(MAX_HEADER + payload.len());
    out.extend_from_slice(FrameHeader::for_payload(payload.len())?.bytes().as_slice());
    out.extend_from_slice(payload);
    Ok(out)
}

/// A frame longer than the relay lets across.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len} bytes is longer than the {max} that may cross")]
pub struct FrameTooLong {
    /// What the header announced.
    pub len: usize,
    /// What is allowed.
    pub max: usize,
}

/// Finds the frames in a stream of bytes, however it is cut.
#[derive(Debug)]
pub struct FrameDecoder {
    max: usize,
    /// Payload bytes of the current frame that have not arrived.
    remaining: usize,
    /// The start of a header whose rest has not arrived.
    header: [u8; MAX_HEADER],
    held: u8,
}

impl FrameDecoder {
    /// A decoder that refuses frames of more than `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self { max, remaining: 0, header: [0; MAX_HEADER], held: 0 }
    }

    /// Whether the input so far ends where a frame does.
    pub const fn at_boundary(&self) -> bool {
        self.remaining == 0 && self.held == 0
    }

    /// Takes bytes from the start of `input`: how many, and what they are.
    ///
    /// # Errors
    /// When a header announces more than the limit. The decoder is of no use afterwards.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Event<'a>), FrameTooLong> {
        if self.remaining > 0 {
            let taken = self.remaining.min(input.len());
            self.remaining -= taken;
            return Ok((taken, Event::Payload(&input[..taken], Mask::NONE)));
        }
        if self.held == 0
            && let Some(header) = FrameHeader::parse(input)
        {
            return Ok((header.header_len(), self.begin(header)?));
        }
        // Its beginning is kept until the rest arrives.
        let held = usize::from(self.held);
        let taken = input.len().min(MAX_HEADER - held);
        self.header[held..held + taken].copy_from_slice(&input[..taken]);
        let Some(header) = FrameHeader::parse(&self.header[..held + taken]) else {
            self.held += taken as u8;
            return Ok((taken, Event::More));
        };
        self.held = 0;
        // What was copied beyond the header is still in the input.
        Ok((header.header_len() - held, self.begin(header)?))
    }

    fn begin(&mut self, header: FrameHeader) -> Result<Event<'static>, FrameTooLong> {
        let len = header.payload_len();
        if len > self.max {
            return Err(FrameTooLong { len, max: self.max });
        }
        self.remaining = len;
        Ok(Event::Frame(FrameStart { len, first: true, last: true }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::websocket::tests::pieces;

    #[test]
    fn the_shortest_header_is_used_at_every_boundary() {
        for (len, header_len) in [
            (0, 1),
            (0x3F, 1),
            (0x40, 2),
            (0x3FFF, 2),
            (0x4000, 3),
            (0x3F_FFFF, 3),
            (0x40_0000, 4),
            (MAX_PAYLOAD, 4),
        ] {
            assert_eq!(FrameHeader::for_payload(len).unwrap().header_len(), header_len, "{len:#x}");
        }
        assert_eq!(FrameHeader::for_payload(MAX_PAYLOAD + 1), Err(PayloadTooLong(MAX_PAYLOAD + 1)));
    }

    /// Every frame's length and as much of it as came, what was refused, and whether the end of the
    /// input is a frame's.
    type Found = (Vec<(usize, Vec<u8>)>, Option<FrameTooLong>, bool);

    fn decode(pieces: &[&[u8]], max: usize) -> Found {
        let mut decoder = FrameDecoder::new(max);
        let mut frames: Vec<(usize, Vec<u8>)> = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                match decoder.next(rest) {
                    Err(refused) => return (frames, Some(refused), false),
                    Ok((taken, event)) => {
                        assert!(taken > 0, "no way forward at {rest:x?}");
                        rest = &rest[taken..];
                        match event {
                            Event::More => {}
                            Event::Frame(start) => frames.push((start.len, Vec::new())),
                            Event::Payload(bytes, Mask::NONE) => {
                                frames.last_mut().unwrap().1.extend_from_slice(bytes);
                            }
                            other => panic!("never on TCP: {other:?}"),
                        }
                    }
                }
            }
        }
        (frames, None, decoder.at_boundary())
    }

    proptest! {
        #[test]
        fn a_header_survives_the_round_trip(len in 0..=MAX_PAYLOAD) {
            let header = FrameHeader::for_payload(len).unwrap();
            let mut bytes = header.bytes().as_slice().to_vec();
            for cut in 0..bytes.len() {
                prop_assert_eq!(FrameHeader::parse(&bytes[..cut]), None);
            }
            bytes.push(0xFF);
            prop_assert_eq!(FrameHeader::parse(&bytes), Some(header));
        }

        #[test]
        fn however_a_stream_is_cut_the_same_frames_are_found(
            bytes: Vec<u8>, max in 0..2_000_usize, cuts: Vec<prop::sample::Index>,
        ) {
            let whole = decode(&[&bytes], max);
            prop_assert_eq!(&decode(&pieces(&bytes, &cuts), max), &whole);
            let singly: Vec<_> = bytes.chunks(1).collect();
            prop_assert_eq!(&decode(&singly, max), &whole);
            let len: usize = whole.0.iter().map(|(_, payload)| payload.len()).sum();
            prop_assert!(len <= bytes.len());
        }

        #[test]
        fn what_is_encoded_is_found_again(messages: Vec<Vec<u8>>) {
            let bytes: Vec<_> = messages.iter().flat_map(|one| encode(one).unwrap()).collect();
            let found = messages.into_iter().map(|message| (message.len(), message)).collect();
            prop_assert_eq!(decode(&[&bytes], MAX_PAYLOAD), (found, None, true));
        }

        #[test]
        fn any_bytes_parse_without_panic_and_within_bounds(bytes: Vec<u8>) {
            if let Some(header) = FrameHeader::parse(&bytes) {
                prop_assert!(header.header_len() <= bytes.len());
                prop_assert!(header.payload_len() <= MAX_PAYLOAD);
            }
        }
    }
}
