//! The command line, and how much work it stands for.

use std::{
    num::{NonZeroU16, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Parser;

use crate::kind::Variant;

/// What every process needs beside the connections that it holds.
const OTHER_DESCRIPTORS: u64 = 1_000;

/// Each pair takes two of the ports that the system gives to outgoing connections.
const MOST_HELD: u64 = 14_000;

/// What the relay costs, and how fast it is, beside bare byte forwarders in the same run.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench relay --")]
pub(crate) struct Options {
    /// Only the cases whose name (see --list) contains one of these words.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Small and short: to see that it works, not to quote.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How often every case is measured [default: 3; with --quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroU16>,
    /// How many pairs come and go in a case of `pairs`
    #[arg(long, value_name = "N")]
    pairs: Option<NonZeroUsize>,
    /// Write every single measurement to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw what was measured: bulk, pings beside it, desktops, growth.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Measure this build of the relay instead of the one just built; may be repeated, and then
    /// the builds are measured in turns.
    #[arg(long = "relay-binary", value_name = "PATH")]
    relay_binaries: Vec<PathBuf>,
    /// Measure the relay with these settings, such as 'wide: RELAY__LOG__LEVEL=off'; the label
    /// may be left out, '' is the default. May be repeated: every build with every set, in turns.
    #[arg(long = "with", value_name = "[LABEL:] NAME=VALUE …")]
    settings: Vec<String>,
    /// Print the names of the cases.
    #[arg(long)]
    pub(crate) list: bool,
    /// Cargo says so itself.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    /// Pairs that come and go, of TCP legs; half as many of WebSocket legs.
    pub(crate) pairs: usize,
    pub(crate) pings: usize,
    /// How long pings go on beside bulk.
    pub(crate) beside_window: Duration,
    pub(crate) bulk_warm_up: Duration,
    pub(crate) bulk_window: Duration,
    pub(crate) desktop_warm_up: Duration,
    pub(crate) desktop_window: Duration,
    /// Relays, or waiting legs, that are held open at once.
    pub(crate) held: usize,
    /// How often as many idle relays are opened and closed.
    pub(crate) reopened: usize,
    /// How long they are watched.
    pub(crate) idle_window: Duration,
    /// Connections that say little or nothing, held by a process of their own.
    pub(crate) flood: usize,
    /// How long honest pairs come beside them.
    pub(crate) flood_window: Duration,
    pub(crate) handshake_window: Duration,
    /// How often the relay is told to change under load.
    pub(crate) changes: usize,
}

impl Options {
    /// `descriptors` are how many files a process may open.
    pub(crate) fn scale(&self, descriptors: u64) -> Scale {
        let most = (descriptors.saturating_sub(OTHER_DESCRIPTORS) / 2).min(MOST_HELD) as usize;
        let scale = if self.quick { quick(most) } else { full(most) };
        let flood = scale.flood.min(descriptors.saturating_sub(OTHER_DESCRIPTORS) as usize);
        Scale {
            flood,
            rounds: self.rounds.map_or(scale.rounds, |rounds| usize::from(rounds.get())),
            pairs: self.pairs.map_or(scale.pairs, NonZeroUsize::get),
            ..scale
        }
    }

    pub(crate) fn wants(&self, case: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|word| case.contains(word.as_str()))
    }

    /// Every build with every set of settings.
    pub(crate) fn variants(&self) -> anyhow::Result<Vec<&'static Variant>> {
        let built = [PathBuf::from(env!("CARGO_BIN_EXE_mini_rust_desk_relay_server"))];
        let binaries =
            if self.relay_binaries.is_empty() { &built } else { &self.relay_binaries[..] };
        let settings = if self.settings.is_empty() { &[String::new()] } else { &self.settings[..] };
        let mut variants = Vec::new();
        for binary in binaries {
            // By its full path: it is started in a directory of its own.
            let full = binary.canonicalize().with_context(|| binary.display().to_string())?;
            for text in settings {
                let variant = Variant::parse(full.clone(), text, variants.len());
                let variant = variant.map_err(|why| anyhow!("--with: {why}"))?;
                variants.push(&*Box::leak(Box::new(variant)));
            }
        }
        Ok(variants)
    }
}

fn quick(most: usize) -> Scale {
    Scale {
        rounds: 1,
        pairs: 2_000,
        pings: 2_000,
        beside_window: Duration::from_millis(700),
        bulk_warm_up: Duration::from_millis(100),
        bulk_window: Duration::from_millis(250),
        desktop_warm_up: Duration::from_millis(300),
        desktop_window: Duration::from_millis(1_200),
        held: most.min(1_000),
        reopened: 3,
        idle_window: Duration::from_secs(1),
        flood: 4_000,
        flood_window: Duration::from_secs(4),
        handshake_window: Duration::from_secs(1),
        changes: 5,
    }
}

fn full(most: usize) -> Scale {
    Scale {
        rounds: 3,
        pairs: 10_000,
        pings: 10_000,
        beside_window: Duration::from_millis(2_000),
        bulk_warm_up: Duration::from_millis(200),
        bulk_window: Duration::from_millis(800),
        desktop_warm_up: Duration::from_millis(700),
        desktop_window: Duration::from_millis(3_000),
        held: most,
        reopened: 10,
        idle_window: Duration::from_secs(3),
        flood: 18_000,
        flood_window: Duration::from_secs(15),
        handshake_window: Duration::from_secs(3),
        changes: 20,
    }
}
