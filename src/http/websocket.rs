//! HTTP upgrades: a WebSocket on any path that is not the admin's is a relay leg.
//!
//! tungstenite answers the handshake; the real socket and whatever was read beyond the request
//! are then taken back from hyper.

use axum::{
    Extension, Router,
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_util::task::TaskTracker;

use super::{Io, Problem, client::Client, forwarded::Asker, problem};
use crate::{
    net::{
        access::{AddressPermit, Denial},
        listener::Connection,
    },
    relay::entrance::{Arrival, Entrance},
    wire::Transport,
};

/// Makes legs of upgraded connections.
#[derive(Clone)]
pub struct Upgrades {
    /// Where legs go.
    pub entrance: Entrance,
    /// Every upgraded connection is a task on it.
    pub tracker: TaskTracker,
}

/// Everything that no other route takes.
pub(super) fn routes(upgrades: Upgrades) -> Router {
    Router::new().fallback(upgrade).with_state(upgrades)
}

async fn upgrade(
    State(upgrades): State<Upgrades>,
    Extension(arrival): Extension<Arrival>,
    Extension(asker): Extension<Asker>,
    Extension(client): Extension<Client>,
    mut request: Request,
) -> Response {
    if !request.headers().contains_key(header::UPGRADE) {
        return without_upgrade(request).await;
    }
    let on_upgrade = hyper::upgrade::on(&mut request);
    // A GET with a body may be HTTP; hyper gives such a connection back before its answer has gone.
    let has_body = !request.body().is_end_stream();
    let request = request.map(|_| ());
    let response = match create_response_with_body(&request, Body::empty) {
        Ok(response) if has_valid_key(request.headers()) && !has_body => response,
        _ => {
            let reason = "its WebSocket handshake is none";
            upgrades.entrance.refuse(arrival.peer, "bad_handshake", &reason);
            let detail = "this is no WebSocket handshake of version 13 (RFC 6455, section 4.2.1)";
            return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
        }
    };
    let place = match place(&upgrades.entrance, asker, arrival) {
        Ok(place) => place,
        Err(problem) => return problem.into_response(),
    };
    upgrades.tracker.clone().spawn(become_leg(upgrades, on_upgrade, client, arrival, place));
    response
}

/// The place of a client for whom a proxy asks among those of its address; `None` for who asks for
/// itself, and has one.
fn place(
    entrance: &Entrance,
    asker: Asker,
    arrival: Arrival,
) -> Result<Option<AddressPermit>, Problem> {
    let client = match asker {
        Asker::Peer => return Ok(None),
        Asker::Client(client) => client,
        Asker::Contradictory => {
            let reason = "the headers of its proxy name different clients: list in proxy.headers \
                          what the proxy sets";
            entrance.refuse(arrival.peer, "forwarding_headers", &reason);
            let detail = "its forwarding headers contradict each other";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    entrance.access.permit(client.ip()).map(Some).map_err(|denial| {
        entrance.refuse(client, denial.label(), &denial);
        match denial {
            Denial::Blocked => {
                Problem::new(StatusCode::FORBIDDEN, "this relay does not serve your address")
            }
            Denial::Connections { .. }
            | Denial::Rate { .. }
            | Denial::Waiting { .. }
            | Denial::BackOff => {
                let detail = "there are too many connections from your address: try again later";
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            }
        }
    })
}

async fn without_upgrade(request: Request) -> Response {
    match request.uri().path() {
        "/" | "/ws/relay" => {
            let detail = "this is a relay for remote desktops: clients connect here by WebSocket";
            let mut response = Problem::new(StatusCode::UPGRADE_REQUIRED, detail).into_response();
            let websocket = header::HeaderValue::from_static("websocket");
            response.headers_mut().insert(header::UPGRADE, websocket);
            response
        }
        _ => problem::not_found(request.uri().clone()).await.into_response(),
    }
}

/// RFC 6455 wants 16 bytes in base64; tungstenite answers to anything.
fn has_valid_key(headers: &HeaderMap) -> bool {
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| BASE64_STANDARD.decode(key).ok())
        .is_some_and(|key| key.len() == 16)
}

async fn become_leg(
    upgrades: Upgrades,
    on_upgrade: OnUpgrade,
    client: Client,
    arrival: Arrival,
    place: Option<AddressPermit>,
) {
    // A connection that was kept alive for other requests first is not late for that.
    let now = Instant::now();
    let late = arrival.deadline <= now;
    let deadline = if late { now + upgrades.entrance.patience() } else { arrival.deadline };
    let arrival = Arrival { deadline, ..arrival };
    let entrance = upgrades.entrance;
    let upgraded = match timeout_at(deadline, on_upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        // Who was sent away in between has been counted as that.
        Ok(Err(_)) if client.is_sent_away() => return,
        Ok(Err(error)) => return entrance.refuse(arrival.peer, "io", &error),
        Err(_) => return entrance.refuse(arrival.peer, "timeout", &"its upgrade took too long"),
    };
    let Some((mut connection, head)) = taken_back(upgraded) else {
        // The front door serves no other kind of connection.
        tracing::error!("an upgraded connection is not of the kind that was served");
        return;
    };
    connection.peer = arrival.peer;
    if let Some(place) = place {
        connection.permit.address = place;
    }
    let stranger = connection.permit.wait();
    let entering =
        Box::pin(entrance.clone().enter(connection, head, Transport::WebSocket, arrival));
    entrance.unless_sent_away(&stranger, arrival.peer, entering).await;
}

/// The connection, and what was read beyond the request. Nothing of hyper's outlives this: its
/// buffer would stay for as long as the relay.
fn taken_back(upgraded: Upgraded) -> Option<(Connection, BytesMut)> {
    let Parts { io, read_buf, .. } = upgraded.downcast::<Io>().ok()?;
    let (unread, connection) = io.into_inner().into_inner().into_parts();
    let mut head = BytesMut::from(&read_buf[..]);
    head.extend_from_slice(&unread);
    Some((connection, head))
}
