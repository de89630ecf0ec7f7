//! Frames on a WebSocket (RFC 6455), from the server's side: masked in, unmasked out.
//!
//! tungstenite knows the operations and makes the handshake. The frames are ours: its own reader
//! gathers whole messages, reserves what a header claims and checks text as UTF-8; a relay passes
//! bytes on as they arrive, holds none, and takes text as bytes.

use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{Event, FrameStart, Header};

/// The longest header that a client sends: 2 bytes, an 8-byte length, a mask.
const MAX_HEADER: usize = 14;

/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;

/// Why a connection breaks the WebSocket protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A client must mask every frame.
    #[error("a frame is not masked")]
    NotMasked,
    /// No extension was agreed on.
    #[error("a frame has reserved bits set")]
    ReservedBits,
    /// An operation that RFC 6455 does not define.
    #[error("a frame has an unknown operation")]
    UnknownOperation,
    /// Control frames are whole and short.
    #[error("a control frame is fragmented or longer than {MAX_CONTROL} bytes")]
    BadControl,
    /// A continuation without a beginning, or a second beginning.
    #[error("a fragment is out of order")]
    FragmentOrder,
    /// More than may cross.
    #[error("a message is longer than the {max} bytes that may cross")]
    TooLong {
        /// What is allowed.
        max: usize,
    },
}

impl Fault {
    /// The status code that a Close frame gives for it.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::TooLong { .. } => 1009,
            _ => 1002,
        }
    }
}

/// The mask of a frame, turned to where its next payload byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask([u8; 4]);

impl Mask {
    /// Leaves bytes as they are.
    pub const NONE: Self = Self([0; 4]);

    /// Appends `bytes`, unmasked.
    pub fn append(self, bytes: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(bytes);
        self.apply(&mut out[start..]);
    }

    /// Unmasks `bytes` where they are.
    pub fn apply(self, bytes: &mut [u8]) {
        if self == Self::NONE {
            return;
        }
        let [a, b, c, d] = self.0;
        let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (chunks, rest) = bytes.as_chunks_mut::<8>();
        for chunk in chunks {
            *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= mask;
        }
    }

    /// The mask for the byte that is `by` further on.
    const fn turned(self, by: usize) -> Self {
        let Self(m) = self;
        Self([m[by & 3], m[(by + 1) & 3], m[(by + 2) & 3], m[(by + 3) & 3]])
    }
}

/// The payload of a control frame.
#[derive(Debug, Clone, Copy)]
pub struct ControlPayload {
    bytes: [u8; MAX_CONTROL],
    len: u8,
}

impl ControlPayload {
    /// The payload of a Close frame that gives a status code.
    pub fn status(code: u16) -> Self {
        let mut payload = Self { bytes: [0; MAX_CONTROL], len: 2 };
        payload.bytes[..2].copy_from_slice(&code.to_be_bytes());
        payload
    }

    /// What a Close frame of this payload is answered with: its status code alone, nothing to
    /// nothing, 1002 to what is no status, and 1007 to a reason that is no UTF-8 (RFC 6455,
    /// sections 5.5.1 and 7.4).
    pub fn close_reply(&self) -> Self {
        match *self.as_slice() {
            [] => Self { len: 0, ..*self },
            [high, low, ref reason @ ..] if may_be_sent(u16::from_be_bytes([high, low])) => {
                if str::from_utf8(reason).is_err() {
                    return Self::status(1007);
                }
                Self { len: 2, ..*self }
            }
            _ => Self::status(1002),
        }
    }

