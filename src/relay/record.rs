//! The outermost layer: a span for every leg, and one record of every refusal.
//!
//! What is relayed is recorded by the registry's guard, what waits in vain by the waiting room.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::TryFutureExt as _;
use tower::{Layer, Service};

use super::request::{Outcome, RelayError, RelayRequest, span};
use crate::{
    net::{
        access::{Access, Denial},
        refusals::Refusals,
    },
    wire::rendezvous::RelayUuid,
};

/// Wraps a service in [`Record`].
#[derive(Clone)]
pub struct RecordLayer {
    refusals: Arc<Refusals>,
    access: Arc<Access>,
}

/// Records what the service within refuses.
#[derive(Clone)]
pub struct Record<S> {
    inner: S,
    refusals: Arc<Refusals>,
    access: Arc<Access>,
}

impl RecordLayer {
    /// Records in `refusals`; `access` knows of which address a wrong key is one too many.
    pub const fn new(refusals: Arc<Refusals>, access: Arc<Access>) -> Self {
        Self { refusals, access }
    }
}

impl<S> Layer<S> for RecordLayer {
    type Service = Record<S>;

    fn layer(&self, inner: S) -> Record<S> {
        Record { inner, refusals: Arc::clone(&self.refusals), access: Arc::clone(&self.access) }
    }
}

impl<S> Service<RelayRequest> for Record<S>
where
    S: Service<RelayRequest, Response = Outcome, Error = RelayError>,
    S::Future: Send + 'static,
{
    type Response = Outcome;
    type Error = RelayError;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, RelayError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: RelayRequest) -> Self::Future {
        let (peer, uuid) = (request.peer(), request.hello.uuid.clone());
        let relayed = span(&uuid).in_scope(|| self.inner.call(request));
        let (refusals, access) = (Arc::clone(&self.refusals), Arc::clone(&self.access));
        // Not an async block: that would have room for `relayed` twice.
        Box::pin(relayed.inspect_err(move |refusal: &RelayError| {
            // Wrong keys have a bound for each address besides.
            let may_log = !matches!(refusal, RelayError::Key(_)) || access.may_be_told(peer.ip());
            if refusals.count_if(refusal.label(), may_log) {
                span(&uuid).in_scope(|| record(refusal, peer, &uuid));
            }
        }))
    }
}

fn record(refusal: &RelayError, peer: SocketAddr, uuid: &RelayUuid) {
    match refusal {
        // fail2ban filters of the ecosystem read this sentence.
        RelayError::Key(fault) => {
            tracing::warn!(%uuid, reason = %fault, "Relay authentication failed from {peer} - invalid key");
        }
        // Another sentence: who has a key of ours, if one that grants nothing now, is no intruder to
        // be banned.
        RelayError::Denied(denied) => {
            tracing::warn!(%uuid, reason = denied.label(), "Relay refused for {peer}: {denied}");
        }
        // hbbr's own line.
        RelayError::Address(Denial::Blocked) => tracing::info!(%uuid, "{} blocked", peer.ip()),
        RelayError::Address(denial) => tracing::warn!(%uuid, "refused {peer}: {denial}"),
        RelayError::TooManyRelays { .. } => {
            tracing::warn!(%uuid, "refused {peer}: {refusal}; raise relay.max_active if this is no flood");
        }
        RelayError::WaitingRoomFull => {
            tracing::warn!(
                %uuid,
                "refused {peer}: {refusal}; raise pairing.max_waiting if this is no flood"
            );
        }
        RelayError::Draining => tracing::debug!(%uuid, "refused {peer}: {refusal}"),
        RelayError::Io(error) => tracing::debug!(%uuid, %error, "lost {peer}: {refusal}"),
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::{
        key::KeyFault,
        metrics,
        relay::tests::{access, request},
    };

    #[tokio::test]
    async fn a_refusal_is_counted_once_by_its_reason() {
        let (metrics, exposition) = metrics::start().unwrap();
        let service = ServiceBuilder::new()
            .layer(RecordLayer::new(Refusals::new(Arc::new(metrics)), access()))
            .service(service_fn(async |_| Err(RelayError::Key(KeyFault::Case))));
        let (request, _client) = request("uuid", "").await;
        service.oneshot(request).await.unwrap_err();
        let text = exposition.render(&[]);
        assert!(text.contains("relay_rejected_total{reason=\"key_case\"} 1"), "{text}");
    }
}
