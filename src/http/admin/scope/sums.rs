//! What is one figure for all nodes: keys, and the cluster at a glance. And what each node has of
//! its own kind.

use std::{collections::HashMap, sync::Arc};

use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Asked, Missing, View,
    ask::{Question, Target},
    exposition::Merged,
    json as answer,
    rows::{DEEPEST, Part, Row, Whole, first_rows, of_node, page},
};
use crate::http::{Problem, admin::text};

/// Figures of a key that are what all nodes have together, and those of how often it was refused.
const SUMS: [&str; 2] = ["relays_active", "bytes"];
const REFUSED: [&str; 3] = ["expired", "max_relays", "monthly_traffic"];

/// What each node has.
#[derive(Serialize)]
struct Each {
    nodes: Vec<Row>,
    partial: bool,
    missing: Vec<Missing>,
}

impl View {
    /// A row for each label: what all nodes have of it, and what each has.
    pub(super) async fn keys(
        &self,
        asked: &Asked,
        question: &Question,
    ) -> Result<Response, Problem> {
        let page = page(asked)?;
        let first = self.of_this(question).await?;
        if !first.status.is_success() {
            return Ok(first.into_response());
        }
        let mut keys = Keys::default();
        let ask = async |target: Target<'_>| first_rows(&target, question, DEEPEST).await;
        let missing = self.each(ask, |node, part: Part| keys.add(&node, part.items)).await;
        let total = keys.0.len();
        let rows = keys.in_order().take(page.end()).map(Key::together).collect();
        Ok(answer(&Whole::new(page, total, rows, missing)))
    }

    /// The sums, and what each node has.
    pub(super) async fn stats(&self, question: &Question) -> Result<Response, Problem> {
        self.whole(question, |nodes| {
            let mut sums = Row::new();
            for name in [
                "connections_open",
                "legs_waiting",
                "relays_active",
                "relays_total",
                "bytes_total",
                "bytes_per_second",
            ] {
                sums.insert(name.to_owned(), sum(nodes, |node| node.get(name)).into());
            }
            let refused = |node: &Row| node.get("refused").and_then(Value::as_object).cloned();
            let mut reasons: Vec<_> = nodes
                .iter()
                .filter_map(refused)
                .flat_map(|of| of.into_iter().map(|(r, _)| r))
                .collect();
            reasons.sort();
            reasons.dedup();
            let total = |reason: &String| {
                sum(nodes, |node| node.get("refused").and_then(|refused| refused.get(reason)))
            };
            let refused = reasons.iter().map(|reason| (reason.clone(), total(reason).into()));
            sums.insert("refused".to_owned(), Value::Object(refused.collect()));
            sums
        })
        .await
    }

    /// What each node has in force.
    pub(super) async fn bandwidth(&self, question: &Question) -> Result<Response, Problem> {
        self.whole(question, |_| Row::new()).await
    }

    /// Every node's answer, and what all have together.
    async fn whole(
        &self,
        question: &Question,
        together: impl FnOnce(&[Row]) -> Row,
    ) -> Result<Response, Problem> {
        let first = self.of_this(question).await?;
        if !first.status.is_success() {
            return Ok(first.into_response());
        }
        let mut nodes = Vec::new();
        let ask = async |target: Target<'_>| target.ask(question.request()).await?.read::<Row>();
        let missing = self.each(ask, |node, row| nodes.push(of_node(row, &node))).await;
        nodes.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        let mut whole = together(&nodes);
        let each = Each { partial: !missing.is_empty(), nodes, missing };
        // What it is made of are names and numbers.
        if let Ok(Value::Object(each)) = serde_json::to_value(&each) {
            whole.extend(each);
        }
        Ok(answer(&whole))
    }

    /// The metrics of all, each sample with the node whose it is.
    pub(super) async fn metrics(&self, question: &Question) -> Result<Response, Problem> {
        let mut merged = Merged::default();
        let mut answers = Vec::new();
        let missing = self.all(question, |node, reply| answers.push((node, reply))).await;
        answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        let (mut up, mut down) = (Vec::new(), missing);
        for (node, reply) in answers {
            match std::str::from_utf8(&reply.body) {
                Ok(text) if reply.status.is_success() => {
                    merged.add(&node, text);
                    up.push(node);
                }
                _ => down.push(Missing { node: node.to_string(), why: reply.fault() }),
            }
        }
        let up = up.iter().map(|node| (&**node, true));
        merged.show_up(up.chain(down.iter().map(|missing| (&*missing.node, false))));
        Ok(text(merged.text()))
    }
}

fn name_of(row: &Row) -> &str {
    row.get("node").and_then(Value::as_str).unwrap_or_default()
}

fn sum<'a>(rows: &'a [Row], of: impl Fn(&'a Row) -> Option<&'a Value>) -> u64 {
    let numbers = rows.iter().filter_map(|row| of(row).and_then(Value::as_u64));
    numbers.fold(0, u64::saturating_add)
}

/// The keys of all nodes by their labels. Of most rows no more is kept than their figures: there may
/// be as many as there are keys, times the nodes.
#[derive(Default)]
struct Keys(HashMap<String, Key>);

