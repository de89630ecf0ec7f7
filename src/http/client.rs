//! What is known of a connection's client, from one of its requests to the next.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};

use crate::net::strangers::Stranger;

/// How many requests a connection may make without the token. An idle one is closed sooner: the
/// head of each request has a deadline.
const MOST_WITHOUT_TOKEN: usize = 100;

/// The client at the other end of a connection.
#[derive(Clone)]
pub(super) struct Client(Arc<State>);

struct State {
    /// Its place among those that may have to give way.
    stranger: Option<Arc<Stranger>>,
    is_known: AtomicBool,
    asked: AtomicUsize,
}

impl Client {
    pub(super) fn new(stranger: Option<Arc<Stranger>>) -> Self {
        let (is_known, asked) = (AtomicBool::default(), AtomicUsize::default());
        Self(Arc::new(State { stranger, is_known, asked }))
    }

    /// It makes a request.
    pub(super) fn asks(&self) {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it has ever made one.
    pub(super) fn has_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) > 0
    }

    /// It has shown the token: it is no stranger, for as long as its connection lives.
    pub(super) fn shows_token(&self) {
        self.0.is_known.store(true, Ordering::Relaxed);
        if let Some(stranger) = &self.0.stranger {
            // Had it given way just before, the answer would have nowhere to go.
            let _ = stranger.is_let_in();
        }
    }

    /// Whether it had to go, which is then counted.
    pub(super) fn is_sent_away(&self) -> bool {
        self.0.stranger.as_ref().is_some_and(|stranger| stranger.sent_away().is_some())
    }

    /// Says in the last answer that it may have that the connection is then closed.
    pub(super) fn answer(&self, mut response: Response) -> Response {
        let asked = self.0.asked.load(Ordering::Relaxed);
        let is_last = asked >= MOST_WITHOUT_TOKEN && !self.0.is_known.load(Ordering::Relaxed);
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
