//! A connection whose first bytes were read already: they are read again before the rest.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::listener::Connection;

/// A connection with its first bytes put back.
pub struct Rewind {
    head: Bytes,
    connection: Connection,
}

impl Rewind {
    /// Puts `head` back before what `connection` reads next.
    pub const fn new(head: Bytes, connection: Connection) -> Self {
        Self { head, connection }
    }

    /// What of the head was not read again, and the connection.
    pub fn into_parts(self) -> (Bytes, Connection) {
        (self.head, self.connection)
    }
}

impl AsyncRead for Rewind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.connection.socket).poll_read(cx, buf);
        }
        let taken = self.head.len().min(buf.remaining());
        buf.put_slice(&self.head[..taken]);
        self.head.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewind {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection.socket).poll_shutdown(cx)
    }
}
