//! What one direction has for its sink and the sink has not taken: the whole of its memory, but for
//! what TLS has sealed of it already.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite as _, time::Instant};

use super::batch::Batch;
use crate::net::stream::Stream;

/// Bytes on their way into a socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Not taken yet, from `written` on.
    pending: Vec<u8>,
    /// It fits: what is pending is bounded by the buffer, or by the greatest length of a frame.
    written: u32,
    /// The stream keeps sealed bytes that its socket has not taken.
    sealed: bool,
    /// Since when the socket has taken nothing of it.
    stalled_since: Option<Instant>,
}

/// The socket takes nothing any more.
#[derive(Debug)]
pub(super) struct Gone;

impl Outbox {
    /// Whether nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.pending.is_empty() && !self.sealed
    }

    /// Since when the socket has taken nothing of what waits.
    pub(super) const fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The socket has taken nothing since then of what was added.
    pub(super) const fn stall(&mut self, since: Option<Instant>) {
        self.stalled_since = since;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Where what cannot be written now is added.
    pub(super) const fn pending_mut(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Writes `bytes`, before which nothing may wait; what the socket does not take now, waits.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Stream,
        bytes: &[u8],
    ) -> Result<(), Gone> {
        debug_assert!(self.is_empty(), "bytes would overtake others");
        let taken = poll_write(cx, sink, bytes)?;
        self.pending.extend_from_slice(&bytes[taken..]);
        self.note(taken, sink);
        Ok(())
    }

    /// As [`Outbox::send`], of what was made of `input`.
    pub(super) fn send_batch(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Stream,
        input: &[u8],
        batch: &mut Batch,
    ) -> Result<(), Gone> {
        debug_assert!(self.is_empty(), "bytes would overtake others");
        let taken = batch.poll_write(cx, sink, input)?;
        poll_flush(cx, sink)?;
        (self.pending, self.written) = batch.take_pending(input);
        self.note(taken, sink);
        Ok(())
    }

    /// Writes what waits, as much as the socket takes now. How many bytes that was.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Result<usize, Gone> {
        let sealed = sink.unsent();
        let taken = poll_write(cx, sink, self.rest())?;
        self.written += taken as u32;
        let moved = taken + sealed.saturating_sub(sink.unsent());
        self.note(moved, sink);
        Ok(moved)
    }

    /// Tries a socket that is stalled. The system calls it writable only when a good part of its
    /// buffer is free; less than that is progress too. How many bytes it took.
    pub(super) fn nudge(&mut self, sink: &mut Stream) -> usize {
        if self.stalled_since.is_none() {
            return 0;
        }
        let sealed = sink.unsent();
        // An error is found by whoever waits for the socket.
        let taken = sink.nudge(self.rest()).unwrap_or(0);
        self.written += taken as u32;
        let moved = taken + sealed.saturating_sub(sink.unsent());
        if moved > 0 {
            self.note(moved, sink);
        }
        moved
    }

    /// Tells the sink that nothing more comes. Whether it could be told: if not, that waits.
    pub(super) fn end(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> bool {
        debug_assert!(self.is_empty(), "the end would overtake bytes");
        // It fails only when the connection is gone, and then it need not be told.
        let told = Pin::new(&mut *sink).poll_shutdown(cx).is_ready();
        if !told {
            self.note(0, sink);
        }
        told
    }

    /// Drops what waits. Given back at once, or every relay that ever stalled would keep its worst
    /// moment.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn rest(&self) -> &[u8] {
        &self.pending[self.written as usize..]
    }

    fn note(&mut self, moved: usize, sink: &Stream) {
        self.sealed = sink.unsent() > 0;
        if self.rest().is_empty() {
            (self.pending, self.written) = (Vec::new(), 0);
        }
        if self.is_empty() {
            self.stalled_since = None;
        } else if moved > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(Instant::now());
        }
    }
}

/// Writes what the socket takes now, and asks to be woken when it does not take all.
fn poll_write(cx: &mut Context<'_>, sink: &mut Stream, bytes: &[u8]) -> Result<usize, Gone> {
    let mut written = 0;
    while written < bytes.len() {
        match Pin::new(&mut *sink).poll_write(cx, &bytes[written..]) {
            Poll::Ready(Ok(len)) => written += len,
            Poll::Ready(Err(_)) => return Err(Gone),
            Poll::Pending => break,
        }
    }
    poll_flush(cx, sink)?;
    Ok(written)
}

/// Asks to be woken when the socket takes more of what is sealed.
fn poll_flush(cx: &mut Context<'_>, sink: &mut Stream) -> Result<(), Gone> {
    match Pin::new(sink).poll_flush(cx) {
        Poll::Ready(Err(_)) => Err(Gone),
        Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
    }
}
