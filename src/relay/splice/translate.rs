//! The framing between two legs: a stream of bytes from one, translated for the other as it
//! arrives. Holds no payload, save the fragments of a message whose length TCP must be told first.

use crate::wire::{
    Event, FrameStart, Transport,
    frame::{FrameDecoder, FrameHeader, FrameTooLong},
    websocket::{self, ControlPayload, Decoder, Fault, Mask},
};

/// Translates one direction.
#[derive(Debug)]
pub(super) struct Translator {
    source: Source,
    sink: Sink,
}

/// What a WebSocket's control frames said, the last of each kind.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) ping: Option<ControlPayload>,
    pub(super) close: Option<ControlPayload>,
}

/// Why a source cannot be translated any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A message longer than may cross.
    TooLong,
    /// Not WebSocket frames.
    Protocol(Fault),
}

#[derive(Debug)]
enum Source {
    Tcp(FrameDecoder),
    WebSocket(Decoder),
}

#[derive(Debug)]
enum Sink {
    Tcp(Frames),
    WebSocket(Messages),
}

/// The state of frames written to TCP.
#[derive(Debug, Default)]
struct Frames {
    /// Payload bytes that the current WebSocket frame still lacks.
    remaining: usize,
    last: bool,
    /// The fragments of a message so far; a whole message is never gathered.
    gathered: Option<Vec<u8>>,
}

/// The state of messages written to a WebSocket.
#[derive(Debug, Default)]
struct Messages {
    /// Payload bytes that the current frame still lacks: only at 0 may another begin.
    remaining: usize,
    pong: Option<Box<ControlPayload>>,
    close: Option<Box<ControlPayload>>,
    closed: bool,
}

impl Translator {
    /// For two legs, of which one at least is a WebSocket; messages of up to `max` bytes.
    pub(super) fn new(from: Transport, to: Transport, max: usize) -> Self {
        Self {
            source: match from {
                Transport::Tcp => Source::Tcp(FrameDecoder::new(max)),
                Transport::WebSocket => Source::WebSocket(Decoder::new(max)),
            },
            sink: match to {
                Transport::Tcp => Sink::Tcp(Frames::default()),
                Transport::WebSocket => Sink::WebSocket(Messages::default()),
            },
        }
    }

    /// Appends `input`, translated, to `out`. After a Close the rest is nobody's.
    pub(super) fn translate(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        heard: &mut Heard,
    ) -> Result<(), Unreadable> {
        let mut rest = input;
        while !rest.is_empty() {
            let (taken, event) = match &mut self.source {
                Source::Tcp(decoder) => decoder.next(rest)?,
                Source::WebSocket(decoder) => decoder.next(rest)?,
            };
            rest = &rest[taken..];
            match event {
                Event::More | Event::Pong => {}
                Event::Frame(start) => self.sink.begin(start, out),
                Event::Payload(bytes, mask) => self.sink.payload(bytes, mask, out),
                Event::Ping(payload) => heard.ping = Some(payload),
                Event::Close(payload) => {
                    heard.close = Some(payload);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Asks for a Pong to go out at the next frame boundary; a later one takes its place.
    pub(super) fn pong(&mut self, payload: ControlPayload) {
        if let Sink::WebSocket(messages) = &mut self.sink {
            messages.pong = Some(Box::new(payload));
        }
    }

    /// Asks for a Close to go out, the first asked for.
    pub(super) fn close(&mut self, payload: ControlPayload) {
        if let Sink::WebSocket(messages) = &mut self.sink {
            messages.close.get_or_insert_with(|| Box::new(payload));
        }
    }

    /// Whether the Close has gone out: nothing can after it.
    pub(super) fn has_closed(&self) -> bool {
        matches!(&self.sink, Sink::WebSocket(messages) if messages.closed)
    }

    /// Whether the sink has only got a part of a frame, so that no other can begin.
    pub(super) fn is_within_frame(&self) -> bool {
        matches!(&self.sink, Sink::WebSocket(messages) if messages.remaining > 0)
    }

    /// Appends the control frames that may go out now: none in the middle of a frame.
    pub(super) fn put_control(&mut self, out: &mut Vec<u8>) {
        if let Sink::WebSocket(messages) = &mut self.sink {
            messages.put_control(out);
        }
    }
}

impl Sink {
    fn begin(&mut self, start: FrameStart, out: &mut Vec<u8>) {
        match self {
            Self::Tcp(frames) => frames.begin(start, out),
            Self::WebSocket(messages) => {
                messages.put_control(out);
                if !messages.closed {
                    messages.remaining = start.len;
                    websocket::put_frame_header(start, out);
                }
            }
        }
    }

    fn payload(&mut self, bytes: &[u8], mask: Mask, out: &mut Vec<u8>) {
        match self {
            Self::Tcp(frames) => frames.payload(bytes, mask, out),
            Self::WebSocket(messages) if messages.closed => {}
            Self::WebSocket(messages) => {
                messages.remaining -= bytes.len();
                mask.append(bytes, out);
            }
        }
    }
}

impl Frames {
    fn begin(&mut self, start: FrameStart, out: &mut Vec<u8>) {
        self.remaining = start.len;
        self.last = start.last;
        if start.first && start.last {
            put_header(start.len, out);
        } else {
            self.gathered.get_or_insert_default();
            self.put_gathered(out);
        }
    }

    fn payload(&mut self, bytes: &[u8], mask: Mask, out: &mut Vec<u8>) {
        self.remaining -= bytes.len();
        match &mut self.gathered {
            None => mask.append(bytes, out),
            Some(gathered) => {
                mask.append(bytes, gathered);
                self.put_gathered(out);
            }
        }
    }

    fn put_gathered(&mut self, out: &mut Vec<u8>) {
        if self.last
            && self.remaining == 0
            && let Some(message) = self.gathered.take()
        {
            put_header(message.len(), out);
            out.extend_from_slice(&message);
        }
    }
}

impl Messages {
    fn put_control(&mut self, out: &mut Vec<u8>) {
        if self.remaining > 0 || self.closed {
            return;
        }
        if let Some(payload) = self.pong.take() {
            websocket::put_pong(&payload, out);
        }
        if let Some(payload) = &self.close {
            websocket::put_close(payload, out);
            self.closed = true;
        }
    }
}

fn put_header(len: usize, out: &mut Vec<u8>) {
    // The decoder's limit is at most what a frame can hold: the configuration sees to it.
    debug_assert!(FrameHeader::for_payload(len).is_ok(), "{len} bytes crossed the limit");
    if let Ok(header) = FrameHeader::for_payload(len) {
        header.put(out);
    }
}

impl From<FrameTooLong> for Unreadable {
    fn from(_: FrameTooLong) -> Self {
        Self::TooLong
    }
}

impl From<Fault> for Unreadable {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLong { .. } => Self::TooLong,
            fault => Self::Protocol(fault),
        }
    }
}
