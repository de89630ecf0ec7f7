//! The series of the keys. Written out by hand: their labels come and go with the configuration,
//! and a recorder never forgets one.

use std::{fmt::Write as _, sync::Arc};

/// What is counted of one key.
#[derive(Debug, Clone)]
pub struct KeyFigures {
    /// What it is called: letters, digits, dots, dashes and underscores, so that nothing of it has
    /// to be escaped.
    pub label: Arc<str>,
    /// Its relays now.
    pub active: u32,
    /// Bytes of its relays since the start, both ways.
    pub bytes: u64,
    /// The same this month.
    pub traffic: u64,
    /// How often it was denied what it grants, by the reason.
    pub refused: [(&'static str, u64); 3],
}

/// Adds the series of `keys` to a text in Prometheus' format; none if there is no key.
pub(super) fn render(keys: &[KeyFigures], text: &mut String) {
    if keys.is_empty() {
        return;
    }
    let mut series = |name: &str, kind: &str, help: &str, value: &dyn Fn(&KeyFigures) -> u64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for key in keys {
            let _ = writeln!(text, "{name}{{key=\"{}\"}} {}", key.label, value(key));
        }
        text.push('\n');
    };
    let help = "Relays active now, by the key of either leg";
    series("relay_key_active_relays", "gauge", help, &|key| key.active.into());
    let help = "Bytes relayed both ways, on the key of each leg; once if both have the same";
    series("relay_key_bytes_total", "counter", help, &|key| key.bytes);
    let help = "The same in the calendar month (UTC), as monthly_traffic counts it";
    series("relay_key_month_bytes", "gauge", help, &|key| key.traffic);
    let (name, help) = ("relay_key_refused_total", "Legs refused, by the key and the reason");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for key in keys {
        for (reason, count) in key.refused {
            let label = &key.label;
            let _ = writeln!(text, "{name}{{key=\"{label}\",reason=\"{reason}\"}} {count}");
        }
    }
}
