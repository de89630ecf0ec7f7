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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;

    use super::*;
    use crate::cluster::link::{
        frame::{self, Kind, LONGEST},
        message::{Go, Transport, Verdict, Want},
        seal::Channel,
    };

    const SECRET: &str = "a secret of 32 characters or more";

    /// What this release says in a whole hand-over, each frame of it; recorded, so that later ones
    /// go on to understand it.
    const VECTORS: &str = include_str!("../../../tests/vectors/cluster_link.tsv");

    fn vector(name: &str) -> Vec<u8> {
        let line = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        let hex = line.unwrap_or_else(|| panic!("no vector {name}")).split('\t').next().unwrap();
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    fn node(instance: u64) -> Arc<Node> {
        let (name, address) = (format!("node-{instance}").into(), "10.0.0.1:21127".into());
        Arc::new(Node { instance: Instance(instance), name, address })
    }

    fn framed(kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut framed = BytesMut::new();
        let start = frame::begin(kind, &mut framed);
        framed.extend_from_slice(body);
        frame::end(start, &mut framed).unwrap();
        framed.to_vec()
    }

    fn unframed(kind: Kind, frame: &[u8]) -> BytesMut {
        let (found, body) = frame::take(&mut frame.into(), LONGEST).unwrap().expect("a frame");
        assert_eq!(found, kind);
        body
    }

    fn sealed(channel: &mut Channel, message: &impl prost::Message) -> Vec<u8> {
        let mut framed = BytesMut::new();
        let start = frame::begin(Kind::Sealed, &mut framed);
        message.encode(&mut framed).unwrap();
        channel.seal(&mut framed, start).unwrap();
        frame::end(start, &mut framed).unwrap();
        framed.to_vec()
    }

    fn opened<M: prost::Message + Default>(channel: &mut Channel, frame: &[u8]) -> M {
        let mut body = unframed(Kind::Sealed, frame);
        M::decode(&*channel.open(&mut body).expect("authentic")).unwrap()
    }

    /// What node 7 says to node 9, and hears.
    fn want() -> Want {
        Want {
            uuid: "8c3a7a46-2c0d-4c36-8a4b-0d6d8e3f5a11".into(),
            leg: 0x0123_4567_89ab_cdef,
            peer: "[2001:db8::7]:50123".into(),
            transport: Transport::Websocket.into(),
            tls: true,
            conn_type: 2,
            target: Some("123456789".into()),
            label: Some("office".into()),
            waited_ms: 1234,
        }
    }

    #[test]
    fn what_this_release_recorded_is_understood() {
        let (me, root) = (node(9), Root::new(SECRET).unwrap());
        let greeting = unframed(Kind::Greeting, &vector("greeting"));
        let host = Host { me: &me, root: &root, versions: &VERSIONS, greeting: &greeting };
        let hello = unframed(Kind::Hello, &vector("hello"));
        let (peer, purpose, mut channels) = host.hear(&hello).unwrap();
        assert_eq!((peer.instance, &*peer.name, peer.version), (Instance(7), "node-7", 1));
        assert_eq!(purpose, Purpose::Leg);
        assert!(opened::<Want>(&mut channels.caller, &vector("want")) == want());
        let _: Go = opened(&mut channels.caller, &vector("go"));
        for (name, verdict) in [
            ("here", Verdict::here()),
            ("nobody", Verdict::nobody()),
            ("refused", Verdict::refused("relay_limit")),
        ] {
            // Each as the first that a host says.
            let mut caller = root.channels(&greeting, &hello).unwrap();
            assert!(opened::<Verdict>(&mut caller.host, &vector(name)) == verdict, "{name}");
        }
    }

    /// A later release that says something else records that in vectors of its own.
    #[test]
    fn this_release_says_what_was_recorded() {
        let (me, to, root) = (node(7), node(9), Root::new(SECRET).unwrap());
        let greeting = greeting(&to, &VERSIONS, [0xa5; 32]);
        let caller = Caller { me: &me, root: &root, versions: &VERSIONS, to: &to };
        let version = caller.greeted(&greeting).unwrap();
        let (hello, mut channels) =
            caller.hello(&greeting, version, Purpose::Leg, [0x5a; 32]).unwrap();
        let mut said = vec![
            ("greeting", framed(Kind::Greeting, &greeting)),
            ("hello", framed(Kind::Hello, &hello)),
            ("want", sealed(&mut channels.caller, &want())),
            ("go", sealed(&mut channels.caller, &Go {})),
        ];
        for (name, verdict) in [
            ("here", Verdict::here()),
            ("nobody", Verdict::nobody()),
            ("refused", Verdict::refused("relay_limit")),
        ] {
            let mut channels = root.channels(&greeting, &hello).unwrap();
            said.push((name, sealed(&mut channels.host, &verdict)));
        }
        said.retain(|(name, bytes)| *bytes != vector(name));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (name, bytes) in &said {
            println!("{name}\t{}", hex(bytes));
        }
        assert!(said.is_empty(), "it says something else: is that a new version?");
    }

    /// What comes of a caller and a host of these versions, each of which says something that the
    /// other has never heard of; and of somebody between them who changes the greeting.
    fn meet(
        ours: RangeInclusive<u32>,
        theirs: RangeInclusive<u32>,
        between: impl Fn(&mut Vec<u8>),
    ) -> Result<u32, LinkError> {
        // Field 99, a text.
        let unknown: &[u8] = b"\x9a\x06\x03new";
        let (me, to, root) = (node(7), node(9), Root::new(SECRET).unwrap());
        let mut greeting = greeting(&to, &theirs, [1; 32]);
        greeting.extend_from_slice(unknown);
        let mut heard = greeting.clone();
        between(&mut heard);
        let caller = Caller { me: &me, root: &root, versions: &ours, to: &to };
        let version = caller.greeted(&heard)?;
        let (hello, _) = caller.hello(&heard, version, Purpose::Leg, [2; 32])?;
        let mut hello = hello[..hello.len() - PROOF].to_vec();
        hello.extend_from_slice(unknown);
        hello.extend_from_slice(&root.prove(&heard, &hello));
        let host = Host { me: &to, root: &root, versions: &theirs, greeting: &greeting };
        let (peer, ..) = host.hear(&hello)?;
        assert_eq!(peer.version, version);
        Ok(version)
    }

    #[test]
    fn releases_that_are_one_apart_speak_the_older_ones_version() {
        for (ours, theirs, version) in [(1..=1, 1..=2, 1), (1..=2, 1..=1, 1), (1..=2, 2..=3, 2)] {
            assert_eq!(meet(ours, theirs, |_| ()).unwrap(), version);
        }
        for (ours, theirs) in [(1..=1, 2..=3), (2..=3, 1..=1)] {
            let fault = meet(ours, theirs, |_| ()).unwrap_err();
            assert!(matches!(fault, LinkError::NoVersion { .. }), "{fault}");
        }
    }

    #[test]
    fn nobody_between_two_nodes_can_choose_an_older_version_for_them() {
        let fault = meet(1..=2, 1..=2, |greeting| {
            // The highest version that the host can: field 2.
            assert_eq!(greeting[2..4], [0x10, 2]);
            greeting[3] = 1;
        });
        assert!(matches!(fault.unwrap_err(), LinkError::Unproved));
    }
}
