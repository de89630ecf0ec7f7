//! `/keys`: the keys that are valid, and what is used of each. No key is shown, nor a part of one.

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    http::{
        AdminState, Problem,
        page::{Checked, Page, Paged},
    },
    key_ring::KeyStatus,
};

/// Which page of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    label: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// One key, as shown.
#[derive(Debug, Serialize)]
pub(super) struct KeyView {
    label: String,
    expires: Option<Timestamp>,
    expired: bool,
    relays_active: u32,
    max_relays: Option<u32>,
    /// Of all its relays together; null for no limit.
    bandwidth_bits_per_second: Option<u64>,
    /// In the calendar month (UTC), both ways.
    month_bytes: u64,
    month_bytes_limit: Option<u64>,
    /// What its quotas are held to on a relay of more than one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Together>,
    /// Since the start.
    bytes: u64,
    refused: Refused,
}

/// What all nodes have of it, the others as they last said.
#[derive(Debug, Serialize)]
struct Together {
    relays_active: u32,
    month_bytes: u64,
}

/// How often it was refused since the start.
#[derive(Debug, Serialize)]
struct Refused {
    expired: u64,
    max_relays: u64,
    monthly_traffic: u64,
}

/// In the order of the configuration.
pub(super) async fn list(
    State(admin): State<Arc<AdminState>>,
    Checked(filter): Checked<Filter>,
) -> Result<Json<Paged<KeyView>>, Problem> {
    let page = Page::new(filter.limit, filter.offset)?;
    let keys = admin.parts.ring.list().into_iter();
    let keys = keys.filter(|key| filter.label.as_deref().is_none_or(|label| *key.label == *label));
    Ok(Json(page.of(keys.map(KeyView::of).collect())))
}

impl KeyView {
    fn of(key: KeyStatus) -> Self {
        let [(_, expired), (_, max_relays), (_, monthly_traffic)] = key.denied;
        let bandwidth = key.bandwidth;
        Self {
            label: key.label.to_string(),
            expires: key.expires,
            expired: key.expired,
            relays_active: key.active,
            max_relays: key.max_relays,
            bandwidth_bits_per_second: (!bandwidth.is_unlimited())
                .then(|| bandwidth.bits_per_second()),
            month_bytes: key.traffic,
            month_bytes_limit: key.monthly_traffic,
            cluster: key
                .of_all
                .map(|(relays_active, month_bytes)| Together { relays_active, month_bytes }),
            bytes: key.bytes,
            refused: Refused { expired, max_relays, monthly_traffic },
        }
    }
}
