//! `[threads]`: how many threads there are, and what for.

use std::{fmt, num::NonZero, thread::available_parallelism};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::rules::Rules;

/// Beyond this, threads that accept from one listener are only in each other's way.
const MOST_LIGHT: usize = 64;

/// More than any machine has cores.
const MOST_BULK: usize = 1024;

/// The `[threads]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ThreadsConfig {
    /// Threads that accept, pair and relay.
    pub light: ThreadCount,
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
        Self { light: ThreadCount::Auto, bulk: ThreadCount::Auto, bulk_niceness: 5 }
    }
}

impl ThreadsConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.require(
            (1..=MOST_LIGHT).contains(&self.light()),
            &["threads.light"],
            format!("found {}, expected 1 to {MOST_LIGHT} or \"auto\"", self.light),
        );
        rules.require(
            self.bulk() <= MOST_BULK,
            &["threads.bulk"],
            format!("found {}, expected at most {MOST_BULK} or \"auto\"", self.bulk),
        );
        rules.require(
            (0..=19).contains(&self.bulk_niceness),
            &["threads.bulk_niceness"],
            format!("found {}, expected 0 to 19", self.bulk_niceness),
        );
    }

    /// How many threads accept, pair and relay: one for every two cores unless configured, since
    /// half of what such a thread costs is the kernel's work for the network beside it.
    pub fn light(&self) -> usize {
        self.light.or((cores() / 2).clamp(1, MOST_LIGHT))
    }

    /// How many threads relay what moves in bulk: one a core unless configured.
    pub fn bulk(&self) -> usize {
        self.bulk.or(cores())
    }
}

impl ThreadCount {
    const fn or(self, auto: usize) -> usize {
        match self {
            Self::Auto => auto,
            Self::Exactly(count) => count,
        }
    }
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
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
