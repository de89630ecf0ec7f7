//! The secret that all nodes know, and what is derived of it: the proof in a hello, and the keys
//! of one conversation. Every key is wiped when it is dropped.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{self, SHA256},
    hkdf::{HKDF_SHA256, Prk, Salt},
    hmac::{self, HMAC_SHA256},
};
use bytes::BytesMut;

/// What a proof, or a hash of what was said, is long.
pub(super) const PROOF: usize = 32;

/// What sealing adds to a message.
pub(super) const TAG: usize = 16;

/// So that nothing derived here is ever the same as what another program derives of the same text.
const CONTEXT: &[u8] = b"mini_rust_desk_relay_server cluster link 1";

/// What all nodes know.
pub(super) struct Root {
    keys: Prk,
    hello: hmac::Key,
}

/// The system gave no key: it has no memory left.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no key can be made")]
pub struct NoKey;

/// What one node may say in a conversation, or hear.
pub(super) struct Channel {
    key: LessSafeKey,
    /// How many messages there were.
    count: u64,
}

/// The two of a conversation.
pub(super) struct Channels {
    /// From the caller to the host.
    pub(super) caller: Channel,
    /// From the host to the caller.
    pub(super) host: Channel,
}

impl Root {
    /// Of a secret of any length.
    pub(super) fn new(secret: &str) -> Result<Self, NoKey> {
        let keys = Salt::new(HKDF_SHA256, CONTEXT).extract(secret.as_bytes());
        let hello = hmac::Key::from(keys.expand(&[b"hello"], HMAC_SHA256).map_err(|_| NoKey)?);
        Ok(Self { keys, hello })
    }

    /// What only who knows the secret can say of a greeting and the hello that answers it.
    pub(super) fn prove(&self, greeting: &[u8], hello: &[u8]) -> [u8; PROOF] {
        let mut proof = [0; PROOF];
        let tag = hmac::sign(&self.hello, &transcript(greeting, hello));
        proof.copy_from_slice(tag.as_ref());
        proof
    }

    /// Whether `proof` is that; in a time that tells nothing of it.
    pub(super) fn is_proved(&self, greeting: &[u8], hello: &[u8], proof: &[u8; PROOF]) -> bool {
        let said = transcript(greeting, hello);
        hmac::verify(&self.hello, &said, proof).is_ok()
    }

    /// The keys of the conversation that these began. `hello` has its proof with it.
    pub(super) fn channels(&self, greeting: &[u8], hello: &[u8]) -> Result<Channels, NoKey> {
        let said = digest::digest(&SHA256, &transcript(greeting, hello));
        let channel = |role: &[u8]| {
            let info = [role, said.as_ref()];
            let key = self.keys.expand(&info, &AES_256_GCM).map_err(|_| NoKey)?;
            Ok(Channel { key: LessSafeKey::new(UnboundKey::from(key)), count: 0 })
        };
        Ok(Channels { caller: channel(b"caller ")?, host: channel(b"host ")? })
    }
}

/// Both, and where the one ends, so that no two different pairs are the same bytes.
fn transcript(greeting: &[u8], hello: &[u8]) -> Vec<u8> {
    let len = (greeting.len() as u64).to_be_bytes();
    [&len, greeting, hello].concat()
}

impl Channel {
    /// Seals what `message` holds from `start` on, in its place.
    pub(super) fn seal(&mut self, message: &mut BytesMut, start: usize) -> Result<(), NoKey> {
        let nonce = self.next().ok_or(NoKey)?;
        let mut sealed = message.split_off(start);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut sealed);
        message.unsplit(sealed);
        message.extend_from_slice(tag.map_err(|_| NoKey)?.as_ref());
        Ok(())
    }

    /// Opens a sealed message: the next one, or nothing.
    pub(super) fn open<'m>(&mut self, sealed: &'m mut [u8]) -> Option<&'m mut [u8]> {
        let nonce = self.next()?;
        self.key.open_in_place(nonce, Aad::empty(), sealed).ok()
    }

    /// The number of a message is its nonce: none comes twice, and none out of its turn.
    fn next(&mut self) -> Option<Nonce> {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.count.to_be_bytes());
        self.count = self.count.checked_add(1)?;
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root")
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}
