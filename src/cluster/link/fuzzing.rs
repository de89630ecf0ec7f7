//! What accepts bytes from anybody, without its sockets, for `tests/fuzz`. There only where
//! `cfg(fuzzing)` is.

use std::sync::Arc;

use bytes::BytesMut;
use prost::Message as _;

use super::{
    Go, Verdict, Want,
    frame::{self, Kind, LONGEST},
    handshake::{Caller, Host, VERSIONS, greeting},
    message::{Purpose, Refusal},
    seal::{PROOF, Root, TAG},
};
use crate::cluster::directory::{Instance, Node};

/// Two nodes that know one secret.
pub struct Nodes {
    root: Root,
    caller: Arc<Node>,
    host: Arc<Node>,
    greeting: Vec<u8>,
}

impl Nodes {
    /// The two.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new() -> Self {
        let node = |instance| {
            let (name, address) = ("a".into(), "127.0.0.1:1".into());
            Arc::new(Node { instance: Instance(instance), name, address })
        };
        let (caller, host) = (node(7), node(9));
        let root = Root::new("a secret of 32 characters or more").expect("memory");
        let greeting = greeting(&host, &VERSIONS, [5; 32]);
        Self { root, caller, host, greeting }
    }

    /// Feeds what anybody may send, to whoever waits for it: frames first, and what is in them.
    ///
    /// # Panics
    /// When somebody is believed who proved nothing, or more is kept than a frame.
    pub fn hear(&self, said: &[u8]) {
        let mut inbox = BytesMut::from(said);
        while let Ok(Some((kind, mut body))) = frame::take(&mut inbox, LONGEST) {
            assert!(body.len() <= LONGEST, "too long a frame");
            match kind {
                Kind::Greeting => self.greeted(&body),
                Kind::Hello => self.called(&body),
                Kind::Refusal => drop(Refusal::decode(body)),
                Kind::Sealed => {
                    let channels = self.root.channels(&self.greeting, b"a hello");
                    let mut channels = channels.expect("memory");
                    assert!(channels.caller.open(&mut body).is_none(), "it was not sealed");
                }
            }
        }
    }

    /// A greeting that is one is answered; and whatever was in it, its host does not believe that
    /// answer unless it is the one that it gave.
    fn greeted(&self, said: &[u8]) {
        let Self { root, caller, host, .. } = self;
        let caller = Caller { me: caller, root, versions: &VERSIONS, to: host };
        let Ok(version) = caller.greeted(said) else { return };
        let Ok((hello, _)) = caller.hello(said, version, Purpose::Leg, [6; 32]) else { return };
        let heard = self.host(&self.greeting).hear(&hello);
        assert_eq!(heard.is_ok(), *said == *self.greeting, "another greeting was answered");
        assert!(self.host(said).hear(&hello).is_ok(), "its own answer is not believed");
    }

    /// A hello proves nothing by chance; what it says is read as if it had proved it.
    fn called(&self, said: &[u8]) {
        assert!(self.host(&self.greeting).hear(said).is_err(), "it was believed");
        let hello = &said[..said.len().saturating_sub(PROOF)];
        let proof = self.root.prove(&self.greeting, hello);
        if let Ok((peer, ..)) = self.host(&self.greeting).hear(&[hello, &proof].concat()) {
            assert!(VERSIONS.contains(&peer.version) && peer.name.len() <= 64);
        }
    }

    fn host<'a>(&'a self, greeting: &'a [u8]) -> Host<'a> {
        Host { me: &self.host, root: &self.root, versions: &VERSIONS, greeting }
    }

    /// Feeds what another node may have sealed.
    ///
    /// # Panics
    /// When what is read does not fit where it is sent.
    pub fn open(&self, said: &[u8]) {
        let _ = (Verdict::decode(said), Go::decode(said));
        if let Ok(want) = Want::decode(said) {
            let again = want.encode_to_vec();
            assert!(Want::decode(&*again).is_ok_and(|read| read == want), "it reads otherwise");
            let mut channels = self.root.channels(&self.greeting, b"a hello").expect("memory");
            let mut sealed = BytesMut::from(&*again);
            channels.caller.seal(&mut sealed, 0).expect("memory");
            assert_eq!(sealed.len(), again.len() + TAG);
        }
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Self::new()
    }
}
