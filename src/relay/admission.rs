//! The layer that says whether this node takes new legs at all.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use super::request::{RelayError, RelayRequest};

/// Wraps a service in [`Admission`].
#[derive(Clone)]
pub struct AdmissionLayer {
    draining: CancellationToken,
}

/// Refuses every leg once the drain has begun: its peer would not get in.
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    draining: CancellationToken,
}

impl AdmissionLayer {
    /// Refuses once `draining` is cancelled.
    pub const fn new(draining: CancellationToken) -> Self {
        Self { draining }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, draining: self.draining.clone() }
    }
}

impl<S> Service<RelayRequest> for Admission<S>
where
    S: Service<RelayRequest, Error = RelayError>,
{
    type Response = S::Response;
    type Error = RelayError;
    type Future = Either<Ready<Result<S::Response, RelayError>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: RelayRequest) -> Self::Future {
        if self.draining.is_cancelled() {
            Either::Left(ready(Err(RelayError::Draining)))
        } else {
            Either::Right(self.inner.call(request))
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::relay::tests::request;

    #[tokio::test]
    async fn no_leg_is_admitted_once_draining() {
        let draining = CancellationToken::new();
        let service = ServiceBuilder::new()
            .layer(AdmissionLayer::new(draining.clone()))
            .service(service_fn(async |_| Ok(())));
        let (admitted, _client) = request("uuid", "").await;
        service.clone().oneshot(admitted).await.unwrap();
        draining.cancel();
        let (refused, _client) = request("uuid", "").await;
        assert!(matches!(service.oneshot(refused).await, Err(RelayError::Draining)));
    }
}
