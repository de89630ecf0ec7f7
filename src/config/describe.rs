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
        self.describe_keys("", &tree, &mut text);
        for (name, section) in &tree {
            if let Some(section) = section.as_dict() {
                let _ = writeln!(text, "\n[{name}]");
                self.describe_keys(&format!("{name}."), section, &mut text);
            }
        }
        text
    }

    fn describe_keys(&self, prefix: &str, keys: &Dict, text: &mut String) {
        for (name, value) in keys.iter().filter(|(_, value)| value.as_dict().is_none()) {
            let origin = self.origins.of(&format!("{prefix}{name}"));
            let from = if *origin == super::Origin::Default { "" } else { "from " };
            // A file may have any name, and a comment must stay on its line.
            let origin = origin.to_string().replace(char::is_control, "?");
            let _ = writeln!(text, "{name} = {} # {from}{origin}", toml(value));
        }
    }
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