    /// The payload.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Whether a status code may stand in a Close frame; some only stand for there being none.
const fn may_be_sent(status: u16) -> bool {
    matches!(status, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The header of a data frame, as a server sends it. Every message goes out as Binary.
pub fn frame_header(start: FrameStart) -> Header {
    let operation =
        if start.first { OpCode::Data(Data::Binary) } else { OpCode::Data(Data::Continue) };
    header(operation, start.last, start.len)
}

/// Appends a Pong.
pub fn put_pong(payload: &ControlPayload, out: &mut Vec<u8>) {
    put_control(Control::Pong, payload, out);
}

/// Appends a Close.
pub fn put_close(payload: &ControlPayload, out: &mut Vec<u8>) {
    put_control(Control::Close, payload, out);
}

fn put_control(kind: Control, payload: &ControlPayload, out: &mut Vec<u8>) {
    let payload = payload.as_slice();
    out.extend_from_slice(header(OpCode::Control(kind), true, payload.len()).as_slice());
    out.extend_from_slice(payload);
}

fn header(operation: OpCode, last: bool, len: usize) -> Header {
    let mut header = Header::default();
    header.bytes[0] = u8::from(operation) | if last { 0x80 } else { 0 };
    header.len = match len {
        0..=125 => {
            header.bytes[1] = len as u8;
            2
        }
        126..=0xFFFF => {
            header.bytes[1] = 126;
            header.bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            header.bytes[1] = 127;
            header.bytes[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    header
}

/// The header of one frame from a client. Not tungstenite's, which wants a cursor over a copy, and
/// then costs as much as all else that is done for a frame.
struct ClientHeader {
    size: usize,
    first: u8,
    len: u64,
    mask: Option<[u8; 4]>,
}

impl ClientHeader {
    /// Reads the header at the start of `bytes`; `None` when it is not whole yet.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[first, second, ref rest @ ..] = bytes else { return None };
        let (len, wide) = match second & 0x7F {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
            short => (u64::from(short), 0),
        };
        if second & 0x80 == 0 {
            return Some(Self { size: 2 + wide, first, len, mask: None });
        }
        let mask = Some(*rest[wide..].first_chunk()?);
        Some(Self { size: 2 + wide + 4, first, len, mask })
    }
}

/// Finds the frames that a client sends in a stream of bytes, however it is cut.
#[derive(Debug)]
pub struct Decoder {
    max: usize,
    state: State,
    /// Bytes of the current message so far, its current frame included; `None` between messages.
    message: Option<usize>,
    /// The start of a header whose rest has not arrived.
    header: [u8; MAX_HEADER],
    held: u8,
}

#[derive(Debug)]
enum State {
    Header,
    Data { remaining: usize, mask: Mask },
    // Boxed, or every relay would have room for a Ping that seldom comes.
    Control { kind: Control, remaining: u8, mask: Mask, payload: Box<ControlPayload> },
}

impl Decoder {
    /// A decoder that refuses messages of more than `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self { max, state: State::Header, message: None, header: [0; MAX_HEADER], held: 0 }
    }

    /// Whether the input so far ends where a message does.
    pub fn between_messages(&self) -> bool {
        self.message.is_none() && self.held == 0 && matches!(self.state, State::Header)
    }

    /// Takes bytes from the start of `input`: how many, and what they are.
    ///
    /// # Errors
    /// When they break the protocol. The decoder is of no use afterwards.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Event<'a>), Fault> {
        match &mut self.state {
            State::Header => self.header(input),
            State::Data { remaining, mask } => {
                let taken = input.len().min(*remaining);
                let event = Event::Payload(&input[..taken], *mask);
                *remaining -= taken;
                *mask = mask.turned(taken);
                if *remaining == 0 {
                    self.state = State::Header;
                }
                Ok((taken, event))
            }
            State::Control { .. } => Ok(self.control(input)),
        }
    }

    fn header(&mut self, input: &[u8]) -> Result<(usize, Event<'static>), Fault> {
        let held = usize::from(self.held);
        if held == 0
            && let Some(header) = ClientHeader::parse(input)
        {
            return Ok((header.size, self.begin(&header)?));
        }
        // Its beginning is kept until the rest arrives.
        let taken = input.len().min(MAX_HEADER - held);
        self.header[held..held + taken].copy_from_slice(&input[..taken]);
        let Some(header) = ClientHeader::parse(&self.header[..held + taken]) else {
            self.held += taken as u8;
            return Ok((taken, Event::More));
        };
        self.held = 0;
        // What was copied beyond the header is still in the input.
        Ok((header.size - held, self.begin(&header)?))
    }

    fn begin(&mut self, header: &ClientHeader) -> Result<Event<'static>, Fault> {
        let &ClientHeader { first, len, .. } = header;
        let last = first & 0x80 != 0;
        let operation = OpCode::from(first & 0x0F);
        if matches!(
            operation,
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_))
        ) {
            return Err(Fault::UnknownOperation);
        }
        if first & 0x70 != 0 {
            return Err(Fault::ReservedBits);
        }
        let mask = Mask(header.mask.ok_or(Fault::NotMasked)?);
        match operation {
            OpCode::Control(kind) => {
                if len > MAX_CONTROL as u64 || !last {
                    return Err(Fault::BadControl);
                }
                let payload = Box::new(ControlPayload { bytes: [0; MAX_CONTROL], len: 0 });
                self.state = State::Control { kind, remaining: len as u8, mask, payload };
                Ok(if len == 0 { self.control(&[]).1 } else { Event::More })
            }
            OpCode::Data(data) => {
                let start = self.data_frame(data, len, last)?;
                if start.len > 0 {
                    self.state = State::Data { remaining: start.len, mask };
                }
                Ok(Event::Frame(start))
            }
        }
    }

