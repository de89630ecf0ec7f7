//! The API's answers as text for people. What clients chose themselves is escaped: it could
//! upset a terminal.

use bytesize::ByteSize;
use comfy_table::{Table, presets};
use serde::Deserialize;

use crate::{config::Duration, wire::rendezvous::Text};

/// One page of relays.
#[derive(Deserialize)]
pub(super) struct Page {
    total: usize,
    items: Vec<Relay>,
}

/// One relay.
#[derive(Deserialize)]
pub(super) struct Relay {
    uuid: String,
    target_id: Option<String>,
    connection_type: String,
    started: String,
    age_seconds: f64,
    idle_seconds: f64,
    waited_seconds: f64,
    bytes: u64,
    bytes_per_second: u64,
    bandwidth: String,
    limited: bool,
    legs: [Leg; 2],
}

#[derive(Deserialize)]
struct Leg {
    address: String,
    transport: String,
    /// The label of its key.
    key: Option<String>,
    tls: bool,
    sent_bytes: u64,
    sent_bytes_per_second: u64,
}

/// What closing did.
#[derive(Deserialize)]
pub(super) struct Closed {
    closed: usize,
}

/// A table, and how much of the whole it is.
pub(super) fn list(page: &Page) -> String {
    let footer = format!("{} of {}\n", page.items.len(), relays(page.total));
    if page.items.is_empty() {
        return footer;
    }
    let mut table = plain();
    table.set_header([
        "UUID",
        "TARGET",
        "TYPE",
        "FIRST LEG",
        "SECOND LEG",
        "AGE",
        "IDLE",
        "FIRST SENT",
        "SECOND SENT",
        "RATE",
    ]);
    for relay in &page.items {
        let [first, second] = &relay.legs;
        table.add_row([
            safe(&relay.uuid),
            relay.target(),
            safe(&relay.connection_type),
            first.place(),
            second.place(),
            span(relay.age_seconds),
            span(relay.idle_seconds),
            size(first.sent_bytes),
            size(second.sent_bytes),
            rate(relay.bytes_per_second),
        ]);
    }
    format!("{}\n\n{footer}", text(table))
}

/// One line for each thing that is known.
pub(super) fn one(relay: &Relay) -> String {
    let mut table = plain();
    let [first, second] = &relay.legs;
    table.add_rows([
        ["uuid", &safe(&relay.uuid)],
        ["target id", &relay.target()],
        ["type", &safe(&relay.connection_type)],
        ["started", &safe(&relay.started)],
        ["age", &span(relay.age_seconds)],
        ["idle", &span(relay.idle_seconds)],
        ["moved", &format!("{}, {}", size(relay.bytes), rate(relay.bytes_per_second))],
        ["bandwidth", &relay.bandwidth()],
        ["first leg", &first.place()],
        ["  waited", &span(relay.waited_seconds)],
        ["  sent", &first.sent()],
        ["second leg", &second.place()],
        ["  sent", &second.sent()],
    ]);
    format!("{}\n", text(table))
}

/// A sentence.
pub(super) fn closed(uuid: &str, Closed { closed }: &Closed) -> String {
    format!("closed {} with the uuid {}\n", relays(*closed), safe(uuid))
}

impl Relay {
    /// Its own limit, and whether any limit holds it back.
    fn bandwidth(&self) -> String {
        let held_back = if self.limited { ", held back" } else { "" };
        format!("{}{held_back}", safe(&self.bandwidth))
    }

    fn target(&self) -> String {
        self.target_id.as_deref().map_or_else(|| "-".to_owned(), safe)
    }
}

impl Leg {
    fn place(&self) -> String {
        let within = if self.tls { " in TLS" } else { "" };
        let place = format!("{} {}{within}", safe(&self.address), safe(&self.transport));
        self.key.as_deref().map_or_else(|| place.clone(), |key| format!("{place} {}", safe(key)))
    }

    fn sent(&self) -> String {
        format!("{}, {}", size(self.sent_bytes), rate(self.sent_bytes_per_second))
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Columns two spaces apart, and none before the first or behind the last.
fn text(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

fn relays(count: usize) -> String {
    if count == 1 { "1 relay".to_owned() } else { format!("{count} relays") }
}

fn safe(text: &str) -> String {
    Text::from(text).to_string()
}

fn span(seconds: f64) -> String {
    // Out-of-range floats become the nearest number, and none is out of range here.
    Duration::from_secs(seconds as u64).to_string()
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", size(bytes_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(total: usize) -> Page {
        let relay = serde_json::json!({
            "id": 7, "uuid": "u\u{1b}[2J", "target_id": null, "connection_type": "default",
            "started": "2026-01-02T03:04:05Z", "age_seconds": 3725.9, "idle_seconds": 0.2,
            "waited_seconds": 1.0, "bytes": 2048, "bytes_per_second": 10,
            "bandwidth": "8Mbit/s", "limited": true,
            "legs": [
                { "address": "192.0.2.1:5", "transport": "tcp", "tls": true,
                  "sent_bytes": 2048, "sent_bytes_per_second": 10 },
                { "address": "[2001:db8::1]:6", "transport": "websocket", "tls": false,
                  "sent_bytes": 0, "sent_bytes_per_second": 0 },
            ],
        });
        let page = serde_json::json!({ "total": total, "limit": 1, "offset": 0, "items": [relay] });
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn a_table_has_human_units_and_a_footer() {
        let text = list(&page(3));
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("UUID"), "{text}");
        for part in
            ["192.0.2.1:5 tcp in TLS", "[2001:db8::1]:6 websocket", "1h 2m 5s", "2.0 KiB", " - "]
        {
            assert!(lines[1].contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(lines.last(), Some(&"1 of 3 relays"));
        assert!(one(&page(1).items[0]).contains("8Mbit/s, held back"));
        assert_eq!(list(&Page { total: 1, items: vec![] }), "0 of 1 relay\n");
    }

    #[test]
    fn what_a_client_chose_cannot_upset_a_terminal() {
        for text in [list(&page(1)), one(&page(1).items[0]), closed("\u{7}", &Closed { closed: 2 })]
        {
            assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
        }
    }
}
