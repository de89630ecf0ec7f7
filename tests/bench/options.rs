//! The command line, and how much work it stands for.

use std::{num::NonZeroU16, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;

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
    /// How often every case is measured [default: 3; with --quick 2]
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroU16>,
    /// Write every single measurement to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Measure this build of the relay instead of the one just built; may be repeated, and then
    /// the builds are measured in turns.
    #[arg(long = "relay-binary", value_name = "PATH")]
    relay_binaries: Vec<PathBuf>,
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
    pub(crate) bulk_warm_up: Duration,
    pub(crate) bulk_window: Duration,
    /// Relays, or waiting legs, that are held open at once.
    pub(crate) held: usize,
    /// How long they are watched.
    pub(crate) idle_window: Duration,
}

impl Options {
    pub(crate) fn scale(&self) -> Scale {
        let rounds = self.rounds.map(|rounds| usize::from(rounds.get()));
        if self.quick {
            Scale {
                rounds: rounds.unwrap_or(2),
                pairs: 3_000,
                pings: 3_000,
                bulk_warm_up: Duration::from_millis(150),
                bulk_window: Duration::from_millis(500),
                held: 1_000,
                idle_window: Duration::from_secs(2),
            }
        } else {
            Scale {
                rounds: rounds.unwrap_or(3),
                pairs: 12_000,
                pings: 10_000,
                bulk_warm_up: Duration::from_millis(250),
                bulk_window: Duration::from_millis(1_000),
                held: 9_000,
                idle_window: Duration::from_secs(5),
            }
        }
    }

    pub(crate) fn wants(&self, case: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|word| case.contains(word.as_str()))
    }

    /// The builds to measure, by their full paths: each is started in a directory of its own.
    pub(crate) fn relays(&self) -> anyhow::Result<Vec<PathBuf>> {
        if self.relay_binaries.is_empty() {
            return Ok(vec![PathBuf::from(env!("CARGO_BIN_EXE_mini_rust_desk_relay_server"))]);
        }
        let full = |path: &PathBuf| path.canonicalize().with_context(|| path.display().to_string());
        self.relay_binaries.iter().map(full).collect()
    }
}
