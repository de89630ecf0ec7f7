//! Reading what little a connection says first, into no more memory than that takes.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// Room for a client's usual first message, a WebSocket's handshake included.
const READ: usize = 1024;

/// Appends what has arrived to `head`, once something has; 0 when the peer hung up, in good order
/// or not.
///
/// While it waits it holds nothing: whoever says nothing costs no buffer, and who says a byte a
/// second no more than those bytes.
///
/// # Errors
/// When reading fails.
pub async fn read_some<S>(socket: &mut S, head: &mut BytesMut) -> io::Result<usize>
where
    S: AsyncRead + Unpin,
{
    poll_fn(|cx| {
        let mut room = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut room);
        match ready!(Pin::new(&mut *socket).poll_read(cx, &mut read)) {
            Ok(()) => {
                head.extend_from_slice(read.filled());
                Poll::Ready(Ok(read.filled().len()))
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(error)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_trickle_takes_no_more_room_than_its_bytes() {
        let (mut near, mut far) = duplex(64);
        let mut head = BytesMut::new();
        for byte in 0..100_u8 {
            far.write_u8(byte).await.unwrap();
            assert_eq!(read_some(&mut near, &mut head).await.unwrap(), 1);
            assert!(head.capacity() <= 2 * head.len().max(8), "{}", head.capacity());
        }
        drop(far);
        assert_eq!(read_some(&mut near, &mut head).await.unwrap(), 0);
        assert!(head.iter().copied().eq(0..100));
    }
}
