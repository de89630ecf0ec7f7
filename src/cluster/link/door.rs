//! The cluster listener's door: whoever connects and proves to be a node is let in.
//!
//! Who has not proved it yet is bounded: in number, by giving way to who came later, in bytes, and
//! in time. So a flood of strangers keeps no node out for long that answers as soon as it is
//! greeted. And who has proved it is bounded in number: a node that does not stop connecting takes
//! no descriptors from anybody else.

use std::{io, net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{Link, LinkError, Links, Peer, Purpose};
use crate::{
    net::{
        listener::{Connection, ConnectionLimit, ConnectionPermit, Listener},
        refusals::Refusals,
        stream::{PlainStream, Stream},
    },
    relay::plane::LightTasks,
};

/// How many there may be that have not said who they are.
const STRANGERS: usize = 512;

/// How many connections of other nodes there may be beyond those of the clients that may be here, of
/// which each may be met by one: questions, and legs that come to nothing.
pub const NODES_RESERVE: usize = 128;

/// The door.
pub struct Door {
    links: Arc<Links>,
    limit: Arc<ConnectionLimit>,
    refusals: Arc<Refusals>,
    tasks: LightTasks,
}

/// A node that has come in.
#[derive(Debug)]
pub struct Visit {
    /// What is said with it.
    pub link: Link,
    /// What it came for.
    pub purpose: Purpose,
    /// Who it is.
    pub node: Peer,
    /// Where it has connected from.
    pub from: SocketAddr,
    /// Its connection's place among those that are open.
    pub permit: ConnectionPermit,
}

impl Door {
    /// A door to this node, at which there may be as many as `clients` may be at the others, and a
    /// few. Whatever is done for who comes is one of `tasks`.
    pub fn new(
        links: Arc<Links>,
        clients: &ConnectionLimit,
        refusals: Arc<Refusals>,
        tasks: LightTasks,
    ) -> Self {
        let limit = clients.once_more(NODES_RESERVE, STRANGERS);
        Self { links, limit, refusals, tasks }
    }

    /// Lets in whoever proves to be a node, and has `serve` do what it came for, until `stop` is
    /// cancelled; who is let in is served to its end.
    ///
    /// # Errors
    /// When the runtime cannot watch the listener.
    pub async fn accept_until<S, W>(
        self: Arc<Self>,
        listener: Listener,
        stop: CancellationToken,
        serve: S,
    ) -> io::Result<()>
    where
        S: Fn(Visit) -> W + Clone + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let open = |connection: Connection<PlainStream>| {
            let (door, serve) = (Arc::clone(&self), serve.clone());
            self.tasks.spawn(async move {
                let peer = connection.peer;
                // Boxed: it is over long before what it leads to.
                match Box::pin(door.let_in(connection)).await {
                    Ok(visit) => serve(visit).await,
                    Err(fault) => door.turn_away(peer, &fault),
                }
            });
        };
        listener.accept_until(stop, Arc::clone(&self.limit), open).await
    }

    async fn let_in(&self, connection: Connection<PlainStream>) -> Result<Visit, LinkError> {
        let Connection { socket, peer: from, mut permit } = connection;
        let stream = Stream::plain(socket)?;
        let heard = permit.wait().unless_sent_away(self.links.accept(stream)).await;
        let (link, purpose, node) = heard.map_err(|_| LinkError::SentAway)??;
        permit.let_in().map_err(|_| LinkError::SentAway)?;
        Ok(Visit { link, purpose, node, from, permit })
    }

    fn turn_away(&self, peer: SocketAddr, fault: &LinkError) {
        if let Some(reason) = fault.label() {
            let why = format_args!("on cluster.listen: {fault}");
            self.refusals.refuse(peer, reason, &why);
        }
    }
}
