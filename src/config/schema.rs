//! Which keys there are. `Config::default()` is the only list of them: each key has a default,
//! so the tree it serializes to names them all.

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::Serialized,
    value::{Dict, Value},
};

use super::{Config, problem::Problem, setting::Setting};

/// How alike two names must be, from 0 to 1, for one to be suggested for the other.
const ALIKE: f64 = 0.8;

/// The tree of keys with their defaults.
pub(super) struct Schema {
    defaults: Dict,
}

impl Schema {
    pub(super) fn new() -> Self {
        let tree = Value::serialize(Config::default()).expect("the defaults serialize");
        Self { defaults: tree.into_dict().unwrap_or_default() }
    }

    /// The defaults, section by section.
    pub(super) fn defaults(&self) -> &Dict {
        &self.defaults
    }

    /// Every key, as in `pairing.timeout`.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for (name, value) in &self.defaults {
            match value.as_dict() {
                None => keys.push(name.clone()),
                Some(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
            }
        }
        keys
    }

    /// The default of a key; `None` for what is no key, such as a section.
    pub(super) fn default_of(&self, key: &str) -> Option<&Value> {
        let value = match key.split_once('.') {
            None => self.defaults.get(key),
            Some((section, name)) => self.defaults.get(section)?.as_dict()?.get(name),
        };
        value.filter(|value| value.as_dict().is_none())
    }

    /// The keys of a section; `None` for what is no section.
    pub(super) fn section(&self, name: &str) -> Option<&Dict> {
        self.defaults.get(name)?.as_dict()
    }

    /// Whether the value of a key must not be shown. Tried, not listed: only a
    /// [`Secret`](super::Secret) masks what it was given.
    pub(super) fn is_secret(key: &str) -> bool {
        let probe = Figment::from(Serialized::defaults(Config::default())).merge((key, "probe"));
        probe
            .extract::<Config>()
            .and_then(Value::serialize)
            .is_ok_and(|tree| tree.find_ref(key).and_then(Value::as_str) == Some("***"))
    }

    /// Tries one setting alone over the defaults, so that its error can be nobody else's.
    pub(super) fn check(setting: &Setting) -> Result<(), Problem> {
        let alone = Figment::from(Serialized::defaults(Config::default())).merge(setting);
        alone.extract::<Config>().map(drop).map_err(|error| {
            let what = explain(&error.kind, Self::is_secret(&setting.key));
            Problem::at(&setting.origin, &setting.key, what)
        })
    }

    /// What somebody who wrote `asked`, which is no key, may have meant.
    pub(super) fn meant_by(&self, asked: &str) -> Meant {
        let asked = normal(asked);
        let (section, name) = asked.rsplit_once('.').unwrap_or(("", &asked));
        let keys = self.keys();
        let same_name: Vec<_> =
            keys.iter().filter(|key| last(key) == name && **key != asked).cloned().collect();
        if keys.contains(&asked) {
            return Meant::Near(asked);
        }
        if !same_name.is_empty() {
            return Meant::Elsewhere(same_name);
        }
        let neighbours =
            keys.iter().filter(|key| key.rsplit_once('.').map_or("", |k| k.0) == section);
        nearest(name, neighbours)
            .or_else(|| nearest(name, keys.iter()))
            .map_or(Meant::Nothing, Meant::Near)
    }

    /// The section that somebody who wrote `asked` may have meant.
    pub(super) fn section_meant_by(&self, asked: &str) -> Option<String> {
        let sections: Vec<_> =
            self.defaults.keys().filter(|name| self.section(name).is_some()).cloned().collect();
        nearest(&normal(asked), sections.iter())
    }
}

/// What an unknown key may have been meant for.
pub(super) enum Meant {
    /// Its name exists, in other sections.
    Elsewhere(Vec<String>),
    /// A key with nearly that name.
    Near(String),
    /// Nothing that is known.
    Nothing,
}

fn normal(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

fn last(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, name)| name)
}

fn nearest<'a>(name: &str, keys: impl Iterator<Item = &'a String>) -> Option<String> {
    keys.map(|key| (strsim::jaro_winkler(name, last(key)), key))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key.clone())
}

/// figment's error in words for somebody who does not know serde's.
fn explain(kind: &Kind, secret: bool) -> String {
    match kind {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("found {}, expected {}", shown(found, secret), expectation(expected))
        }
        Kind::UnknownVariant(found, known) => {
            format!("found {found:?}, expected \"{}\"", known.join("\" or \""))
        }
        _ if secret => "the value does not fit (it is not shown: this key is a secret)".to_owned(),
        Kind::Message(message) => message.clone(),
        other => other.to_string(),
    }
}

fn shown(found: &Actual, secret: bool) -> String {
    match found {
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) if secret => "a number".into(),
        Actual::Bool(_) if secret => "true or false".into(),
        Actual::Seq => "a list".into(),
        Actual::Map => "a table or a date".into(),
        _ if secret => "something else".into(),
        Actual::Unsigned(number) => format!("the number {number}"),
        Actual::Signed(number) => format!("the number {number}"),
        Actual::Float(number) => format!("the number {number}"),
        Actual::Bool(value) => value.to_string(),
        Actual::Str(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

fn expectation(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" | "u16" => "a whole number, 0 or more",
        "a string" | "path string" => "text in quotes",
        "a sequence" => "a list in brackets",
        "a boolean" => "true or false",
        other if other.starts_with("enum") => "text in quotes",
        other => other,
    }
}
