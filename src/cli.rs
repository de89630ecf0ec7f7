//! The command line: what to do, with which settings, and how a failure is told.

mod check;
mod keygen;
mod nodes;
mod probe;
mod relays;
mod serve;
mod tls;

use std::{net::IpAddr, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{Duration, Loaded, LogFormat, Overrides, Problems, Secret, Sources, load};

/// The relay that RustDesk-family remote desktops fall back to: one port for TCP and WebSocket
/// clients, an admin API and metrics.
///
/// Without a sub-command it serves. Settings come from flags, then the environment
/// (RELAY__SECTION__KEY), hbbr's own names (PORT, KEY, BIND, also in .env), config.toml, and
/// defaults, in that order of strength.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  mini_rust_desk_relay_server                    listen on 21117 and 21119, open to anyone
  mini_rust_desk_relay_server -k _               with the key pair in ./id_ed25519, made if missing
  mini_rust_desk_relay_server -p 21117 -k KEY    as hbbr is called
  mini_rust_desk_relay_server check              show what is in force, and where it comes from
  mini_rust_desk_relay_server relays list        who is relayed right now
  mini_rust_desk_relay_server nodes              the nodes of a relay of more than one
  mini_rust_desk_relay_server probe 127.0.0.1    does it work, and how fast is it?

Signals:
  HUP   read the settings again and apply those that can change live
  USR2  start the program anew, and let it take over: nobody is cut off
  TERM  accept nothing more, and end with the last relay; a second one ends at once";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and print what is in force, secrets masked.
    Check(Settings),
    /// Make an Ed25519 key pair: id_ed25519 for the server, id_ed25519.pub for its clients.
    Keygen(keygen::Keygen),
    /// List, show or close the active relays of a relay that runs.
    Relays(relays::Relays),
    /// List the nodes of a relay that runs, and what each has to do.
    Nodes(nodes::Nodes),
    /// Pair with itself through a relay: does it work, and how fast is it?
    Probe(probe::Probe),
}

/// Settings that flags can give; everything else is in the configuration.
#[derive(Debug, Clone, Default, Args)]
struct Settings {
    /// Read this configuration instead of ./config.toml.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on this port and on the one 2 above it, where clients look for WebSocket [default:
    /// 21117]
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// Listen on this address [default: ::, which takes IPv4 too]
    #[arg(short, long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Listen on these addresses with ports, instead of --port and --bind; may be repeated.
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    listen: Option<Vec<SocketAddr>>,
    /// The key that clients must send; - or _ for the key pair in ./id_ed25519, made if missing.
    #[arg(short, long, value_name = "KEY", allow_hyphen_values = true)]
    key: Option<String>,
    /// Read the key from this file.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Serve the admin API and metrics here only, and not on the front door; may be repeated.
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    admin_listen: Option<Vec<SocketAddr>>,
    /// error, warn, info, debug or trace, or tracing's filter directives [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// pretty for people, json for programs [default: pretty]
    #[arg(long, value_name = "FORMAT", value_parser = log_format)]
    log_format: Option<LogFormat>,
    /// How long active relays may go on after SIGTERM, such as 30s or 5m [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<Duration>,
}

/// Runs the program that the process' arguments ask for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve::run(cli.settings),
        Some(Command::Check(settings)) => check::run(settings),
        Some(Command::Keygen(keygen)) => keygen.run(),
        Some(Command::Relays(relays)) => relays.run(),
        Some(Command::Nodes(nodes)) => nodes.run(),
        Some(Command::Probe(probe)) => probe.run(),
    };
    done.unwrap_or_else(|error| {
        tell(&error);
        ExitCode::FAILURE
    })
}

impl Settings {
    fn load(self) -> Result<Loaded, Problems> {
        let overrides = Overrides {
            port: self.port,
            bind: self.bind,
            listen: self.listen,
            key: self.key.map(Secret::new),
            key_file: self.key_file,
            admin_listen: self.admin_listen,
            log_level: self.log_level,
            log_format: self.log_format,
            drain_timeout: self.drain_timeout,
        };
        load(&Sources::from_process(self.config, overrides))
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected pretty or json".to_owned()),
    }
}

/// An error and its causes, one line each, on standard error.
fn tell(error: &anyhow::Error) {
    let mut said = error.to_string();
    eprintln!("error: {said}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some end with their cause, for logs, which print one line.
        if !said.ends_with(&cause) {
            eprintln!("  because: {cause}");
        }
        said = cause;
    }
}
