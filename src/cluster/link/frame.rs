//! The frames in which nodes speak: a length of two bytes, a kind of one, and a body. Pure.

use bytes::{Buf as _, BufMut as _, BytesMut};

/// Length and kind.
const HEADER: usize = 3;

/// The longest body of a message between nodes, in bytes: twice what the longest names take.
pub(super) const LONGEST: usize = 4 << 10;

/// The longest body of a record of the admin API, in bytes.
pub(super) const LONGEST_RECORD: usize = 16 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Greeting = 1,
    Hello = 2,
    Refusal = 3,
    Sealed = 4,
}

/// What no node of this release sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length.
    #[error("a message of {0} bytes")]
    TooLong(usize),
    /// The kind.
    #[error("a message of an unknown kind ({0})")]
    UnknownKind(u8),
}

impl Kind {
    const fn from_wire(value: u8) -> Result<Self, FrameError> {
        match value {
            1 => Ok(Self::Greeting),
            2 => Ok(Self::Hello),
            3 => Ok(Self::Refusal),
            4 => Ok(Self::Sealed),
            other => Err(FrameError::UnknownKind(other)),
        }
    }
}

/// Begins a frame at the end of `to`; where its body begins.
pub(super) fn begin(kind: Kind, to: &mut BytesMut) -> usize {
    to.put_u16(0);
    to.put_u8(kind as u8);
    to.len()
}

/// Ends the frame whose body begins at `start`.
pub(super) fn end(start: usize, to: &mut BytesMut) -> Result<(), FrameError> {
    let len = to.len() - start;
    let wire = u16::try_from(len).map_err(|_| FrameError::TooLong(len))?;
    to[start - HEADER..][..2].copy_from_slice(&wire.to_be_bytes());
    Ok(())
}

/// Takes the frame at the start of `from` out of it, once it is whole. One that is longer than
/// `longest`, or of no kind, is an error as soon as its header says so.
pub(super) fn take(
    from: &mut BytesMut,
    longest: usize,
) -> Result<Option<(Kind, BytesMut)>, FrameError> {
    let Some(&[high, low, kind]) = from.first_chunk() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > longest {
        return Err(FrameError::TooLong(len));
    }
    let kind = Kind::from_wire(kind)?;
    if from.len() < HEADER + len {
        return Ok(None);
    }
    from.advance(HEADER);
    Ok(Some((kind, from.split_to(len))))
}
