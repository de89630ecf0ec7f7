//! `check`: the configuration as it is in force.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use super::Settings;

pub(super) fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let loaded = settings.load()?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    // A reader such as `head` may go before all is written.
    let _ = io::stdout().write_all(loaded.describe().as_bytes());
    Ok(ExitCode::SUCCESS)
}
