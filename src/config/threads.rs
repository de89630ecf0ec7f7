//! `[threads]`: which threads there are, and how many.

use std::{num::NonZero, thread::available_parallelism};

use serde::{Deserialize, Serialize};

use super::rules::Rules;

/// Beyond this, threads that accept from one listener are only in each other's way.
const MOST_LIGHT: usize = 64;

/// The `[threads]` section.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ThreadsConfig {
    /// How many threads accept, pair and relay; 0: by the cores.
    pub light: usize,
}

impl ThreadsConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.between("threads.light", self.light, 0, MOST_LIGHT);
    }

    /// How many threads accept, pair and relay: one for every two cores unless configured, since
    /// half of what such a thread costs is the kernel's work for the network beside it.
    pub fn light(&self) -> usize {
        match self.light {
            0 => (available_parallelism().map_or(1, NonZero::get) / 2).clamp(1, MOST_LIGHT),
            light => light,
        }
    }
}
