//! One TLS session: the records between a socket and its bytes, in both directions.
//!
//! rustls's unbuffered connection does the protocol; here is what it leaves to its user, which is
//! every buffer. Ciphertext is read into, and sealed in, buffers that all sessions of a thread
//! share, so that an idle session keeps none. A session keeps at most the beginning of one record,
//! what a small read left of another, and one write's ciphertext that the socket has not taken:
//! nothing more is sealed before that has gone.

use std::{
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::{Poll, ready},
};

use rustls::{
    Error, HandshakeKind, ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use tokio::io::ReadBuf;

use super::scratch::{READ, RECORD, Scratch, with_scratch};

/// What a record costs to open, in bytes that it costs as much to move: a flood of tiny records
/// must not pass for a trickle.
const RECORD_TOIL: usize = 512;

/// A socket, called in whatever way does not block; `Pending` when it is not ready.
pub(in crate::net) trait Socket {
    /// Reads; 0 is the end.
    fn poll_read(&mut self, into: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Writes.
    fn poll_write(&mut self, from: &[u8]) -> Poll<io::Result<usize>>;
    /// Says that nothing more will be written.
    fn shut_down(&mut self) -> io::Result<()>;
}

/// The state of one session.
pub(in crate::net) struct Session {
    tls: UnbufferedServerConnection,
    /// The beginning of a record, or of a handshake message, whose end has not come.
    partial: Vec<u8>,
    /// Opened and not read yet, from `read` on.
    opened: Vec<u8>,
    read: usize,
    /// Sealed and not taken by the socket yet, from `sent` on.
    sealed: Vec<u8>,
    sent: usize,
    /// What reading has cost since this was last asked.
    toil: usize,
    /// The peer sends nothing more, as it said, or as the socket did.
    ended: bool,
    /// The peer has been told that we send nothing more.
    closing: bool,
    /// What broke the session.
    fault: Option<Error>,
}

impl Session {
    /// A session whose handshake has not begun.
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config)?,
            partial: Vec::new(),
            opened: Vec::new(),
            read: 0,
            sealed: Vec::new(),
            sent: 0,
            toil: 0,
            ended: false,
            closing: false,
            fault: None,
        })
    }

    /// Whether the handshake is not over.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the handshake took up an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What broke the session.
    pub(super) fn take_fault(&mut self) -> Option<Error> {
        self.fault.take()
    }

    /// How many bytes are sealed that the socket has not taken.
    pub(in crate::net) fn unsent(&self) -> usize {
        self.sealed.len() - self.sent
    }

    /// What reading has cost since this was last asked, in bytes.
    pub(in crate::net) fn take_toil(&mut self) -> usize {
        std::mem::take(&mut self.toil)
    }

    /// Takes ciphertext that was read before there was a session.
    pub(super) fn begin(&mut self, head: &[u8]) {
        with_scratch(|scratch| {
            for piece in head.chunks(READ) {
                let kept = self.resume(scratch);
                scratch.incoming[kept..kept + piece.len()].copy_from_slice(piece);
                self.open(&mut scratch.incoming[..kept + piece.len()], None);
            }
        });
    }

    /// Reads once, until there are bytes or the handshake goes on.
    pub(in crate::net) fn poll_progress(
        &mut self,
        socket: &mut impl Socket,
    ) -> Poll<io::Result<()>> {
        with_scratch(|scratch| self.poll_open(socket, scratch, None))
    }

    /// Reads bytes; none is the end.
    pub(in crate::net) fn poll_read(
        &mut self,
        socket: &mut impl Socket,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unsent() > 0 {
            // Tickets, and answers to what was read, such as a refused renegotiation: nobody else
            // may have anything to write. A fault is found by who reads.
            let _ = self.poll_flush(socket);
        }
        let before = buf.filled().len();
        self.read_opened(buf);
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        with_scratch(|scratch| {
            while buf.filled().len() == before && !self.ended {
                if let Some(fault) = &self.fault {
                    return Poll::Ready(Err(broken(fault)));
                }
                ready!(self.poll_open(socket, scratch, Some(buf)))?;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Appends to `to` whatever can be read now, of one read at most.
    pub(in crate::net) fn read_ahead(
        &mut self,
        socket: &mut impl Socket,
        to: &mut Vec<u8>,
    ) -> io::Result<()> {
        if self.opened.is_empty() && !self.ended {
            match self.poll_progress(socket) {
                Poll::Ready(read) => read?,
                Poll::Pending => return Ok(()),
            }
        }
        to.extend_from_slice(&self.opened[self.read..]);
        (self.opened, self.read) = (Vec::new(), 0);
        self.fault.as_ref().map_or(Ok(()), |fault| Err(broken(fault)))
    }

    /// Whether there is something to read, or the end, without another read of the socket.
    pub(in crate::net) fn is_readable(&self) -> bool {
        !self.opened.is_empty() || self.ended || self.fault.is_some()
    }

    /// Whether the peer sends nothing more.
    pub(in crate::net) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Seals and writes bytes once all that was sealed before is taken. How many there were: those
    /// are sealed, and it is for [`Session::poll_flush`] to see them taken.
    pub(in crate::net) fn poll_write(
        &mut self,
        socket: &mut impl Socket,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(socket))?;
        if self.closing || self.fault.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        with_scratch(|Scratch { incoming, outgoing }| {
            let bytes = match bufs {
                [only] => &only[..only.len().min(READ)],
                several => gather(several, &mut incoming[..READ]),
            };
            let len = self.seal(bytes, outgoing)?;
            let mut sent = 0;
            // A message of TLS' own comes before what is sealed after it.
            while sent < len && self.sealed.is_empty() {
                match socket.poll_write(&outgoing[sent..len]) {
                    Poll::Ready(Ok(taken)) => sent += taken,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            self.sealed.extend_from_slice(&outgoing[sent..len]);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// Writes what is sealed; ready when the socket has taken all of it.
    pub(in crate::net) fn poll_flush(&mut self, socket: &mut impl Socket) -> Poll<io::Result<()>> {
        while self.unsent() > 0 {
            self.sent += ready!(socket.poll_write(&self.sealed[self.sent..]))?;
        }
        // Given back, or every session that ever stalled would keep its worst moment.
        (self.sealed, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be written: to the peer's TLS, and then to its system.
    pub(in crate::net) fn poll_shutdown(
        &mut self,
        socket: &mut impl Socket,
    ) -> Poll<io::Result<()>> {
        self.close();
        ready!(self.poll_flush(socket))?;
        Poll::Ready(socket.shut_down())
    }

    /// Seals a close_notify, unless that or an alert was.
    pub(in crate::net) fn close(&mut self) {
        if std::mem::replace(&mut self.closing, true) || self.fault.is_some() {
            return;
        }
        let UnbufferedStatus { state, .. } = self.tls.process_tls_records(&mut self.partial);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let mut alert = [0; 256];
            // Too little room there cannot be, and whoever cannot write is not told.
            let len = traffic.queue_close_notify(&mut alert).unwrap_or(0);
            self.sealed.extend_from_slice(&alert[..len]);
        }
    }

    fn read_opened(&mut self, buf: &mut ReadBuf<'_>) {
        let unread = &self.opened[self.read..];
        let len = unread.len().min(buf.remaining());
        buf.put_slice(&unread[..len]);
        self.read += len;
        if self.read == self.opened.len() {
            (self.opened, self.read) = (Vec::new(), 0);
        }
    }

    /// Reads ciphertext once and opens it, into `buf` if there is one. No more is read than `buf`
    /// takes, one record excepted, so that little is left over.
    fn poll_open(
        &mut self,
        socket: &mut impl Socket,
        scratch: &mut Scratch,
        buf: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<()>> {
        let kept = self.partial.len();
        let most = buf.as_ref().map_or(0, |buf| buf.remaining()).clamp(RECORD, READ);
        let len = ready!(socket.poll_read(&mut scratch.incoming[kept..kept + most]))?;
        if len == 0 {
            // Some never say that they end. What came before counts all the same.
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        self.resume(scratch);
        self.open(&mut scratch.incoming[..kept + len], buf);
        if self.fault.is_some() {
            // Whatever TLS has to say of it is said if the socket takes it at once, or never.
            let _ = self.poll_flush(socket);
        }
        Poll::Ready(Ok(()))
    }

    fn resume(&mut self, scratch: &mut Scratch) -> usize {
        let kept = self.partial.len();
        scratch.incoming[..kept].copy_from_slice(&self.partial);
        self.partial = Vec::new();
        kept
    }

    /// Opens every whole record of `incoming`, and keeps what is left of it.
    fn open(&mut self, incoming: &mut [u8], mut buf: Option<&mut ReadBuf<'_>>) {
        self.toil += incoming.len();
        let mut at = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut incoming[at..]);
            let mut goes_on = true;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        self.toil += RECORD_TOIL;
                        let room = buf.as_ref().map_or(0, |buf| buf.remaining());
                        let (now, later) = record.payload.split_at(room.min(record.payload.len()));
                        if let Some(buf) = &mut buf {
                            buf.put_slice(now);
                        }
                        self.opened.extend_from_slice(later);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.sealed),
                // It stands in `sealed`, before all else.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(_) => goes_on = false,
                Err(fault) => {
                    at += discard;
                    self.fail(fault, &mut incoming[at..]);
                    return;
                }
            }
            at += discard;
            if !goes_on {
                break;
            }
        }
        let rest = &incoming[at..];
        if rest.len() > RECORD {
            // No client has a handshake message of more than a record.
            self.fault = Some(Error::General("a handshake message is too long".to_owned()));
        } else if !self.ended {
            self.partial = rest.to_vec();
        }
    }

    /// Notes what broke the session, and seals what TLS has to say of it.
    fn fail(&mut self, fault: Error, rest: &mut [u8]) {
        self.fault = Some(fault);
        // No longer than that, or it would go on to read what it could not.
        while self.tls.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.tls.process_tls_records(rest).state
        {
            encode(&mut data, &mut self.sealed);
        }
    }

    /// Seals `bytes` into `outgoing`: the length of the ciphertext.
    fn seal(&mut self, bytes: &[u8], outgoing: &mut [u8]) -> io::Result<usize> {
        loop {
            // Whole records are opened where they are read: none is left in `partial`.
            match self.tls.process_tls_records(&mut self.partial).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return traffic.encrypt(bytes, outgoing).map_err(io::Error::other);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.sealed),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(fault) => return Err(broken(&fault)),
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

fn broken(fault: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault.clone())
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, to: &mut Vec<u8>) {
    let start = to.len();
    loop {
        match data.encode(&mut to[start..]) {
            Err(EncodeError::InsufficientSize(lack)) if to.len() == start => {
                to.resize(start + lack.required_size, 0);
            }
            Ok(len) => return to.truncate(start + len),
            Err(_) => return to.truncate(start),
        }
    }
}

/// Copies as much of `from` as has room, so that many small pieces are not as many records.
fn gather<'a>(from: &[IoSlice<'_>], to: &'a mut [u8]) -> &'a [u8] {
    let mut len = 0;
    for piece in from {
        let taken = piece.len().min(to.len() - len);
        to[len..len + taken].copy_from_slice(&piece[..taken]);
        len += taken;
    }
    &to[..len]
}
