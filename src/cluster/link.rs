//! The wire between two nodes: how they come to trust each other, and what they then say.
//!
//! ```text
//! caller                                                    host
//!        ←  greeting { versions, instance, nonce }
//!        →  hello    { version, versions, instance, name, nonce, to, purpose } proof
//!        →  sealed message, sealed message …
//!        ←  sealed message …
//! ```
//!
//! The secret that all nodes know is made a key by HKDF-SHA256, whatever its length. The proof is
//! an HMAC of it over the greeting and the hello, each byte of them. From the same come two keys,
//! one a direction, with which every later message is sealed (AES-256-GCM) under its number. So:
//!
//! - **Both prove that they know the secret**: the caller by its proof, the host by the first
//!   message that it seals. A caller says nothing that only nodes may know before that: what it
//!   sends with its hello is sealed.
//! - **Nothing can be said again.** Each side has drawn a nonce, and keys and proof are over both;
//!   a message out of its turn does not open. No clock is asked.
//! - **Nothing can be said back**, or to another: a proof is only ever a caller's, each direction
//!   has its own key, and the hello names the start of the host that it is meant for.
//! - **Nobody can choose an older version for two nodes**: both ranges are under the proof.
//! - **Nothing is unbounded**: a message is a few KiB at most, and all of a conversation has one
//!   deadline until it becomes a stream.
//!
//! What becomes of it then depends on what it is for. A handed-over leg goes on as its client's
//! own bytes ([`Link::into_stream`]), so that the kernel can move them: as open as they are between
//! client and relay, and protected by what the clients agreed on end to end. The admin API goes on
//! in sealed records ([`Link::into_sealed`]): who has got between two nodes can neither read nor
//! add a request.
//!
//! Who has got there can still, without `[cluster.tls]`: cut or hold up any connection; tell the
//! two that their secrets differ; see which nodes speak, when, and how much; read and change what
//! the legs of a session send each other as anybody between a client and its relay can; and if
//! the secret leaks one day, open what was recorded before. And a secret that can be guessed can be
//! guessed from one recorded hello: it is to be drawn, not thought up.

mod door;
mod error;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod lookup;
mod message;
mod seal;
mod sealed;

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::BytesMut;
use prost::Message;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout_at},
};

pub use self::{
    door::{Door, NODES_RESERVE, Visit},
    error::LinkError,
    handshake::Peer,
    message::{Go, Here, Nobody, Purpose, Refused, Transport, Verdict, Want, verdict},
    seal::NoKey,
    sealed::SealedStream,
};
use self::{
    frame::{Kind, LONGEST},
    handshake::{Caller, Fresh, Host, VERSIONS},
    lookup::Lookups,
    message::Refusal,
    seal::{Channel, Channels, Root, TAG},
};
use super::directory::Node;
use crate::{
    config::Secret,
    net::{liveness::Liveness, read::read_some, stream::Stream, tls::mutual::MutualTls},
};

/// How long who is refused has to hear why, at most.
const FAREWELL: Duration = Duration::from_secs(1);

/// What this node needs to speak with others.
pub struct Links {
    me: Arc<Node>,
    root: Root,
    versions: RangeInclusive<u32>,
    /// Where nodes show each other certificates.
    tls: Option<Arc<MutualTls>>,
    timeout: Duration,
    liveness: Liveness,
    lookups: Lookups,
}

/// A conversation with another node. All that is said in it has one deadline.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    /// Came, and was not taken yet.
    inbox: BytesMut,
    /// Said, and not sent yet.
    outbox: BytesMut,
    says: Channel,
    hears: Channel,
    deadline: Instant,
}

/// A node that was reached and has greeted, and does not know yet who is there.
#[derive(Debug)]
pub struct Greeted {
    stream: Stream,
    inbox: BytesMut,
    greeting: BytesMut,
    version: u32,
    to: Arc<Node>,
}

