//! The API's answers as text for people. What clients chose themselves is escaped: it could
//! upset a terminal.

use std::collections::BTreeMap;

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

/// One page of nodes.
#[derive(Deserialize)]
pub(in crate::cli) struct Nodes {
    total: usize,
    items: Vec<Node>,
}

/// One node.
#[derive(Deserialize)]
struct Node {
    name: String,
    address: Option<String>,
    version: String,
    started: String,
    draining: bool,
    heard_seconds: Option<f64>,
    relays_active: Option<u64>,
    legs_waiting: Option<u64>,
    legs_carried: Option<u64>,
    bytes_per_second: Option<u64>,
    this: bool,
}

/// One relay.
#[derive(Deserialize)]
pub(super) struct Relay {
    /// Where it is, in an answer for all nodes.
    node: Option<String>,
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
    /// The node that carries its second leg, if one does.
    via: Option<String>,
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
    /// In an answer for all nodes.
    #[serde(default)]
    by_node: BTreeMap<String, usize>,
}

/// A table, and how much of the whole it is.
pub(super) fn list(page: &Page) -> String {
    let footer = format!("{} of {}\n", page.items.len(), relays(page.total));
    if page.items.is_empty() {
        return footer;
    }
    let mut table = plain();
    let with_nodes = page.items.iter().any(|relay| relay.node.is_some());
    let header = [
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
    ];
    table.set_header(with_nodes.then_some("NODE").into_iter().chain(header));
    for relay in &page.items {
        let [first, second] = &relay.legs;
        let node = with_nodes.then(|| relay.node.as_deref().map(safe).unwrap_or_default());
        let row = [
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
        ];
        table.add_row(node.into_iter().chain(row));
    }
    format!("{}\n\n{footer}", text(table))
}

/// A table of nodes, and how many there are.
pub(in crate::cli) fn nodes(page: &Nodes) -> String {
    let mut table = plain();
    table.set_header([
        "NODE", "ADDRESS", "VERSION", "STARTED", "HEARD", "STATE", "RELAYS", "WAITING", "CARRIED",
        "RATE",
    ]);
    for node in &page.items {
        let unknown = || "?".to_owned();
        let heard = match node.heard_seconds {
            _ if node.this => "this".to_owned(),
            seconds => seconds.map_or_else(unknown, ago),
        };
        let count = |count: Option<u64>| count.map_or_else(unknown, |count| count.to_string());
        table.add_row([
            safe(&node.name),
            node.address.as_deref().map_or_else(|| "-".to_owned(), safe),
            safe(&node.version),
            safe(&node.started),
            heard,
            if node.draining { "draining" } else { "serving" }.to_owned(),
            count(node.relays_active),
            count(node.legs_waiting),
            count(node.legs_carried),
            node.bytes_per_second.map_or_else(unknown, rate),
        ]);
    }
    let nodes = if page.total == 1 { "1 node".to_owned() } else { format!("{} nodes", page.total) };
    format!("{}\n\n{} of {nodes}\n", text(table), page.items.len())
}

/// One line for each thing that is known.
pub(super) fn one(relay: &Relay) -> String {
    let mut table = plain();
    let [first, second] = &relay.legs;
    if let Some(node) = &relay.node {
        table.add_row(["node", &safe(node)]);
    }
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
    if let Some(node) = &relay.via {
        table.add_row(["  by node", &safe(node)]);
    }
    format!("{}\n", text(table))
}

/// A sentence.
pub(super) fn closed(uuid: &str, Closed { closed, by_node }: &Closed) -> String {
    let nodes: Vec<_> = by_node.keys().map(|node| safe(node)).collect();
    let of = if nodes.is_empty() { String::new() } else { format!(" on {}", nodes.join(", ")) };
    format!("closed {} with the uuid {}{of}\n", relays(*closed), safe(uuid))
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

/// How long it is since then, to a tenth of a second.
fn ago(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.1}s ago") } else { format!("{} ago", span(seconds)) }
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
    fn of_several_nodes_each_row_says_whose_it_is() {
        let mut all = page(2);
        assert!(!list(&all).contains("NODE"));
        all.items[0].node = Some("relay-\u{7}1".to_owned());
        let table = list(&all);
        assert!(table.starts_with("NODE") && table.contains("\nrelay-"), "{table}");
        assert!(!table.contains('\u{7}'), "{table:?}");
        assert!(one(&all.items[0]).starts_with("node "));
        let by_node = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]);
        assert_eq!(
            closed("u", &Closed { closed: 2, by_node }),
            "closed 2 relays with the uuid u on a, b\n"
        );
    }

    #[test]
    fn nodes_are_a_table_too() {
        let node = |name: &str, this: bool| {
            serde_json::json!({
                "name": name, "instance": "ff", "address": "10.0.0.1:21127", "version": "0.1.0",
                "started": "2026-01-02T03:04:05Z", "heard_seconds": 0.52, "draining": !this,
                "relays_active": 7, "legs_waiting": 2, "legs_carried": 1,
                "bytes_per_second": 2048, "this": this,
            })
        };
        let page = serde_json::json!({ "total": 2, "items": [node("a", true), node("b", false)] });
        let table = nodes(&serde_json::from_value(page).unwrap());
        let lines: Vec<_> = table.lines().collect();
        for (line, part) in
            [(1, "this"), (1, "serving"), (2, "0.5s ago"), (2, "draining"), (2, "2.0 KiB/s")]
        {
            assert!(lines[line].contains(part), "{part} is missing in\n{table}");
        }
        assert_eq!(lines.last(), Some(&"2 of 2 nodes"));
    }

    #[test]
    fn what_a_client_chose_cannot_upset_a_terminal() {
        for text in [
            list(&page(1)),
            one(&page(1).items[0]),
            closed("\u{7}", &Closed { closed: 2, by_node: BTreeMap::new() }),
        ] {
            assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
        }
    }
}
