//! One direction's translation without its sockets, for `tests/fuzz`, which cannot see within. There
//! only where `cfg(fuzzing)` is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::AsyncWrite;

use super::{
    batch::Batch,
    translate::{Heard, Translator, Unreadable},
};
use crate::wire::{Transport, websocket::ControlPayload};

/// A direction, and all that has come out of it.
#[derive(Debug)]
pub struct Direction {
    translator: Translator,
    heard: Heard,
    sink: Sink,
}

/// Why nothing more can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The source, a WebSocket, sent a Close with this payload.
    Closed(Vec<u8>),
    /// A message longer than may cross.
    TooLong,
    /// Not WebSocket frames.
    Protocol,
}

/// A socket that takes so many bytes of a read at once; the rest of it waits, and then goes.
#[derive(Debug, Default)]
struct Sink {
    takes: usize,
    taken: Vec<u8>,
}

impl Direction {
    /// For two legs of which one at least is a WebSocket; messages of up to `max` bytes.
    pub fn new(from: Transport, to: Transport, max: usize) -> Self {
        let translator = Translator::new(from, to, max);
        Self { translator, heard: Heard::default(), sink: Sink::default() }
    }

    /// Translates what one read brought, of which the sink takes `takes` bytes at once.
    ///
    /// # Errors
    /// When nothing can be read after it.
    pub fn read(&mut self, input: &[u8], takes: usize) -> Result<(), Ended> {
        let (mut input, mut batch) = (input.to_vec(), Batch::default());
        let readable = self.translator.translate(&mut input, &mut batch, &mut self.heard);
        batch.write(|own| self.translator.put_control(own));
        self.sink.take(&mut batch, &input, takes);
        match (readable, &self.heard.close) {
            (Err(Unreadable::TooLong), _) => Err(Ended::TooLong),
            (Err(Unreadable::Protocol(_)), _) => Err(Ended::Protocol),
            (Ok(()), Some(close)) => Err(Ended::Closed(close.as_slice().to_vec())),
            (Ok(()), None) => Ok(()),
        }
    }

    /// Asks for a Pong to the sink, with a status code's two bytes as its payload.
    pub fn pong(&mut self, payload: u16) {
        self.translator.pong(ControlPayload::status(payload));
    }

    /// Asks for a Close to the sink.
    pub fn close(&mut self, status: u16) {
        self.translator.close(ControlPayload::status(status));
    }

    /// All that the sink has got.
    pub fn out(&self) -> &[u8] {
        &self.sink.taken
    }

    /// The last Ping's payload.
    pub fn ping(&self) -> Option<&[u8]> {
        self.heard.ping.as_ref().map(ControlPayload::as_slice)
    }

    /// Bytes of memory that are held until more is read.
    pub fn held(&self) -> usize {
        self.translator.held()
    }
}

impl Sink {
    fn take(&mut self, batch: &mut Batch, input: &[u8], takes: usize) {
        self.takes = takes;
        let before = self.taken.len();
        let written = batch.poll_write(&mut Context::from_waker(Waker::noop()), self, input);
        assert_eq!(written.ok(), Some(self.taken.len() - before), "what was written is counted");
        let (pending, start) = batch.take_pending(input);
        self.taken.extend_from_slice(&pending[start as usize..]);
    }
}

impl AsyncWrite for Sink {
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
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let taken = all.len().min(std::mem::take(&mut self.takes));
        self.taken.extend_from_slice(&all[..taken]);
        if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
