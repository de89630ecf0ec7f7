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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{
        frame,
        websocket::tests::{frames, masked, pieces},
    };

    const MAX: usize = 70_000;

    const PAIRS: [(Transport, Transport); 3] = [
        (Transport::Tcp, Transport::WebSocket),
        (Transport::WebSocket, Transport::Tcp),
        (Transport::WebSocket, Transport::WebSocket),
    ];

    /// All that comes of `pieces`: the output, the last Ping, the Close, and what stopped it.
    type Outcome = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, Result<(), Unreadable>);

    fn translate((from, to): (Transport, Transport), pieces: &[&[u8]]) -> Outcome {
        let mut translator = Translator::new(from, to, MAX);
        let (mut out, mut heard) = (Vec::new(), Heard::default());
        let mut result = Ok(());
        for piece in pieces {
            result = translator.translate(piece, &mut out, &mut heard);
            if result.is_err() || heard.close.is_some() {
                break;
            }
        }
        let payload = |payload: ControlPayload| payload.as_slice().to_vec();
        (out, heard.ping.map(payload), heard.close.map(payload), result)
    }

    /// The messages in what a server sends, which is whole frames.
    fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let [0x82, len, rest @ ..] = bytes {
            let (size, len) = match *len {
                126 => (2, usize::from(u16::from_be_bytes(rest[..2].try_into().unwrap()))),
                127 => (8, u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize),
                len => (0, usize::from(len)),
            };
            messages.push(rest[size..size + len].to_vec());
            bytes = &rest[size + len..];
        }
        assert!(bytes.is_empty(), "not a whole Binary message: {bytes:x?}");
        messages
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![6 => 0..200_usize, 1 => 65_530..65_540_usize];
        (len, any::<u8>()).prop_map(|(len, byte)| vec![byte; len])
    }

    fn close_of(close: u16) -> Vec<u8> {
        let mut out = Vec::new();
        websocket::put_close(&ControlPayload::status(close), &mut out);
        out
    }

    #[test]
    fn a_pong_and_a_close_wait_for_the_end_of_the_frame_and_nothing_follows_the_close() {
        let mut translator = Translator::new(Transport::Tcp, Transport::WebSocket, MAX);
        let (mut out, mut heard) = (Vec::new(), Heard::default());
        let frame = frame::encode(b"passing").unwrap();
        translator.translate(&frame[..4], &mut out, &mut heard).unwrap();
        assert!(translator.is_within_frame());
        out.clear();
        translator.pong(ControlPayload::status(1));
        translator.pong(ControlPayload::status(2));
        translator.close(ControlPayload::status(1000));
        translator.close(ControlPayload::status(1001));
        translator.put_control(&mut out);
        assert_eq!(out, b"");
        let rest = [&frame[4..], &frame, &frame].concat();
        translator.translate(&rest, &mut out, &mut heard).unwrap();
        let pong = [0x8A, 2, 0, 2];
        assert_eq!(out, [&b"sing"[..], &pong, &close_of(1000)].concat());
        assert!(translator.has_closed() && !translator.is_within_frame());
        translator.put_control(&mut out);
        assert_eq!(out.len(), 4 + pong.len() + 4);
    }

    #[test]
    fn what_came_before_a_message_too_long_is_passed_on() {
        let good = frame::encode(b"good").unwrap();
        let bytes = [&good[..], &[0xFF; 4], b"of it"].concat();
        let (out, .., result) = translate(PAIRS[0], &[&bytes]);
        assert_eq!((messages(&out), result), (vec![b"good".to_vec()], Err(Unreadable::TooLong)));
        let bytes = [masked(0x82, b"good", [7; 4]), masked(0x82, &[0; MAX + 1], [7; 4])].concat();
        let (out, .., result) = translate(PAIRS[1], &[&bytes]);
        assert_eq!((out, result), (good, Err(Unreadable::TooLong)));
    }

    proptest! {
        #[test]
        fn however_the_input_is_cut_the_output_is_the_same_and_in_bounds(
            client in frames(),
            noise: Vec<u8>,
            flipped: Option<(prop::sample::Index, u8)>,
            cuts: Vec<prop::sample::Index>,
        ) {
            for (pair, bytes) in PAIRS.iter().flat_map(|&pair| [(pair, &client), (pair, &noise)]) {
                let mut bytes = bytes.clone();
                if let Some((at, bits)) = flipped && !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= bits;
                }
                let whole = translate(pair, &[&bytes]);
                prop_assert!(translate(pair, &pieces(&bytes, &cuts)) == whole);
                let singly: Vec<_> = bytes.chunks(1).collect();
                prop_assert!(translate(pair, &singly) == whole);
                prop_assert!(whole.0.len() <= 2 * bytes.len());
            }
        }

        #[test]
        fn messages_survive_the_way_to_a_websocket_and_back(
            sent in prop::collection::vec(message(), 0..8),
            mask: [u8; 4],
            cuts: Vec<prop::sample::Index>,
        ) {
            let tcp: Vec<_> = sent.iter().flat_map(|one| frame::encode(one).unwrap()).collect();
            let (out, _, _, result) = translate(PAIRS[0], &pieces(&tcp, &cuts));
            prop_assert_eq!(result, Ok(()));
            let received = messages(&out);
            prop_assert!(received == sent);
            let back: Vec<_> = received.iter().flat_map(|one| masked(0x82, one, mask)).collect();
            let (out, _, _, result) = translate(PAIRS[1], &pieces(&back, &cuts));
            prop_assert_eq!(result, Ok(()));
            prop_assert!(out == tcp);
            let (out, _, _, result) = translate(PAIRS[2], &pieces(&back, &cuts));
            prop_assert_eq!(result, Ok(()));
            prop_assert!(messages(&out) == sent);
        }

        #[test]
        fn fragments_become_one_frame_whatever_control_frames_stand_between(
            sent in prop::collection::vec(prop::collection::vec(message(), 1..4), 0..5),
            ping in prop::collection::vec(any::<u8>(), 0..125),
            cuts: Vec<prop::sample::Index>,
        ) {
            let mut bytes = Vec::new();
            let mut frames = Vec::new();
            for fragments in &sent {
                let last = fragments.len() - 1;
                let whole = fragments.concat();
                if whole.len() > MAX {
                    continue;
                }
                for (at, fragment) in fragments.iter().enumerate() {
                    let operation = if at == 0 { 0x01 } else { 0x00 };
                    let end = if at == last { 0x80 } else { 0x00 };
                    bytes.extend(masked(operation | end, fragment, [at as u8; 4]));
                    bytes.extend(masked(0x89, &ping, [5; 4]));
                }
                frames.extend(frame::encode(&whole).unwrap());
            }
            let heard = (!bytes.is_empty()).then_some(ping);
            let outcome = translate(PAIRS[1], &pieces(&bytes, &cuts));
            prop_assert!(outcome == (frames, heard, None, Ok(())));
        }
    }
}