impl Links {
    /// Speaks as `me`, and proves it by `secret`, within TLS if there is any. A conversation may
    /// take `timeout`; `liveness` is what connections to other nodes get.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn new(
        me: Arc<Node>,
        secret: &Secret,
        tls: Option<Arc<MutualTls>>,
        timeout: Duration,
        liveness: Liveness,
    ) -> Result<Self, NoKey> {
        let root = Root::new(secret.expose())?;
        let lookups = Lookups::default();
        Ok(Self { me, root, versions: VERSIONS, tls, timeout, liveness, lookups })
    }

    /// Begins a conversation with another node, up to what it hears first; that it knows the
    /// secret is found out by what it answers.
    ///
    /// # Errors
    /// When it cannot be reached in time, or is none that this one could speak with.
    pub async fn dial(&self, to: &Arc<Node>, purpose: Purpose) -> Result<Link, LinkError> {
        let deadline = Instant::now() + self.timeout;
        let greeted = by(deadline, self.greet(to)).await?;
        self.begin(greeted, purpose, deadline)
    }

    /// Connects to another node, and hears what it says first. Has no deadline of its own.
    async fn greet(&self, to: &Arc<Node>) -> Result<Greeted, LinkError> {
        let connecting = async { TcpStream::connect(&*self.lookups.of(&to.address).await?).await };
        let socket = connecting.await.map_err(LinkError::Unreachable)?;
        socket.set_nodelay(true)?;
        self.liveness.apply(&socket)?;
        let (mut stream, mut inbox) = (Stream::connected(socket), BytesMut::new());
        if let Some(tls) = &self.tls {
            stream = tls.connect(stream, host(&to.address)).await?;
        }
        let greeting = hear(&mut stream, &mut inbox, Kind::Greeting, LONGEST).await?;
        let version = self.caller(to).greeted(&greeting)?;
        Ok(Greeted { stream, inbox, greeting, version, to: Arc::clone(to) })
    }

    /// Answers a greeting. It goes with what is said first.
    fn begin(
        &self,
        greeted: Greeted,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Link, LinkError> {
        let Greeted { stream, inbox, greeting, version, to } = greeted;
        let answer = self.caller(&to).hello(&greeting, version, purpose, fresh()?)?;
        let (hello, Channels { caller: says, host: hears }) = answer;
        let mut outbox = BytesMut::new();
        put(Kind::Hello, &hello, &mut outbox)?;
        Ok(Link { stream, inbox, outbox, says, hears, deadline })
    }

    fn caller<'a>(&'a self, to: &'a Node) -> Caller<'a> {
        Caller { me: &self.me, root: &self.root, versions: &self.versions, to }
    }

    /// Finds out who has connected, and what for. Who is none of the nodes is told why, and the
    /// connection ends.
    ///
    /// # Errors
    /// When it does not prove that it is a node, or in time.
    pub async fn accept(&self, mut stream: Stream) -> Result<(Link, Purpose, Peer), LinkError> {
        let deadline = Instant::now() + self.timeout;
        if let Some(tls) = &self.tls {
            stream = by(deadline, async { Ok(tls.accept(stream).await?) }).await?;
        }
        let greeting = handshake::greeting(&self.me, &self.versions, fresh()?);
        let (mut inbox, mut outbox) = (BytesMut::new(), BytesMut::new());
        put(Kind::Greeting, &greeting, &mut outbox)?;
        let heard = async {
            flush(&mut stream, &mut outbox).await?;
            hear(&mut stream, &mut inbox, Kind::Hello, LONGEST).await
        };
        let hello = by(deadline, heard).await.map_err(|fault| match fault {
            LinkError::HungUp if inbox.is_empty() => LinkError::OnlyLooked,
            fault => fault,
        })?;
        let host =
            Host { me: &self.me, root: &self.root, versions: &self.versions, greeting: &greeting };
        match host.hear(&hello) {
            Ok((peer, purpose, channels)) => {
                let Channels { caller: hears, host: says } = channels;
                let link = Link { stream, inbox, outbox, says, hears, deadline };
                Ok((link, purpose, peer))
            }
            Err(fault) => {
                if let Some(refusal) = fault.refusal() {
                    // Whether it hears that is its own affair.
                    let until = deadline.min(Instant::now() + FAREWELL);
                    let _ = by(until, refuse(&mut stream, &refusal)).await;
                }
                Err(fault)
            }
        }
    }
}

