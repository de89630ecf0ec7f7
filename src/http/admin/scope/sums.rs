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
        let mut parts = Vec::new();
        let ask = async |target: Target<'_>| first_rows(&target, question, DEEPEST).await;
        let missing = self.each(ask, |node, part: Part| parts.push((node, part.items))).await;
        let keys = merged(parts);
        Ok(answer(&Whole::new(page, keys.len(), keys, missing)))
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

/// The keys of all nodes by their labels, in the order of the first node that has each.
fn merged(mut parts: Vec<(Arc<str>, Vec<Row>)>) -> Vec<Row> {
    parts.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut order: Vec<Value> = Vec::new();
    let mut by_label: HashMap<String, Vec<Row>> = HashMap::new();
    for (node, rows) in parts {
        for row in rows {
            let label = row.get("label").cloned().unwrap_or_default();
            let same = by_label.entry(label.to_string()).or_insert_with(|| {
                order.push(label);
                Vec::new()
            });
            same.push(of_node(row, &node));
        }
    }
    let rows = order.iter().filter_map(|label| by_label.remove(&label.to_string()));
    rows.map(together).collect()
}

/// One key, as several nodes have it.
fn together(same: Vec<Row>) -> Row {
    // What it grants is what the configuration of the first says: all should say the same.
    let mut whole = same.first().cloned().unwrap_or_default();
    for inner in ["node", "cluster"] {
        whole.remove(inner);
    }
    for name in SUMS {
        whole.insert(name.to_owned(), sum(&same, |row| row.get(name)).into());
    }
    whole.insert("month_bytes".to_owned(), month_bytes(&same).into());
    let refused = REFUSED.map(|name| {
        (name.to_owned(), Value::from(sum(&same, |row| row.get("refused")?.get(name))))
    });
    whole.insert("refused".to_owned(), Value::Object(refused.into_iter().collect()));
    let nodes = same.iter().map(|row| {
        let field = |name: &str| row.get(name).cloned().unwrap_or_default();
        json!({
            "node": field("node"),
            "relays_active": field("relays_active"),
            "month_bytes": field("month_bytes"),
        })
    });
    whole.insert("nodes".to_owned(), nodes.collect());
    whole
}

/// What all nodes have carried this month: what any of them knows of all, since those that have
/// ended count too. A node that knows nothing of others has its own.
fn month_bytes(same: &[Row]) -> u64 {
    let known = |row: &Row| {
        let cluster = row.get("cluster").and_then(|cluster| cluster.get("month_bytes"));
        cluster.or(row.get("month_bytes")).and_then(Value::as_u64)
    };
    same.iter().filter_map(known).max().unwrap_or_default()
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
        let a = ("a".into(), vec![key("x", 1, 10, 30), key("y", 2, 0, 0)]);
        let b = ("b".into(), vec![key("x", 4, 15, 35), key("z", 1, 7, 7)]);
        let keys = merged(vec![b, a]);
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
