//! The keys that are valid now, and what each grants to the legs that send it.
//!
//! A reload replaces them whole, while legs are checked: what was read of a configuration is
//! [`Keys`], what is in force is the [`KeyRing`]. How a key is written is `key`'s affair.

mod grant;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use subtle::ConditionallySelectable as _;

pub use self::grant::Grant;
use self::grant::GrantedKey;
use crate::{
    config::{Config, DEFAULT_LABEL, KeyConfig},
    key::{KeyError, KeyFault, KeySetting, Likeness, RelayKey},
};

/// The keys in force.
pub struct KeyRing {
    /// None at all: an open relay.
    keys: ArcSwap<Vec<Arc<GrantedKey>>>,
}

/// The keys that a configuration asks for, read and found to be of use.
#[derive(Debug)]
pub struct Keys {
    single: KeySetting,
    labelled: Vec<(String, RelayKey)>,
}

/// Why the keys that a configuration asks for are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The single key.
    #[error(transparent)]
    Single(#[from] KeyError),
    /// One with a label.
    #[error("the key {label:?} is not to be had")]
    Labelled {
        /// Its label.
        label: String,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// One key with two labels: whose traffic would it be?
    #[error("the keys {one:?} and {other:?} are the same one: leave one of them out")]
    Twice {
        /// A label.
        one: String,
        /// Another.
        other: String,
    },
}

impl Keys {
    /// Reads the keys that `config` asks for, files looked for in `dir`. Writes nothing.
    ///
    /// # Errors
    /// When a file is missing, empty or malformed, or one key is there twice.
    pub fn read(config: &Config, dir: &Path) -> Result<Self, KeyRingError> {
        let single = if config.key_file.as_os_str().is_empty() {
            KeySetting::read(config.key.expose(), dir)?
        } else {
            KeySetting::Key(RelayKey::from_file(&dir.join(&config.key_file))?)
        };
        let labelled = config.keys.iter().map(|key| {
            let label = key.label.clone();
            match read_one(key, dir) {
                Ok(key) => Ok((label, key)),
                Err(source) => Err(KeyRingError::Labelled { label, source }),
            }
        });
        let keys = Self { single, labelled: labelled.collect::<Result<_, _>>()? };
        keys.are_distinct().map(|()| keys)
    }

    /// Whether they let every client in.
    pub fn is_open(&self) -> bool {
        matches!(self.single, KeySetting::Open) && self.labelled.is_empty()
    }

    /// One that lets a client in: the single key, or else the first with a label.
    pub fn first(self) -> KeySetting {
        match self.single {
            KeySetting::Open => {
                let first = self.labelled.into_iter().next();
                first.map_or(KeySetting::Open, |(_, key)| KeySetting::Key(key))
            }
            single => single,
        }
    }

    /// Whether a key pair has yet to be made.
    pub const fn needs_pair(&self) -> bool {
        matches!(self.single, KeySetting::NewPair)
    }

    /// The same, with the key pair made in `dir` if one was asked for and is not there.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn made(self, dir: &Path) -> Result<Self, KeyError> {
        let single = self.single.made(dir)?.map_or(KeySetting::Open, KeySetting::Key);
        Ok(Self { single, ..self })
    }

    fn are_distinct(&self) -> Result<(), KeyRingError> {
        let mut labels = BTreeMap::new();
        for (label, key) in self.iter() {
            if let Some(one) = labels.insert(key.expose(), label) {
                let (one, other) = (one.to_owned(), label.to_owned());
                return Err(KeyRingError::Twice { one, other });
            }
        }
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &RelayKey)> {
        let single = match &self.single {
            KeySetting::Key(key) => Some((DEFAULT_LABEL, key)),
            KeySetting::Open | KeySetting::NewPair => None,
        };
        single.into_iter().chain(self.labelled.iter().map(|(label, key)| (label.as_str(), key)))
    }
}

fn read_one(key: &KeyConfig, dir: &Path) -> Result<RelayKey, KeyError> {
    if key.key_file.as_os_str().is_empty() {
        RelayKey::parse(key.key.expose())
    } else {
        RelayKey::from_file(&dir.join(&key.key_file))
    }
}

