//! The TOML file: found, read, and taken apart into settings.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use figment::{
    providers::{Format, Toml},
    value::{Dict, Value},
};

use super::{
    problem::{Origin, Problem},
    schema::{Meant, Schema},
    setting::{Reading, Setting},
};

/// The name that is looked for in the working directory when no file was named.
const USUAL_NAME: &str = "config.toml";

/// Reads the file that was named, or `config.toml` in the working directory if there is one.
pub(super) fn read(named: Option<&Path>, working_dir: &Path, schema: &Schema) -> Reading {
    let shown = named.map_or_else(|| PathBuf::from(USUAL_NAME), Path::to_owned);
    let place = Origin::File(shown.clone());
    let text = match read_text(&working_dir.join(shown)) {
        Ok(text) => text,
        Err(why) if named.is_none() && why.kind() == io::ErrorKind::NotFound => {
            return Reading::default();
        }
        Err(why) => {
            let what = format!("this configuration file cannot be read: {why}");
            return Reading { problems: vec![Problem::at(place, "", what)], ..Reading::default() };
        }
    };
    match parse(&text) {
        Ok(tree) => Walk::new(place, schema).through(tree),
        Err(what) => Reading { problems: vec![Problem::at(place, "", what)], ..Reading::default() },
    }
}

/// The tree of a TOML text, or what is wrong with it and where.
pub(super) fn parse(text: &str) -> Result<Dict, String> {
    Toml::from_str::<Dict>(text).map_err(|why| {
        let at = position(text, why.span().map_or(0, |span| span.start));
        // Not the error's own Display: that one quotes the line, which may hold the key.
        format!("no valid TOML, {at}: {}", why.message().replace('\n', ", "))
    })
}

/// As `fs::read_to_string`, with a word for the folder that Docker makes of a mount whose file
/// is missing.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, not a file"));
    }
    let text = fs::read_to_string(path)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    format!("line {line}, column {}", before[line_start..].chars().count() + 1)
}

/// Goes through the tree of a file, and sorts it into settings and problems.
struct Walk<'a> {
    place: Origin,
    schema: &'a Schema,
    reading: Reading,
}

impl<'a> Walk<'a> {
    fn new(place: Origin, schema: &'a Schema) -> Self {
        Self { place, schema, reading: Reading::default() }
    }

    fn through(mut self, tree: Dict) -> Reading {
        let schema = self.schema;
        self.section("", schema.defaults(), tree);
        self.reading
    }

    /// What was found in a section, the top being one with an empty path. A name is looked up as
    /// it stands, never as a path: a quoted `"pairing.timeout"` is not a `timeout` in `[pairing]`.
    fn section(&mut self, path: &str, known: &Dict, found: Dict) {
        for (name, value) in found {
            let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let known = known.get(&name).map(|known| known.as_dict());
            match (known, value) {
                (Some(Some(known)), Value::Dict(_, inner)) => self.section(&key, known, inner),
                (Some(Some(_)), _) => {
                    let what = format!("this is a section: write [{key}] with its keys below it");
                    self.problem(key, what);
                }
                (Some(None), value) => self.setting(key, value),
                (None, value) if path.is_empty() && self.schema.table(&name).is_some() => {
                    self.list(key, value);
                }
                (None, Value::Dict(..)) => self.unknown_section(key),
                (None, _) => self.unknown_key(key),
            }
        }
    }

    fn list(&mut self, key: String, value: Value) {
        if value.as_array().is_some() {
            self.setting(key, value);
        } else {
            let what =
                format!("this is a list of tables: write [[{key}]] for each, with two brackets");
            self.problem(key, what);
        }
    }

    fn setting(&mut self, key: String, value: Value) {
        self.reading.settings.push(Setting::new(key, value, &self.place));
    }

    fn problem(&mut self, key: String, what: String) {
        self.reading.problems.push(Problem::at(&self.place, key, what));
    }

    fn unknown_section(&mut self, name: String) {
        let what = match self.schema.section_meant_by(&name) {
            Some(meant) => format!("unknown section: did you mean [{meant}]?"),
            None => {
                let all = self.schema.sections();
                let all: Vec<_> = all.iter().map(|name| format!("[{name}]")).collect();
                format!("unknown section: the sections are {}", all.join(", "))
            }
        };
        self.problem(name, what);
    }

    fn unknown_key(&mut self, key: String) {
        let what = match self.schema.meant_by(&key) {
            Meant::Elsewhere(keys) => {
                let homes: Vec<_> = keys.iter().map(|key| home(key)).collect();
                format!("unknown here: it belongs {}", homes.join(", or "))
            }
            Meant::Near(meant) => format!("unknown key: did you mean {meant}?"),
            Meant::Nothing => {
                let section = key.rsplit_once('.').and_then(|(name, _)| self.schema.section(name));
                let known = section.unwrap_or(self.schema.defaults());
                let known: Vec<_> = known.keys().filter(|name| is_key(known, name)).collect();
                let known: Vec<_> = known.into_iter().map(String::as_str).collect();
                format!("unknown key: the keys here are {}", known.join(", "))
            }
        };
        self.problem(key, what);
    }
}

fn is_key(known: &Dict, name: &str) -> bool {
    known.get(name).is_some_and(|default| default.as_dict().is_none())
}

/// Where a key belongs in the file.
pub(super) fn home(key: &str) -> String {
    match key.rsplit_once('.') {
        Some((section, _)) => format!("in [{section}]"),
        None => "at the top, above every [section]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::tests::schema_of;

    #[test]
    fn a_section_within_a_section_is_walked_like_any_other() {
        let schema = schema_of("[tls]\ncert = ''\n[tls.acme]\nemail = ''");
        let found =
            "[tls]\ncert = 'c'\n[tls.acme]\nemail = 'e'\nemial = 'e'\ncert = 'c'\n[tls.acem]";
        let walk = Walk::new(Origin::Default, &schema);
        let Reading { settings, problems, .. } = walk.through(Toml::from_str(found).unwrap());
        let keys: Vec<_> = settings.iter().map(|setting| &*setting.key).collect();
        assert_eq!(keys, ["tls.acme.email", "tls.cert"]);
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "default: tls.acem: unknown section: did you mean [tls.acme]?",
                "default: tls.acme.cert: unknown here: it belongs in [tls]",
                "default: tls.acme.emial: unknown key: did you mean tls.acme.email?",
            ]
        );
        let flat =
            Walk::new(Origin::Default, &schema).through(Toml::from_str("tls.acme = 5").unwrap());
        assert_eq!(
            flat.problems[0].to_string(),
            "default: tls.acme: this is a section: write [tls.acme] with its keys below it"
        );
    }
}
