//! `/bandwidth`: the limits in force, and a change of them that lasts until the next reload or
//! start.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;

use super::limit;
use crate::{
    config::{BandwidthConfig, BitRate},
    http::{
        AdminState, Problem,
        page::{Checked, NoParameters, Said},
    },
    relay::entrance::Arrival,
};

/// The limits that change; the others stay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    per_relay: Option<BitRate>,
    per_address: Option<BitRate>,
    total: Option<BitRate>,
    throttled: Option<BitRate>,
}

pub(super) async fn show(
    State(admin): State<Arc<AdminState>>,
    Checked(NoParameters {}): Checked<NoParameters>,
) -> Json<BandwidthConfig> {
    Json(admin.parts.throttle.limits())
}

pub(super) async fn change(
    State(admin): State<Arc<AdminState>>,
    Extension(arrival): Extension<Arrival>,
    Checked(NoParameters {}): Checked<NoParameters>,
    Said(change): Said<Change>,
) -> Result<Json<BandwidthConfig>, Problem> {
    let limits = change.over(admin.parts.throttle.limits());
    for (key, rate) in limits.limits() {
        limit(key, rate)?;
    }
    tracing::info!(?limits, by = %arrival.peer, "bandwidth limits are changed on an operator's request");
    admin.parts.throttle.replace(limits.clone());
    admin.parts.relays.limit_all();
    Ok(Json(limits))
}

impl Change {
    fn over(self, limits: BandwidthConfig) -> BandwidthConfig {
        BandwidthConfig {
            per_relay: self.per_relay.unwrap_or(limits.per_relay),
            per_address: self.per_address.unwrap_or(limits.per_address),
            total: self.total.unwrap_or(limits.total),
            throttled: self.throttled.unwrap_or(limits.throttled),
            ..limits
        }
    }
}
