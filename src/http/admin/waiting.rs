//! `/waiting`: the legs whose peer has not come yet.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    http::{
        AdminState, Problem,
        page::{Checked, Page, Paged},
    },
    relay::pairing::WaitingLeg,
};

/// Which page of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    limit: Option<usize>,
    offset: Option<usize>,
}

/// One leg that waits, as shown.
#[derive(Debug, Serialize)]
pub(super) struct WaitingView {
    uuid: String,
    address: String,
    transport: &'static str,
    /// Whether that is within TLS.
    tls: bool,
    /// As the client claims.
    target_id: Option<String>,
    connection_type: String,
    /// The label of its key; null on an open relay.
    key: Option<String>,
    age_seconds: f64,
    expires_in_seconds: f64,
}

/// The longest-waiting first.
pub(super) async fn list(
    State(admin): State<Arc<AdminState>>,
    Checked(filter): Checked<Filter>,
) -> Result<Json<Paged<WaitingView>>, Problem> {
    let page = Page::new(filter.limit, filter.offset)?;
    let mut waiting = admin.parts.room.list();
    waiting.sort_by(|a, b| b.age.cmp(&a.age).then_with(|| a.uuid.cmp(&b.uuid)));
    Ok(Json(page.of(waiting.into_iter().map(WaitingView::of).collect())))
}

impl WaitingView {
    fn of(leg: WaitingLeg) -> Self {
        Self {
            uuid: leg.uuid.as_str().to_owned(),
            address: leg.address.to_string(),
            transport: leg.transport.label(),
            tls: leg.tls,
            target_id: leg.target.map(|target| target.as_str().to_owned()),
            connection_type: leg.conn_type.to_string(),
            key: leg.grant.label().map(ToOwned::to_owned),
            age_seconds: leg.age.as_secs_f64(),
            expires_in_seconds: leg.remaining.as_secs_f64(),
        }
    }
}
