//! Logs: how `tracing` is set up for the program. Tests and embedders set up their own.

mod lines;
mod plain;

use std::{
    io::{self, IsTerminal as _},
    panic,
    time::Duration,
};

use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
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
        LogFormat::Pretty if io::stdout().is_terminal() => {
            install(config, layer.with_ansi(true), Spans::Left)?;
        }
        LogFormat::Pretty => {
            let plain = layer.with_ansi(false).event_format(Plain).fmt_fields(Plain);
            install(config, plain, Spans::Left)?;
        }
        LogFormat::Json => {
            let json = layer.json().flatten_event(true).with_current_span(true);
            install(config, json.with_span_list(false), Spans::Kept)?;
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

/// Whether a line says what span it stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spans {
    Kept,
    /// Its own words say the same; a span for each line costs more than the line.
    Left,
}

fn install<L>(config: &LogConfig, layer: L, spans: Spans) -> Result<(), TelemetryError>
where
    L: Layer<Registry> + Send + Sync,
{
    let lines = registry().with(layer);
    match config.level.parse::<LevelFilter>() {
        // Decided once for each place that logs. Directives are asked at every span, and may be
        // about spans.
        Ok(level) => {
            let counts = move |what: &Metadata<'_>| {
                *what.level() <= level && (spans == Spans::Kept || what.is_event())
            };
            lines.with(filter_fn(counts).with_max_level_hint(level)).try_init()?;
        }
        Err(_) => lines.with(EnvFilter::try_new(&config.level)?).try_init()?,
    }
    Ok(())
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush(FAREWELL);
    }
}
