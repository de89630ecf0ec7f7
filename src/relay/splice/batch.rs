//! What one read became: where each piece of it stands, in the order in which it goes out.
//!
//! A payload stays where it was read, and its new header is written over the end of the old one.
//! Only what finds no room there, and pieces so small that a copy is cheaper than a place in the
//! list, are written elsewhere.

use std::{
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use super::outbox::Gone;

/// A piece shorter than this is copied next to its neighbours.
const SMALL: usize = 128;

/// How many pieces one write takes, at most; Linux takes no more than 1,024.
const SLICES: usize = 512;

/// How many pieces a message or two make.
const FEW: usize = 8;

/// The pieces, in their order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pieces: Vec<Piece>,
    /// What stands nowhere else: headers, control frames, small payloads.
    own: Vec<u8>,
    /// The part of a message that came with earlier reads.
    earlier: Vec<u8>,
    /// No piece before this one grows any more.
    fixed: usize,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    place: Place,
    start: u32,
    end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Read,
    Own,
    Earlier,
}

/// A place between two pieces.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark(usize);

impl Batch {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.own.clear();
        self.earlier = Vec::new();
        self.fixed = 0;
    }

    /// Forgets everything, and gives back memory beyond what `own` bytes take.
    pub(super) fn give_back(&mut self, own: usize) {
        self.clear();
        self.own.shrink_to(own);
        self.pieces.shrink_to(own / SMALL);
    }

    /// Whether `len` bytes are better copied than pointed at.
    pub(super) const fn is_small(len: usize) -> bool {
        len < SMALL
    }

    /// Adds a copy of `bytes`.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        self.write(|own| own.extend_from_slice(bytes));
    }

    /// Adds what `put` appends.
    pub(super) fn write(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        put(&mut self.own);
        self.push(Place::Own, start..self.own.len());
    }

    /// Adds a part of the read, as it will be when this is sent.
    pub(super) fn point(&mut self, span: Range<usize>) {
        self.push(Place::Read, span);
    }

    /// Adds a part of the read in the cheapest way; it does not change any more.
    pub(super) fn add(&mut self, input: &[u8], span: Range<usize>) {
        let continues = self.growing().is_some_and(|last| last.is_before(Place::Read, &span));
        if continues || !Self::is_small(span.len()) {
            self.point(span);
        } else {
            self.copy(&input[span]);
        }
    }

    fn push(&mut self, place: Place, span: Range<usize>) {
        if span.is_empty() {
            return;
        }
        match self.growing() {
            Some(last) if last.is_before(place, &span) => last.end = span.end as u32,
            _ => self.pieces.push(Piece::new(place, span)),
        }
    }

    fn growing(&mut self) -> Option<&mut Piece> {
        self.pieces[self.fixed..].last_mut()
    }

    /// The place behind everything so far.
    pub(super) const fn mark(&mut self) -> Mark {
        self.fixed = self.pieces.len();
        Mark(self.fixed)
    }

    /// How many bytes stand behind `mark`.
    pub(super) fn len_from(&self, Mark(mark): Mark) -> usize {
        self.pieces[mark..].iter().map(Piece::len).sum()
    }

    /// Moves what stands behind `mark` to the end of `to`.
    pub(super) fn take_from(&mut self, Mark(mark): Mark, input: &[u8], to: &mut Vec<u8>) {
        to.reserve(self.len_from(Mark(mark)));
        for piece in &self.pieces[mark..] {
            to.extend_from_slice(&self.place(piece.place, input)[piece.span()]);
        }
        self.pieces.truncate(mark);
        self.fixed = self.fixed.min(mark);
    }

    /// Adds `header`, and `earlier` behind it, at `mark`. There is but one message that was begun
    /// in an earlier read and ends in this one.
    pub(super) fn insert(&mut self, Mark(mark): Mark, header: &[u8], earlier: Vec<u8>) {
        let start = self.own.len();
        self.own.extend_from_slice(header);
        if !earlier.is_empty() {
            debug_assert!(self.earlier.is_empty(), "two messages end that began before");
            self.pieces.insert(mark, Piece::new(Place::Earlier, 0..earlier.len()));
            self.earlier = earlier;
        }
        self.pieces.insert(mark, Piece::new(Place::Own, start..self.own.len()));
    }

    #[cfg(test)]
    pub(super) const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes that it takes up.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let pieces = self.pieces.capacity() * size_of::<Piece>();
        pieces + self.own.capacity() + self.earlier.capacity()
    }

    fn place<'a>(&'a self, place: Place, input: &'a [u8]) -> &'a [u8] {
        match place {
            Place::Read => input,
            Place::Own => &self.own,
            Place::Earlier => &self.earlier,
        }
    }

    /// Writes what the socket takes now, and asks to be woken when it does not take all. How many
    /// bytes it took, which are no more part of this.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
        input: &[u8],
    ) -> Result<usize, Gone> {
        let mut written = 0;
        let mut at = 0;
        while at < self.pieces.len() {
            let polled = match self.pieces.len() - at {
                1 => {
                    let only = self.pieces[at];
                    let bytes = &self.place(only.place, input)[only.span()];
                    Pin::new(&mut *sink).poll_write(cx, bytes)
                }
                // A message or two are no reason to lay out the whole list.
                2..=FEW => self.poll_write_some::<FEW>(cx, sink, input, at),
                _ => self.poll_write_some::<SLICES>(cx, sink, input, at),
            };
            match polled {
                Poll::Ready(Ok(taken)) if taken > 0 => {
                    written += taken;
                    at += self.advance(at, taken);
                }
                Poll::Ready(_) => return Err(Gone),
                Poll::Pending => break,
            }
        }
        self.pieces.drain(..at);
        Ok(written)
    }

    fn poll_write_some<const MOST: usize>(
        &self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
        input: &[u8],
        at: usize,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); MOST];
        let pieces = &self.pieces[at..];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(&self.place(piece.place, input)[piece.span()]);
        }
        Pin::new(sink).poll_write_vectored(cx, &slices[..pieces.len().min(MOST)])
    }

    /// How many pieces from `at` on went with `taken` bytes. One that went in part is cut.
    fn advance(&mut self, at: usize, mut taken: usize) -> usize {
        let mut gone = 0;
        for piece in &mut self.pieces[at..] {
            if taken < piece.len() {
                piece.start += taken as u32;
                break;
            }
            taken -= piece.len();
            gone += 1;
        }
        gone
    }

    /// What was not written, in one piece, and from where on it counts. Takes the largest part over
    /// where it can, and copies the rest.
    pub(super) fn take_pending(&mut self, input: &[u8]) -> (Vec<u8>, u32) {
        let (mut pending, mut start) = (Vec::new(), 0);
        let mut first = 0;
        if let Some(piece) = self.pieces.first()
            && piece.place == Place::Earlier
        {
            start = piece.start;
            pending = std::mem::take(&mut self.earlier);
            first = 1;
        }
        self.take_from(Mark(first), input, &mut pending);
        (pending, start)
    }
}

impl Piece {
    /// Offsets fit: the read and what becomes of it are bounded by the buffer, an earlier part by
    /// the greatest length that a frame can have.
    const fn new(place: Place, span: Range<usize>) -> Self {
        Self { place, start: span.start as u32, end: span.end as u32 }
    }

    const fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    const fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Whether `span` of `place` follows without a gap.
    fn is_before(&self, place: Place, span: &Range<usize>) -> bool {
        self.place == place && self.end as usize == span.start
    }
}
