//! The framing between two legs: a stream of bytes from one, translated for the other as it
//! arrives. Holds no payload, save the fragments of a message whose length TCP must be told first.

use std::ops::Range;

use super::batch::{Batch, Mark};
use crate::wire::{
    Event, FrameStart, Header, Transport,
    frame::{FrameDecoder, FrameHeader, FrameTooLong},
    websocket::{self, ControlPayload, Decoder, Fault},
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
    /// The message that is arriving in fragments.
    fragmented: Option<Box<Fragmented>>,
}

/// A message of which TCP must be told the length before its first byte.
#[derive(Debug, Default)]
struct Fragmented {
    /// What came with earlier reads.
    earlier: Vec<u8>,
    /// Where what came with this one begins.
    mark: Mark,
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

    /// Adds `input`, translated, to `batch`, which points into it. After a Close the rest is
    /// nobody's.
    pub(super) fn translate(
        &mut self,
        input: &mut [u8],
        batch: &mut Batch,
        heard: &mut Heard,
    ) -> Result<(), Unreadable> {
        self.sink.resume(batch);
        let readable = self.translate_frames(input, batch, heard);
        self.sink.hold_back(input, batch);
        if let (Err(_), Sink::Tcp(frames)) = (&readable, &mut self.sink) {
            // Its end will never be read.
            frames.fragmented = None;
        }
        readable
    }

    fn translate_frames(
        &mut self,
        input: &mut [u8],
        batch: &mut Batch,
        heard: &mut Heard,
    ) -> Result<(), Unreadable> {
        let mut at = 0;
        while at < input.len() {
            let (taken, event) = match &mut self.source {
                Source::Tcp(decoder) => decoder.next(&input[at..])?,
                Source::WebSocket(decoder) => decoder.next(&input[at..])?,
            };
            let span = at..at + taken;
            at = span.end;
            match event {
                Event::More | Event::Pong => {}
                Event::Frame(start) => self.sink.begin(start, &mut input[span], batch, at),
                Event::Payload(_, mask) => {
                    mask.apply(&mut input[span.clone()]);
                    self.sink.payload(input, span, batch);
                }
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

    /// Bytes of memory that the fragments of a message take up.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        match &self.sink {
            Sink::Tcp(Frames { fragmented: Some(message), .. }) => message.earlier.capacity(),
            _ => 0,
        }
    }

    /// Appends the control frames that may go out now: none in the middle of a frame.
    pub(super) fn put_control(&mut self, out: &mut Vec<u8>) {
        if let Sink::WebSocket(messages) = &mut self.sink {
            messages.put_control(out);
        }
    }
}

impl Sink {
    /// Begins with a read.
    fn resume(&mut self, batch: &mut Batch) {
        if let Self::Tcp(Frames { fragmented: Some(fragmented), .. }) = self {
            fragmented.mark = batch.mark();
        }
    }

    /// Ends with a read: what cannot go out yet is kept.
    fn hold_back(&mut self, input: &[u8], batch: &mut Batch) {
        if let Self::Tcp(Frames { fragmented: Some(fragmented), .. }) = self {
            batch.take_from(fragmented.mark, input, &mut fragmented.earlier);
        }
    }

    /// Begins a frame, whose old header, as far as it came with this read, is `old` and ends at
    /// `at`.
    fn begin(&mut self, start: FrameStart, old: &mut [u8], batch: &mut Batch, at: usize) {
        match self {
            Self::Tcp(frames) => frames.begin(start, old, batch, at),
            Self::WebSocket(messages) => {
                batch.write(|own| messages.put_control(own));
                if !messages.closed {
                    messages.remaining = start.len;
                    put_header(websocket::frame_header(start), start.len, old, batch, at);
                }
            }
        }
    }

    fn payload(&mut self, input: &[u8], span: Range<usize>, batch: &mut Batch) {
        match self {
            Self::Tcp(frames) => frames.payload(input, span, batch),
            Self::WebSocket(messages) if messages.closed => {}
            Self::WebSocket(messages) => {
                messages.remaining -= span.len();
                batch.add(input, span);
            }
        }
    }
}

impl Frames {
    fn begin(&mut self, start: FrameStart, old: &mut [u8], batch: &mut Batch, at: usize) {
        self.remaining = start.len;
        self.last = start.last;
        if start.first && start.last {
            put_header(tcp_header(start.len), start.len, old, batch, at);
            return;
        }
        if self.fragmented.is_none() {
            let mark = batch.mark();
            self.fragmented = Some(Box::new(Fragmented { earlier: Vec::new(), mark }));
        }
        self.end(batch);
    }

