//! The TLS that somebody comes with: ended, under the deadline that all before the first message
//! is under, and what is within is sniffed in its turn.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use super::FrontDoor;
use crate::{
    net::{
        listener::Connection,
        sniff::{Protocol, identify},
        tls::HandshakeError,
    },
    relay::entrance::Arrival,
};

/// How often it is said how TLS is switched on.
const HINT_EVERY: Duration = Duration::from_secs(600);

/// When it was last said how TLS is switched on.
pub(super) struct Hint {
    since: Instant,
    /// In seconds after `since`, and one more; 0 for never.
    last: AtomicU64,
}

impl FrontDoor {
    /// The connection within its TLS, what it has sent there, and what that is.
    pub(super) async fn end_tls(
        &self,
        connection: Connection,
        head: BytesMut,
        arrival: Arrival,
    ) -> Option<(Connection, BytesMut, Protocol)> {
        let shaken = timeout_at(arrival.deadline, self.tls.accept(connection, &head));
        let mut connection = match self.entrance.draining.run_until_cancelled(shaken).await {
            Some(Ok(Ok((connection, handshake)))) => {
                self.entrance.metrics.tls.handshake(handshake.label());
                connection
            }
            Some(Ok(Err(fault))) => {
                self.entrance.metrics.tls.handshake(fault.label());
                let label = match fault {
                    HandshakeError::HungUp => "hung_up",
                    HandshakeError::Io(_) => "io",
                    HandshakeError::Tls(_) => "tls_handshake",
                };
                self.entrance.refuse(arrival.peer, label, &fault);
                return None;
            }
            Some(Err(_)) => {
                self.entrance.metrics.tls.handshake("timeout");
                self.entrance.refuse(arrival.peer, "timeout", &"its TLS handshake took too long");
                return None;
            }
            None => {
                self.entrance.refuse(arrival.peer, "draining", &"this relay is shutting down");
                return None;
            }
        };
        let mut head = BytesMut::new();
        let protocol = self.read_until(&mut connection, &mut head, arrival, identify).await?;
        if protocol == Protocol::Tls {
            self.entrance.refuse(arrival.peer, "unknown_protocol", &"it speaks TLS within TLS");
            return None;
        }
        Some((connection, head, protocol))
    }

    pub(super) fn hint_at_tls(&self, arrival: Arrival) {
        self.entrance.refuse(arrival.peer, "tls", &"it speaks TLS, and no certificate is set");
        if self.tls_hint.is_due(Instant::now()) {
            tracing::warn!(
                "{} speaks TLS, for wss or https, and was turned away: set cert and key in [tls] to take it on this port (this is said every {} minutes at most)",
                arrival.peer,
                HINT_EVERY.as_secs() / 60
            );
        }
    }
}

impl Hint {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), last: AtomicU64::new(0) }
    }

    fn is_due(&self, now: Instant) -> bool {
        let now = 1 + (now - self.since).as_secs();
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= HINT_EVERY.as_secs();
        // Of several at once one says it.
        due && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_comes_again_but_seldom() {
        let hint = Hint::new();
        let at = |seconds| hint.since + Duration::from_secs(seconds);
        assert!(hint.is_due(at(0)));
        assert!(!hint.is_due(at(599)));
        assert!(hint.is_due(at(600)));
        assert!(!hint.is_due(at(600)));
        // Another thread looked at the clock before, and comes later.
        assert!(!hint.is_due(at(599)));
    }
}
