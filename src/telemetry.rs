//! Logs: how `tracing` is set up for the program. Tests and embedders set up their own.

mod level;
mod lines;
mod plain;

use std::{
    io::{self, IsTerminal as _},
    panic,
    time::Duration,
};

use tracing_subscriber::{
    Layer, Registry, fmt, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _,
};

use self::{level::changeable, lines::Lines, plain::Plain};
pub use self::{
    level::{Filter, LogLevel},
    lines::lost,
};
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
pub struct Logging {
    lines: Lines,
    level: LogLevel,
}

/// Logs to standard output from here on. Lines are written by a thread of their own, so that
/// whoever reads them holds nobody up.
///
/// # Errors
/// When the level does not parse, or the process logs already.
pub fn start(config: &LogConfig) -> Result<Logging, TelemetryError> {
    let lines = Lines::start(io::stdout())?;
    let layer = fmt::layer().with_target(false).with_writer(lines.clone());
    let level = match config.format {
        LogFormat::Pretty if io::stdout().is_terminal() => {
            install(config, layer.with_ansi(true), Spans::Left)?
        }
        LogFormat::Pretty => {
            let plain = layer.with_ansi(false).event_format(Plain).fmt_fields(Plain);
            install(config, plain, Spans::Left)?
        }
        LogFormat::Json => {
            let json = layer.json().flatten_event(true).with_current_span(true);
            install(config, json.with_span_list(false), Spans::Kept)?
        }
    };
    let flushed = lines.clone();
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        flushed.flush(ALARM);
    }));
    Ok(Logging { lines, level })
}

/// Whether a line says what span it stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spans {
    Kept,
    /// Its own words say the same; a span for each line costs more than the line.
    Left,
}

fn install<L>(config: &LogConfig, layer: L, spans: Spans) -> Result<LogLevel, TelemetryError>
where
    L: Layer<Registry> + Send + Sync,
{
    let (deciding, level) = changeable(Filter::parse(&config.level)?, spans);
    registry().with(layer).with(deciding).try_init()?;
    Ok(level)
}

impl Logging {
    /// How what is logged is changed.
    pub const fn level(&self) -> &LogLevel {
        &self.level
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.lines.flush(FAREWELL);
    }
}
