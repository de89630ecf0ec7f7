//! The keys that a configuration asks for: read from it, from the files that it names, and again
//! when these have changed.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::{Path, PathBuf},
    sync::Mutex,
};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::account::Terms;
use crate::{
    config::{Config, DEFAULT_LABEL, KeyConfig, Problems, read_keys_file},
    key::{KeyError, KeySetting, RelayKey},
};

/// The keys that a configuration asks for, read and found to be of use.
#[derive(Debug)]
pub struct Keys {
    single: KeySetting,
    labelled: Vec<Labelled>,
    files: Files,
}

#[derive(Debug)]
struct Labelled {
    label: String,
    key: RelayKey,
    terms: Terms,
}

/// What the labelled keys were read from.
#[derive(Debug)]
struct Files {
    /// Of the configuration, only the keys.
    config: Config,
    dir: PathBuf,
    hasher: RandomState,
    /// What was in the files when they were last looked at. Nothing of it can be told from this.
    seen: Mutex<u64>,
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
    /// The file that `keys_file` names.
    #[error(transparent)]
    File(#[from] Problems),
    /// That file has no key, and there is none elsewhere: a slip must not open the relay.
    #[error(
        "the file of keys {path} holds none, and there is no other: write one into it, or unset keys_file for an open relay"
    )]
    EmptyFile {
        /// The file.
        path: PathBuf,
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
        let config = Config {
            key: config.key.clone(),
            key_file: config.key_file.clone(),
            keys: config.keys.clone(),
            keys_file: config.keys_file.clone(),
            ..Config::default()
        };
        Self::read_labelled(single, Files::new(config, dir))
    }

    fn read_labelled(single: KeySetting, files: Files) -> Result<Self, KeyRingError> {
        // First, so that a change while they are read is seen the next time.
        files.have_changed();
        let in_file = read_keys_file(&files.config, &files.dir)?;
        let labelled = files.config.keys.iter().chain(&in_file).map(|key| {
            let label = key.label.clone();
            match read_one(key, &files.dir) {
                Ok(found) => Ok(Labelled { label, key: found, terms: Terms::from(key) }),
                Err(source) => Err(KeyRingError::Labelled { label, source }),
            }
        });
        let labelled = labelled.collect::<Result<_, _>>()?;
        let keys = Self { single, labelled, files };
        let path = &keys.files.config.keys_file;
        if keys.is_open() && !path.as_os_str().is_empty() {
            return Err(KeyRingError::EmptyFile { path: path.clone() });
        }
        keys.are_distinct().map(|()| keys)
    }

    /// The same, read again from the files that have changed since; `None` when none has. The
    /// single key and its file stay as they are.
    pub(super) fn again(&self) -> Option<Result<Self, KeyRingError>> {
        let Files { config, dir, .. } = &self.files;
        self.files
            .have_changed()
            .then(|| Self::read_labelled(self.single.clone(), Files::new(config.clone(), dir)))
    }

    /// Whether they let every client in.
    pub fn is_open(&self) -> bool {
        matches!(self.single, KeySetting::Open) && self.labelled.is_empty()
    }

    /// One that lets a client in, such as a probe: the single key, or else one without quotas that
    /// a probe could find used up, or else any that has not expired.
    pub fn for_a_probe(self) -> KeySetting {
        let now = Timestamp::now();
        let valid = |key: &&Labelled| !key.terms.has_expired(|| now);
        let valid: Vec<_> = self.labelled.iter().filter(valid).collect();
        let free = valid.iter().find(|key| !key.terms.have_quotas()).or(valid.first());
        match self.single {
            KeySetting::Open => {
                free.map_or(KeySetting::Open, |key| KeySetting::Key(key.key.clone()))
            }
            single => single,
        }
    }

    /// The labels of those that have expired.
    pub fn expired(&self) -> Vec<&str> {
        let now = Timestamp::now();
        let expired = self.labelled.iter().filter(|key| key.terms.has_expired(|| now));
        expired.map(|key| key.label.as_str()).collect()
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
        for (label, key, _) in self.iter() {
            if let Some(one) = labels.insert(key.expose(), label) {
                let (one, other) = (one.to_owned(), label.to_owned());
                return Err(KeyRingError::Twice { one, other });
            }
        }
        Ok(())
    }

    /// Each with its label and its terms.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &RelayKey, &Terms)> {
        const FREE: &Terms = &Terms::FREE;
        let single = match &self.single {
            KeySetting::Key(key) => Some((DEFAULT_LABEL, key, FREE)),
            KeySetting::Open | KeySetting::NewPair => None,
        };
        let labelled = self.labelled.iter().map(|key| (key.label.as_str(), &key.key, &key.terms));
        single.into_iter().chain(labelled)
    }
}

fn read_one(key: &KeyConfig, dir: &Path) -> Result<RelayKey, KeyError> {
    if key.key_file.as_os_str().is_empty() {
        RelayKey::parse(key.key.expose())
    } else {
        RelayKey::from_file(&dir.join(&key.key_file))
    }
}

impl Files {
    fn new(config: Config, dir: &Path) -> Self {
        let (hasher, seen) = (RandomState::new(), Mutex::new(0));
        Self { config, dir: dir.to_owned(), hasher, seen }
    }

    /// Whether they hold something else than the last time this was asked.
    fn have_changed(&self) -> bool {
        let mut hasher = self.hasher.build_hasher();
        let named = self.config.keys.iter().map(|key| &key.key_file);
        let named = named.chain([&self.config.keys_file]);
        for path in named.filter(|path| !path.as_os_str().is_empty()) {
            // Contents, not times: Kubernetes swaps a symlink, and a copy may keep its time.
            match fs::read(self.dir.join(path)).map(Zeroizing::new) {
                Ok(contents) => hasher.write(&contents),
                Err(error) => hasher.write(error.to_string().as_bytes()),
            }
            hasher.write_u8(0xff);
        }
        let now = hasher.finish();
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::replace(&mut *seen, now) != now
    }
}
