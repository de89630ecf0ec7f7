//! Lists of tables, such as `[[keys]]`: each key of each table is tried alone, so that all that is
//! wrong is said at once, and of which table.

use figment::value::{Dict, Value};

use super::{
    problem::Problem,
    schema::{Meant, Schema},
    setting::Setting,
    toml_file::home,
};

/// Takes out of a list of tables what does not fit, and says what that was. The tables keep their
/// places, so that a rule about one names the right one.
pub(super) fn sift(setting: Setting, schema: &Schema) -> (Setting, Vec<Problem>) {
    let Setting { key: list, value, origin } = setting;
    let mut problems = Vec::new();
    let tables = value.into_array().unwrap_or_default().into_iter().zip(1..).map(|(table, n)| {
        let Some(table) = table.into_dict() else {
            let what = format!("expected a table: write [[{list}]] with its keys below it");
            problems.push(Problem::at(&origin, place(&list, n), what));
            return Value::from(Dict::new());
        };
        let whose = whose(&list, n, label_of(&table));
        let sound = table.into_iter().filter(|(name, value)| {
            let path = format!("{}.{name}", place(&list, n));
            let found = if schema.table(&list).is_some_and(|known| known.contains_key(name)) {
                Schema::check(&Setting::new(path, value.clone(), &origin))
            } else {
                Err(Problem::at(&origin, path, unknown(&list, name, schema)))
            };
            let problem = found
                .err()
                .map(|problem| Problem { what: format!("{}{whose}", problem.what), ..problem });
            let sound = problem.is_none();
            problems.extend(problem);
            sound
        });
        Value::from(sound.collect::<Dict>())
    });
    let tables: Vec<_> = tables.collect();
    (Setting::new(list, tables, origin), problems)
}

/// A table of a list, counted from 1: `keys[2]`.
pub(super) fn place(list: &str, n: usize) -> String {
    format!("{list}[{n}]")
}

/// The same for a person, after what is wrong with it.
pub(super) fn whose(list: &str, n: usize, label: Option<&str>) -> String {
    let label = label.map(|label| format!(", {label:?}")).unwrap_or_default();
    format!(" (the {} of [[{list}]]{label})", ordinal(n))
}

/// Whether a text is a label: what cannot be one is not shown, since it may be a key that was
/// written into the wrong line.
pub fn is_label(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(fits)
}

fn label_of(table: &Dict) -> Option<&str> {
    table.get("label")?.as_str().filter(|label| is_label(label))
}

fn ordinal(n: usize) -> String {
    let ending = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

fn unknown(list: &str, name: &str, schema: &Schema) -> String {
    if let Some(meant) = schema.field_meant_by(list, name) {
        return format!("unknown key: did you mean {meant}?");
    }
    if let Meant::Elsewhere(keys) = schema.meant_by(&format!("{list}.{name}")) {
        let homes: Vec<_> = keys.iter().map(|key| home(key)).collect();
        return format!("unknown here: it belongs {}", homes.join(", or "));
    }
    let known: Vec<_> =
        schema.table(list).into_iter().flat_map(Dict::keys).map(String::as_str).collect();
    format!("unknown key: the keys of each are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_counted_as_people_count() {
        let counted = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].map(ordinal).join(" ");
        assert_eq!(counted, "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th");
    }
}
