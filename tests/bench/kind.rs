//! Which programs are measured, and what they are called in the tables.

use std::{fmt, path::PathBuf};

use crate::peers;

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Relay(&'static Variant, Logs),
    /// The same with a certificate.
    TlsRelay(&'static Variant, Logs),
    /// So many of them, that are the nodes of a cluster.
    Cluster(&'static Variant, usize),
    /// The least that a relay can do, with this many threads.
    Floor(usize),
    HaProxy,
    /// HAProxy that answers every request itself, with the relay's certificate and without.
    TlsHaProxy,
    Nginx,
    /// A process a connection.
    Socat,
    /// magic-wormhole's transit relay, in Python: it pairs too.
    Wormhole,
    /// None: the load generator connects to itself.
    Direct,
    /// None: the load generator does it all.
    Simulated,
}

/// A build of this relay with settings. There are a few, and they last as long as the benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    /// Environment variables.
    pub(crate) settings: Vec<(String, String)>,
}

/// Where the relay's log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logs {
    /// At info, to a file.
    File,
    /// At info, to a pipe that is read.
    Pipe,
    Off,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(variant, Logs::File) | Self::TlsRelay(variant, Logs::File) => {
                f.write_str(&variant.name)
            }
            Self::Relay(variant, Logs::Pipe) | Self::TlsRelay(variant, Logs::Pipe) => {
                write!(f, "{}, log to a pipe", variant.name)
            }
            Self::Relay(variant, Logs::Off) | Self::TlsRelay(variant, Logs::Off) => {
                write!(f, "{}, log off", variant.name)
            }
            Self::Cluster(variant, 1) => write!(f, "{}, a cluster of 1", variant.name),
            Self::Cluster(variant, nodes) => write!(f, "{}, {nodes} nodes", variant.name),
            Self::Floor(_) => f.write_str("floor"),
            Self::HaProxy | Self::TlsHaProxy => f.write_str("haproxy"),
            Self::Nginx => f.write_str("nginx"),
            Self::Socat => f.write_str("socat"),
            Self::Wormhole => f.write_str("wormhole"),
            Self::Direct => f.write_str("direct"),
            Self::Simulated => f.write_str("simulated"),
        }
    }
}

impl Kind {
    pub(crate) const fn is_relay(self) -> bool {
        matches!(self, Self::Relay(..) | Self::TlsRelay(..))
    }

    /// Why it cannot be measured here.
    pub(crate) fn missing(self) -> Option<String> {
        let (name, packages) = match self {
            Self::HaProxy | Self::TlsHaProxy => ("haproxy", "haproxy"),
            Self::Nginx => ("nginx", "nginx libnginx-mod-stream"),
            Self::Cluster(..) => ("redis-server", "redis-server"),
            Self::Socat => ("socat", "socat"),
            Self::Wormhole if peers::wormhole_is_here() => return None,
            Self::Wormhole => {
                let package = "magic-wormhole-transit-relay";
                return Some(format!("SKIPPED: {package} is not installed (apt-get install it)"));
            }
            Self::Relay(..) | Self::TlsRelay(..) => return None,
            Self::Floor(_) | Self::Direct | Self::Simulated => return None,
        };
        peers::find(name)
            .is_none()
            .then(|| format!("SKIPPED: {name} is not installed (apt-get install {packages})"))
    }
}

impl Variant {
    /// From `NAME=VALUE NAME=VALUE`, with `LABEL:` before it or not; `number` is its place among
    /// the variants. A word without a `=` belongs to the value before it: durations have blanks.
    pub(crate) fn parse(binary: PathBuf, text: &str, number: usize) -> Result<Self, String> {
        let mut name = match number {
            0 => "relay".to_owned(),
            _ => format!("relay-{}", number + 1),
        };
        let mut settings: Vec<(String, String)> = Vec::new();
        for (at, word) in text.split_ascii_whitespace().enumerate() {
            match (word.split_once('='), settings.last_mut(), word.strip_suffix(':')) {
                (Some((key, value)), ..) => settings.push((key.to_owned(), value.to_owned())),
                (None, Some((_, value)), _) => value.extend([" ", word]),
                (None, None, Some(label)) if at == 0 => name = format!("relay {label}"),
                _ => return Err(format!("{word:?} is no NAME=VALUE")),
            }
        }
        Ok(Self { name, binary, settings })
    }
}
