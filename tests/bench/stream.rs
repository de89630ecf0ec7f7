//! A stream of messages whose content is known: made once, sent over and over, and counted and
//! checked where it arrives, however it was cut on its way.

use anyhow::{bail, ensure};
use mini_rust_desk_relay_server::wire::{Transport, frame::FrameHeader};

use crate::client::outgoing;

/// How many different messages there are at most, …
const MESSAGES: usize = 61;

/// … and how many bytes in all, more or less: what is sent should stay in the cores' caches.
const BYTES: usize = 1 << 20;

/// Of every so many bytes of payload…
const STRIDE: u64 = 16 << 20;

/// …these are compared with what was sent.
const CHECKED: u64 = 1 << 20;

/// The longest header that a relay sends: a WebSocket frame's with an 8-byte length, no mask.
const MAX_HEADER: usize = 10;

/// What is sent.
pub(crate) struct Ring {
    payload: Vec<u8>,
    messages: Vec<Vec<u8>>,
}

/// What is made of what arrives.
pub(crate) struct Reader<'a> {
    transport: Transport,
    ring: &'a Ring,
    held: Vec<u8>,
    remaining: usize,
    /// Whether what remains is a control frame's.
    control: bool,
    ended: bool,
    /// Bytes of payload so far, and those of them that were compared.
    pub(crate) received: u64,
    pub(crate) checked: u64,
}

struct Header {
    len: usize,
    payload: usize,
    opcode: u8,
}

const BINARY: u8 = 2;
const CLOSE: u8 = 8;

impl Ring {
    /// Messages of `len` bytes each, framed as a client sends them.
    pub(crate) fn new(transport: Transport, len: usize) -> anyhow::Result<Self> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let payload: Vec<_> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        // An odd number: buffers of a size that divides theirs meet different ones.
        .take(len * ((BYTES / len).clamp(3, MESSAGES) | 1))
        .collect();
        let messages = payload.chunks(len).map(|message| outgoing(transport, message));
        Ok(Self { messages: messages.collect::<Result<_, _>>()?, payload })
    }

    /// The messages, without end.
    pub(crate) fn cycle(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().cycle().map(Vec::as_slice)
    }

    /// The message of this number, framed, in that endless row.
    pub(crate) fn message(&self, number: usize) -> &[u8] {
        &self.messages[number % self.messages.len()]
    }

    /// The bytes of payload of each.
    pub(crate) const fn message_len(&self) -> usize {
        self.payload.len() / self.messages.len()
    }
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(transport: Transport, ring: &'a Ring) -> Self {
        Self {
            transport,
            ring,
            held: Vec::new(),
            remaining: 0,
            control: false,
            ended: false,
            received: 0,
            checked: 0,
        }
    }

    /// Whether a Close has come.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes what has arrived.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() && !self.ended {
            if self.remaining > 0 {
                let (chunk, rest) = bytes.split_at(self.remaining.min(bytes.len()));
                self.remaining -= chunk.len();
                if !self.control {
                    self.check(chunk)?;
                }
                bytes = rest;
                continue;
            }
            let before = self.held.len();
            let more = bytes.len().min(MAX_HEADER - before);
            self.held.extend_from_slice(&bytes[..more]);
            let Some(header) = self.header()? else { return Ok(()) };
            bytes = &bytes[header.len - before..];
            self.held.clear();
            self.remaining = header.payload;
            self.control = header.opcode >= CLOSE;
            self.ended = header.opcode == CLOSE;
        }
        Ok(())
    }

    fn header(&self) -> anyhow::Result<Option<Header>> {
        if self.transport == Transport::Tcp {
            let header = FrameHeader::parse(&self.held);
            return Ok(header.map(|header| Header {
                len: header.header_len(),
                payload: header.payload_len(),
                opcode: BINARY,
            }));
        }
        let &[first, second, ref rest @ ..] = &self.held[..] else { return Ok(None) };
        ensure!(second & 0x80 == 0, "the relay masks what it sends");
        let wide = match second {
            126 => 2,
            127 => 8,
            short => {
                let (payload, opcode) = (usize::from(short), first & 0xF);
                return Ok(Some(Header { len: 2, payload, opcode }));
            }
        };
        let Some(number) = rest.get(..wide) else { return Ok(None) };
        let payload = number.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        Ok(Some(Header { len: 2 + wide, payload, opcode: first & 0xF }))
    }

    fn check(&mut self, mut chunk: &[u8]) -> anyhow::Result<()> {
        let is_checked = self.received % STRIDE < CHECKED;
        let mut at = (self.received % self.ring.payload.len() as u64) as usize;
        self.received += chunk.len() as u64;
        if !is_checked {
            return Ok(());
        }
        self.checked += chunk.len() as u64;
        while !chunk.is_empty() {
            let len = chunk.len().min(self.ring.payload.len() - at);
            if chunk[..len] != self.ring.payload[at..at + len] {
                bail!("bytes arrive changed within the {len} before byte {}", self.received);
            }
            chunk = &chunk[len..];
            at = 0;
        }
        Ok(())
    }
}
