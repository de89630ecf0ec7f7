//! Which keys there are. `Config::default()` is the only list of them: each key has a default,
//! so the tree it serializes to names them all, sections within sections included. A list of tables
//! is empty there, and so has a table of its own that names its keys.

use std::collections::BTreeMap;

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::Serialized,
    value::{Dict, Value},
};

use super::{Config, KeyConfig, problem::Problem, setting::Setting};

/// How alike two names must be, from 0 to 1, for one to be suggested for the other.
const ALIKE: f64 = 0.8;

/// The tree of keys with their defaults.
pub(super) struct Schema {
    defaults: Dict,
    tables: BTreeMap<&'static str, Dict>,
}

impl Schema {
    pub(super) fn new() -> Self {
        let tree = |value: Value| value.into_dict().unwrap_or_default();
        Self {
            defaults: tree(Value::serialize(Config::default()).expect("the defaults serialize")),
            tables: BTreeMap::from([("keys", tree(KeyConfig::template()))]),
        }
    }

    /// The defaults, section by section.
    pub(super) fn defaults(&self) -> &Dict {
        &self.defaults
    }

    /// Every key, as in `pairing.timeout`, and every list of tables by its name.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        walk(&self.defaults, "", &mut |path, value| {
            keys.extend(value.as_dict().is_none().then_some(path));
        });
        keys.extend(self.tables.keys().map(|&name| name.to_owned()));
        keys
    }

    /// Every section, as in `tls` and `tls.acme`.
    pub(super) fn sections(&self) -> Vec<String> {
        let mut sections = Vec::new();
        walk(&self.defaults, "", &mut |path, value| {
            sections.extend(value.as_dict().is_some().then_some(path));
        });
        sections
    }

    /// The default of a key; `None` for what is no key, such as a section.
    pub(super) fn default_of(&self, key: &str) -> Option<&Value> {
        let (section, name) = match key.rsplit_once('.') {
            None => (&self.defaults, key),
            Some((section, name)) => (self.section(section)?, name),
        };
        section.get(name).filter(|value| value.as_dict().is_none())
    }

    /// The keys of a section and the sections within it; `None` for what is no section.
    pub(super) fn section(&self, path: &str) -> Option<&Dict> {
        path.split('.').try_fold(&self.defaults, |section, name| section.get(name)?.as_dict())
    }

    /// The keys of each table of a list such as `[[keys]]`; `None` for what is no such list.
    pub(super) fn table(&self, list: &str) -> Option<&Dict> {
        self.tables.get(list)
    }

    /// Whether the value of a key must not be shown. Tried, not listed: only a
    /// [`Secret`](super::Secret) masks what it was given.
    pub(super) fn is_secret(key: &str) -> bool {
        let (path, probe) = alone(key, "probe".into());
        let probe = Figment::from(Serialized::defaults(Config::default())).merge((path, probe));
        probe.extract::<Config>().and_then(Value::serialize).is_ok_and(|tree| {
            let found = match in_table(key) {
                None => tree.find_ref(key),
                Some((list, name)) => tree
                    .find_ref(list)
                    .and_then(|list| list.as_array()?.first()?.as_dict()?.get(name)),
            };
            found.and_then(Value::as_str) == Some("***")
        })
    }

    /// Tries one setting alone over the defaults, so that its error can be nobody else's.
    pub(super) fn check(setting: &Setting) -> Result<(), Problem> {
        let alone = Figment::from(Serialized::defaults(Config::default()))
            .merge(alone(&setting.key, setting.value.clone()));
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

    /// The key of each table of `list` that somebody who wrote `asked` may have meant.
    pub(super) fn field_meant_by(&self, list: &str, asked: &str) -> Option<String> {
        nearest(&normal(asked), self.table(list)?.keys())
    }

    /// The section that somebody who wrote `asked` may have meant.
    pub(super) fn section_meant_by(&self, asked: &str) -> Option<String> {
        let (asked, sections) = (normal(asked), self.sections());
        let around = |path: &str| path.rsplit_once('.').map_or("", |(around, _)| around).to_owned();
        let siblings = sections.iter().filter(|path| around(path) == around(&asked));
        let name = last(&asked);
        nearest(name, siblings).or_else(|| nearest(name, sections.iter()))
    }
}

/// Calls `each` with the path and the value of all that is in a tree, sections included.
fn walk(tree: &Dict, prefix: &str, each: &mut impl FnMut(String, &Value)) {
    for (name, value) in tree {
        let path = format!("{prefix}{name}");
        each(path.clone(), value);
        if let Some(section) = value.as_dict() {
            walk(section, &format!("{path}."), each);
        }
    }
}

/// The list and the name of a key in one of its tables, as in `keys[2].label`.
fn in_table(key: &str) -> Option<(&str, &str)> {
    let (list, rest) = key.split_once('[')?;
    Some((list, rest.split_once("].")?.1))
}

/// A path and what to merge there for this key to have this value, and no other key one: a key of
/// a table comes in a list of that table alone.
fn alone(key: &str, value: Value) -> (&str, Value) {
    match in_table(key) {
        None => (key, value),
        Some((list, name)) => {
            let table = Dict::from([(name.to_owned(), value)]);
            (list, vec![Value::from(table)].into())
        }
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
        "f64" => "a number such as 0.66",
        "usize" | "u64" | "u32" | "u16" => "a whole number, 0 or more",
        "a string" | "path string" => "text in quotes",
        "a sequence" => "a list in brackets",
        "a boolean" => "true or false",
        other if other.starts_with("enum") => "text in quotes",
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use figment::providers::{Format, Toml};

    use super::*;

    /// That of a program whose defaults are `toml`.
    pub(in crate::config) fn schema_of(toml: &str) -> Schema {
        Schema { defaults: Toml::from_str(toml).unwrap(), tables: BTreeMap::new() }
    }

    #[test]
    fn sections_within_sections_are_found_by_their_paths() {
        let schema = schema_of("key = ''\n[tls]\ncert = ''\n[tls.acme]\nemail = 'x'\n[log]\na = 1");
        assert_eq!(schema.keys(), ["key", "log.a", "tls.acme.email", "tls.cert"]);
        assert_eq!(schema.sections(), ["log", "tls", "tls.acme"]);
        assert_eq!(schema.default_of("tls.acme.email").and_then(Value::as_str), Some("x"));
        for no_key in ["tls", "tls.acme", "tls.acme.cert", "acme.email", "tls.cert.x", ""] {
            assert!(schema.default_of(no_key).is_none(), "{no_key}");
        }
        assert_eq!(schema.section_meant_by("tls.acem").as_deref(), Some("tls.acme"));
        assert_eq!(schema.section_meant_by("acme").as_deref(), Some("tls.acme"));
        assert!(
            matches!(schema.meant_by("tls.acme.emial"), Meant::Near(key) if key == "tls.acme.email")
        );
        assert!(
            matches!(schema.meant_by("tls.email"), Meant::Elsewhere(keys) if keys == ["tls.acme.email"])
        );
    }
}
