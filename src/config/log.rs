//! `[log]`: what is logged, and how a line looks.

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::rules::Rules;

/// The `[log]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or `tracing` filter directives.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Pretty }
    }
}

impl LogConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        let valid = self.level.split(',').all(is_directive)
            && EnvFilter::builder().parse(&self.level).is_ok();
        let what = format!(
            "found {:?}, expected error, warn, info, debug, trace or off, or directives such as \
             \"info,hyper=warn\"",
            self.level
        );
        rules.require(valid, &["log.level"], what);
    }
}

/// Stricter than `EnvFilter`, which takes a bare word such as `inof` for the name of a module,
/// and then logs nothing else.
fn is_directive(part: &str) -> bool {
    (!part.is_empty() && part.parse::<LevelFilter>().is_ok())
        || (part.trim() == part && part.contains(['=', '[']))
}
