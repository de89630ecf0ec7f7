//! A conversation between two nodes as a stream of bytes, in sealed records: what the admin API of
//! one node is spoken over by another.
//!
//! An empty record is the end, so that nobody on the way can make a stream end early unnoticed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Link, LinkError, TAG,
    frame::{self, Kind, LONGEST_RECORD},
    message::Refusal,
};

/// The stream.
#[derive(Debug)]
pub struct SealedStream {
    link: Link,
    /// Opened, and not read yet.
    opened: BytesMut,
    /// The other node has said that it ends.
    ended: bool,
    /// It was told that this one ends.
    closing: bool,
}

impl SealedStream {
    pub(super) fn new(link: Link) -> Self {
        Self { link, opened: BytesMut::new(), ended: false, closing: false }
    }

    /// Writes what is sealed; ready when the socket has taken all of it.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Link { stream, outbox, .. } = &mut self.link;
        while !outbox.is_empty() {
            let sent = ready!(Pin::new(&mut *stream).poll_write(cx, outbox))?;
            outbox.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn seal(&mut self, record: &[u8]) -> io::Result<()> {
        let Link { outbox, says, .. } = &mut self.link;
        let start = frame::begin(Kind::Sealed, outbox);
        outbox.extend_from_slice(record);
        says.seal(outbox, start).map_err(io::Error::other)?;
        frame::end(start, outbox).map_err(io::Error::other)
    }

    /// Opens the next record that is here in whole; whether there was one.
    fn open(&mut self) -> Result<bool, LinkError> {
        let Link { inbox, hears, .. } = &mut self.link;
        let (kind, mut sealed) = match frame::take(inbox, LONGEST_RECORD + TAG)? {
            Some(frame) => frame,
            None => return Ok(false),
        };
        match kind {
            Kind::Sealed => {}
            Kind::Refusal => {
                let refusal = <Refusal as prost::Message>::decode(sealed);
                return Err(LinkError::refused(&refusal.map_err(|_| LinkError::Malformed)?));
            }
            Kind::Greeting | Kind::Hello => return Err(LinkError::Malformed),
        }
        let len = hears.open(&mut sealed).ok_or(LinkError::NotAuthentic)?.len();
        sealed.truncate(len);
        self.ended = len == 0;
        self.opened = sealed;
        Ok(true)
    }
}

impl AsyncRead for SealedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A hello, or an end, that is on its way still: whoever reads may have nothing to write.
        let _ = this.poll_drain(cx)?;
        while this.opened.is_empty() && !this.ended {
            if this.open().map_err(io::Error::other)? {
                continue;
            }
            let mut room = [0; READ];
            let mut read = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.link.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.link.inbox.extend_from_slice(read.filled());
        }
        let len = this.opened.len().min(buf.remaining());
        buf.put_slice(&this.opened.split_to(len));
        Poll::Ready(Ok(()))
    }
}

/// How much one read takes at most, in bytes.
const READ: usize = 4 << 10;

impl AsyncWrite for SealedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // One record at a time is kept, and the hello before the first.
        if this.link.outbox.len() > LONGEST_RECORD {
            ready!(this.poll_drain(cx))?;
        }
        let len = buf.len().min(LONGEST_RECORD);
        if len > 0 {
            this.seal(&buf[..len])?;
            // What is sealed is accepted, whether or not it has gone.
            if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.link.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.closing, true) {
            this.seal(&[])?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.link.stream).poll_shutdown(cx)
    }
}
