//! One value for one key, and where it was set: what every source of configuration is read into,
//! and the provider through which figment gets it.

use figment::{
    Metadata, Profile, Provider,
    util::nest,
    value::{Dict, Map, Value},
};

use super::problem::{Origin, Problem};

/// One value for one key.
#[derive(Clone)]
pub(super) struct Setting {
    /// As in `pairing.timeout`.
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl Setting {
    pub(super) fn new(
        key: impl Into<String>,
        value: impl Into<Value>,
        origin: impl Into<Origin>,
    ) -> Self {
        Self { key: key.into(), value: value.into(), origin: origin.into() }
    }
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let dict = nest(&self.key, self.value.clone()).into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}

/// What reading one source gave.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) settings: Vec<Setting>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}
