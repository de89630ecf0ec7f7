//! `check`: the configuration as it is in force, and whether the files that it names will do.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use jiff::Timestamp;

use super::{Settings, tell};
use crate::{
    cluster::redis,
    config::Config,
    gateway::{read_cluster_secret, read_token},
    key_ring::{Keys, UsageFile},
    net::tls::{files::validity, mutual::MutualTls},
};

pub(super) fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let loaded = settings.load()?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    // A reader such as `head` may go before all is written.
    let _ = io::stdout().write_all(loaded.describe().as_bytes());
    Ok(check_files(&loaded.config, Path::new(".")))
}

/// What serving would stumble over, without what serving would make.
fn check_files(config: &Config, dir: &Path) -> ExitCode {
    let mut done = ExitCode::SUCCESS;
    match Keys::read(config, dir) {
        Ok(keys) if keys.is_open() => {
            eprintln!("warning: no key is set, so anyone may relay through this machine");
        }
        Ok(keys) if keys.needs_pair() => eprintln!(
            "warning: there is no id_ed25519 in the working directory yet: a key pair will be made there at start"
        ),
        Ok(keys) => {
            for label in keys.expired() {
                eprintln!("warning: the key {label:?} has expired: it lets nobody in");
            }
        }
        Err(error) => {
            tell(&error.into());
            done = ExitCode::FAILURE;
        }
    }
    if !config.usage_file.as_os_str().is_empty()
        && let Err(error) = UsageFile::check(&dir.join(&config.usage_file))
    {
        tell(&error.into());
        done = ExitCode::FAILURE;
    }
    match validity(&config.tls, dir) {
        Ok(Some(until)) if until <= Timestamp::now() => {
            eprintln!("warning: the certificate has expired on {until}: clients will refuse it");
        }
        Ok(_) => {}
        Err(error) => {
            tell(&error.into());
            done = ExitCode::FAILURE;
        }
    }
    if let Err(error) = read_token(config, dir) {
        tell(&error.into());
        done = ExitCode::FAILURE;
    }
    if let Err(error) = check_cluster(config, dir) {
        tell(&error);
        done = ExitCode::FAILURE;
    }
    done
}

/// What a node needs to speak with others; nothing on a single one.
fn check_cluster(config: &Config, dir: &Path) -> anyhow::Result<()> {
    if config.cluster.is_on() {
        read_cluster_secret(config, dir)?;
        MutualTls::load(&config.cluster.tls, dir)?;
        redis::check(&config.cluster, dir)?;
    }
    Ok(())
}
