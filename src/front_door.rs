//! One connection, from accept on: what it speaks is found out, and it is led to the relay stack
//! or to hyper. Whatever is neither is closed with nothing sent.

use std::{
    io::Read as _,
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
        sniff::{Protocol, identify, sniff},
        stream::{PlainStream, Stream},
    },
    relay::entrance::{Arrival, Entrance},
    wire::Transport,
};

/// Room for a client's usual first message, which is a few hundred bytes.
const FIRST_READ: usize = 1024;

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
    /// Leads a new connection as far as what it has sent by now allows, without waiting. Most
    /// legs send their first message with the connection, and are through with this; whoever has
    /// to be waited for gets a task.
    ///
    /// `entrance` is the caller's own, so that a leg need not copy one.
    pub fn open(
        self: &Arc<Self>,
        entrance: &mut Entrance,
        mut connection: Connection<PlainStream>,
    ) {
        let accepted = Instant::now();
        let deadline = accepted + self.timeout;
        let arrival = Arrival { peer: connection.peer, accepted, deadline };
        if let Err(denial) = self.entrance.access.admit(&mut connection) {
            return self.entrance.refuse(arrival.peer, denial.label(), &denial);
        }
        let mut first = [0; FIRST_READ];
        let head = match (&connection.socket).read(&mut first) {
            Ok(0) => return self.hung_up(&connection, &[], arrival),
            Ok(len) => &first[..len],
            // Nothing yet, or a fault that the next read will find too.
            Err(_) => &[],
        };
        let waits = match identify(head) {
            Some(Protocol::Relay) => entrance.enter_at_once(connection, head, arrival),
            Some(Protocol::Http) | None => Some(connection),
            Some(strange) => return self.turn_away(strange, arrival),
        };
        if let Some(connection) = waits {
            entrance.legs.spawn(Arc::clone(self).serve(connection, head.into(), arrival));
        }
    }

    /// Serves a connection that has to be waited for, until it is none of the door's any more or
    /// gives way to another.
    fn serve(
        self: Arc<Self>,
        mut connection: Connection<PlainStream>,
        head: BytesMut,
        arrival: Arrival,
    ) -> impl Future<Output = ()> + Send + 'static {
        let stranger = connection.permit.wait();
        let door = Arc::clone(&self);
        // Boxed as the rest is, so that a connection's task has room for where it is and no more.
        let led = Box::pin(self.lead(connection, head, arrival));
        async move { door.entrance.unless_displaced(&stranger, arrival.peer, led).await }
    }

    /// Finds out what a connection that has sent `head` speaks, and leads it there.
    async fn lead(
        self: Arc<Self>,
        connection: Connection<PlainStream>,
        mut head: BytesMut,
        arrival: Arrival,
    ) {
        let mut connection = match connection.map_socket(Stream::plain) {
            Ok(connection) => connection,
            Err(fault) => return self.entrance.refuse(arrival.peer, "io", &fault),
        };
        let sniffed = Box::pin(self.sniff(&mut connection, &mut head, arrival)).await;
        let Some(protocol) = sniffed else { return };
        match protocol {
            Protocol::Relay => {
                self.entrance.metrics.connection(protocol.label());
                let entrance = self.entrance.clone();
                Box::pin(entrance.enter(connection, head, Transport::Tcp, arrival)).await;
            }
            Protocol::Http => {
                self.entrance.metrics.connection(protocol.label());
                Box::pin(self.http(connection, head, arrival)).await;
            }
            strange => self.turn_away(strange, arrival),
        }
    }

    /// Closes a connection that speaks what the relay does not.
    fn turn_away(&self, protocol: Protocol, arrival: Arrival) {
        self.entrance.metrics.connection(protocol.label());
        if protocol == Protocol::Tls {
            return self.hint_at_tls(arrival);
        }
        let reason = "its first bytes are no protocol of ours";
        self.entrance.refuse(arrival.peer, "unknown_protocol", &reason);
    }

    fn hung_up<S>(&self, connection: &Connection<S>, head: &[u8], arrival: Arrival) {
        if head.is_empty() {
            // Somebody looked whether a relay is there: hbbs does, every few seconds.
            self.entrance.metrics.connection("none");
            self.entrance.access.forgive(connection);
        } else {
            let reason = "it hung up before its first message";
            self.entrance.refuse(arrival.peer, "hung_up", &reason);
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
            Some(Ok(Ok(None))) => {
                self.hung_up(connection, head, arrival);
                return None;
            }
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
