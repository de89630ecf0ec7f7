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
    match Toml::from_str::<Dict>(&text) {
        Ok(tree) => Walk::new(place, schema).through(tree),
        Err(why) => {
            let at = position(&text, why.span().map_or(0, |span| span.start));
            // Not the error's own Display: that one quotes the line, which may hold the key.
            let what = format!("no valid TOML, {at}: {}", why.message().replace('\n', ", "));
            Reading { problems: vec![Problem::at(place, "", what)], ..Reading::default() }
        }
    }
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
        for (name, value) in tree {
            match (self.schema.section(&name), value) {
                (Some(known), Value::Dict(_, section)) => self.section(&name, known, section),
                (Some(_), _) => {
                    let what = format!("this is a section: write [{name}] with its keys below it");
                    self.problem(name, what);
                }
                (None, value) if is_key(self.schema.defaults(), &name) => self.setting(name, value),
                (None, Value::Dict(..)) => self.unknown_section(name),
                (None, _) => self.unknown_key(name),
            }
        }
        self.reading
    }

    fn section(&mut self, section: &str, known: &Dict, found: Dict) {
        for (name, value) in found {
            let key = format!("{section}.{name}");
            if is_key(known, &name) { self.setting(key, value) } else { self.unknown_key(key) }
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
                let all = self.schema.defaults().keys();
                let all: Vec<_> = all.filter(|name| self.schema.section(name).is_some()).collect();
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

/// Whether a name is a key there, not a section. By its own name, never by a path: a quoted
/// `"pairing.timeout"` is not a `timeout` in `[pairing]`.
fn is_key(known: &Dict, name: &str) -> bool {
    known.get(name).is_some_and(|default| default.as_dict().is_none())
}

/// Where a key belongs in the file.
fn home(key: &str) -> String {
    match key.split_once('.') {
        Some((section, _)) => format!("in [{section}]"),
        None => "at the top, above every [section]".to_owned(),
    }
}
