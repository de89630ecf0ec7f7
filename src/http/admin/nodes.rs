//! `/nodes`: every node that is known here, this one included.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::{
    AdminState, NodeStatus, Problem,
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
    /// How long ago it was last heard of; 0 for this one.
    heard_seconds: f64,
    draining: bool,
    relays_active: u64,
    legs_waiting: u64,
    legs_carried: u64,
    bytes_per_second: u64,
    /// Whether it is the one that answers.
    this: bool,
}

/// By their names.
pub(super) async fn list(
    State(admin): State<Arc<AdminState>>,
    Checked(filter): Checked<Filter>,
) -> Result<Json<Paged<NodeView>>, Problem> {
    let page = Page::new(filter.limit, filter.offset)?;
    Ok(Json(
        page.of(all(&admin).into_iter().map(|(node, this)| NodeView::of(node, this)).collect()),
    ))
}

/// Every node, each under a name of its own, and whether it is this one: by these names.
///
/// Of two processes with one name, of which one takes over, the older has its instance in its name.
pub(super) fn all(admin: &AdminState) -> Vec<(NodeStatus, bool)> {
    let mut all: Vec<_> = admin.nodes.others().into_iter().map(|node| (node, false)).collect();
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
        heard: Duration::ZERO,
        draining: admin.is_draining(),
        relays_active: count(parts.relays.count()),
        legs_waiting: count(parts.room.len()),
        legs_carried: count(admin.nodes.carried()),
        bytes_per_second: parts.relays.all().iter().map(|relay| relay.rate()).sum(),
    }
}

impl NodeView {
    fn of(status: NodeStatus, this: bool) -> Self {
        let node = status.node;
        Self {
            name: node.name.to_string(),
            instance: format!("{:x}", node.instance),
            address: (!node.address.is_empty()).then(|| node.address.to_string()),
            version: status.version.to_string(),
            started: status.started,
            heard_seconds: status.heard.as_secs_f64(),
            draining: status.draining,
            relays_active: status.relays_active,
            legs_waiting: status.legs_waiting,
            legs_carried: status.legs_carried,
            bytes_per_second: status.bytes_per_second,
            this,
        }
    }
}
