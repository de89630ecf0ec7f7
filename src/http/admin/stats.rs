//! `/stats`: the node at a glance.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::Serialize;

use crate::http::{
    AdminState,
    page::{Checked, NoParameters},
};

/// The node at a glance.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    version: &'static str,
    started: Timestamp,
    uptime_seconds: f64,
    draining: bool,
    /// Why sides that land on two nodes do not find each other now.
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<String>,
    /// Whether clients need no key.
    open_relay: bool,
    connections_open: usize,
    legs_waiting: usize,
    relays_active: usize,
    /// Since the start.
    relays_total: u64,
    /// Since the start, both ways, framing included.
    bytes_total: u64,
    bytes_per_second: u64,
    /// Connections and legs refused since the start, by the reason.
    refused: BTreeMap<&'static str, u64>,
}

pub(super) async fn show(
    State(admin): State<Arc<AdminState>>,
    Checked(NoParameters {}): Checked<NoParameters>,
) -> Json<Stats> {
    let relays = &admin.parts.relays;
    Json(Stats {
        version: env!("CARGO_PKG_VERSION"),
        started: admin.started,
        uptime_seconds: admin.since.elapsed().as_secs_f64(),
        draining: admin.is_draining(),
        degraded: admin.nodes.degraded().map(|why| why.to_string()),
        open_relay: admin.parts.ring.is_open(),
        connections_open: admin.connections.open(),
        legs_waiting: admin.parts.room.len(),
        relays_active: relays.count(),
        relays_total: relays.total(),
        bytes_total: relays.total_bytes(),
        bytes_per_second: relays.all().iter().map(|relay| relay.rate()).sum(),
        refused: admin.parts.refusals.totals().collect(),
    })
}
