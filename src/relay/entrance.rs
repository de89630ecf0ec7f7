//! The last step before the stack: a connection says its first message, or is refused.
//!
//! Both transports come in here, so that refusals are counted and logged in one place, and
//! nothing is ever sent to who is refused.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{RelayStack, request::RelayRequest};
use crate::{
    metrics::Metrics,
    net::{first_message, leg::Leg, listener::Connection},
    wire::{Transport, rendezvous::Hello},
};

/// Leads connections into the stack.
#[derive(Clone)]
pub struct Entrance {
    /// Where they go.
    pub stack: RelayStack,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Cancelled when no new leg is taken.
    pub draining: CancellationToken,
    /// The largest first message, in bytes.
    pub max_first_frame: usize,
}

/// When a connection came, and until when it may say who it is.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Whence.
    pub peer: SocketAddr,
    /// When.
    pub accepted: Instant,
    /// Until when its first message must be whole.
    pub deadline: Instant,
}

impl Entrance {
    /// Reads the first message of a relay connection, `head` first, and follows the leg to its
    /// end: until it is parked, refused, or its relay is over.
    pub async fn enter(
        self,
        connection: Connection,
        head: BytesMut,
        transport: Transport,
        arrival: Arrival,
    ) {
        // Boxed, so that a relay's task does not keep room for what is over.
        let said = Box::pin(self.first_message(connection, head, transport, arrival)).await;
        let Some((hello, leg)) = said else { return };
        self.metrics.first_frame.record(arrival.accepted.elapsed());
        // What the stack refuses, it has recorded itself.
        let _ = self.stack.oneshot(RelayRequest { hello, leg }).await;
    }

    async fn first_message(
        &self,
        connection: Connection,
        head: BytesMut,
        transport: Transport,
        arrival: Arrival,
    ) -> Option<(Hello, Leg)> {
        let message = async {
            match transport {
                Transport::Tcp => {
                    first_message::from_tcp(connection, head, self.max_first_frame).await
                }
                Transport::WebSocket => {
                    first_message::from_websocket(connection, head, self.max_first_frame).await
                }
            }
        };
        let bounded = timeout_at(arrival.deadline, message);
        match self.draining.run_until_cancelled(bounded).await {
            Some(Ok(Ok(said))) => return Some(said),
            Some(Ok(Err(fault))) => self.refuse(arrival.peer, fault.label(), &fault),
            Some(Err(_)) => {
                self.refuse(arrival.peer, "timeout", &"its first message took too long");
            }
            None => self.refuse(arrival.peer, "draining", &"this relay is shutting down"),
        }
        None
    }

    /// Counts and logs a connection that does not become a leg.
    pub fn refuse(&self, peer: SocketAddr, label: &str, reason: &dyn std::fmt::Display) {
        self.metrics.reject(label);
        tracing::debug!(reason = label, "refused {peer}: {reason}");
    }
}