    fn payload(&mut self, input: &[u8], span: Range<usize>, batch: &mut Batch) {
        self.remaining -= span.len();
        batch.add(input, span);
        self.end(batch);
    }

    /// Ends a message in fragments, if this was all of it.
    fn end(&mut self, batch: &mut Batch) {
        if self.last
            && self.remaining == 0
            && let Some(message) = self.fragmented.take()
        {
            let Fragmented { earlier, mark } = *message;
            let len = earlier.len() + batch.len_from(mark);
            batch.insert(mark, tcp_header(len).as_slice(), earlier);
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

/// Adds the header of a payload of `len` bytes, over the end of the old one if that is long enough
/// and the payload will stay where it is.
fn put_header(new: Header, len: usize, old: &mut [u8], batch: &mut Batch, at: usize) {
    let new = new.as_slice();
    match old.len().checked_sub(new.len()) {
        Some(room) if !Batch::is_small(len) => {
            old[room..].copy_from_slice(new);
            batch.point(at - new.len()..at);
        }
        _ => batch.copy(new),
    }
}

fn tcp_header(len: usize) -> Header {
    // The decoder's limit is at most what a frame can hold: the configuration sees to it.
    debug_assert!(FrameHeader::for_payload(len).is_ok(), "{len} bytes crossed the limit");
    FrameHeader::for_payload(len).map(FrameHeader::bytes).unwrap_or_default()
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
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use proptest::prelude::*;
    use tokio::io::AsyncWrite;

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

    /// A sink that takes so many bytes at a time, as long as there is a number, and then waits.
    #[derive(Default)]
    struct Picky {
        takes: Vec<usize>,
        taken: Vec<u8>,
        /// Whether it did not take all.
        left: bool,
    }

    impl AsyncWrite for Picky {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            assert!(slices.len() <= 1024, "{} slices", slices.len());
            assert!(slices.iter().all(|slice| !slice.is_empty()), "an empty slice");
            let Some(most) = self.takes.pop() else { return Poll::Pending };
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = all.len().min(most);
            self.taken.extend_from_slice(&all[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Picky {
        /// Takes of `batch` what it will, and then the rest of it at once.
        fn take(&mut self, batch: &mut Batch, input: &[u8]) {
            let cx = &mut Context::from_waker(Waker::noop());
            let before = self.taken.len();
            let written = batch.poll_write(cx, self, input).unwrap();
            assert_eq!(self.taken.len() - before, written);
            self.left = !batch.is_empty();
            let (pending, start) = batch.take_pending(input);
            self.taken.extend_from_slice(&pending[start as usize..]);
        }
    }

    /// Translates `input`, appending to `out`.
    fn append(
        translator: &mut Translator,
        input: &[u8],
        out: &mut Picky,
        heard: &mut Heard,
    ) -> Result<(), Unreadable> {
        let (mut input, mut batch) = (input.to_vec(), Batch::default());
        let result = translator.translate(&mut input, &mut batch, heard);
        batch.write(|own| translator.put_control(own));
        out.take(&mut batch, &input);
        result
    }

    fn translate(pair: (Transport, Transport), pieces: &[&[u8]]) -> Outcome {
        translate_into(pair, pieces, Vec::new())
    }

    fn translate_into(
        (from, to): (Transport, Transport),
        pieces: &[&[u8]],
        takes: Vec<usize>,
    ) -> Outcome {
        let mut translator = Translator::new(from, to, MAX);
        let (mut out, mut heard) = (Picky { takes, ..Picky::default() }, Heard::default());
        let mut result = Ok(());
        for piece in pieces {
            result = append(&mut translator, piece, &mut out, &mut heard);
            if result.is_err() || heard.close.is_some() {
                break;
            }
        }
        let payload = |payload: ControlPayload| payload.as_slice().to_vec();
        (out.taken, heard.ping.map(payload), heard.close.map(payload), result)
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
        let len = prop_oneof![6 => 0..300_usize, 1 => 65_530..65_540_usize];
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
        let (mut out, mut heard) = (Picky::default(), Heard::default());
        let frame = frame::encode(b"passing").unwrap();
        append(&mut translator, &frame[..4], &mut out, &mut heard).unwrap();
        assert!(translator.is_within_frame());
        out.taken.clear();
        translator.pong(ControlPayload::status(1));
        translator.pong(ControlPayload::status(2));
        translator.close(ControlPayload::status(1000));
        translator.close(ControlPayload::status(1001));
        translator.put_control(&mut out.taken);
        assert_eq!(out.taken, b"");
        let rest = [&frame[4..], &frame, &frame].concat();
        append(&mut translator, &rest, &mut out, &mut heard).unwrap();
        let pong = [0x8A, 2, 0, 2];
        assert_eq!(out.taken, [&b"sing"[..], &pong, &close_of(1000)].concat());
        assert!(translator.has_closed() && !translator.is_within_frame());
        translator.put_control(&mut out.taken);
        assert_eq!(out.taken.len(), 4 + pong.len() + 4);
    }

    #[test]
    fn a_claim_reserves_nothing_and_a_byte_costs_a_byte() {
        const SENT: usize = 1_000;
        let claim = |first, len: u64| [&[first, 0xFF][..], &len.to_be_bytes(), &[0; 4]].concat();
        for (pair, claim) in [
            (PAIRS[0], [0xFF; 4].to_vec()),
            (PAIRS[1], claim(0x82, frame::MAX_PAYLOAD as u64)),
            (PAIRS[1], claim(0x02, frame::MAX_PAYLOAD as u64)),
            (PAIRS[1], claim(0x02, 1 << 63)),
            (PAIRS[2], claim(0x82, frame::MAX_PAYLOAD as u64)),
            (PAIRS[2], claim(0x82, 1 << 63)),
        ] {
            let mut translator = Translator::new(pair.0, pair.1, frame::MAX_PAYLOAD);
            let (mut batch, mut heard) = (Batch::default(), Heard::default());
            for byte in claim.into_iter().chain([1; SENT]) {
                batch.clear();
                if translator.translate(&mut [byte], &mut batch, &mut heard).is_err() {
                    break;
                }
            }
            assert!(batch.capacity() < 256, "{} bytes for {pair:?}", batch.capacity());
            if let Sink::Tcp(Frames { fragmented: Some(message), .. }) = &translator.sink {
                assert_eq!(message.earlier.len(), SENT);
            }
            assert!(translator.held() <= 2 * SENT);
        }
    }

    #[test]
    fn many_small_messages_are_one_write() {
        for (pair, len) in PAIRS.iter().flat_map(|pair| [0, 10, 100, 1_400].map(|len| (pair, len)))
        {
            let message = vec![7; len];
            let one = match pair.0 {
                Transport::Tcp => frame::encode(&message).unwrap(),
                Transport::WebSocket => masked(0x82, &message, [7; 4]),
            };
            let mut input = one.repeat((256 << 10) / one.len());
            let mut translator = Translator::new(pair.0, pair.1, MAX);
            let (mut batch, mut heard) = (Batch::default(), Heard::default());
            translator.translate(&mut input, &mut batch, &mut heard).unwrap();
            let mut sink = Picky { takes: vec![usize::MAX], ..Picky::default() };
            sink.take(&mut batch, &input);
            assert!(!sink.left, "{len} bytes, {pair:?}");
        }
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
            takes in prop::collection::vec(prop_oneof![1..40_usize, 1..70_000_usize], 0..40),
        ) {
            for (pair, bytes) in PAIRS.iter().flat_map(|&pair| [(pair, &client), (pair, &noise)]) {
                let mut bytes = bytes.clone();
                if let Some((at, bits)) = flipped && !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= bits;
                }
                let whole = translate(pair, &[&bytes]);
                prop_assert!(translate(pair, &pieces(&bytes, &cuts)) == whole);
                let taken = translate_into(pair, &pieces(&bytes, &cuts), takes.clone());
                prop_assert!(taken == whole);
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
            takes in prop::collection::vec(prop_oneof![1..40_usize, 1..70_000_usize], 0..40),
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
            let outcome = translate_into(PAIRS[1], &pieces(&bytes, &cuts), takes);
            prop_assert!(outcome == (frames, heard, None, Ok(())));
        }
    }
}
