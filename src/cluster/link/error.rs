//! What goes wrong between two nodes, and what to do about it.

use std::io;

use super::{
    frame::FrameError,
    handshake::VERSIONS,
    message::{Refusal, Why},
    seal::NoKey,
};
use crate::net::tls::{HandshakeError, mutual::ANY_NODE};

/// Why two nodes do not come to terms. Which other node it was is for whoever tells of it to say.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error("it cannot be reached: {0}; does cluster.advertise there lead to its cluster.listen?")]
    Unreachable(#[source] io::Error),
    /// The deadline.
    #[error("it took longer than cluster.handover_timeout")]
    TimedOut,
    /// It closed, or fell silent and its system said so.
    #[error("it hung up")]
    HungUp,
    /// It only looked whether there is somebody.
    #[error("it said nothing, and hung up")]
    OnlyLooked,
    /// It had to give way before it had said who it is, to others that have not either.
    #[error("too many connect to cluster.listen and do not say who they are")]
    SentAway,
    /// TLS between nodes.
    #[error(
        "{0}; with cluster.tls every node needs a certificate by cluster.tls.ca, for its host or for {any}",
        any = ANY_NODE
    )]
    Tls(#[source] HandshakeError),
    /// The connection.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    /// What came is no message of a node.
    #[error("it does not speak as a node does: {0}")]
    NotANode(#[from] FrameError),
    /// The same, of what is in a message.
    #[error("it does not speak as a node does: a malformed message")]
    Malformed,
    /// Too old, or too new.
    #[error(
        "it speaks versions {min} to {max} and this release {ours:?}: nodes may be one release apart, not more",
        ours = VERSIONS
    )]
    NoVersion {
        /// Its lowest.
        min: u32,
        /// Its highest.
        max: u32,
    },
    /// The node there is another start than the one that was meant.
    #[error("it has been started anew since the directory was told of it")]
    OtherInstance,
    /// It was another node, or an earlier start of this one, that was meant.
    #[error("it means another node, or this one before its start")]
    MeansAnother,
    /// It does not know the secret, or what it says was said before.
    #[error("it does not know our secret: cluster.secret differs between the nodes")]
    Unproved,
    /// A message that was changed on its way, or comes out of its turn; or the secret differs.
    #[error(
        "what it says is not proved: cluster.secret differs between the nodes, or somebody changes what they say"
    )]
    NotAuthentic,
    /// It wants what this release cannot do.
    #[error("it wants what this release cannot do")]
    UnknownPurpose,
    /// It does not know the secret as this node does.
    #[error("it refused our secret: cluster.secret differs between the nodes")]
    SecretRefused,
    /// It does not go on for another reason.
    #[error("it refused us: {0}")]
    Refused(&'static str),
    /// A message of ours that is none.
    #[error("a message of ours is too long")]
    OwnMessage,
    /// No key, or no random bytes.
    #[error(transparent)]
    NoKey(#[from] NoKey),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        // In TLS 1.3 who dials is told only now that it is not believed.
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(fault) = tls {
            return Self::Tls(HandshakeError::Tls(fault.clone()));
        }
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::HungUp,
            _ => Self::Io(error),
        }
    }
}

impl From<HandshakeError> for LinkError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::HungUp => Self::HungUp,
            HandshakeError::Io(fault) => Self::Io(fault),
            fault @ HandshakeError::Tls(_) => Self::Tls(fault),
        }
    }
}

impl LinkError {
    /// Its name among the reasons of refusals; `None` where nobody is refused.
    pub const fn label(&self) -> Option<&'static str> {
        Some(match self {
            Self::OnlyLooked => return None,
            Self::Unproved | Self::NotAuthentic | Self::SecretRefused => "node_secret",
            Self::NoVersion { .. }
            | Self::OtherInstance
            | Self::MeansAnother
            | Self::UnknownPurpose
            | Self::Refused(_) => "node_mismatch",
            Self::TimedOut => "timeout",
            Self::HungUp => "hung_up",
            Self::SentAway => "displaced",
            Self::Tls(_) => "tls_handshake",
            Self::NotANode(_) | Self::Malformed => "unknown_protocol",
            Self::Unreachable(_) | Self::Io(_) | Self::OwnMessage | Self::NoKey(_) => "io",
        })
    }

    /// What is said to the other node of it, if that is anything.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let why = match self {
            Self::Unproved => Why::Secret,
            Self::NoVersion { .. } => Why::Version,
            Self::MeansAnother => Why::Instance,
            Self::UnknownPurpose => Why::Purpose,
            _ => return None,
        };
        Some(Refusal { why: why.into() })
    }

    /// What the other node says of it.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        match refusal.why() {
            Why::Secret => Self::SecretRefused,
            Why::Instance => Self::OtherInstance,
            Why::Version => Self::Refused("it speaks no version that this release can"),
            Why::Purpose => Self::Refused("its release cannot do what was asked"),
            Why::Unknown => Self::Refused("for a reason that this release does not know"),
        }
    }
}
