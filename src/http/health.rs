//! Health: whether the process lives, and whether it takes new legs. No token needed.

use std::{borrow::Cow, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};

use super::{AdminState, problem};

/// `/healthz` and `/readyz`.
pub(super) fn routes(admin: Arc<AdminState>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(admin)
}

async fn ready(State(admin): State<Arc<AdminState>>) -> (StatusCode, Cow<'static, str>) {
    if admin.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    // It serves all the same: who lands on this node with both sides is relayed.
    let degraded = admin.nodes.degraded().map(|why| format!("degraded: {why}\n"));
    (StatusCode::OK, degraded.map_or("ready\n".into(), Cow::from))
}