impl KeyRing {
    /// A ring of these keys.
    pub fn new(keys: &Keys) -> Self {
        let ring = Self { keys: ArcSwap::default() };
        ring.replace(keys);
        ring
    }

    /// Puts other keys in force. Legs that were let in by a key which is no longer there keep what
    /// it granted.
    pub fn replace(&self, keys: &Keys) {
        let keys = keys.iter().map(|(label, key)| {
            let likeness = Likeness::of(key.expose());
            Arc::new(GrantedKey { label: label.to_owned(), key: key.clone(), likeness })
        });
        self.keys.store(Arc::new(keys.collect()));
    }

    /// Whether every client is let in.
    pub fn is_open(&self) -> bool {
        self.keys.load().is_empty()
    }

    /// What the key that a client sent grants it.
    ///
    /// It is compared with every key, found or not, so that the time it takes tells nothing of
    /// which one it is, or is like.
    ///
    /// # Errors
    /// When it is none of the keys; tells which usual mistake it is.
    pub fn verify(&self, sent: &str) -> Result<Grant, KeyFault> {
        let keys = self.keys.load();
        if keys.is_empty() {
            return Ok(Grant::default());
        }
        let mut found = 0_u32;
        for (key, n) in keys.iter().zip(1..) {
            found.conditional_assign(&n, key.key.is(sent));
        }
        let index = usize::try_from(found).unwrap_or_default().checked_sub(1);
        match index.and_then(|index| keys.get(index)) {
            Some(key) => Ok(Grant::of(key)),
            None => Err(KeyFault::diagnose(sent, keys.iter().map(|key| &key.likeness))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Secret;

    /// A ring of one key without a table.
    pub(crate) fn ring(key: &str) -> KeyRing {
        let config = Config { key: Secret::new(key), ..Config::default() };
        KeyRing::new(&Keys::read(&config, Path::new("/nonexistent")).unwrap())
    }

    fn labelled(keys: &[(&str, &str)]) -> Config {
        let table = |&(label, key): &(&str, &str)| KeyConfig {
            label: label.to_owned(),
            key: Secret::new(key),
            ..KeyConfig::default()
        };
        Config { keys: keys.iter().map(table).collect(), ..Config::default() }
    }

    fn read(config: &Config) -> Result<Keys, KeyRingError> {
        Keys::read(config, Path::new("/nonexistent"))
    }

    #[test]
    fn each_key_grants_under_its_own_label() {
        let config =
            Config { key: Secret::new("one"), ..labelled(&[("b", "two"), ("c", "three")]) };
        let ring = KeyRing::new(&read(&config).unwrap());
        for (sent, label) in [("one", "default"), ("two", "b"), ("three", "c")] {
            assert_eq!(ring.verify(sent).unwrap().label(), Some(label));
        }
        assert_eq!(ring.verify("TWO").unwrap_err(), KeyFault::Case);
        assert_eq!(ring.verify("three ").unwrap_err(), KeyFault::Whitespace);
        assert_eq!(ring.verify("four").unwrap_err(), KeyFault::Unknown);
    }

    #[test]
    fn one_key_under_two_labels_is_refused_without_being_shown() {
        let error = read(&labelled(&[("a", "letmein"), ("b", "letmein")])).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("\"a\" and \"b\"") && !said.contains("letmein"), "{said}");
    }

    #[test]
    fn no_key_lets_everybody_in_and_grants_nothing() {
        let ring = ring("");
        assert!(ring.is_open());
        assert_eq!(ring.verify("anything").unwrap().label(), None);
    }

    #[test]
    fn other_keys_are_in_force_at_once() {
        let ring = ring("old");
        let grant = ring.verify("old").unwrap();
        ring.replace(&read(&labelled(&[("new", "new")])).unwrap());
        assert_eq!(ring.verify("old").unwrap_err(), KeyFault::Unknown);
        assert_eq!(ring.verify("new").unwrap().label(), Some("new"));
        assert_eq!(grant.label(), Some("default"));
    }

    #[test]
    fn no_key_is_shown() {
        let keys = read(&labelled(&[("a", "letmein")])).unwrap();
        let grant = KeyRing::new(&keys).verify("letmein").unwrap();
        let said = format!("{keys:?} {grant:?}");
        assert!(!said.contains("letmein"), "{said}");
    }
}
