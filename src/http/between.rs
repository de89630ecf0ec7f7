//! One node asks another: HTTP/1.1 over a stream that both ends have authenticated. No token goes
//! with it; who asked the first node does, for the log.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderName, HeaderValue, Request, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{client, server};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use tower::ServiceExt as _;

use super::{MAX_HEAD, NodeAnswer};
use crate::relay::entrance::Arrival;

/// The largest answer that is taken from a node, in bytes: many times a full page of relays.
pub(super) const MAX_ANSWER: usize = 8 << 20;

/// Who asks the first node.
const OPERATOR: HeaderName = HeaderName::from_static("relay-operator");

/// How long a node may take to ask, and to read what it is answered. What takes long is an
/// upgrade, while nothing is said.
const PATIENCE: Duration = Duration::from_secs(90);

/// Says in a request who asks.
pub(super) fn introduce<B>(request: &mut Request<B>, operator: SocketAddr) {
    let text = HeaderValue::from_str(&operator.to_string());
    // An address has nothing that a header has not.
    request.headers_mut().insert(OPERATOR, text.unwrap_or(HeaderValue::from_static("")));
}

/// Has a request come from who is said in it to ask, or else from `node`.
pub(super) fn arrives<B>(request: &mut Request<B>, node: Option<SocketAddr>) {
    let said = request.headers().get(&OPERATOR).and_then(|text| text.to_str().ok());
    let said = said.and_then(|text| text.parse().ok());
    let peer = said.or(node).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let now = Instant::now();
    request.extensions_mut().insert(Arrival { peer, accepted: now, deadline: now + PATIENCE });
}

/// Asks over a stream whose other end [`answer_node`] has.
///
/// # Errors
/// When no whole answer comes, in words. How long that may take is the caller's affair.
pub async fn ask_node(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Bytes>,
) -> Result<NodeAnswer, String> {
    let mut request = request.map(Full::new);
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("node"));
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let broken = |error: hyper::Error| format!("it breaks off: {error}");
    let (mut sender, connection) =
        client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| format!("its answer breaks off, or is too large: {error}"));
        Ok(NodeAnswer { status: parts.status, headers: parts.headers, body: body?.to_bytes() })
    };
    // The connection ends with the exchange, which owns the only sender.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

/// Answers one request of another node, which is at `from`, by the router that
/// [`super::for_nodes`] makes.
pub async fn answer_node(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    from: SocketAddr,
) {
    let service = router.map_request(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        arrives(&mut request, Some(from));
        request
    });
    let served = server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    match timeout(PATIENCE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%from, %error, "a node's question broke off"),
        Err(_) => tracing::debug!(%from, "a node has not taken its answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Extension, http::StatusCode, routing::post};

    use super::*;

    #[tokio::test]
    async fn a_question_and_its_answer_cross_whole_and_say_who_asks() {
        let (here, there) = tokio::io::duplex(1 << 10);
        let said = async |Extension(arrival): Extension<Arrival>, body: String| {
            (StatusCode::ACCEPTED, format!("{} {}", arrival.peer, body.len()))
        };
        let router = Router::new().route("/some", post(said));
        let node = SocketAddr::from(([192, 0, 2, 1], 1));
        let answering = tokio::spawn(answer_node(there, router, node));
        let mut request = Request::post("/some?a=b").body(Bytes::from(vec![b'x'; 50_000])).unwrap();
        introduce(&mut request, SocketAddr::from(([192, 0, 2, 7], 7)));
        let answer = ask_node(here, request).await.unwrap();
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert_eq!(answer.body, "192.0.2.7:7 50000");
        answering.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told() {
        let (here, there) = tokio::io::duplex(1 << 10);
        drop(there);
        let request = Request::get("/").body(Bytes::new()).unwrap();
        assert!(ask_node(here, request).await.unwrap_err().contains("breaks off"));
    }
}
