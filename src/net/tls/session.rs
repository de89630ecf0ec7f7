//! One TLS session: the records between a socket and its bytes, in both directions.
//!
//! rustls's unbuffered connection does the protocol; here is what it leaves to its user, which is
//! every buffer. Ciphertext is read into, and sealed in, buffers that all sessions of a thread
//! share, so that an idle session keeps none. A session keeps at most the beginning of one record,
//! what a small read left of another, and one write's ciphertext that the socket has not taken:
//! nothing more is sealed before that has gone.

mod side;

use std::{
    fmt,
    io::{self, IoSlice},
    sync::Arc,
    task::{Poll, ready},
};

use rustls::{ClientConfig, Error, HandshakeKind, ServerConfig, pki_types::ServerName};
use tokio::io::ReadBuf;

use self::side::{Outgoing, Sealed, Side, Step};
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
    tls: Side,
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
    /// A server's session whose handshake has not begun.
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Side::server(config).map(Self::of)
    }

    /// A client's session with the server `name`, whose hello is sealed.
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let mut session = Self::of(Side::client(config, name)?);
        session.open(&mut [], None);
        Ok(session)
    }

    const fn of(tls: Side) -> Self {
        Self {
            tls,
            partial: Vec::new(),
            opened: Vec::new(),
            read: 0,
            sealed: Vec::new(),
            sent: 0,
            toil: 0,
            ended: false,
            closing: false,
            fault: None,
        }
    }

    /// Whether the handshake is not over.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the handshake took up an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What broke the session. It stays broken: rustls is not to be asked again.
    pub(super) fn fault(&self) -> Option<Error> {
        self.fault.clone()
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
        let mut alert = [0; 256];
        let Self { tls, partial, sealed, .. } = self;
        // Too little room there cannot be, and whoever cannot write is not told.
        if let Ok(Sealed::Done(Ok(len))) = tls.seal(partial, Outgoing::Close, &mut alert, sealed) {
            sealed.extend_from_slice(&alert[..len]);
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
        let Self { tls, sealed, opened, toil, .. } = self;
        *toil += incoming.len();
        let mut at = 0;
        loop {
            let (discard, step) = tls.step(&mut incoming[at..], sealed, |record| {
                *toil += RECORD_TOIL;
                let room = buf.as_ref().map_or(0, |buf| buf.remaining());
                let (now, later) = record.split_at(room.min(record.len()));
                if let Some(buf) = &mut buf {
                    buf.put_slice(now);
                }
                opened.extend_from_slice(later);
            });
            at += discard;
            match step {
                Ok(Step::GoesOn) => {}
                Ok(Step::Ended) => self.ended = true,
                Ok(Step::Waits) => break,
                Err(fault) => return self.fail(fault, &mut incoming[at..]),
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
        while self.tls.wants_write() && self.tls.encode_one(rest, &mut self.sealed) {}
    }

    /// Seals `bytes` into `outgoing`: the length of the ciphertext.
    fn seal(&mut self, bytes: &[u8], outgoing: &mut [u8]) -> io::Result<usize> {
        let Self { tls, partial, sealed, .. } = self;
        loop {
            // Whole records are opened where they are read: none is left in `partial`.
            match tls.seal(partial, Outgoing::Bytes(bytes), outgoing, sealed) {
                Ok(Sealed::Done(len)) => return len.map_err(io::Error::other),
                Ok(Sealed::GoesOn) => {}
                Ok(Sealed::Ended) => self.ended = true,
                Ok(Sealed::Cannot) => return Err(io::ErrorKind::BrokenPipe.into()),
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use proptest::prelude::*;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
        version::{TLS12, TLS13},
    };

    use super::*;

    /// A socket of which everything is decided here.
    #[derive(Default)]
    struct Wire {
        /// From the client.
        up: Vec<u8>,
        /// To the client.
        down: Vec<u8>,
        /// How much one read gives, and one write takes, at most.
        most: usize,
        /// How much is taken before there is no more room.
        room: usize,
    }

    impl Socket for Wire {
        fn poll_read(&mut self, into: &mut [u8]) -> Poll<io::Result<usize>> {
            let len = self.up.len().min(self.most).min(into.len());
            into[..len].copy_from_slice(&self.up[..len]);
            self.up.drain(..len);
            if len == 0 { Poll::Pending } else { Poll::Ready(Ok(len)) }
        }

        fn poll_write(&mut self, from: &[u8]) -> Poll<io::Result<usize>> {
            let len = from.len().min(self.most).min(self.room);
            self.room -= len;
            self.down.extend_from_slice(&from[..len]);
            if len == 0 { Poll::Pending } else { Poll::Ready(Ok(len)) }
        }

        fn shut_down(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Pair {
        client: ClientConnection,
        session: Session,
        wire: Wire,
    }

    fn server() -> (Arc<ServerConfig>, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der.clone()], key)
            .unwrap();
        (Arc::new(config), der)
    }

    impl Pair {
        fn new(version: &'static rustls::SupportedProtocolVersion, most: usize) -> Self {
            let (server, der) = server();
            let mut roots = RootCertStore::empty();
            roots.add(der).unwrap();
            let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from("localhost").unwrap();
            let mut pair = Self {
                client: ClientConnection::new(Arc::new(client), name).unwrap(),
                session: Session::new(server).unwrap(),
                wire: Wire { most, room: usize::MAX, ..Wire::default() },
            };
            while pair.client.is_handshaking() || pair.session.is_handshaking() {
                pair.carry_up();
                while pair.session.poll_progress(&mut pair.wire).is_ready() {}
                assert!(pair.session.fault.is_none(), "{:?}", pair.session.fault);
                assert!(pair.session.poll_flush(&mut pair.wire).is_ready());
                pair.carry_down();
            }
            pair
        }

        fn carry_up(&mut self) {
            while self.client.wants_write() {
                self.client.write_tls(&mut self.wire.up).unwrap();
            }
        }

        fn carry_down(&mut self) -> Vec<u8> {
            let down = std::mem::take(&mut self.wire.down);
            let (mut rest, mut read) = (&down[..], Vec::new());
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                self.client.process_new_packets().unwrap();
                // It ends with "would block".
                let _ = self.client.reader().read_to_end(&mut read);
            }
            read
        }

        fn say(&mut self, bytes: &[u8]) {
            self.client.writer().write_all(bytes).unwrap();
            self.carry_up();
        }

        /// What can be read now, `room` bytes at a time.
        fn hear(&mut self, room: usize) -> io::Result<Vec<u8>> {
            let mut heard = Vec::new();
            loop {
                let mut bytes = vec![0; room];
                let mut buf = ReadBuf::new(&mut bytes);
                match self.session.poll_read(&mut self.wire, &mut buf) {
                    Poll::Ready(Ok(())) if buf.filled().is_empty() => return Ok(heard),
                    Poll::Ready(Ok(())) => heard.extend_from_slice(buf.filled()),
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => return Ok(heard),
                }
            }
        }

        fn kept(&self) -> usize {
            let Session { partial, opened, sealed, .. } = &self.session;
            partial.capacity() + opened.capacity() + sealed.capacity()
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| ((at * 31) >> 3) as u8).collect()
    }

    #[test]
    fn an_idle_session_keeps_no_buffer() {
        for version in [&TLS12, &TLS13] {
            let mut pair = Pair::new(version, usize::MAX);
            let bytes = pattern(60_000);
            pair.say(&bytes);
            assert!(pair.hear(256 << 10).unwrap() == bytes);
            let written = pair.session.poll_write(&mut pair.wire, &[IoSlice::new(&bytes)]);
            assert!(matches!(written, Poll::Ready(Ok(60_000))));
            assert!(pair.carry_down() == bytes);
            assert_eq!(pair.kept(), 0);
        }
    }

    #[test]
    fn a_stalled_socket_keeps_one_write_and_no_more() {
        let mut pair = Pair::new(&TLS13, usize::MAX);
        let bytes = pattern(1 << 20);
        pair.wire.room = 1000;
        let written = pair.session.poll_write(&mut pair.wire, &[IoSlice::new(&bytes)]);
        assert!(matches!(written, Poll::Ready(Ok(READ))));
        assert!(pair.session.unsent() > READ - 1000);
        let again = pair.session.poll_write(&mut pair.wire, &[IoSlice::new(&bytes[READ..])]);
        assert!(again.is_pending());
        // It is told of the end only behind what waits.
        assert!(pair.session.poll_shutdown(&mut pair.wire).is_pending());
        pair.wire.room = usize::MAX;
        assert!(pair.session.poll_shutdown(&mut pair.wire).is_ready());
        assert!(pair.carry_down() == bytes[..READ]);
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        assert_eq!(pair.kept(), 0);
    }

    #[test]
    fn tiny_records_are_not_cheap() {
        let mut pair = Pair::new(&TLS13, usize::MAX);
        pair.session.take_toil();
        for _ in 0..100 {
            pair.say(b"x");
        }
        assert_eq!(pair.hear(256 << 10).unwrap().len(), 100);
        assert!(pair.session.take_toil() >= 100 * RECORD_TOIL);
        pair.say(&pattern(50_000));
        pair.hear(256 << 10).unwrap();
        let toil = pair.session.take_toil();
        assert!((50_000..60_000).contains(&toil), "{toil}");
    }

    #[test]
    fn keys_are_updated_and_a_flood_of_that_is_not_borne() {
        let mut pair = Pair::new(&TLS13, usize::MAX);
        for round in 0..5 {
            pair.client.refresh_traffic_keys().unwrap();
            pair.say(&[round; 10]);
            assert_eq!(pair.hear(100).unwrap(), [round; 10]);
            let written = pair.session.poll_write(&mut pair.wire, &[IoSlice::new(&[round; 7])]);
            assert!(matches!(written, Poll::Ready(Ok(7))));
            assert!(pair.session.poll_flush(&mut pair.wire).is_ready());
            assert_eq!(pair.carry_down(), [round; 7]);
        }
        // Nobody answers while nobody writes, so that this piles up nothing.
        for _ in 0..1000 {
            pair.client.refresh_traffic_keys().unwrap();
        }
        pair.carry_up();
        let fault = pair.hear(100).unwrap_err();
        assert!(fault.to_string().contains("TooManyKeyUpdate"), "{fault}");
        assert!(pair.kept() < 1024, "{}", pair.kept());
    }

    /// Two messages in one record, of which the first breaks the session. The second is none for
    /// whoever ends it.
    #[test]
    fn what_comes_behind_a_fault_is_not_gone_on_with() {
        let mut session = Session::new(server().0).unwrap();
        session.begin(b"\x16\x03\x01\x00\x0a\x14\x00\x00\x01\x00\x14\x00\x00\x01\x00");
        assert!(session.fault().is_some());
        session.close();
        assert!(session.sealed.len() < 100);
    }

    #[test]
    fn a_handshake_message_that_never_ends_is_bounded() {
        let mut session = Session::new(server().0).unwrap();
        let mut wire = Wire { most: usize::MAX, room: usize::MAX, ..Wire::default() };
        // A ClientHello of 16 MiB, in records of 16 KiB.
        wire.up = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff".to_vec();
        wire.up.resize(5 + (16 << 10), 0);
        for _ in 0..3 {
            wire.up.extend_from_slice(b"\x16\x03\x01\x40\x00");
            wire.up.resize(wire.up.len() + (16 << 10), 0);
        }
        while session.fault.is_none() {
            assert!(session.poll_progress(&mut wire).is_ready(), "it is borne");
            assert!(session.partial.capacity() <= RECORD);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_byte_crosses_in_whatever_pieces(
            tls12: bool,
            most in prop_oneof![1..40_usize, 1000..20_000_usize, Just(usize::MAX)],
            room in prop_oneof![1..100_usize, 1000..300_000_usize],
            lens in prop::collection::vec(prop_oneof![0..3_usize, 0..50_000_usize], 1..6),
        ) {
            let mut pair = Pair::new(if tls12 { &TLS12 } else { &TLS13 }, most);
            for len in lens {
                let bytes = pattern(len);
                pair.say(&bytes);
                let heard = pair.hear(room).unwrap();
                prop_assert!(heard == bytes);
                // As many small pieces, of which a few are taken at a time.
                let mut left = &bytes[..];
                while !left.is_empty() {
                    let pieces: Vec<_> = left.chunks(997).take(64).map(IoSlice::new).collect();
                    match pair.session.poll_write(&mut pair.wire, &pieces) {
                        Poll::Ready(written) => left = &left[written.unwrap()..],
                        Poll::Pending => pair.wire.room = 10_000,
                    }
                }
                pair.wire.room = usize::MAX;
                prop_assert!(pair.session.poll_flush(&mut pair.wire).is_ready());
                prop_assert!(pair.carry_down() == bytes);
            }
            prop_assert_eq!(pair.kept(), 0);
        }

        /// Bytes changed, and records of any kind and size put in between.
        #[test]
        fn a_handshake_that_is_none_is_a_fault_and_never_a_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            between in prop::collection::vec((0x14..0x19_u8, prop::collection::vec(any::<u8>(), 0..40)), 0..4),
            most in prop_oneof![1..40_usize, Just(usize::MAX)],
        ) {
            let (server, _) = server();
            let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            let name = ServerName::try_from("localhost").unwrap();
            let mut hello = Vec::new();
            ClientConnection::new(Arc::new(client), name).unwrap().write_tls(&mut hello).unwrap();
            let mut message = hello.split_off(5);
            for (at, byte) in flips {
                *at.get_mut(&mut message) = byte;
            }
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(message.len())).collect();
            ends.push(message.len());
            ends.sort_unstable();
            let mut wire = Wire { most, room: usize::MAX, ..Wire::default() };
            let (mut from, mut between) = (0, between.into_iter());
            for end in ends {
                let inner = [(0x16, message[from..end].to_vec())].into_iter().chain(between.next());
                for (kind, bytes) in inner {
                    let len = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                    wire.up.extend_from_slice(&[kind, 3, 1, len[0], len[1]]);
                    wire.up.extend_from_slice(&bytes);
                }
                from = end;
            }
            let mut session = Session::new(server).unwrap();
            let begun = wire.up.split_off(wire.up.len().min(9));
            session.begin(&std::mem::replace(&mut wire.up, begun));
            while session.fault.is_none() && session.poll_progress(&mut wire).is_ready() {
                prop_assert!(session.is_handshaking());
                prop_assert!(session.partial.capacity() <= RECORD);
            }
            session.close();
            prop_assert!(session.poll_flush(&mut wire).is_ready());
        }

        #[test]
        fn garbage_is_a_fault_and_never_a_panic(
            tls12: bool,
            garbage in prop::collection::vec(any::<u8>(), 1..400),
            kind in 0x14..0x18_u8,
            as_record: bool,
        ) {
            let mut pair = Pair::new(if tls12 { &TLS12 } else { &TLS13 }, usize::MAX);
            pair.say(b"before");
            if as_record {
                let len = u16::try_from(garbage.len()).unwrap().to_be_bytes();
                pair.wire.up.extend_from_slice(&[kind, 3, 3, len[0], len[1]]);
            }
            pair.wire.up.extend_from_slice(&garbage);
            // What came before it is heard, once.
            let mut bytes = [0; 100];
            let mut buf = ReadBuf::new(&mut bytes);
            prop_assert!(pair.session.poll_read(&mut pair.wire, &mut buf).is_ready());
            prop_assert_eq!(buf.filled(), b"before");
            let _ = pair.hear(100);
            let _ = pair.hear(100);
            prop_assert!(pair.kept() <= 2 * RECORD);
        }
    }
}
