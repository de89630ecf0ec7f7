//! The relay stack: what happens to a leg, as one [`tower`] stack read from top to bottom.

pub mod admission;
pub mod auth;
pub mod entrance;
pub mod pairing;
pub mod plane;
pub mod record;
pub mod registry;
pub mod request;
pub mod splice;

use std::sync::Arc;

use futures_util::{
    FutureExt as _,
    future::{Either, ready},
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use self::{
    admission::AdmissionLayer,
    auth::RequireKeyLayer,
    pairing::{Pairing, WaitingRoom},
    plane::BulkPlane,
    record::RecordLayer,
    registry::ActiveRelays,
    request::{Match, Outcome, RelayError, RelayRequest},
    splice::{
        Splicer,
        pipes::{self, Pipes},
    },
};
use crate::{config::RelayConfig, key::KeyRing, metrics::Metrics};

/// The whole way of a leg as one service, its type erased once.
pub type RelayStack = BoxCloneSyncService<RelayRequest, Outcome, RelayError>;

/// What the stack is made of; the admin API looks at the same.
#[derive(Clone)]
pub struct Parts {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Cancelled when no new leg is taken.
    pub draining: CancellationToken,
    /// The keys that are accepted.
    pub ring: Arc<KeyRing>,
    /// The legs that wait.
    pub room: Arc<WaitingRoom>,
    /// The relays that are active.
    pub relays: Arc<ActiveRelays>,
    /// The limits of relays.
    pub limits: Arc<RelayConfig>,
    /// The threads for those that move much.
    pub bulk: Arc<BulkPlane>,
}

/// Puts the stack together.
pub fn stack(parts: &Parts) -> RelayStack {
    let Parts { metrics, draining, ring, room, relays, limits, bulk } = parts.clone();
    let pipes = Pipes::new(if limits.kernel_splice { pipes::MOST } else { 0 });
    let splicer = Splicer { registry: relays, limits, pipes, bulk };
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(RecordLayer::new(metrics))
            .layer(AdmissionLayer::new(draining))
            .layer(RequireKeyLayer::new(ring))
            .and_then(move |matched| splice(&splicer, matched))
            .service(Pairing::new(room)),
    )
}

fn splice(
    splicer: &Splicer,
    matched: Match,
) -> impl Future<Output = Result<Outcome, RelayError>> + Send + use<> {
    match matched {
        Match::Parked => Either::Left(ready(Ok(Outcome::Parked))),
        Match::Paired(paired) => Either::Right(splicer.splice(*paired).map(Ok)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use bytes::BytesMut;
    use tokio::net::{TcpListener, TcpStream};

    use super::{entrance::Entrance, *};
    use crate::{
        metrics,
        net::{first_message, listener::ConnectionLimit},
        wire::{
            Transport,
            rendezvous::{ConnType, request_relay},
        },
    };

    /// A request over a real socket, and the client's end of it.
    pub(crate) async fn request(uuid: &str, key: &str) -> (RelayRequest, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        let metrics = Arc::new(metrics::start().unwrap().0);
        let connection = ConnectionLimit::new(1, metrics).admit(socket, peer).unwrap();
        let payload = request_relay(uuid, "", key, ConnType::Default);
        let head = BytesMut::from(&crate::wire::frame::encode(&payload).unwrap()[..]);
        let (hello, leg) = first_message::from_tcp(connection, head, 4096).await.unwrap();
        (RelayRequest { hello, leg }, client)
    }

    /// An idle relay is mostly its futures: what one grows by, thousands of relays pay.
    #[test]
    fn the_futures_of_a_relay_are_small() {
        fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
            size_of::<F>()
        }
        let relayed = size(|(splicer, matched): (Splicer, Match)| splice(&splicer, matched));
        let entered = size(|(entrance, connection, head, arrival): (Entrance, _, BytesMut, _)| {
            entrance.enter(connection, head, Transport::Tcp, arrival)
        });
        assert!(relayed <= 1024, "splice: {relayed} bytes");
        assert!(entered <= 1024, "entrance: {entered} bytes");
    }
}
