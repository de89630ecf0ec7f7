//! The admin API under `/api/v1`, and `/metrics`. What it shows is the relay stack's own state.

mod addresses;
mod bandwidth;
mod keys;
mod lists;
mod nodes;
mod relays;
mod scope;
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

use self::scope::View;
use super::{BearerToken, Control, Nodes, Problem, bearer, control, problem};
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
    /// Who knows the other nodes.
    pub nodes: Arc<dyn Nodes>,
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

/// `/api/v1` and `/metrics`, behind the token, for this node and, where that is asked for, others.
pub(super) fn routes(admin: &Arc<AdminState>) -> Router {
    let require_token = middleware::from_fn_with_state(Arc::clone(admin), bearer::require);
    let here = of_this_node(admin);
    let view = View { admin: Arc::clone(admin), here: here.clone() };
    here.layer(middleware::from_fn_with_state(view, scope::look)).layer(require_token)
}

/// The same about this node only, and for whoever asks. All of `/api` is taken: what does not exist
/// there is no relay leg either.
pub(super) fn of_this_node(admin: &Arc<AdminState>) -> Router {
    // Not nested: a handler would see its path without /api/v1, and so would who asked.
    Router::new()
        .route("/api/v1/relays", get(relays::list).delete(relays::close_all))
        .route(
            "/api/v1/relays/{uuid}",
            get(relays::show).patch(relays::change).delete(relays::close),
        )
        .route("/api/v1/bandwidth", get(bandwidth::show).patch(bandwidth::change))
        .route("/api/v1/carried", get(relays::carried))
        .route("/api/v1/waiting", get(waiting::list))
        .route("/api/v1/keys", get(keys::list))
        .route("/api/v1/stats", get(stats::show))
        .route("/api/v1/nodes", get(nodes::list))
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

async fn render(State(admin): State<Arc<AdminState>>) -> Response {
    let keys = admin.parts.ring.figures();
    text(admin.exposition.render(&keys))
}

/// Metrics, in the version that Prometheus' text format has.
fn text(metrics: String) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], metrics).into_response()
}
