//! The admin API's own listeners: https where TLS is on, and http. The front door's figures are
//! about its clients; who comes here is the operator's, so that faults are logged and not counted.

use std::sync::Arc;

use axum::Router;
use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use crate::{
    front_door::FrontDoor,
    http,
    net::{
        listener::Connection,
        sniff::{Protocol, identify, read_until},
        stream::{PlainStream, Stream},
        tls::HandshakeError,
    },
    relay::entrance::Arrival,
    shutdown::Shutdown,
};

/// What the admin API's own listeners share.
#[derive(Clone)]
pub(super) struct AdminDoor {
    pub(super) router: Router,
    /// The other door, which has the same limits and the same certificate.
    pub(super) door: Arc<FrontDoor>,
    pub(super) shutdown: Shutdown,
}

impl AdminDoor {
    /// Serves a new connection by a task of its own.
    pub(super) fn open(&self, mut connection: Connection<PlainStream>) {
        let accepted = Instant::now();
        let deadline = accepted + self.door.entrance.patience();
        let arrival = Arrival { peer: connection.peer, accepted, deadline };
        let stranger = connection.permit.wait();
        let served = Box::pin(self.clone().serve(connection, arrival));
        let tracker = self.shutdown.tracker();
        tracker.spawn(async move { stranger.unless_sent_away(served).await });
    }

    async fn serve(self, connection: Connection<PlainStream>, arrival: Arrival) {
        let Ok(connection) = connection.map_socket(Stream::plain) else { return };
        let stop = self.shutdown.hard();
        let opened = timeout_at(arrival.deadline, self.end_tls(connection));
        let (connection, head) = match stop.run_until_cancelled(opened).await {
            Some(Ok(Ok(Some(opened)))) => opened,
            Some(Ok(Err(fault))) => {
                return tracing::debug!("admin connection from {}: {fault}", arrival.peer);
            }
            // It said nothing, or not in time.
            Some(Ok(Ok(None)) | Err(_)) | None => return,
        };
        let (head, patience) = (head.freeze(), self.door.entrance.patience());
        let proxies = self.door.proxies.clone();
        let served = http::serve(connection, head, self.router, arrival, proxies, patience, stop);
        if let Err(fault) = served.await {
            tracing::debug!("admin connection from {}: {fault}", arrival.peer);
        }
    }

    /// The connection, within its TLS if it came with that, and what it has sent there; `None` when
    /// it hung up.
    async fn end_tls(
        &self,
        mut connection: Connection,
    ) -> Result<Option<(Connection, BytesMut)>, HandshakeError> {
        let mut head = BytesMut::new();
        let protocol = read_until(&mut connection.socket, &mut head, identify).await?;
        if protocol == Some(Protocol::Tls) && self.door.tls.is_on() {
            let (within, _) = self.door.tls.accept(connection, &head).await?;
            return Ok(Some((within, BytesMut::new())));
        }
        // Whatever else it is, HTTP's own answer is the right one.
        Ok(protocol.map(|_| (connection, head)))
    }
}
