//! rustls's connection, of whichever side of a session: they differ in how they begin and in a
//! type, and here is what is done with either.

use std::sync::Arc;

use rustls::{
    ClientConfig, Error, HandshakeKind, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus},
};

/// The connection.
pub(super) enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What a step has come to.
pub(super) enum Step {
    /// There may be more to do at once.
    GoesOn,
    /// The peer sends nothing more.
    Ended,
    /// There is nothing to do before more has come.
    Waits,
}

/// What is to be sealed.
#[derive(Clone, Copy)]
pub(super) enum Outgoing<'a> {
    Bytes(&'a [u8]),
    /// That nothing more will come.
    Close,
}

/// What came of sealing.
pub(super) enum Sealed {
    /// So many bytes of ciphertext; or there is no room for them.
    Done(Result<usize, EncryptError>),
    /// TLS had something of its own to say first.
    GoesOn,
    /// The peer sends nothing more, which was news.
    Ended,
    /// Nothing can be sealed now.
    Cannot,
}

/// Calls rustls on whichever side it is, and does the same with what that says.
macro_rules! process {
    ($side:expr, $incoming:expr, $then:expr) => {
        match $side {
            Side::Server(tls) => $then(tls.process_tls_records($incoming)),
            Side::Client(tls) => $then(tls.process_tls_records($incoming)),
        }
    };
}

impl Side {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(Self::Server)
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name).map(Self::Client)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Self::Server(tls) => tls.is_handshaking(),
            Self::Client(tls) => tls.is_handshaking(),
        }
    }

    pub(super) fn handshake_kind(&self) -> Option<HandshakeKind> {
        match self {
            Self::Server(tls) => tls.handshake_kind(),
            Self::Client(tls) => tls.handshake_kind(),
        }
    }

    pub(super) fn wants_write(&self) -> bool {
        match self {
            Self::Server(tls) => tls.wants_write(),
            Self::Client(tls) => tls.wants_write(),
        }
    }

    /// Does one thing with what has come: how many bytes of that are done with, and what it was.
    /// `record` takes what was opened, `sealed` what TLS has to say.
    pub(super) fn step(
        &mut self,
        incoming: &mut [u8],
        sealed: &mut Vec<u8>,
        record: impl FnMut(&[u8]),
    ) -> (usize, Result<Step, Error>) {
        process!(self, incoming, |status| step(status, sealed, record))
    }

    /// Seals one thing of TLS' own, if that is next; whether it was.
    pub(super) fn encode_one(&mut self, incoming: &mut [u8], sealed: &mut Vec<u8>) -> bool {
        process!(self, incoming, |status| encode_one(status, sealed))
    }

    /// Seals something into `to`. `kept` is what came and is not whole.
    pub(super) fn seal(
        &mut self,
        kept: &mut [u8],
        what: Outgoing<'_>,
        to: &mut [u8],
        sealed: &mut Vec<u8>,
    ) -> Result<Sealed, Error> {
        process!(self, kept, |status| seal(status, what, to, sealed))
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    sealed: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]),
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let done = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(Ok(record)) = traffic.next_record() {
                discard += record.discard;
                take(record.payload);
            }
            Ok(Step::GoesOn)
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(&mut data, sealed);
            Ok(Step::GoesOn)
        }
        // It stands in `sealed`, before all else.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::GoesOn)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::Ended),
        Ok(_) => Ok(Step::Waits),
        Err(fault) => Err(fault),
    };
    (discard, done)
}

fn encode_one<D>(status: UnbufferedStatus<'_, '_, D>, sealed: &mut Vec<u8>) -> bool {
    let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { return false };
    encode(&mut data, sealed);
    true
}

fn seal<D>(
    status: UnbufferedStatus<'_, '_, D>,
    what: Outgoing<'_>,
    to: &mut [u8],
    sealed: &mut Vec<u8>,
) -> Result<Sealed, Error> {
    Ok(match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => Sealed::Done(match what {
            Outgoing::Bytes(bytes) => traffic.encrypt(bytes, to),
            Outgoing::Close => traffic.queue_close_notify(to),
        }),
        ConnectionState::EncodeTlsData(mut data) => {
            encode(&mut data, sealed);
            Sealed::GoesOn
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Sealed::GoesOn
        }
        ConnectionState::PeerClosed => Sealed::Ended,
        _ => Sealed::Cannot,
    })
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