/// One key, as several nodes have it.
struct Key {
    /// As the first node has it: what it grants is what the configuration says, the same on all.
    row: Row,
    /// Which node that is, and the how manieth row of it.
    place: (Arc<str>, usize),
    sums: [u64; SUMS.len()],
    refused: [u64; REFUSED.len()],
    /// What all nodes have carried this month.
    month_bytes: u64,
    nodes: Vec<OfNode>,
}

/// What a node has of it.
struct OfNode {
    node: Arc<str>,
    relays_active: u64,
    month_bytes: u64,
}

impl Keys {
    fn add(&mut self, node: &Arc<str>, rows: Vec<Row>) {
        for (at, row) in rows.into_iter().enumerate() {
            let label = row.get("label").and_then(Value::as_str).unwrap_or_default();
            let place = (Arc::clone(node), at);
            match self.0.get_mut(label) {
                Some(key) => key.add(row, place),
                None => drop(self.0.insert(label.to_owned(), Key::new(row, place))),
            }
        }
    }

    /// In the order of the first node that has each.
    fn in_order(self) -> impl Iterator<Item = Key> {
        let mut keys: Vec<_> = self.0.into_values().collect();
        keys.sort_by(|a, b| a.place.cmp(&b.place));
        keys.into_iter()
    }
}

impl Key {
    fn new(row: Row, place: (Arc<str>, usize)) -> Self {
        let (sums, refused) = Default::default();
        let first = place.clone();
        let mut key = Self { row: Row::new(), place, sums, refused, month_bytes: 0, nodes: vec![] };
        key.add(row, first);
        key
    }

    fn add(&mut self, row: Row, place: (Arc<str>, usize)) {
        let number = |row: &Row, name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0);
        for (sum, name) in self.sums.iter_mut().zip(SUMS) {
            *sum = sum.saturating_add(number(&row, name));
        }
        if let Some(refused) = row.get("refused").and_then(Value::as_object) {
            for (sum, name) in self.refused.iter_mut().zip(REFUSED) {
                *sum = sum.saturating_add(number(refused, name));
            }
        }
        let month_bytes = number(&row, "month_bytes");
        // What any of them knows of all, since those that have ended count too. A node that knows
        // nothing of others has its own.
        let of_all = row.get("cluster").and_then(Value::as_object);
        let known = of_all.map_or(month_bytes, |cluster| number(cluster, "month_bytes"));
        self.month_bytes = self.month_bytes.max(known);
        let relays_active = number(&row, "relays_active");
        self.nodes.push(OfNode { node: Arc::clone(&place.0), relays_active, month_bytes });
        if self.row.is_empty() || place < self.place {
            (self.row, self.place) = (row, place);
        }
    }

    /// As it is shown.
    fn together(mut self) -> Row {
        let mut whole = self.row;
        whole.remove("cluster");
        let sums = SUMS.into_iter().zip(self.sums);
        whole.extend(sums.map(|(name, sum)| (name.to_owned(), sum.into())));
        whole.insert("month_bytes".to_owned(), self.month_bytes.into());
        let refused = REFUSED.into_iter().zip(self.refused);
        let refused = refused.map(|(name, sum)| (name.to_owned(), Value::from(sum)));
        whole.insert("refused".to_owned(), Value::Object(refused.collect()));
        self.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let nodes = self.nodes.iter().map(|OfNode { node, relays_active, month_bytes }| {
            json!({ "node": &**node, "relays_active": relays_active, "month_bytes": month_bytes })
        });
        whole.insert("nodes".to_owned(), nodes.collect());
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(label: &str, active: u64, month: u64, cluster: u64) -> Row {
        let key = json!({
            "label": label, "relays_active": active, "bytes": 1, "month_bytes": month,
            "max_relays": 9, "refused": { "expired": 0, "max_relays": active, "monthly_traffic": 0 },
            "cluster": { "relays_active": 9, "month_bytes": cluster },
        });
        key.as_object().unwrap().clone()
    }

    #[test]
    fn a_key_is_one_row_with_what_all_nodes_have() {
        let mut all = Keys::default();
        all.add(&"b".into(), vec![key("x", 4, 15, 35), key("z", 1, 7, 7)]);
        all.add(&"a".into(), vec![key("x", 1, 10, 30), key("y", 2, 0, 0)]);
        let keys: Vec<_> = all.in_order().map(Key::together).collect();
        let labels: Vec<_> = keys.iter().map(|key| key["label"].as_str().unwrap()).collect();
        assert_eq!(labels, ["x", "y", "z"]);
        let x = Value::Object(keys[0].clone());
        assert_eq!(x["relays_active"], 5);
        assert_eq!(x["month_bytes"], 35, "what nodes that have ended had carried is in it");
        assert_eq!(x["refused"]["max_relays"], 5);
        assert_eq!(x["nodes"][1], json!({"node": "b", "relays_active": 4, "month_bytes": 15}));
        assert!(x.get("cluster").is_none() && x.get("node").is_none());
    }
}
