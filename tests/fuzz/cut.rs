//! How an input says where it is cut: its first byte is the number of cuts, each of the next the
//! length of a piece; what follows is the stream itself.

/// At most so many cuts, so that the stream is most of the input.
const MOST: usize = 16;

/// The stream, and the same in pieces.
pub(crate) fn cut(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (&count, rest) = data.split_first()?;
    let (lens, stream) = rest.split_at_checked(usize::from(count) % (MOST + 1))?;
    let mut pieces = Vec::new();
    let mut left = stream;
    for &len in lens {
        let (piece, rest) = left.split_at(left.len().min(usize::from(len)));
        pieces.push(piece);
        left = rest;
    }
    pieces.push(left);
    Some((stream, pieces))
}
