//! Without a sub-command: serve.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;

use super::Settings;
use crate::{
    config::{Config, Loaded},
    gateway::{Gateway, Predecessor, tell_token},
    net::inherited::Inherited,
    telemetry,
};

pub(super) fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let predecessor = Predecessor::find()?;
    let done = serve(settings, predecessor.as_ref());
    if let (Err(error), Some(predecessor)) = (&done, &predecessor) {
        predecessor.refuse(&format!("{error:#}"));
    }
    done
}

fn serve(settings: Settings, predecessor: Option<&Predecessor>) -> anyhow::Result<ExitCode> {
    let Loaded { config, warnings, .. } = settings.clone().load()?;
    let logging = telemetry::start(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let gateway = bind(config, predecessor).await?;
        // Before it says that it is up: whoever waits for that may send one at once.
        let signals = gateway.shutdown().on_signals().context("cannot listen for signals")?;
        let control = gateway.control();
        control.reloader().reads(move || settings.clone().load());
        control.reloader().changes_log_level(logging.level().clone());
        let requests = control.on_signals().context("cannot listen for signals")?;
        announce(&gateway);
        tokio::join!(gateway.run(), signals, requests);
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// Listens: by what the process before hands over, or the service manager has given, and else by
/// itself.
async fn bind(config: Config, predecessor: Option<&Predecessor>) -> anyhow::Result<Gateway> {
    let dir = Path::new(".");
    let Some(predecessor) = predecessor else {
        return Ok(Gateway::bind_or_inherit(config, dir, Inherited::from_environment())?);
    };
    let (inherited, following) = predecessor.offer().await?;
    let mut gateway = Gateway::bind_or_inherit(config, dir, inherited)?;
    gateway.follows(following);
    Ok(gateway)
}

fn announce(gateway: &Gateway) {
    for address in gateway.addrs() {
        tracing::info!(%address, "listening for relay and HTTP connections");
    }
    for address in gateway.admin_addrs() {
        tracing::info!(%address, "listening for the admin API");
    }
    if gateway.is_open_relay() {
        tracing::warn!(
            "OPEN RELAY: no key is set, so anyone may relay through this machine; set one with -k, best -k _"
        );
    }
    if let Some(token) = gateway.generated_token() {
        tell_token(token);
    }
}

/// Every connection is a descriptor, and the soft limit is often 1,024.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum
            && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        {
            tracing::warn!(%error, ?current, "cannot raise the limit of open files");
        }
    }
}
