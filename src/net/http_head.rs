//! Where the head of an HTTP request ends. It is waited for before there is an HTTP connection:
//! that has buffers of many KiB from the start, and who sends a head byte by byte is not worth them.

/// The longest that ends a head: the end of a line, and a line with nothing in it.
const EMPTY_LINE: usize = b"\n\r\n".len();

/// Sees the end of a head in what has been read so far of a connection, or that it is `most` bytes
/// long: who reads requests takes none that is longer. What is in it is not looked at.
pub fn end(most: usize) -> impl FnMut(&[u8]) -> Option<()> {
    let mut seen = 0;
    move |head| {
        let is_whole = has_empty_line(&head[seen..]) || head.len() >= most;
        // An empty line may begin with the last bytes that there are.
        seen = head.len().saturating_sub(EMPTY_LINE - 1);
        is_whole.then_some(())
    }
}

/// HTTP's own end of a line has a carriage return; those that leave it out are understood too.
fn has_empty_line(bytes: &[u8]) -> bool {
    let line_ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    line_ends
        .map(|(at, _)| &bytes[at + 1..])
        .any(|rest| rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 64;

    /// After how many bytes the end is seen, if they come so many at a time.
    fn seen(bytes: &[u8], at_a_time: usize) -> Option<usize> {
        let mut end = end(MOST);
        let mut lens = (0..bytes.len()).step_by(at_a_time).chain([bytes.len()]);
        lens.find(|len| end(&bytes[..*len]).is_some())
    }

    #[test]
    fn a_head_ends_with_an_empty_line_however_it_comes() {
        for whole in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"GET / HTTP/1.1\nA: b\n\n", b"G\r\n\n"] {
            let and_more = [whole, b"a body of its own"].concat();
            for at_a_time in [1, 2, 3, 7] {
                let after = seen(&and_more, at_a_time).unwrap();
                assert!((whole.len()..whole.len() + at_a_time).contains(&after), "{after}");
                assert_eq!(seen(&whole[..whole.len() - 1], at_a_time), None);
            }
        }
    }

    #[test]
    fn no_more_is_waited_for_than_is_taken() {
        assert_eq!(seen(&[b'x'; 10 * MOST], 1), Some(MOST));
    }
}
