//! `/nodes`: every node that is known here, this one included.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::{
    AdminState, NodeCounts, NodeStatus, Problem,
    page::{Checked, Page, Paged},
};

/// Which page of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    limit: Option<usize>,
    offset: Option<usize>,
}

/// One node, as shown.
#[derive(Debug, Serialize)]
pub(super) struct NodeView {
    name: String,
    /// Which start of it, in hexadecimal.
    instance: String,
    /// Where the other nodes reach it; null on a node that has no others.
    address: Option<String>,
    version: String,
    started: Timestamp,
    draining: bool,
    /// How long ago it has said what follows; null where that cannot be had.
    heard_seconds: Option<f64>,
    relays_active: Option<u64>,
    legs_waiting: Option<u64>,
    legs_carried: Option<u64>,
    bytes_per_second: Option<u64>,
    /// Whether it is the one that answers.
    this: bool,
}

/// By their names.
pub(super) async fn list(
    State(admin): State<Arc<AdminState>>,
    Checked(filter): Checked<Filter>,
) -> Result<Json<Paged<NodeView>>, Problem> {
    let page = Page::new(filter.limit, filter.offset)?;
    let others = admin.nodes.counted().await;
    let all = named(others, &admin).into_iter();
    Ok(Json(page.of(all.map(|(node, this)| NodeView::of(node, this)).collect())))
}

/// Every node, each under a name of its own, and whether it is this one: by these names.
///
/// Of two processes with one name, of which one takes over, the older has its instance in its name.
pub(super) fn all(admin: &AdminState) -> Vec<(NodeStatus, bool)> {
    named(admin.nodes.others(), admin)
}

fn named(others: Vec<NodeStatus>, admin: &AdminState) -> Vec<(NodeStatus, bool)> {
    let mut all: Vec<_> = others.into_iter().map(|node| (node, false)).collect();
    all.push((this(admin), true));
    // This one keeps its name, and else the youngest does.
    all.sort_by(|(a, a_this), (b, b_this)| {
        let younger = b_this.cmp(a_this).then(b.started.cmp(&a.started));
        a.node.name.cmp(&b.node.name).then(younger).then(b.node.instance.cmp(&a.node.instance))
    });
    let mut before: Option<Arc<str>> = None;
    for (status, _) in &mut all {
        let name = Arc::clone(&status.node.name);
        if before.as_ref() == Some(&name) {
            status.node.name = format!("{name}:{:x}", status.node.instance).into();
        }
        before = Some(name);
    }
    all
}

fn this(admin: &AdminState) -> NodeStatus {
    let parts = &admin.parts;
    let count = |count: usize| count as u64;
    NodeStatus {
        node: admin.nodes.me(),
        version: env!("CARGO_PKG_VERSION").into(),
        started: admin.started,
        draining: admin.is_draining(),
        counts: Some(NodeCounts {
            heard: Duration::ZERO,
            relays_active: count(parts.relays.count()),
            legs_waiting: count(parts.room.len()),
            legs_carried: count(parts.carried.count()),
            bytes_per_second: parts.relays.all().iter().map(|relay| relay.rate()).sum(),
        }),
    }
}

impl NodeView {
    fn of(status: NodeStatus, this: bool) -> Self {
        let (node, counts) = (status.node, status.counts);
        Self {
            name: node.name.to_string(),
            instance: format!("{:x}", node.instance),
            address: (!node.address.is_empty()).then(|| node.address.to_string()),
            version: status.version.to_string(),
            started: status.started,
            draining: status.draining,
            heard_seconds: counts.map(|counts| counts.heard.as_secs_f64()),
            relays_active: counts.map(|counts| counts.relays_active),
            legs_waiting: counts.map(|counts| counts.legs_waiting),
            legs_carried: counts.map(|counts| counts.legs_carried),
            bytes_per_second: counts.map(|counts| counts.bytes_per_second),
            this,
        }
    }
}
