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

/// Reads every variable with the prefix; names ignore case.
pub(super) fn read(env: &[(String, String)], schema: &Schema) -> Reading {
    let mut reading = Reading::default();
    for (name, text) in env {
        if let Some(key) = key_of(name) {
            let origin = Origin::Environment(name.clone());
            match schema.default_of(&key) {
                Some(default) => {
                    reading.settings.push(Setting::new(key, typed(text, default), origin));
                }
                None => {
                    let what = unknown(&key, schema);
                    reading.problems.push(Problem::at(origin, key, what));
                }
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

/// A TOML list, or words with commas between them. `[::]:21117` opens with a bracket and is no
/// list, so TOML is tried first and not asked for by its looks.
fn list(text: &str) -> Vec<Value> {
    let toml = Toml::from_str::<Dict>(&format!("list = {text}")).ok();
    if let Some(list) = toml.and_then(|tree| tree.get("list")?.clone().into_array()) {
        return list;
    }
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Value::from).collect()
}
