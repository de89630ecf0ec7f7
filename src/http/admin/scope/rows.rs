//! Lists of all nodes as one: each gives the first of its rows, and the page is cut out of them
//! together.

use std::{cmp::Ordering, str::FromStr, sync::Arc};

use axum::{http::StatusCode, response::Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Asked, Missing, View,
    ask::{Question, Target},
    json,
};
use crate::{
    config::Network,
    http::{
        Problem,
        page::{MAX_LIMIT, Page},
    },
};

/// How far into a list of all nodes a page may reach: each of them has to give as many rows.
pub(super) const DEEPEST: usize = 10_000;

/// One row: a JSON object.
pub(super) type Row = Map<String, Value>;

/// One page of a node's list.
#[derive(Deserialize)]
pub(super) struct Part {
    pub(super) total: usize,
    pub(super) items: Vec<Row>,
}

/// One page of the list of all.
#[derive(Serialize)]
pub(super) struct Whole {
    total: usize,
    limit: usize,
    offset: usize,
    items: Vec<Row>,
    /// Whether a node's rows are missing.
    partial: bool,
    missing: Vec<Missing>,
}

/// The order of rows: by these fields, each upwards or downwards; then by node.
pub(super) struct Sorted(Vec<(&'static str, Direction)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl View {
    pub(super) async fn rows(
        &self,
        path: &str,
        asked: &Asked,
        question: &Question,
    ) -> Result<Response, Problem> {
        let page = page(asked)?;
        // What is wrong with the question is said once.
        let first = self.of_this(question).await?;
        if !first.status.is_success() {
            return Ok(first.into_response());
        }
        let sorted = Sorted::of(path, asked.sort.as_deref());
        let wanted = page.end();
        let (mut total, mut rows) = (0, Vec::new());
        let ask = async |target: Target<'_>| first_rows(&target, question, wanted).await;
        let missing = self
            .each(ask, |node, part: Part| {
                total += part.total;
                rows.extend(part.items.into_iter().map(|row| of_node(row, &node)));
                rows.sort_by(|a, b| sorted.compare(a, b));
                rows.truncate(wanted);
            })
            .await;
        Ok(json(&Whole::new(page, total, rows, missing)))
    }
}

impl Whole {
    /// The page of these rows, which are its end's first.
    pub(super) fn new(page: Page, total: usize, rows: Vec<Row>, missing: Vec<Missing>) -> Self {
        let (limit, offset) = (page.limit(), page.offset());
        let items = rows.into_iter().skip(offset).take(limit).collect();
        Self { total, limit, offset, items, partial: !missing.is_empty(), missing }
    }
}

/// The page that is asked for, if it does not reach too far.
pub(super) fn page(asked: &Asked) -> Result<Page, Problem> {
    let page = Page::new(asked.limit, asked.offset)?;
    if page.end() > DEEPEST {
        let detail = format!(
            "of all nodes together the first {DEEPEST} rows are to be had: filter, sort otherwise, \
             or name a node with node=NAME"
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    Ok(page)
}

/// As many rows of a node as are wanted, in as many pages as that takes.
pub(super) async fn first_rows(
    target: &Target<'_>,
    question: &Question,
    wanted: usize,
) -> Result<Part, String> {
    let mut whole = Part { total: 0, items: Vec::new() };
    while whole.items.len() < wanted {
        let limit = (wanted - whole.items.len()).min(MAX_LIMIT);
        let page = question.page(limit, whole.items.len());
        let mut part: Part = target.ask(page).await?.read()?;
        part.items.truncate(limit);
        whole.total = part.total;
        let was_last = part.items.len() < limit;
        whole.items.append(&mut part.items);
        if was_last {
            break;
        }
    }
    Ok(whole)
}

/// The row, with whose it is.
pub(super) fn of_node(mut row: Row, node: &Arc<str>) -> Row {
    row.insert("node".to_owned(), Value::from(&**node));
    row
}

impl Sorted {
    /// As the list at `path` is sorted by each node, so that the first of all are among the first
    /// of each.
    fn of(path: &str, sort: Option<&str>) -> Self {
        use Direction::{Down, Up};
        Self(match path {
            "/waiting" => vec![("age_seconds", Down), ("uuid", Up)],
            "/addresses" => vec![("connections_open", Down), ("refused", Down), ("address", Up)],
            "/relays" | "/carried" => {
                let sort = sort.unwrap_or("age");
                let (name, direction, opposite) =
                    sort.strip_prefix('-').map_or((sort, Up, Down), |name| (name, Down, Up));
                let field = match name {
                    "idle" => "idle_seconds",
                    "bytes" => "bytes",
                    "rate" => "bytes_per_second",
                    "uuid" => "uuid",
                    "target_id" => "target_id",
                    // Ages are told at other times by each node, and by each page.
                    _ => "started",
                };
                let by = if field == "started" { opposite } else { direction };
                vec![(field, by), ("node", Up), ("id", opposite)]
            }
            _ => vec![("network", Up)],
        })
    }

    fn compare(&self, a: &Row, b: &Row) -> Ordering {
        let fields = self.0.iter().chain([&("node", Direction::Up)]);
        let by_field = |&(field, direction): &(&str, Direction)| {
            let ordering = compare(field, a.get(field), b.get(field));
            if direction == Direction::Down { ordering.reverse() } else { ordering }
        };
        fields.map(by_field).find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
    }
}

/// Nothing first, then numbers, then text: times and networks as what they are.
fn compare(field: &str, a: Option<&Value>, b: Option<&Value>) -> Ordering {
    fn as_such<T: Ord + FromStr>(a: &str, b: &str) -> Ordering {
        a.parse::<T>().ok().cmp(&b.parse().ok()).then(a.cmp(b))
    }
    let rank = |value: Option<&Value>| match value {
        None | Some(Value::Null) => 0,
        Some(Value::Number(_)) => 1,
        Some(_) => 2,
    };
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_u64(), b.as_u64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => {
                let float = |number: &serde_json::Number| number.as_f64().unwrap_or_default();
                float(a).total_cmp(&float(b))
            }
        },
        (Some(Value::String(a)), Some(Value::String(b))) => match field {
            "started" => as_such::<Timestamp>(a, b),
            "network" | "address" => as_such::<Network>(a, b),
            _ => a.cmp(b),
        },
        _ => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[Value]) -> Vec<Row> {
        values.iter().map(|value| value.as_object().unwrap().clone()).collect()
    }

    #[test]
    fn rows_of_several_nodes_are_in_the_order_that_each_has_them_in() {
        let of = |field: &str, values: [Value; 3], path: &str, sort: Option<&str>| {
            let mut rows: Vec<_> = values
                .into_iter()
                .zip(["b", "a", "a"])
                .zip([1, 2, 3])
                .map(|((value, node), id)| {
                    serde_json::json!({ field: value, "node": node, "id": id })
                })
                .collect();
            rows = rows.into_iter().collect();
            let mut rows = self::rows(&rows);
            let sorted = Sorted::of(path, sort);
            rows.sort_by(|a, b| sorted.compare(a, b));
            rows.into_iter().map(|row| row["id"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        let ages = [3.0, 1.5, 2.0].map(Value::from);
        assert_eq!(of("age_seconds", ages, "/waiting", None), [1, 3, 2]);
        let started = ["05Z", "05.25Z", "05.1Z"]
            .map(|second| Value::from(format!("2026-01-02T03:04:{second}")));
        assert_eq!(of("started", started.clone(), "/relays", None), [2, 3, 1]);
        assert_eq!(of("started", started, "/relays", Some("-age")), [1, 3, 2]);
        let same = [1, 1, 1].map(Value::from);
        assert_eq!(of("bytes", same.clone(), "/relays", Some("bytes")), [3, 2, 1]);
        assert_eq!(of("bytes", same, "/relays", Some("-bytes")), [2, 3, 1]);
        let big = [u64::MAX, u64::MAX - 1, 0].map(Value::from);
        assert_eq!(of("bytes", big, "/relays", Some("-bytes")), [1, 2, 3]);
        let ids = [Value::Null, Value::from("9"), Value::from("10")];
        assert_eq!(of("target_id", ids, "/relays", Some("target_id")), [1, 3, 2]);
        let networks = ["192.0.2.10/32", "192.0.2.9/32", "10.0.0.0/8"].map(Value::from);
        assert_eq!(of("network", networks, "/blocklist", None), [3, 2, 1]);
    }
}
