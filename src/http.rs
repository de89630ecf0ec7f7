//! The HTTP door: an axum router over connections that hyper serves.
//!
//! Any path that upgrades is a relay leg, except the admin's own. With listeners of its own the
//! admin API is off the front door.

mod admin;
mod bearer;
mod between;
mod client;
mod control;
mod forwarded;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod nodes;
mod page;
mod problem;
mod websocket;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use self::client::Client;
pub use self::{
    admin::AdminState,
    bearer::BearerToken,
    between::{answer_node, ask_node},
    control::{Control, Draining, ReloadError, Reloaded, UpgradeError, Upgraded},
    nodes::{Alone, Asking, Counted, NodeAnswer, NodeCounts, NodeName, NodeStatus, Nodes},
    problem::Problem,
    websocket::Upgrades,
};
use crate::{
    config::{Live, ProxyConfig},
    net::{listener::Connection, rewind::Rewind, write_deadline::WriteDeadline},
    relay::entrance::Arrival,
};

/// The largest request head, in bytes; hyper takes no less than 8 KiB.
pub const MAX_HEAD: usize = 16 << 10;

/// How long a connection may go on once it is told to stop. Answers take no time, so what is left
/// then is a client that does not finish its request, or does not read.
const GRACE: Duration = Duration::from_secs(1);

/// What hyper serves, and gives back upgraded.
type Io = TokioIo<WriteDeadline<Rewind>>;

/// What the front door serves: relay legs, health, and the admin API if it has no listeners of
/// its own.
pub fn front_door(upgrades: Upgrades, admin: &Arc<AdminState>, with_admin: bool) -> Router {
    let router = health::routes(Arc::clone(admin));
    let router = if with_admin { router.merge(admin::routes(admin)) } else { router };
    router.merge(websocket::routes(upgrades))
}

/// What the admin API's own listeners serve.
pub fn admin_only(admin: &Arc<AdminState>) -> Router {
    let router = health::routes(Arc::clone(admin)).merge(admin::routes(admin));
    let last = middleware::map_response_with_state(Arc::clone(admin), admin::last_in_drain);
    router.fallback(problem::not_found).layer(last)
}

/// What the admin API answers to other nodes, who have shown that they are: without the token, and
/// about this node only.
pub fn for_nodes(admin: &Arc<AdminState>) -> Router {
    admin::of_this_node(admin).fallback(problem::not_found)
}

/// Serves one HTTP/1 connection, `head` first, until it is closed, upgraded, or `stop` is
/// cancelled and the request under way answered.
///
/// What is left until the arrival's deadline is the time for each request's head, idle time
/// before it included; a client may leave an answer unread for `patience`. Where the peer is one
/// of `proxies`, each request is that of the client for whom it asks.
///
/// # Errors
/// When it ends without a single whole request.
pub async fn serve(
    connection: Connection,
    head: Bytes,
    router: Router,
    arrival: Arrival,
    proxies: Live<ProxyConfig>,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<(), NoRequest> {
    let client = Client::new(connection.permit.stranger().cloned());
    let (asking, answered) = (client.clone(), client.clone());
    // Not layers: those would wrap every route anew for each connection.
    let service = router
        .map_request(move |mut request: hyper::Request<_>| {
            asking.asks();
            let asker = forwarded::asker(request.headers(), arrival.peer, &proxies.get());
            request.extensions_mut().insert(asker.arrival(arrival));
            request.extensions_mut().insert(asker);
            request.extensions_mut().insert(asking.clone());
            request
        })
        .map_response(move |response| answered.answer(response));
    let service = TowerToHyperService::new(service);
    let io: Io = TokioIo::new(WriteDeadline::new(Rewind::new(head, connection), patience));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(arrival.deadline.saturating_duration_since(Instant::now()))
        .max_buf_size(MAX_HEAD)
        .serve_connection(io, service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            let Ok(ended) = timeout(GRACE, served).await else { return Ok(()) };
            ended
        }
    };
    match ended {
        Err(error) if !client.has_asked() => Err(NoRequest(error)),
        Err(error) => {
            tracing::debug!(%error, "HTTP connection from {} failed", arrival.peer);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// A connection that began like HTTP and never said one whole request.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP request came of it: {0}")]
pub struct NoRequest(hyper::Error);

impl NoRequest {
    /// Its name as a metric's label.
    pub fn label(&self) -> &'static str {
        match &self.0 {
            error if error.is_timeout() => "timeout",
            error if error.is_parse_too_large() => "frame_too_long",
            error if error.is_parse() => "malformed",
            error if error.is_incomplete_message() => "hung_up",
            _ => "io",
        }
    }
}
