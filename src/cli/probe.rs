//! `probe`: pairs with itself through a relay, and says how each step went.

mod address;
mod advice;
mod leg;
mod report;
mod run;
mod traffic;

use std::{io, path::Path, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::{
    address::Address,
    report::{Finding, Report},
    run::{Plan, Run},
};
use super::{Settings, tls::Trust};
use crate::{
    config::{Duration, Secret},
    key::KeySetting,
    key_ring::Keys,
    wire::Transport,
};

const EXAMPLES: &str = "\
Examples:
  mini_rust_desk_relay_server probe 127.0.0.1
      the relay on this machine, with the key from its own configuration
  mini_rust_desk_relay_server probe relay.example.com -k KEY --transport all
      as clients elsewhere see it
  mini_rust_desk_relay_server probe --quick --timeout 5s 127.0.0.1:21117
      as a health check: the exit code is 0 if the relay is healthy, 1 if not
  mini_rust_desk_relay_server probe --tls --transport websocket --path /ws/relay relay.example.com:443
      as web clients see it, its certificate included
  mini_rust_desk_relay_server probe hbbr.example.com --transport all --websocket-port 21119
      an hbbr, which has WebSocket on a port of its own

Two legs connect, name one random uuid (probe-...) and the target id \"probe\", and must meet. Each
step is printed as it happens; where one fails, so is its probable cause.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Probe {
    /// The relay, by name or address; the port is 21117 unless given. IPv6 with a port is
    /// `[::1]:21117`.
    #[arg(value_name = "HOST[:PORT]")]
    address: Address,
    /// Both legs in TLS: relay frames in TLS, and wss.
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    trust: Trust,
    /// How the two legs travel: mixed is TCP for the first and WebSocket for the second, all is each
    /// in turn.
    #[arg(long, value_enum, default_value_t = Choice::Tcp)]
    transport: Choice,
    /// The port of WebSocket legs [default: the same port; hbbr has them two further on, on 21119]
    #[arg(long, value_name = "PORT")]
    websocket_port: Option<u16>,
    /// The path of WebSocket legs; proxies often want /ws/relay.
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// The relay's key; - or _ for the key pair in ./id_ed25519 [default: the configuration's]
    #[arg(short, long, value_name = "KEY", allow_hyphen_values = true)]
    key: Option<String>,
    /// Read this configuration instead of ./config.toml; only the key is of interest.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long all of it may take.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: Duration,
    /// Leave out the throughput.
    #[arg(long)]
    quick: bool,
    /// Print one JSON document at the end instead of each step as it happens.
    #[arg(long)]
    json: bool,
}

// Its values are explained at the flag: of a comment here clap would make a page.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Choice {
    Tcp,
    Websocket,
    Mixed,
    All,
}

impl Probe {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let licence_key = licence_key(self.key, self.config)?;
        if !self.path.starts_with('/') {
            bail!("--path must start with a slash, as in /ws/relay");
        }
        let plan = Plan {
            tls: self.tls.then(|| self.trust.client()).transpose()?,
            websocket_port: self.websocket_port.unwrap_or(self.address.port),
            address: self.address,
            path: self.path,
            licence_key,
            quick: self.quick,
            deadline: Instant::now() + self.timeout.get(),
        };
        let mut report = Report::new(&plan.address, self.tls, self.json);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(async {
            for &transports in self.transport.pairs() {
                let finding = Finding::new(transports);
                let finding = Run::new(&plan, &mut report, finding).run().await;
                report.add(finding);
            }
        });
        // A reader such as `head` may go before all is written.
        let healthy = report.finish(&mut io::stdout());
        Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Choice {
    /// The transports of the first leg and the second, for each probe.
    const fn pairs(self) -> &'static [[Transport; 2]] {
        use Transport::{Tcp, WebSocket};
        match self {
            Self::Tcp => &[[Tcp, Tcp]],
            Self::Websocket => &[[WebSocket, WebSocket]],
            Self::Mixed => &[[Tcp, WebSocket]],
            Self::All => &[[Tcp, Tcp], [WebSocket, WebSocket], [Tcp, WebSocket]],
        }
    }
}

/// What clients of the relay send. Nothing is made: probing writes no file.
fn licence_key(key: Option<String>, config: Option<PathBuf>) -> anyhow::Result<Zeroizing<String>> {
    let here = Path::new(".");
    let setting = match key.map(Secret::new) {
        Some(key) => KeySetting::read(key.expose(), here)?,
        None => {
            let loaded = Settings { config, ..Settings::default() }.load();
            let config = loaded
                .context(
                    "the configuration, which has the key, is not valid (-k KEY does without)",
                )?
                .config;
            Keys::read(&config, here)?.for_a_probe()
        }
    };
    match setting {
        KeySetting::Open => Ok(Zeroizing::default()),
        KeySetting::Key(key) => Ok(Zeroizing::new(key.expose().to_owned())),
        KeySetting::NewPair => bail!(
            "there is no id_ed25519 here: probe from the relay's working directory, or give the public key with -k"
        ),
    }
}
