//! The file that `keys_file` names: more `[[keys]]`, apart from the rest because they are secret,
//! or come from elsewhere.

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    providers::Serialized,
    value::{Dict, Value},
};

use super::{
    Config, KeyConfig,
    keys::{LIST, MOST},
    problem::{Origin, Problem, Problems},
    rules::Rules,
    schema::Schema,
    setting::Setting,
    tables::{self, place, whose},
    toml_file::{self, read_text},
};

/// The tables of the file that `config.keys_file` names, looked for in `dir`; none if it names none.
///
/// # Errors
/// When it cannot be read, holds anything else, or its keys do not go with those of `config`. Every
/// problem is in it; no secret is.
pub fn read(config: &Config, dir: &Path) -> Result<Vec<KeyConfig>, Problems> {
    let path = &config.keys_file;
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let place = Origin::File(path.clone());
    let alone = |what: String| Problems(vec![Problem::at(&place, "", what)]);
    let text = read_text(&dir.join(path))
        .map_err(|why| alone(format!("the file of keys cannot be read: {why}")))?;
    let tree = toml_file::parse(&text).map_err(alone)?;
    let (keys, mut problems) = tables_of(tree, path);
    let mut rules = Rules::default();
    super::keys::validate(&keys, config.has_single_key(), &mut rules);
    apart_from(&config.keys, &keys, &mut rules);
    let broken = rules.problems(&problems, |_| place.to_string());
    problems.extend(broken);
    if problems.is_empty() { Ok(keys) } else { Err(Problems(problems)) }
}

fn tables_of(tree: Dict, path: &Path) -> (Vec<KeyConfig>, Vec<Problem>) {
    let place = Origin::File(PathBuf::from(path));
    let schema = Schema::new();
    let mut problems = Vec::new();
    let mut list = Value::from(Vec::<Value>::new());
    for (name, value) in tree {
        if name == LIST && value.as_array().is_some() {
            list = value;
        } else {
            let what = "this file holds [[keys]] with their keys below them, and nothing else";
            problems.push(Problem::at(&place, name, what));
        }
    }
    let (sound, wrong) = tables::sift(Setting::new(LIST, list, &place), &schema);
    problems.extend(wrong);
    let config = Figment::from(Serialized::defaults(Config::default())).merge(sound).extract();
    let keys = config.map(|config: Config| config.keys).unwrap_or_else(|error| {
        // Each was tried alone, so this would be a fault of ours.
        problems.push(Problem::at(&place, error.path.join("."), "the keys do not fit together"));
        Vec::new()
    });
    (keys, problems)
}

/// No label may be in both, and together they may not be too many.
fn apart_from(configured: &[KeyConfig], keys: &[KeyConfig], rules: &mut Rules) {
    let all = configured.len() + keys.len();
    let what = format!("found {all} keys with those of the configuration, expected {MOST} at most");
    rules.require(all <= MOST || keys.len() > MOST, &[LIST], what);
    for (key, n) in keys.iter().zip(1..) {
        if !key.label.is_empty() && configured.iter().any(|other| other.label == key.label) {
            let at = format!("{}.label", place(LIST, n));
            let whose = whose(LIST, n, Some(&key.label));
            let what = format!("a key of the configuration has this label: choose another{whose}");
            rules.require(false, &[&at], what);
        }
    }
}
