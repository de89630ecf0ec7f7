//! One connection, from accept on: whose it is and what it speaks is found out, and it is led to
//! the relay stack or to hyper. Whatever is neither is closed with nothing sent.

mod tls;

use std::{io::Read as _, pin::pin, sync::Arc};

use axum::Router;
use bytes::{Buf as _, BytesMut};
use tokio::time::{Instant, timeout_at};

use self::tls::Hint;
use crate::{
    config::{Live, ProxyConfig, ProxyProtocol},
    http,
    net::{
        http_head,
        listener::Connection,
        proxy_protocol::{self, Introduction, IntroductionError, introduction},
        sniff::{Protocol, identify, read_until},
        stream::{PlainStream, Stream},
        tls::TlsTerminator,
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
    /// Who speaks for others.
    pub proxies: Live<ProxyConfig>,
    /// What ends TLS, where that is on.
    pub tls: Arc<TlsTerminator>,
    tls_hint: Hint,
}

impl FrontDoor {
    /// A door to `entrance` and `router`.
    pub fn new(
        entrance: Entrance,
        router: Router,
        proxies: Live<ProxyConfig>,
        tls: Arc<TlsTerminator>,
    ) -> Self {
        Self { entrance, router, proxies, tls, tls_hint: Hint::new() }
    }

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
        let deadline = accepted + self.entrance.patience();
        let arrival = Arrival { peer: connection.peer, accepted, deadline };
        if let Err(denial) = self.entrance.access.admit(&mut connection) {
            return self.entrance.deny(arrival.peer, denial);
        }
        let mut first = [0; FIRST_READ];
        let head = match (&connection.socket).read(&mut first) {
            Ok(0) => return self.hung_up(&connection, &[], arrival),
            Ok(len) => &first[..len],
            // Nothing yet, or a fault that the next read will find too.
            Err(_) => &[],
        };
        let proxy = self.proxies.get().protocol_from(arrival.peer.ip());
        match proxy {
            ProxyProtocol::Off => self.sort(entrance, connection, head, arrival),
            proxy => self.open_proxied(entrance, connection, head, arrival, proxy),
        }
    }

    /// Hears a trusted proxy out first.
    fn open_proxied(
        self: &Arc<Self>,
        entrance: &mut Entrance,
        mut connection: Connection<PlainStream>,
        head: &[u8],
        mut arrival: Arrival,
        proxy: ProxyProtocol,
    ) {
        match introduction(head, proxy == ProxyProtocol::Required) {
            Some(said) => {
                if let Some(len) = self.introduced(&mut connection, &mut arrival, said) {
                    self.sort(entrance, connection, &head[len..], arrival);
                }
            }
            None => {
                let door = Arc::clone(self);
                entrance.legs.spawn(door.serve(connection, head.into(), arrival, proxy));
            }
        }
    }

    /// Leads a connection that has sent `head` as far as it goes without waiting.
    fn sort(
        self: &Arc<Self>,
        entrance: &mut Entrance,
        connection: Connection<PlainStream>,
        head: &[u8],
        arrival: Arrival,
    ) {
        let waits = match identify(head) {
            Some(Protocol::Relay) => entrance.enter_at_once(connection, head, arrival),
            Some(Protocol::Http) | None => Some(connection),
            Some(Protocol::Tls) if self.tls.is_on() => Some(connection),
            Some(strange) => {
                self.entrance.metrics.connection(strange.label());
                return self.turn_away(strange, head, arrival);
            }
        };
        if let Some(connection) = waits {
            let heard = ProxyProtocol::Off;
            entrance.legs.spawn(Arc::clone(self).serve(connection, head.into(), arrival, heard));
        }
    }

    /// Serves a connection that has to be waited for, until it is none of the door's any more or
    /// gives way to another. `proxy` is off once a proxy's header was heard.
    fn serve(
        self: Arc<Self>,
        mut connection: Connection<PlainStream>,
        head: BytesMut,
        arrival: Arrival,
        proxy: ProxyProtocol,
    ) -> impl Future<Output = ()> + Send + 'static {
        let stranger = connection.permit.wait();
        let door = Arc::clone(&self);
        // Boxed as the rest is, so that a connection's task has room for where it is and no more.
        let led = Box::pin(self.lead(connection, head, arrival, proxy));
        async move { door.entrance.unless_sent_away(&stranger, arrival.peer, led).await }
    }

    /// Finds out whose a connection that has sent `head` is and what it speaks, and leads it there.
    async fn lead(
        self: Arc<Self>,
        connection: Connection<PlainStream>,
        mut head: BytesMut,
        mut arrival: Arrival,
        proxy: ProxyProtocol,
    ) {
        let mut connection = match connection.map_socket(Stream::plain) {
            Ok(connection) => connection,
            Err(fault) => return self.entrance.refuse(arrival.peer, "io", &fault),
        };
        if proxy != ProxyProtocol::Off {
            let heard = self.hear_proxy(&mut connection, &mut head, &mut arrival, proxy);
            if Box::pin(heard).await.is_none() {
                return;
            }
        }
        let read = self.read_until(&mut connection, &mut head, arrival, identify).await;
        let Some(mut protocol) = read else { return };
        self.entrance.metrics.connection(protocol.label());
        if protocol == Protocol::Tls && self.tls.is_on() {
            let ended = Box::pin(self.end_tls(connection, head, arrival)).await;
            let Some(within) = ended else { return };
            (connection, head, protocol) = within;
        }
        match protocol {
            Protocol::Relay => {
                let entrance = self.entrance.clone();
                Box::pin(entrance.enter(connection, head, Transport::Tcp, arrival)).await;
            }
            Protocol::Http => Box::pin(self.http(connection, head, arrival)).await,
            strange => self.turn_away(strange, &head, arrival),
        }
    }

    /// Reads what a trusted proxy says first; `None` when the connection has ended with it.
    async fn hear_proxy(
        &self,
        connection: &mut Connection,
        head: &mut BytesMut,
        arrival: &mut Arrival,
        proxy: ProxyProtocol,
    ) -> Option<()> {
        let required = proxy == ProxyProtocol::Required;
        let see = |head: &[u8]| introduction(head, required);
        let said = self.read_until(connection, head, *arrival, see).await?;
        let len = self.introduced(connection, arrival, said)?;
        head.advance(len);
        Some(())
    }

    /// Makes the connection that of whom the proxy said it is, who is then let in or not. How many
    /// bytes were the proxy's; `None` when nobody is let in.
    fn introduced<S>(
        &self,
        connection: &mut Connection<S>,
        arrival: &mut Arrival,
        said: Result<Introduction, IntroductionError>,
    ) -> Option<usize> {
        let Introduction { client, len } = match said {
            Ok(introduction) => introduction,
            Err(fault) => {
                self.entrance.metrics.connection(Protocol::Unknown.label());
                self.entrance.refuse(arrival.peer, fault.label(), &fault);
                return None;
            }
        };
        if let Some(client) = client {
            connection.peer = client;
            arrival.peer = client;
            if let Err(denial) = self.entrance.access.admit(connection) {
                self.entrance.deny(client, denial);
                return None;
            }
        }
        Some(len)
    }

    /// Closes a connection that speaks what the relay does not.
    fn turn_away(&self, protocol: Protocol, head: &[u8], arrival: Arrival) {
        if protocol == Protocol::Tls {
            return self.hint_at_tls(arrival);
        }
        let reason = if proxy_protocol::is_begun(head) {
            "it sends a PROXY header, and is none of proxy.trusted, or proxy.protocol is off"
        } else {
            "its first bytes are no protocol of ours"
        };
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

    /// What `see` sees at the start of a connection; `None` when it has ended instead.
    async fn read_until<T>(
        &self,
        connection: &mut Connection,
        head: &mut BytesMut,
        arrival: Arrival,
        see: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let read = {
            // Pinned once: what is moved from one future into the next has room in both.
            let bounded =
                pin!(timeout_at(arrival.deadline, read_until(&mut connection.socket, head, see)));
            self.entrance.draining.run_until_cancelled(bounded).await
        };
        let (label, reason) = match read {
            Some(Ok(Ok(Some(seen)))) => return Some(seen),
            // Nobody looks for a relay by a handshake, which is too dear to be forgiven.
            Some(Ok(Ok(None))) if connection.socket.is_tls() => {
                ("hung_up", "it hung up within TLS, before its first message")
            }
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

    /// Serves HTTP once the head of its first request is whole: who sends it byte by byte is not
    /// worth the buffers that are then made.
    async fn http(&self, mut connection: Connection, mut head: BytesMut, arrival: Arrival) {
        let is_whole = http_head::end(http::MAX_HEAD);
        let read = self.read_until(&mut connection, &mut head, arrival, is_whole).await;
        if read.is_some() {
            Box::pin(self.requests(connection, head, arrival)).await;
        }
    }

    async fn requests(&self, connection: Connection, head: BytesMut, arrival: Arrival) {
        let router = self.router.clone();
        let (stop, patience) = (&self.entrance.draining, self.entrance.patience());
        let (head, proxies) = (head.freeze(), self.proxies.clone());
        let served = http::serve(connection, head, router, arrival, proxies, patience, stop);
        if let Err(fault) = served.await {
            self.entrance.refuse(arrival.peer, fault.label(), &fault);
        }
    }
}