impl Link {
    /// Says something.
    ///
    /// # Errors
    /// When it cannot be sent in time.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), LinkError> {
        let len = message.encoded_len();
        if len + TAG > LONGEST {
            return Err(LinkError::OwnMessage);
        }
        let start = frame::begin(Kind::Sealed, &mut self.outbox);
        message.encode(&mut self.outbox).map_err(|_| LinkError::OwnMessage)?;
        self.says.seal(&mut self.outbox, start)?;
        frame::end(start, &mut self.outbox)?;
        by(self.deadline, flush(&mut self.stream, &mut self.outbox)).await
    }

    /// Hears the next message. What is dropped before that has lost nothing.
    ///
    /// # Errors
    /// When none comes in time, or none that the other node has said here and now.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<M, LinkError> {
        let heard = async {
            flush(&mut self.stream, &mut self.outbox).await?;
            hear(&mut self.stream, &mut self.inbox, Kind::Sealed, LONGEST).await
        };
        let mut sealed = by(self.deadline, heard).await?;
        let message = self.hears.open(&mut sealed).ok_or(LinkError::NotAuthentic)?;
        M::decode(&*message).map_err(|_| LinkError::Malformed)
    }

    /// When the conversation must have become something else.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The connection, as it is, and what of it has come already.
    pub fn into_stream(self) -> (Stream, BytesMut) {
        debug_assert!(self.outbox.is_empty(), "something was not said");
        (self.stream, self.inbox)
    }

    /// The conversation as a stream that nobody can read or change on its way. It has no deadline.
    pub fn into_sealed(self) -> SealedStream {
        SealedStream::new(self)
    }
}

/// Does something before the deadline.
async fn by<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout_at(deadline, work).await.unwrap_or(Err(LinkError::TimedOut))
}

/// Hears a frame of this kind.
async fn hear(
    stream: &mut Stream,
    inbox: &mut BytesMut,
    wanted: Kind,
    longest: usize,
) -> Result<BytesMut, LinkError> {
    loop {
        match frame::take(inbox, longest)? {
            Some((kind, body)) if kind == wanted => return Ok(body),
            Some((Kind::Refusal, body)) => {
                let refusal = Refusal::decode(body).map_err(|_| LinkError::Malformed)?;
                return Err(LinkError::refused(&refusal));
            }
            Some(_) => return Err(LinkError::Malformed),
            None => {}
        }
        if read_some(stream, inbox).await? == 0 {
            return Err(LinkError::HungUp);
        }
    }
}

fn put(kind: Kind, body: &[u8], to: &mut BytesMut) -> Result<(), LinkError> {
    let start = frame::begin(kind, to);
    to.extend_from_slice(body);
    Ok(frame::end(start, to)?)
}

/// Sends what `outbox` holds.
async fn flush(stream: &mut Stream, outbox: &mut BytesMut) -> Result<(), LinkError> {
    while !outbox.is_empty() {
        stream.write_buf(outbox).await?;
    }
    Ok(stream.flush().await?)
}

/// Says why this node will not go on, and waits for the caller to hang up: were the connection
/// closed with something of it unread, it might not hear why.
async fn refuse(stream: &mut Stream, refusal: &Refusal) -> Result<(), LinkError> {
    let mut said = BytesMut::new();
    put(Kind::Refusal, &refusal.encode_to_vec(), &mut said)?;
    flush(stream, &mut said).await?;
    stream.shutdown().await?;
    let mut unread = BytesMut::new();
    while unread.len() < LONGEST && read_some(stream, &mut unread).await? > 0 {}
    Ok(())
}

/// The host of an address: what stands before its port, and in no brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn fresh() -> Result<Fresh, LinkError> {
    let mut fresh = Fresh::default();
    aws_lc_rs::rand::fill(&mut fresh).map_err(|_| NoKey)?;
    Ok(fresh)
}

#[cfg(test)]
mod tests;
