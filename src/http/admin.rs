//! The admin API under `/api/v1`, and `/metrics`. What it shows is the relay stack's own state.

mod addresses;
mod bandwidth;
mod keys;
mod lists;
mod relays;
mod stats;
mod waiting;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{BearerToken, Control, Problem, bearer, control, problem};
use crate::{
    config::{BitRate, FrontDoorConfig, Live},
    metrics::Exposition,
    net::{access::ListName, listener::ConnectionLimit},
    relay::Parts,
};

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 64 << 10;

/// What the admin API looks at.
pub struct AdminState {
    /// The stack's own state.
    pub parts: Parts,
    /// Connections open.
    pub connections: Arc<ConnectionLimit>,
    /// Metrics, shown.
    pub exposition: Arc<Exposition>,
    /// Who may ask.
    pub token: Arc<BearerToken>,
    /// How long connections may take to say who they are.
    pub limits: Live<FrontDoorConfig>,
    /// Who acts on what is asked.
    pub control: Arc<dyn Control>,
    /// When the gateway came up.
    pub started: Timestamp,
    /// The same, for ages.
    pub since: Instant,
}

impl AdminState {
    /// How long a connection may take to say who it is.
    pub fn patience(&self) -> Duration {
        self.limits.get().first_frame_timeout.get()
    }

    /// Whether new legs are refused.
    pub fn is_draining(&self) -> bool {
        self.parts.draining.is_cancelled()
    }
}

/// `/api/v1` and `/metrics`, behind the token. All of `/api` is taken: what does not exist there
/// is no relay leg either.
pub(super) fn routes(admin: &Arc<AdminState>) -> Router {
    let require_token = middleware::from_fn_with_state(Arc::clone(admin), bearer::require);
    // Not nested: a handler would see its path without /api/v1, and so would who asked.
    Router::new()
        .route("/api/v1/relays", get(relays::list).delete(relays::close_all))
        .route(
            "/api/v1/relays/{uuid}",
            get(relays::show).patch(relays::change).delete(relays::close),
        )
        .route("/api/v1/bandwidth", get(bandwidth::show).patch(bandwidth::change))
        .route("/api/v1/waiting", get(waiting::list))
        .route("/api/v1/keys", get(keys::list))
        .route("/api/v1/stats", get(stats::show))
        .route("/api/v1/reload", post(control::reload))
        .route("/api/v1/drain", post(control::drain))
        .route("/api/v1/addresses", get(addresses::list))
        .route("/api/v1/blocklist", lists::whole(ListName::Block))
        .route("/api/v1/blocklist/{*network}", lists::one(ListName::Block))
        .route("/api/v1/throttlelist", lists::whole(ListName::Throttle))
        .route("/api/v1/throttlelist/{*network}", lists::one(ListName::Throttle))
        .route("/api/v1/upgrade", post(control::upgrade))
        .route("/api", any(problem::not_found))
        .route("/api/", any(problem::not_found))
        .route("/api/{*nothing}", any(problem::not_found))
        .route("/metrics", get(render))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(require_token)
        .with_state(Arc::clone(admin))
}

/// In the drain each answer is its connection's last: another process may have taken over by now,
/// and who asks again is to ask that one. On the front door connections end with the drain's begin.
pub(super) async fn last_in_drain(
    State(admin): State<Arc<AdminState>>,
    mut response: Response,
) -> Response {
    if admin.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A limit that a relay can be held to.
fn limit(key: &str, rate: BitRate) -> Result<(), Problem> {
    rate.check_limit()
        .map_err(|what| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{key}: {what}")))
}

async fn render(State(admin): State<Arc<AdminState>>) -> impl IntoResponse {
    // The version that Prometheus' text format has.
    let keys = admin.parts.ring.figures();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.exposition.render(&keys))
}
