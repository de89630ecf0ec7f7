//! Frames on a WebSocket (RFC 6455), from the server's side: masked in, unmasked out.
//!
//! tungstenite reads and writes the headers. What is ours is the streaming: tungstenite's own
//! reader gathers whole messages, reserves what a header claims and checks text as UTF-8; a relay
//! passes bytes on as they arrive, holds none, and takes text as bytes.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::{
    error::Error,
    protocol::frame::{
        FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

use super::{Event, FrameStart};

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
        if self == Self::NONE {
            return;
        }
        let [a, b, c, d] = self.0;
        let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (chunks, rest) = out[start..].as_chunks_mut::<8>();
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
    /// nothing, and 1002 to what is no status (RFC 6455, section 7.4).
    pub fn close_reply(&self) -> Self {
        match *self.as_slice() {
            [] => Self { len: 0, ..*self },
            [high, low, ..] if may_be_sent(u16::from_be_bytes([high, low])) => {
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

/// Appends the header of a data frame, as a server sends it. Every message goes out as Binary.
pub fn put_frame_header(start: FrameStart, out: &mut Vec<u8>) {
    let data = if start.first { Data::Binary } else { Data::Continue };
    put_header(OpCode::Data(data), start.last, start.len, out);
}

/// Appends a Pong.
pub fn put_pong(payload: &ControlPayload, out: &mut Vec<u8>) {
    put_header(OpCode::Control(Control::Pong), true, payload.as_slice().len(), out);
    out.extend_from_slice(payload.as_slice());
}

/// Appends a Close.
pub fn put_close(payload: &ControlPayload, out: &mut Vec<u8>) {
    put_header(OpCode::Control(Control::Close), true, payload.as_slice().len(), out);
    out.extend_from_slice(payload.as_slice());
}

fn put_header(opcode: OpCode, last: bool, len: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { is_final: last, opcode, mask: None, ..FrameHeader::default() };
    // Writing to a Vec cannot fail.
    let _ = header.format(len as u64, out);
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
    Control { kind: Control, remaining: u8, mask: Mask, payload: ControlPayload },
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

    fn header<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Event<'a>), Fault> {
        let held = usize::from(self.held);
        let taken = input.len().min(MAX_HEADER - held);
        self.header[held..held + taken].copy_from_slice(&input[..taken]);
        let mut cursor = Cursor::new(&self.header[..held + taken]);
        let (header, len) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => {
                self.held += taken as u8;
                return Ok((taken, Event::More));
            }
            Err(Error::Protocol(_)) => return Err(Fault::UnknownOperation),
            Err(_) => return Err(Fault::BadControl),
        };
        // What was copied beyond the header is still in the input.
        let taken = cursor.position() as usize - held;
        self.held = 0;
        let event = self.begin(&header, len)?;
        Ok((taken, event))
    }

    fn begin(&mut self, header: &FrameHeader, len: u64) -> Result<Event<'static>, Fault> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Fault::ReservedBits);
        }
        let mask = Mask(header.mask.ok_or(Fault::NotMasked)?);
        match header.opcode {
            OpCode::Control(kind) => {
                if len > MAX_CONTROL as u64 || !header.is_final {
                    return Err(Fault::BadControl);
                }
                let payload = ControlPayload { bytes: [0; MAX_CONTROL], len: 0 };
                self.state = State::Control { kind, remaining: len as u8, mask, payload };
                Ok(if len == 0 { self.control(&[]).1 } else { Event::More })
            }
            OpCode::Data(data) => {
                let start = self.data_frame(data, len, header.is_final)?;
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
            Control::Ping => Event::Ping(*payload),
            Control::Close => Event::Close(*payload),
            Control::Pong | Control::Reserved(_) => Event::Pong,
        };
        self.state = State::Header;
        (taken, event)
    }
}
