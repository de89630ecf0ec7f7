//! Logs: how `tracing` is set up for the program. Tests and embedders set up their own.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::{LogConfig, LogFormat};

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.level` is neither a level nor filter directives.
    #[error("log.level is not a level or a list of filter directives")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else was first.
    #[error("logging was already set up")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Logs to standard output from here on.
///
/// # Errors
/// When the level does not parse, or the process logs already.
pub fn start(config: &LogConfig) -> Result<(), TelemetryError> {
    let lines = fmt()
        .with_env_filter(EnvFilter::try_new(&config.level)?)
        .with_target(false)
        .with_ansi(std::io::stdout().is_terminal());
    match config.format {
        LogFormat::Pretty => lines.finish().try_init()?,
        LogFormat::Json => {
            lines
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .finish()
                .try_init()?;
        }
    }
    Ok(())
}