    fn data_frame(&mut self, data: Data, len: u64, last: bool) -> Result<FrameStart, Fault> {
        let first = data != Data::Continue;
        if first == self.message.is_some() {
            return Err(Fault::FragmentOrder);
        }
        let so_far = self.message.unwrap_or(0) as u64;
        if so_far.saturating_add(len) > self.max as u64 {
            return Err(Fault::TooLong { max: self.max });
        }
        let len = len as usize;
        self.message = if last { None } else { Some(so_far as usize + len) };
        Ok(FrameStart { len, first, last })
    }

    fn control(&mut self, input: &[u8]) -> (usize, Event<'static>) {
        let State::Control { kind, remaining, mask, payload } = &mut self.state else {
            return (0, Event::More);
        };
        let taken = input.len().min(usize::from(*remaining));
        for (byte, mask) in input[..taken].iter().zip(mask.0.iter().cycle()) {
            payload.bytes[usize::from(payload.len)] = byte ^ mask;
            payload.len += 1;
        }
        *mask = mask.turned(taken);
        *remaining -= taken as u8;
        if *remaining > 0 {
            return (taken, Event::More);
        }
        let event = match kind {
            Control::Ping => Event::Ping(**payload),
            Control::Close => Event::Close(**payload),
            Control::Pong | Control::Reserved(_) => Event::Pong,
        };
        self.state = State::Header;
        (taken, event)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client's frame: its first byte (the end bit and the operation), its payload, its mask.
    pub(crate) fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..=125 => frame.push(0x80 | len as u8),
            len @ 126..=0xFFFF => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// What a client may send, and now and then what it may not.
    pub(crate) fn frames() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            8 => prop::sample::select(vec![0x82_u8, 0x81, 0x02, 0x00, 0x80, 0x89, 0x8A]),
            1 => prop::sample::select(vec![0x88_u8, 0x09, 0xC2, 0x83, 0x8B]),
        ];
        let len = prop_oneof![4 => 0..140_usize, 1 => 65_530..65_540_usize];
        let frame = (first, len, any::<[u8; 4]>());
        prop::collection::vec(frame, 0..12).prop_map(|frames| {
            let bytes = frames.into_iter().flat_map(|(first, len, mask)| {
                let len = if first & 0x08 == 0 { len } else { len.min(125) };
                masked(first, &vec![first; len], mask)
            });
            bytes.collect()
        })
    }

    /// `bytes`, cut at some of its places.
    pub(crate) fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut start = 0;
        let mut pieces: Vec<_> =
            cuts.into_iter().map(|cut| &bytes[std::mem::replace(&mut start, cut)..cut]).collect();
        pieces.push(&bytes[start..]);
        pieces
    }

    #[derive(Debug, PartialEq)]
    enum Seen {
        Frame(FrameStart),
        Payload(Vec<u8>),
        Ping(Vec<u8>),
        Pong,
        Close(Vec<u8>),
        Fault(Fault),
    }

    /// Everything that is found, payloads that follow each other as one.
    fn decode(pieces: &[&[u8]], max: usize) -> (Vec<Seen>, bool) {
        let mut decoder = Decoder::new(max);
        let mut seen = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (taken, event) = match decoder.next(rest) {
                    Ok(found) => found,
                    Err(fault) => {
                        seen.push(Seen::Fault(fault));
                        return (seen, false);
                    }
                };
                assert!(taken > 0, "no way forward at {rest:x?}");
                rest = &rest[taken..];
                match event {
                    Event::More => {}
                    Event::Frame(start) => seen.push(Seen::Frame(start)),
                    Event::Payload(bytes, mask) => {
                        if !matches!(seen.last(), Some(Seen::Payload(_))) {
                            seen.push(Seen::Payload(Vec::new()));
                        }
                        if let Some(Seen::Payload(payload)) = seen.last_mut() {
                            mask.append(bytes, payload);
                        }
                    }
                    Event::Ping(payload) => seen.push(Seen::Ping(payload.as_slice().to_vec())),
                    Event::Pong => seen.push(Seen::Pong),
                    Event::Close(payload) => seen.push(Seen::Close(payload.as_slice().to_vec())),
                }
            }
        }
        (seen, decoder.between_messages())
    }

    #[test]
    fn every_kind_of_frame_is_found_and_unmasked() {
        let mask = [1, 2, 3, 4];
        let long = vec![9; 70_000];
        let bytes = [
            masked(0x81, b"text", mask),
            masked(0x02, b"", mask),
            masked(0x89, b"ping", mask),
            masked(0x80, &long, mask),
            masked(0x8A, b"pong", mask),
            masked(0x88, b"\x03\xE8bye", mask),
        ];
        let start = |len, first, last| Seen::Frame(FrameStart { len, first, last });
        let expected = vec![
            start(4, true, true),
            Seen::Payload(b"text".into()),
            start(0, true, false),
            Seen::Ping(b"ping".into()),
            start(70_000, false, true),
            Seen::Payload(long),
            Seen::Pong,
            Seen::Close(b"\x03\xE8bye".into()),
        ];
        assert!(decode(&[&bytes.concat()], 70_000) == (expected, true));
    }

    #[test]
    fn every_breach_is_told_apart() {
        for (bytes, fault) in [
            (&[0x82, 0x00][..], Fault::NotMasked),
            (&[0xC2, 0x80, 0, 0, 0, 0], Fault::ReservedBits),
            (&[0x92, 0x80, 0, 0, 0, 0], Fault::ReservedBits),
            (&[0x83, 0x80, 0, 0, 0, 0], Fault::UnknownOperation),
            (&[0x8B, 0x80, 0, 0, 0, 0], Fault::UnknownOperation),
            (&[0x09, 0x80, 0, 0, 0, 0], Fault::BadControl),
            (&[0x89, 0xFE, 0, 126, 0, 0, 0, 0], Fault::BadControl),
            (&[0x80, 0x80, 0, 0, 0, 0], Fault::FragmentOrder),
            (&[0x82, 0x8B, 0, 0, 0, 0], Fault::TooLong { max: 10 }),
            (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Fault::TooLong { max: 10 }),
            (
                &[0x82, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0],
                Fault::TooLong { max: 10 },
            ),
        ] {
            assert_eq!(decode(&[bytes], 10).0, [Seen::Fault(fault)], "{bytes:x?}");
        }
        let second = [masked(0x02, b"1", [0; 4]), masked(0x82, b"2", [0; 4])].concat();
        assert_eq!(decode(&[&second], 10).0.pop(), Some(Seen::Fault(Fault::FragmentOrder)));
        let sum = [masked(0x02, &[0; 6], [0; 4]), masked(0x80, &[0; 5], [0; 4])].concat();
        assert_eq!(decode(&[&sum], 10).0.pop(), Some(Seen::Fault(Fault::TooLong { max: 10 })));
    }

    #[test]
    fn only_a_status_that_may_be_sent_is_echoed() {
        for (close, reply) in [
            (&b""[..], &b""[..]),
            (&1000_u16.to_be_bytes(), &1000_u16.to_be_bytes()),
            (b"\x0F\xA0reason", &4000_u16.to_be_bytes()),
            ("\u{fa0}".as_bytes(), &1002_u16.to_be_bytes()),
            (b"\x03\xE8\xCE\xBA", &1000_u16.to_be_bytes()),
            (b"\x03\xE8\xCE\xBA\xED\xA0\x80", &1007_u16.to_be_bytes()),
            (b"\x03", &1002_u16.to_be_bytes()),
            (&1005_u16.to_be_bytes(), &1002_u16.to_be_bytes()),
            (&999_u16.to_be_bytes(), &1002_u16.to_be_bytes()),
        ] {
            let mut payload = ControlPayload { bytes: [0; MAX_CONTROL], len: close.len() as u8 };
            payload.bytes[..close.len()].copy_from_slice(close);
            assert_eq!(payload.close_reply().as_slice(), reply, "{close:x?}");
        }
    }

    proptest! {
        #[test]
        fn however_frames_are_cut_the_same_is_found(
            bytes in frames(),
            flipped: Option<(prop::sample::Index, u8)>,
            cuts: Vec<prop::sample::Index>,
        ) {
            let mut bytes = bytes;
            if let Some((at, bits)) = flipped && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            let whole = decode(&[&bytes], 70_000);
            prop_assert!(decode(&pieces(&bytes, &cuts), 70_000) == whole);
            let singly: Vec<_> = bytes.chunks(1).collect();
            prop_assert!(decode(&singly, 70_000) == whole);
        }

        #[test]
        fn noise_is_taken_without_panic_and_nothing_is_made_up(bytes: Vec<u8>) {
            let (seen, _) = decode(&[&bytes], 1 << 20);
            let len: usize = seen.iter().map(|seen| match seen {
                Seen::Payload(bytes) | Seen::Ping(bytes) | Seen::Close(bytes) => bytes.len(),
                Seen::Frame(_) | Seen::Pong | Seen::Fault(_) => 0,
            }).sum();
            prop_assert!(len <= bytes.len());
        }

        #[test]
        fn a_mask_is_undone_wherever_the_payload_is_cut(
            payload: Vec<u8>, mask: [u8; 4], cut: prop::sample::Index,
        ) {
            let bytes = masked(0x82, &payload, mask);
            let body = &bytes[bytes.len() - payload.len()..];
            let (head, tail) = body.split_at(cut.index(payload.len() + 1));
            let mut out = Vec::new();
            Mask(mask).append(head, &mut out);
            Mask(mask).turned(head.len()).append(tail, &mut out);
            prop_assert_eq!(out, payload);
        }
    }
}
