//! One connection, from accept on: what it speaks is found out, and it is led to the relay stack
//! or to hyper. Whatever is neither is closed with nothing sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use crate::{
    http,
    net::{
        listener::Connection,
        sniff::{Protocol, sniff},
    },
    relay::entrance::{Arrival, Entrance},
    wire::Transport,
};

/// What every listener of the front door shares.
pub struct FrontDoor {
    /// Where relay connections go.
    pub entrance: Entrance,
    /// Where HTTP requests go.
    pub router: Router,
    /// How long a connection may take to say who it is.
    pub timeout: Duration,
    /// Whether the hint about TLS was given.
    pub tls_hinted: AtomicBool,
}

impl FrontDoor {
    /// Serves one connection to its end, or until it is a leg that waits.
    pub async fn serve(self: Arc<Self>, mut connection: Connection) {
        let accepted = Instant::now();
        let deadline = accepted + self.timeout;
        let arrival = Arrival { peer: connection.peer, accepted, deadline };
        let mut head = BytesMut::new();
        // Boxed as the rest is, so that a connection's task has room for where it is and no more.
        let sniffed = Box::pin(self.sniff(&mut connection, &mut head, arrival)).await;
        let Some(protocol) = sniffed else { return };
        self.entrance.metrics.connection(protocol.label());
        match protocol {
            Protocol::Relay => {
                let entrance = self.entrance.clone();
                drop(self);
                Box::pin(entrance.enter(connection, head, Transport::Tcp, arrival)).await;
            }
            Protocol::Http => Box::pin(self.http(connection, head, arrival)).await,
            Protocol::Tls => self.hint_at_tls(arrival),
            Protocol::Unknown => {
                let reason = "its first bytes are no protocol of ours";
                self.entrance.refuse(arrival.peer, "unknown_protocol", &reason);
            }
        }
    }

    async fn sniff(
        &self,
        connection: &mut Connection,
        head: &mut BytesMut,
        arrival: Arrival,
    ) -> Option<Protocol> {
        let bounded = timeout_at(arrival.deadline, sniff(&mut connection.socket, head));
        let sniffed = self.entrance.draining.run_until_cancelled(bounded).await;
        let (label, reason) = match sniffed {
            Some(Ok(Ok(Some(protocol)))) => return Some(protocol),
            Some(Ok(Ok(None))) if head.is_empty() => {
                // Somebody looked whether a relay is there: hbbs does, every few seconds.
                self.entrance.metrics.connection("none");
                return None;
            }
            Some(Ok(Ok(None))) => ("hung_up", "it hung up before its first message"),
            Some(Ok(Err(_))) => ("io", "the connection failed"),
            Some(Err(_)) if head.is_empty() => ("silent", "it said nothing"),
            Some(Err(_)) => ("timeout", "its first bytes took too long"),
            None => ("draining", "this relay is shutting down"),
        };
        self.entrance.refuse(arrival.peer, label, &reason);
        None
    }

    async fn http(&self, connection: Connection, head: BytesMut, arrival: Arrival) {
        let router = self.router.clone();
        let stop = &self.entrance.draining;
        let served = http::serve(connection, head.freeze(), router, arrival, self.timeout, stop);
        if let Err(fault) = served.await {
            self.entrance.refuse(arrival.peer, fault.label(), &fault);
        }
    }

    fn hint_at_tls(&self, arrival: Arrival) {
        self.entrance.refuse(arrival.peer, "tls", &"it speaks TLS");
        if !self.tls_hinted.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} speaks TLS, which this relay does not: for wss and https put a proxy that ends TLS in front of it (this is said once)",
                arrival.peer
            );
        }
    }
}
