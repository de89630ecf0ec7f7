//! How two nodes come to trust each other, as functions over bytes: no socket, no clock, no dice.

use std::ops::RangeInclusive;

use prost::Message as _;

use super::{
    error::LinkError,
    message::{Greeting, Hello, Purpose},
    seal::{Channels, PROOF, Root},
};
use crate::cluster::directory::{Instance, Node};

/// What is drawn anew for each connection by either node.
pub(super) type Fresh = [u8; 32];

/// The versions of what nodes say that this release can. One is added when an earlier release
/// could not pass over what is new, and stays for a release longer than any node needs it.
pub(super) const VERSIONS: RangeInclusive<u32> = 1..=1;

/// The longest name of a node, in bytes.
const LONGEST_NAME: usize = 64;

/// The node at the other end, as it said and proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which start of it.
    pub instance: Instance,
    /// What it is called.
    pub name: Box<str>,
    /// The version that is spoken.
    pub version: u32,
}

/// The host's first word.
pub(super) fn greeting(me: &Node, versions: &RangeInclusive<u32>, fresh: Fresh) -> Vec<u8> {
    let greeting = Greeting {
        min_version: *versions.start(),
        max_version: *versions.end(),
        instance: me.instance.0,
        nonce: fresh.to_vec(),
    };
    greeting.encode_to_vec()
}

/// What a caller knows.
pub(super) struct Caller<'a> {
    pub(super) me: &'a Node,
    pub(super) root: &'a Root,
    pub(super) versions: &'a RangeInclusive<u32>,
    /// Whom it means to speak with.
    pub(super) to: &'a Node,
}

impl Caller<'_> {
    /// Reads a greeting: the version to speak.
    pub(super) fn greeted(&self, greeting: &[u8]) -> Result<u32, LinkError> {
        let said = Greeting::decode(greeting).map_err(|_| LinkError::Malformed)?;
        if said.nonce.len() != size_of::<Fresh>() {
            return Err(LinkError::Malformed);
        }
        let version = shared(self.versions, said.min_version, said.max_version)?;
        if said.instance != self.to.instance.0 {
            return Err(LinkError::OtherInstance);
        }
        Ok(version)
    }

    /// The answer to a greeting, its proof behind it, and the keys of what follows.
    pub(super) fn hello(
        &self,
        greeting: &[u8],
        version: u32,
        purpose: Purpose,
        fresh: Fresh,
    ) -> Result<(Vec<u8>, Channels), LinkError> {
        let hello = Hello {
            version,
            min_version: *self.versions.start(),
            max_version: *self.versions.end(),
            instance: self.me.instance.0,
            name: (*self.me.name).to_owned(),
            nonce: fresh.to_vec(),
            to_instance: self.to.instance.0,
            purpose: purpose.to_wire().into(),
        };
        let mut hello = hello.encode_to_vec();
        let proof = self.root.prove(greeting, &hello);
        hello.extend_from_slice(&proof);
        let channels = self.root.channels(greeting, &hello)?;
        Ok((hello, channels))
    }
}

/// The highest version that both can.
fn shared(ours: &RangeInclusive<u32>, min: u32, max: u32) -> Result<u32, LinkError> {
    let version = max.min(*ours.end());
    let is_shared = version >= min && version >= *ours.start();
    is_shared.then_some(version).ok_or(LinkError::NoVersion { min, max })
}

/// What a host knows.
pub(super) struct Host<'a> {
    pub(super) me: &'a Node,
    pub(super) root: &'a Root,
    pub(super) versions: &'a RangeInclusive<u32>,
    /// What it has said.
    pub(super) greeting: &'a [u8],
}

/// A caller that has proved what it said.
pub(super) type Proved = (Peer, Purpose, Channels);

impl Host<'_> {
    /// Reads the answer to its greeting. Nothing of it is believed before it is proved.
    pub(super) fn hear(&self, said: &[u8]) -> Result<Proved, LinkError> {
        let (hello, proof) = said.split_last_chunk::<PROOF>().ok_or(LinkError::Malformed)?;
        if !self.root.is_proved(self.greeting, hello, proof) {
            return Err(LinkError::Unproved);
        }
        let hello = Hello::decode(hello).map_err(|_| LinkError::Malformed)?;
        let is_plain = |byte: u8| byte.is_ascii_graphic();
        let is_short = (1..=LONGEST_NAME).contains(&hello.name.len());
        let is_name = is_short && hello.name.bytes().all(is_plain);
        if !is_name || hello.nonce.len() != size_of::<Fresh>() {
            return Err(LinkError::Malformed);
        }
        if hello.to_instance != self.me.instance.0 {
            return Err(LinkError::MeansAnother);
        }
        let version = shared(self.versions, hello.min_version, hello.max_version)?;
        if hello.version != version {
            return Err(LinkError::Malformed);
        }
        let purpose = Purpose::from_wire(hello.purpose).ok_or(LinkError::UnknownPurpose)?;
        let channels = self.root.channels(self.greeting, said)?;
        let (instance, name) = (Instance(hello.instance), hello.name.into());
        Ok((Peer { instance, name, version }, purpose, channels))
    }
}
