//! Logs: how `tracing` is set up for the program. Tests and embedders set up their own.

mod lines;
mod plain;

use std::{
    io::{self, IsTerminal as _},
    panic,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

pub use self::lines::lost;
use self::{lines::Lines, plain::Plain};
use crate::config::{LogConfig, LogFormat};

/// How long the last lines are waited for when the program ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// The same when it panics, which need not be the end.
const ALARM: Duration = Duration::from_millis(100);

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.level` is neither a level nor filter directives.
    #[error("log.level is not a level or a list of filter directives")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else was first.
    #[error("logging was already set up")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
    /// There is no thread to write lines.
    #[error("cannot start the thread that writes the log")]
    Thread(#[from] io::Error),
}

/// Sees to it that the last lines are written: to be kept until the program ends.
#[must_use]
pub struct Logging(Lines);

/// Logs to standard output from here on. Lines are written by a thread of their own, so that
/// whoever reads them holds nobody up.
///
/// # Errors
/// When the level does not parse, or the process logs already.
pub fn start(config: &LogConfig) -> Result<Logging, TelemetryError> {
    let lines = Lines::start(io::stdout())?;
    let layer = fmt::layer().with_target(false).with_writer(lines.clone());
    match config.format {
        LogFormat::Pretty if io::stdout().is_terminal() => install(config, layer.with_ansi(true))?,
        LogFormat::Pretty => {
            install(config, layer.with_ansi(false).event_format(Plain).fmt_fields(Plain))?;
        }
        LogFormat::Json => {
            let json = layer.json().flatten_event(true);
            install(config, json.with_current_span(true).with_span_list(false))?;
        }
    }
    let flushed = lines.clone();
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        flushed.flush(ALARM);
    }));
    Ok(Logging(lines))
}

fn install<L>(config: &LogConfig, layer: L) -> Result<(), TelemetryError>
where
    L: Layer<tracing_subscriber::Registry> + Send + Sync,
{
    let lines = tracing_subscriber::registry().with(layer);
    // A plain level costs nothing to look up; directives are asked at every span.
    match config.level.parse::<LevelFilter>() {
        Ok(level) => lines.with(level).try_init()?,
        Err(_) => lines.with(EnvFilter::try_new(&config.level)?).try_init()?,
    }
    Ok(())
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush(FAREWELL);
    }
}
