//! On a relay of more than one node: somebody who knows the others is told of each leg that begins
//! to wait here, and finds out whether its peer waits elsewhere.
//!
//! What a node is, and how a leg gets to another, is `cluster`'s. On a single node there is no
//! [`Route`], and nothing of this.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tower::{Layer, Service};

use super::request::{Match, RelayRequest};
pub use super::request::{WaitId, Waits};
use crate::wire::{
    Transport,
    rendezvous::{ConnType, Text},
};

/// Kept for as long as a leg waits, and dropped with its waiting, whatever ends that: what a
/// [`Route`] gives back then.
pub type Claim = Box<dyn Send + Sync>;

/// Who knows the other nodes.
pub trait Route: Send + Sync + 'static {
    /// A leg waits here from now on: it has just come, or is back from where it was lent to. Must
    /// not block; what comes of it comes in its own time.
    fn waits(&self, leg: Waits);
}

/// What one node tells another of a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The machine that it claims to reach.
    pub target: Option<Text>,
    /// What the session is for.
    pub conn_type: ConnType,
    /// The label of its key; `None` on an open relay.
    pub label: Option<String>,
    /// Whence it came.
    pub peer: SocketAddr,
    /// How its messages travel.
    pub transport: Transport,
    /// Whether that is within TLS.
    pub tls: bool,
    /// How long it has waited.
    pub waited: Duration,
}

/// Wraps a service in [`Routed`].
#[derive(Clone)]
pub struct RouteLayer {
    route: Arc<dyn Route>,
}

/// Tells a [`Route`] of the legs that begin to wait.
#[derive(Clone)]
pub struct Routed<S> {
    inner: S,
    route: Arc<dyn Route>,
}

/// A leg that may begin to wait.
pub struct Routing<F> {
    inner: F,
    route: Arc<dyn Route>,
}

impl RouteLayer {
    /// Tells this one.
    pub fn new(route: Arc<dyn Route>) -> Self {
        Self { route }
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = Routed<S>;

    fn layer(&self, inner: S) -> Routed<S> {
        Routed { inner, route: Arc::clone(&self.route) }
    }
}

impl<S> Service<RelayRequest> for Routed<S>
where
    S: Service<RelayRequest, Response = Match>,
    S::Future: Unpin,
{
    type Response = Match;
    type Error = S::Error;
    type Future = Routing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: RelayRequest) -> Routing<S::Future> {
        Routing { inner: self.inner.call(request), route: Arc::clone(&self.route) }
    }
}

impl<F, E> Future for Routing<F>
where
    F: Future<Output = Result<Match, E>> + Unpin,
{
    type Output = Result<Match, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut matched = ready!(Pin::new(&mut this.inner).poll(cx));
        if let Ok(Match::Parked(waits)) = &mut matched
            && let Some(leg) = waits.take()
        {
            this.route.waits(leg);
        }
        Poll::Ready(matched)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::relay::{request::RelayError, tests::request};

    #[derive(Default)]
    struct Told(Mutex<Vec<WaitId>>);

    impl Route for Told {
        fn waits(&self, leg: Waits) {
            self.0.lock().unwrap().push(leg.id);
        }
    }

    #[tokio::test]
    async fn whoever_begins_to_wait_here_is_told_of_once_and_nobody_else_is() {
        let told = Arc::new(Told::default());
        let waits = |uuid| Waits { uuid, id: WaitId(7), remaining: Duration::from_secs(1) };
        for (parked, seen) in [(true, 1), (false, 1), (true, 2)] {
            let route: Arc<dyn Route> = Arc::clone(&told) as _;
            let pairing = service_fn(|request: RelayRequest| {
                let waits = parked.then(|| waits(request.hello.uuid.clone()));
                std::future::ready(Ok::<_, RelayError>(Match::Parked(waits)))
            });
            let service = ServiceBuilder::new().layer(RouteLayer::new(route)).service(pairing);
            let (request, _client) = request("uuid", "").await;
            service.oneshot(request).await.unwrap();
            assert_eq!(told.0.lock().unwrap().len(), seen);
        }
    }
}
