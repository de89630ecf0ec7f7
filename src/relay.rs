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
pub mod throttle;

use std::sync::Arc;

use futures_util::future::{Ready, ready};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
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
    throttle::Throttle,
};
use crate::{
    config::{Live, ProxyConfig, RelayConfig},
    key_ring::KeyRing,
    metrics::Metrics,
    net::{access::Access, refusals::Refusals},
};

/// The whole way of a leg as one service, its type erased once.
pub type RelayStack = BoxCloneSyncService<RelayRequest, Outcome, RelayError>;

/// What the stack is made of; the admin API looks at the same.
#[derive(Clone)]
pub struct Parts {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Counts and logs who is refused.
    pub refusals: Arc<Refusals>,
    /// Who may come in.
    pub access: Arc<Access>,
    /// Who speaks for others.
    pub proxies: Live<ProxyConfig>,
    /// Cancelled when no new leg is taken.
    pub draining: CancellationToken,
    /// The keys that are accepted.
    pub ring: Arc<KeyRing>,
    /// The legs that wait.
    pub room: Arc<WaitingRoom>,
    /// The relays that are active.
    pub relays: Arc<ActiveRelays>,
    /// How fast relays may go.
    pub throttle: Arc<Throttle>,
    /// The limits of relays.
    pub limits: Live<RelayConfig>,
    /// The threads for those that move much.
    pub bulk: Arc<BulkPlane>,
    /// Every relay is a task on it.
    pub legs: TaskTracker,
}

/// Puts the stack together.
pub fn stack(parts: &Parts) -> RelayStack {
    let Parts { refusals, access, draining, ring, room, relays, limits, bulk, legs, .. } =
        parts.clone();
    let pipes = Pipes::new(if limits.get().kernel_splice { pipes::MOST } else { 0 });
    let splicer = Splicer { registry: relays, limits, pipes, bulk };
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(RecordLayer::new(refusals))
            .layer(AdmissionLayer::new(draining, access))
            .layer(RequireKeyLayer::new(ring))
            .and_then(move |matched| splice(&splicer, &legs, matched))
            .service(Pairing::new(room)),
    )
}

/// A pair gets a task of its own, on the thread that its second leg came to: what led it here is
/// over, and keeps no memory while they are relayed.
fn splice(
    splicer: &Splicer,
    legs: &TaskTracker,
    matched: Match,
) -> Ready<Result<Outcome, RelayError>> {
    ready(Ok(match matched {
        Match::Parked => Outcome::Parked,
        Match::Paired(paired) => {
            legs.spawn(splicer.splice(*paired));
            Outcome::Relayed
        }
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpStream};

    use super::{request::Paired, *};
    use crate::{
        key_ring::Grant,
        metrics,
        net::{
            first_message,
            leg::{Arriving, Leg},
            listener::ConnectionLimit,
        },
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
        let socket = socket.into_std().unwrap();
        let metrics = Arc::new(metrics::start().unwrap().0);
        let refusals = Refusals::new(Arc::clone(&metrics));
        let connection = ConnectionLimit::new(1, metrics, refusals).admit(socket, peer).unwrap();
        let payload = request_relay(uuid, "", key, ConnType::Default);
        let head = crate::wire::frame::encode(&payload).unwrap();
        let (hello, rest) = first_message::of(&head, 4096).unwrap().unwrap();
        let connection = connection.with_socket(Arriving::Plain);
        let leg = Leg { connection, transport: Transport::Tcp, early: head[rest..].into() };
        (RelayRequest { hello, leg, grant: Grant::default() }, client)
    }

    /// An idle relay is mostly its future: what it grows by, thousands of relays pay.
    #[test]
    fn the_future_of_a_relay_is_small() {
        fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
            size_of::<F>()
        }
        let relayed = size(|(splicer, paired): (Splicer, Paired)| splicer.splice(paired));
        assert!(relayed <= 1024, "splice: {relayed} bytes");
    }
}
