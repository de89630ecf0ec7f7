//! One relay, wherever it is: found, changed and closed by its uuid, or closed by a key's label.

use std::collections::BTreeMap;

use axum::{http::StatusCode, response::Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Missing, View,
    ask::{Question, Reply},
    json as answer,
    rows::{Row, of_node},
};
use crate::http::Problem;

/// What closing did.
#[derive(Serialize)]
struct Closed {
    closed: u64,
    /// Of those that had one.
    by_node: BTreeMap<String, u64>,
    partial: bool,
    missing: Vec<Missing>,
}

impl View {
    /// The youngest of this name, shown or changed: every node that has one changes it.
    pub(super) async fn relay(&self, question: &Question) -> Result<Response, Problem> {
        let (mut found, mut refused): (Vec<Row>, Vec<Reply>) = Default::default();
        let mut unread = Vec::new();
        let mut missing = self
            .all(question, |node, reply| match reply.status {
                StatusCode::NOT_FOUND => {}
                status if status.is_client_error() => refused.push(reply),
                _ => match reply.read::<Row>() {
                    Ok(row) => found.push(of_node(row, &node)),
                    Err(why) => unread.push(Missing { node: node.to_string(), why }),
                },
            })
            .await;
        missing.append(&mut unread);
        let age = |row: &Row| row.get("age_seconds").and_then(Value::as_f64).unwrap_or_default();
        let youngest = found.into_iter().min_by(|a, b| age(a).total_cmp(&age(b)));
        match (youngest, refused.pop()) {
            (Some(mut row), _) => {
                row.insert("partial".to_owned(), (!missing.is_empty()).into());
                row.insert("missing".to_owned(), json!(missing));
                Ok(answer(&row))
            }
            (None, Some(reply)) => Ok(reply.into_response()),
            (None, None) => Err(nowhere(&missing)),
        }
    }

    pub(super) async fn close(&self, question: &Question) -> Result<Response, Problem> {
        let (mut by_node, mut refused) = (BTreeMap::new(), None);
        let (mut unread, mut is_found) = (Vec::new(), false);
        let mut missing = self
            .all(question, |node, reply| match reply.status {
                StatusCode::NOT_FOUND => {}
                status if status.is_client_error() => refused = Some(reply),
                _ => match reply.read::<Row>() {
                    Ok(row) => {
                        is_found = true;
                        let closed = row.get("closed").and_then(Value::as_u64).unwrap_or_default();
                        if closed > 0 {
                            by_node.insert(node.to_string(), closed);
                        }
                    }
                    Err(why) => unread.push(Missing { node: node.to_string(), why }),
                },
            })
            .await;
        missing.append(&mut unread);
        if !is_found {
            return refused.map(Reply::into_response).ok_or_else(|| nowhere(&missing));
        }
        let (closed, partial) = (by_node.values().sum(), !missing.is_empty());
        Ok(answer(&Closed { closed, by_node, partial, missing }))
    }
}

fn nowhere(missing: &[Missing]) -> Problem {
    if missing.is_empty() {
        let detail = "no active relay of any node has this uuid; it may have just ended";
        return Problem::new(StatusCode::NOT_FOUND, detail);
    }
    let why = missing.iter().map(|Missing { node, why }| format!("{node}: {why}"));
    let detail = "no active relay of the nodes that answer has this uuid; others do not answer, \
                  and may have it";
    Problem::new(StatusCode::NOT_FOUND, detail).with_problems(why.collect())
}
