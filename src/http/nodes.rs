//! The other nodes, as far as the admin API needs them. The gateway knows them; here is what is
//! asked of it.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use jiff::Timestamp;

use crate::{config::Network, net::access::ListName};

/// The gateway's side.
pub trait Nodes: Send + Sync {
    /// This node.
    fn me(&self) -> NodeName;

    /// The others that are known, in no order, without what they count.
    fn others(&self) -> Vec<NodeStatus>;

    /// The same with what each has last said that it counts, as far as that is to be had.
    fn counted(&self) -> Counted<'_>;

    /// Has another node answer this. The caller does not wait for ever.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    fn ask<'a>(&'a self, node: &'a NodeName, request: Request<Bytes>) -> Asking<'a>;

    /// Why sides that land on two nodes do not find each other now; `None` while they do.
    fn degraded(&self) -> Option<Arc<str>>;

    /// An operator has put this on a list here, for so long, or until it is taken back. Must not
    /// block.
    fn listed(&self, list: ListName, network: Network, lasts: Option<Duration>);

    /// An operator has taken this off a list here. Must not block.
    fn unlisted(&self, list: ListName, network: Network);
}

/// The others, and what they count.
pub type Counted<'a> = Pin<Box<dyn Future<Output = Vec<NodeStatus>> + Send + 'a>>;

/// What comes of asking another node.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<NodeAnswer, String>> + Send + 'a>>;

/// What another node answered.
#[derive(Debug)]
pub struct NodeAnswer {
    /// How it went.
    pub status: StatusCode,
    /// What was said about it.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
}

/// Which node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName {
    /// What it is called.
    pub name: Arc<str>,
    /// Which start of it: two processes of one name are at work while one takes over.
    pub instance: u64,
    /// Where its cluster listener is reached; empty for one that has none.
    pub address: Arc<str>,
}

/// What is known of a node.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Which.
    pub node: NodeName,
    /// Of the program.
    pub version: Arc<str>,
    /// When it came up.
    pub started: Timestamp,
    /// Whether it takes no new legs.
    pub draining: bool,
    /// What it counts, if that is known.
    pub counts: Option<NodeCounts>,
}

/// What a node counts, as it has last said.
#[derive(Debug, Clone, Copy)]
pub struct NodeCounts {
    /// How long ago that was.
    pub heard: Duration,
    /// Relays that are active.
    pub relays_active: u64,
    /// Legs that wait.
    pub legs_waiting: u64,
    /// Legs that it carries to other nodes.
    pub legs_carried: u64,
    /// Of its relays, both ways.
    pub bytes_per_second: u64,
}

/// A node that has no others.
pub struct Alone(pub NodeName);

impl Nodes for Alone {
    fn me(&self) -> NodeName {
        self.0.clone()
    }

    fn others(&self) -> Vec<NodeStatus> {
        Vec::new()
    }

    fn counted(&self) -> Counted<'_> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn ask<'a>(&'a self, _: &'a NodeName, _: Request<Bytes>) -> Asking<'a> {
        Box::pin(std::future::ready(Err("there is no other node".to_owned())))
    }

    fn degraded(&self) -> Option<Arc<str>> {
        None
    }

    fn listed(&self, _: ListName, _: Network, _: Option<Duration>) {}

    fn unlisted(&self, _: ListName, _: Network) {}
}
