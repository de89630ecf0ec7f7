//! The layer that checks a leg's key, and gives the leg what the key grants.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use super::request::{RelayError, RelayRequest};
use crate::{key_ring::KeyRing, net::access::Access};

/// Wraps a service in [`RequireKey`].
#[derive(Clone)]
pub struct RequireKeyLayer {
    ring: Arc<KeyRing>,
    access: Arc<Access>,
}

/// Refuses legs whose key is not on the ring, or grants nothing now.
#[derive(Clone)]
pub struct RequireKey<S> {
    inner: S,
    ring: Arc<KeyRing>,
    access: Arc<Access>,
}

impl RequireKeyLayer {
    /// Checks against `ring`; what comes of it counts for `access`.
    pub const fn new(ring: Arc<KeyRing>, access: Arc<Access>) -> Self {
        Self { ring, access }
    }
}

impl<S> Layer<S> for RequireKeyLayer {
    type Service = RequireKey<S>;

    fn layer(&self, inner: S) -> RequireKey<S> {
        RequireKey { inner, ring: Arc::clone(&self.ring), access: Arc::clone(&self.access) }
    }
}

impl<S> Service<RelayRequest> for RequireKey<S>
where
    S: Service<RelayRequest, Error = RelayError>,
{
    type Response = S::Response;
    type Error = RelayError;
    type Future = Either<Ready<Result<S::Response, RelayError>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: RelayRequest) -> Self::Future {
        // Taken out, and so wiped here: no later layer has a use for it.
        let sent = std::mem::take(&mut request.hello.licence_key);
        match self.ring.verify(&sent) {
            Ok(grant) => {
                self.access.right_key(&request.leg.connection.permit.address);
                request.grant = grant;
                Either::Right(self.inner.call(request))
            }
            Err(refusal) => {
                let refusal = refusal.into();
                // Who has a key of ours, if one that grants nothing now, does not guess.
                if matches!(refusal, RelayError::Key(_)) {
                    self.access.wrong_key(&request.leg.connection.permit.address, &sent);
                }
                Either::Left(ready(Err(refusal)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::{
        key::KeyFault,
        key_ring::tests::ring,
        relay::tests::{access, request},
    };

    #[tokio::test]
    async fn the_right_key_goes_on_without_the_key_and_a_wrong_one_does_not() {
        let ring = ring("right");
        let service = ServiceBuilder::new()
            .layer(RequireKeyLayer::new(Arc::new(ring), access()))
            .service(service_fn(async |request: RelayRequest| {
                let label = request.grant.label().map(ToOwned::to_owned);
                Ok((request.hello.licence_key.to_string(), label))
            }));
        let (right, _client) = request("uuid", "right").await;
        let passed = service.clone().oneshot(right).await.unwrap();
        assert_eq!(passed, (String::new(), Some("default".to_owned())));
        let (wrong, _client) = request("uuid", "RIGHT").await;
        let refusal = service.oneshot(wrong).await.unwrap_err();
        assert!(matches!(refusal, RelayError::Key(KeyFault::Case)));
    }
}
