//! The layer that says whether this node takes new legs at all, and from their addresses.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use super::request::{RelayError, RelayRequest};
use crate::net::access::Access;

/// Wraps a service in [`Admission`].
#[derive(Clone)]
pub struct AdmissionLayer {
    draining: CancellationToken,
    access: Arc<Access>,
}

/// Refuses every leg once the drain has begun: its peer would not get in. And those whose
/// address was blocked since they connected.
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    draining: CancellationToken,
    access: Arc<Access>,
}

impl AdmissionLayer {
    /// Refuses once `draining` is cancelled, and whom `access` does not let in any more.
    pub const fn new(draining: CancellationToken, access: Arc<Access>) -> Self {
        Self { draining, access }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, draining: self.draining.clone(), access: Arc::clone(&self.access) }
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
        } else if self.access.is_blocked(request.peer().ip()) {
            Either::Left(ready(Err(RelayError::Blocked)))
        } else {
            Either::Right(self.inner.call(request))
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::{
        config::{AccessConfig, ProxyConfig},
        net::access::ListName,
        relay::tests::request,
    };

    fn access() -> Arc<Access> {
        let nowhere = std::path::Path::new("/nonexistent");
        Arc::new(Access::new(&AccessConfig::default(), &ProxyConfig::default(), nowhere))
    }

    #[tokio::test]
    async fn no_leg_is_admitted_once_draining() {
        let draining = CancellationToken::new();
        let service = ServiceBuilder::new()
            .layer(AdmissionLayer::new(draining.clone(), access()))
            .service(service_fn(async |_| Ok(())));
        let (admitted, _client) = request("uuid", "").await;
        service.clone().oneshot(admitted).await.unwrap();
        draining.cancel();
        let (refused, _client) = request("uuid", "").await;
        assert!(matches!(service.oneshot(refused).await, Err(RelayError::Draining)));
    }

    #[tokio::test]
    async fn no_leg_is_admitted_whose_address_was_blocked_meanwhile() {
        let access = access();
        let service = ServiceBuilder::new()
            .layer(AdmissionLayer::new(CancellationToken::new(), Arc::clone(&access)))
            .service(service_fn(async |_| Ok(())));
        let (refused, _client) = request("uuid", "").await;
        access.add(ListName::Block, refused.peer().ip().into(), None).unwrap();
        assert!(matches!(service.oneshot(refused).await, Err(RelayError::Blocked)));
    }
}
