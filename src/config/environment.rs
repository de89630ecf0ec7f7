//! The environment's `RELAY__SECTION__KEY` and `RELAY__KEY`.
//!
//! Not figment's own environment: that one guesses a type from the text, so a key of `012345`
//! would become the number 12345. Here the default's type decides.

use figment::{
    providers::{Format, Toml},
    value::{Dict, Num, Value},
};

use super::{
    problem::{Origin, Problem},
    schema::{Meant, Schema},
    setting::{Reading, Setting},
};

const PREFIX: &str = "RELAY__";

const A_LIST_OF_TABLES: &str =
    "a TOML list such as [{ label = \"office\", key_file = \"office.key\" }]";

/// Reads every variable with the prefix; names ignore case.
pub(super) fn read(env: &[(String, String)], schema: &Schema) -> Reading {
    let mut reading = Reading::default();
    for (name, text) in env {
        if let Some(key) = key_of(name) {
            let origin = Origin::Environment(name.clone());
            let value = match schema.default_of(&key) {
                Some(default) => Ok(typed(text, default)),
                None if schema.table(&key).is_some() => tables_of(text),
                None => Err(unknown(&key, schema)),
            };
            match value {
                Ok(value) => reading.settings.push(Setting::new(key, value, origin)),
                Err(what) => reading.problems.push(Problem::at(origin, key, what)),
            }
        } else if let Some(key) = nearly_named(name, schema) {
            reading.warnings.push(format!(
                "{name} in the environment is not read: {key} is set by {}",
                variable_of(&key)
            ));
        }
    }
    reading
}

/// The key that a variable sets, known or not; `None` without the prefix.
fn key_of(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then(|| rest.to_ascii_lowercase().replace("__", "."))
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// The key that a variable would set if its underscores were doubled: `RELAY_KEY` is not read,
/// and the relay would be open to anyone without a word.
fn nearly_named(name: &str, schema: &Schema) -> Option<String> {
    let single = name.to_ascii_uppercase().replace("__", "_");
    schema.keys().into_iter().find(|key| variable_of(key).replace("__", "_") == single)
}

fn unknown(key: &str, schema: &Schema) -> String {
    if let Some(section) = schema.section(key) {
        let first = section.keys().next().map_or("KEY", String::as_str);
        let example = variable_of(&format!("{key}.{first}"));
        return format!("this is a section: set one of its keys, as in {example}");
    }
    if let Some(list) = key.split('.').next().filter(|list| schema.table(list).is_some()) {
        let variable = variable_of(list);
        return format!("this is a list of tables: set {variable}, to {A_LIST_OF_TABLES}");
    }
    match schema.meant_by(key) {
        Meant::Elsewhere(keys) => {
            let names: Vec<_> = keys.iter().map(|key| variable_of(key)).collect();
            format!("unknown key: did you mean {}?", names.join(" or "))
        }
        Meant::Near(meant) => format!("unknown key: did you mean {}?", variable_of(&meant)),
        Meant::Nothing => {
            "unknown key: names are RELAY__KEY or RELAY__SECTION__KEY, as in config.toml".to_owned()
        }
    }
}

/// The text as a value of its default's type; as text if it is none, for the check to refuse.
fn typed(text: &str, default: &Value) -> Value {
    let trimmed = text.trim();
    match default {
        Value::Array(..) => Value::from(list(trimmed)),
        Value::Bool(..) => trimmed.parse::<bool>().map_or_else(|_| text.into(), Value::from),
        Value::Num(_, Num::F32(_) | Num::F64(_)) => {
            trimmed.parse::<f64>().map_or_else(|_| text.into(), Value::from)
        }
        Value::Num(..) => trimmed.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        _ => text.into(),
    }
}

/// The text as a list of tables. It is not quoted if it is none: it may well hold a secret.
fn tables_of(text: &str) -> Result<Value, String> {
    let toml = Toml::from_str::<Dict>(&format!("list = {}", text.trim())).ok();
    let list =
        toml.and_then(|tree| tree.get("list").cloned()).filter(|list| list.as_array().is_some());
    // Set to nothing, as a compose file does with a variable that is not there.
    let none = || text.trim().is_empty().then(|| Vec::<Value>::new().into());
    list.or_else(none).ok_or_else(|| format!("expected {A_LIST_OF_TABLES}"))
}

/// A TOML list, or words with commas between them. `[::]:21117` opens with a bracket and is no
/// list, so TOML is tried first and not asked for by its looks.
fn list(text: &str) -> Vec<Value> {
    let toml = Toml::from_str::<Dict>(&format!("list = {text}")).ok();
    if let Some(list) = toml.and_then(|tree| tree.get("list")?.clone().into_array()) {
        return list;
    }
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Value::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::tests::schema_of;

    #[test]
    fn a_variable_names_a_key_through_both_of_its_sections() {
        let schema = schema_of("[tls]\n[tls.acme]\ndomains = []");
        let env = |name: &str| vec![(name.to_owned(), "a.example, b.example".to_owned())];
        let read = read(&env("RELAY__TLS__ACME__DOMAINS"), &schema).settings.remove(0);
        assert_eq!(read.key, "tls.acme.domains");
        assert_eq!(read.value.as_array().map(<[_]>::len), Some(2));
        let wrong = super::read(&env("RELAY__TLS__ACME"), &schema).problems.remove(0);
        assert!(wrong.what.contains("as in RELAY__TLS__ACME__DOMAINS"), "{wrong}");
    }
}
