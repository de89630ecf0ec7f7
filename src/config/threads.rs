//! `[threads]`: how many threads there are, and what for.

use std::{fmt, num::NonZero, thread::available_parallelism};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::rules::Rules;

/// More than any machine has cores.
const MOST: usize = 1024;

/// The `[threads]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ThreadsConfig {
    /// Threads to which relays that move in bulk are moved. 0: none, every relay stays where it
    /// began.
    pub bulk: ThreadCount,
    /// The niceness of those threads, 0 (as the others) to 19.
    pub bulk_niceness: i32,
}

/// A number of threads, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadCount {
    /// By the cores that the process may use.
    Auto,
    /// This many.
    Exactly(usize),
}

impl Default for ThreadsConfig {
    fn default() -> Self {
        Self { bulk: ThreadCount::Auto, bulk_niceness: 5 }
    }
}

impl ThreadsConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.require(
            self.bulk.get() <= MOST,
            &["threads.bulk"],
            format!("found {}, expected at most {MOST}", self.bulk),
        );
        rules.require(
            (0..=19).contains(&self.bulk_niceness),
            &["threads.bulk_niceness"],
            format!("found {}, expected 0 to 19", self.bulk_niceness),
        );
    }
}

impl ThreadCount {
    /// How many that is here; `auto` is one a core.
    pub fn get(self) -> usize {
        match self {
            Self::Auto => available_parallelism().map_or(1, NonZero::get),
            Self::Exactly(count) => count,
        }
    }
}

impl fmt::Display for ThreadCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

impl Serialize for ThreadCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Exactly(count) => count.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ThreadCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ThreadCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of threads or \"auto\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ThreadCount, E> {
                match text {
                    "auto" => Ok(ThreadCount::Auto),
                    text => text
                        .parse()
                        .map(ThreadCount::Exactly)
                        .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<ThreadCount, E> {
                usize::try_from(count)
                    .map(ThreadCount::Exactly)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<ThreadCount, E> {
                usize::try_from(count)
                    .map(ThreadCount::Exactly)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(count), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
