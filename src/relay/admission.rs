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
/// address was blocked since they connected, or has sent too many wrong keys.
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
        } else {
            let permit = &request.leg.connection.permit.address;
            match self.access.may_try(request.peer().ip(), permit) {
                Ok(()) => Either::Right(self.inner.call(request)),
                Err(denial) => Either::Left(ready(Err(denial.into()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::{
        net::access::{Denial, ListName},
        relay::tests::{access, request},
    };

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
        assert!(matches!(
            service.oneshot(refused).await,
            Err(RelayError::Address(Denial::Blocked))
        ));
    }
}
