//! What is logged and what is not, and how that changes while the program runs.

use std::{fmt, sync::Arc};

use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, filter::ParseError, filter::filter_fn, registry::LookupSpan, reload,
};

use super::Spans;

/// A `log.level` that was understood.
pub struct Filter(Kind);

enum Kind {
    /// One level for all.
    Plain(LevelFilter),
    Directives(Box<EnvFilter>),
}

/// Changes what is logged.
#[derive(Clone)]
pub struct LogLevel(Arc<dyn Fn(Filter) + Send + Sync>);

/// The layer that decides, whatever is below it.
type Deciding<S> = Box<dyn Layer<S> + Send + Sync>;

impl Filter {
    /// Understands what `log.level` says.
    ///
    /// # Errors
    /// When it is neither a level nor filter directives.
    pub fn parse(level: &str) -> Result<Self, ParseError> {
        Ok(Self(match level.parse() {
            Ok(level) => Kind::Plain(level),
            Err(_) => Kind::Directives(Box::new(EnvFilter::try_new(level)?)),
        }))
    }

    fn layer<S>(self, spans: Spans) -> Deciding<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        match self.0 {
            // Decided once for each place that logs. Directives are asked at every span, and may
            // be about spans.
            Kind::Plain(level) => {
                let counts = move |what: &Metadata<'_>| {
                    *what.level() <= level && (spans == Spans::Kept || what.is_event())
                };
                filter_fn(counts).with_max_level_hint(level).boxed()
            }
            Kind::Directives(filter) => Layer::boxed(*filter),
        }
    }
}

impl LogLevel {
    /// Logs by `filter` from here on.
    pub fn replace(&self, filter: Filter) {
        (self.0)(filter);
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

/// The layer that decides by `filter`, and the handle that changes it.
pub(super) fn changeable<S>(
    filter: Filter,
    spans: Spans,
) -> (reload::Layer<Deciding<S>, S>, LogLevel)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let (layer, handle) = reload::Layer::new(filter.layer(spans));
    let change = move |filter: Filter| {
        // It fails only when nothing logs any more.
        let _ = handle.reload(filter.layer(spans));
    };
    (layer, LogLevel(Arc::new(change)))
}
