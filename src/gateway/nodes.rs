//! What this node is called, and the others as the admin API asks for them.

use std::{sync::Arc, time::Duration};

use axum::http::Request;
use bytes::Bytes;
use tokio::sync::watch;

use super::cluster::Cluster;
use crate::{
    cluster::{
        directory::{Instance, Node},
        link::{Links, Purpose},
        redis::Health,
    },
    config::{ClusterConfig, Network},
    http::{Alone, Asking, NodeName, NodeStatus, Nodes, ask_node},
    net::access::ListName,
};

/// The others, reached by links.
pub(super) struct Linked {
    pub(super) me: Arc<Node>,
    pub(super) links: Arc<Links>,
    pub(super) health: watch::Receiver<Health>,
}

impl Nodes for Linked {
    fn me(&self) -> NodeName {
        let Node { instance, name, address } = &*self.me;
        NodeName { name: name.clone(), instance: instance.0, address: address.clone() }
    }

    fn others(&self) -> Vec<NodeStatus> {
        Vec::new()
    }

    fn ask<'a>(&'a self, node: &'a NodeName, request: Request<Bytes>) -> Asking<'a> {
        let NodeName { name, instance, address } = node.clone();
        let node = Arc::new(Node { instance: Instance(instance), name, address });
        Box::pin(async move {
            let link = self.links.dial(&node, Purpose::Api).await;
            ask_node(link.map_err(|fault| fault.to_string())?.into_sealed(), request).await
        })
    }

    fn degraded(&self) -> Option<Arc<str>> {
        match &*self.health.borrow() {
            Health::Up => None,
            Health::Degraded { why, .. } => Some(Arc::clone(why)),
        }
    }

    fn carried(&self) -> usize {
        0
    }

    fn listed(&self, _: ListName, _: Network, _: Option<Duration>) {}

    fn unlisted(&self, _: ListName, _: Network) {}
}

/// The nodes that there are.
pub(super) fn of(config: &ClusterConfig, cluster: Option<&Cluster>) -> Arc<dyn Nodes> {
    cluster.map_or_else(|| alone(config), Cluster::nodes)
}

/// A node that has no others.
fn alone(config: &ClusterConfig) -> Arc<dyn Nodes> {
    Arc::new(Alone(NodeName {
        name: name(config).into(),
        instance: u64::from(std::process::id()),
        address: "".into(),
    }))
}

/// What the configuration calls it, or else the machine.
pub(super) fn name(config: &ClusterConfig) -> String {
    if config.node.is_empty() { host() } else { config.node.clone() }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}
