//! What is in force, as the TOML that would say the same, with the origin of each value.

use std::fmt::Write as _;

use figment::value::{Dict, Value};

use super::load::Loaded;

impl Loaded {
    /// Valid TOML of every key in force, secrets as `***`, each line with a comment that says
    /// where its value comes from.
    pub fn describe(&self) -> String {
        let tree = Value::serialize(&self.config).ok().and_then(Value::into_dict);
        let tree = tree.unwrap_or_default();
        let mut text = String::new();
        self.describe_section("", &tree, &mut text);
        self.describe_tables(&tree, &mut text);
        text
    }

    /// A section's keys, then the sections within it.
    fn describe_section(&self, path: &str, section: &Dict, text: &mut String) {
        let within =
            |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for (name, value) in section.iter().filter(|(_, value)| value.as_dict().is_none()) {
            if tables_in(value).is_none() {
                let from = self.from(&within(name));
                let _ = writeln!(text, "{name} = {} # {from}", toml(value));
            }
        }
        for (name, value) in section {
            if let Some(section) = value.as_dict() {
                let path = within(name);
                let _ = writeln!(text, "\n[{path}]");
                self.describe_section(&path, section, text);
            }
        }
    }

    /// The lists of tables. They stand last: what followed them would be in their last table.
    fn describe_tables(&self, tree: &Dict, text: &mut String) {
        let lists = tree.iter().filter_map(|(name, value)| Some((name, tables_in(value)?)));
        for (name, tables) in lists {
            for table in tables {
                let _ = writeln!(text, "\n[[{name}]] # {}", self.from(name));
                for (name, value) in table.iter().filter(|(_, value)| !is_unset(value)) {
                    let _ = writeln!(text, "{name} = {}", toml(value));
                }
            }
        }
    }

    /// Where a value comes from, as a comment says it.
    fn from(&self, key: &str) -> String {
        let origin = self.origins.of(key);
        let from = if *origin == super::Origin::Default { "" } else { "from " };
        // A file may have any name, and a comment must stay on its line.
        format!("{from}{}", origin.to_string().replace(char::is_control, "?"))
    }
}

/// The tables of a list that has any.
fn tables_in(value: &Value) -> Option<Vec<&Dict>> {
    let list = value.as_array()?;
    let tables: Vec<_> = list.iter().filter_map(Value::as_dict).collect();
    (!tables.is_empty()).then_some(tables)
}

fn is_unset(value: &Value) -> bool {
    matches!(value, Value::Empty(..)) || value.as_str() == Some("")
}

fn toml(value: &Value) -> String {
    match value {
        Value::Array(_, list) => {
            format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128()) {
            (Some(number), _) => number.to_string(),
            (_, Some(number)) => number.to_string(),
            _ => format!("{:?}", number.to_f64().unwrap_or_default()),
        },
        other => quoted(other.as_str().unwrap_or_default()),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
