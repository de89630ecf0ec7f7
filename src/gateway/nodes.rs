//! What this node is called, and the others as the admin API asks for them.

use std::{sync::Arc, time::Duration};

use axum::http::Request;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::cluster::Cluster;
use crate::{
    cluster::{
        blocks::Blocks,
        directory::{Instance, Node},
        link::{Links, Purpose},
        members::{Counts, Member, Members},
        redis::Health,
    },
    config::{ClusterConfig, Network},
    http::{Alone, Asking, Counted, NodeCounts, NodeName, NodeStatus, Nodes, ask_node},
    net::access::ListName,
};

/// The longest name of a node, in characters: as `cluster.node` may be.
const LONGEST_NAME: usize = 64;

/// The others, reached by links.
pub(super) struct Linked {
    pub(super) me: Arc<Node>,
    pub(super) links: Arc<Links>,
    pub(super) members: Members,
    pub(super) blocks: Blocks,
    pub(super) health: watch::Receiver<Health>,
}

impl Linked {
    fn is_other(&self, member: &Member) -> bool {
        member.node.instance != self.me.instance
    }
}

fn status(member: &Member, counts: Option<(Counts, Duration)>) -> NodeStatus {
    let Node { instance, name, address } = &*member.node;
    NodeStatus {
        node: NodeName { name: name.clone(), instance: instance.0, address: address.clone() },
        version: Arc::clone(&member.version),
        // By its own clock, which may be anything.
        started: Timestamp::from_second(member.started).unwrap_or_default(),
        draining: member.draining,
        counts: counts.map(|(counts, heard)| NodeCounts {
            heard,
            relays_active: counts.active,
            legs_waiting: counts.waiting,
            legs_carried: counts.carried,
            bytes_per_second: counts.bytes_per_second,
        }),
    }
}

impl Nodes for Linked {
    fn me(&self) -> NodeName {
        let Node { instance, name, address } = &*self.me;
        NodeName { name: name.clone(), instance: instance.0, address: address.clone() }
    }

    fn others(&self) -> Vec<NodeStatus> {
        let members = Arc::clone(&self.members.nodes().borrow());
        let others = members.values().filter(|member| self.is_other(member));
        others.map(|member| status(member, None)).collect()
    }

    fn counted(&self) -> Counted<'_> {
        Box::pin(async {
            let Ok(members) = self.members.list().await else { return self.others() };
            let others = members.iter().filter(|(member, ..)| self.is_other(member));
            others.map(|(member, counts, heard)| status(member, Some((*counts, *heard)))).collect()
        })
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

    fn listed(&self, list: ListName, network: Network, lasts: Option<Duration>) {
        self.blocks.put(list, network, lasts);
    }

    fn unlisted(&self, list: ListName, network: Network) {
        self.blocks.take(list, network);
    }
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
    if config.node.is_empty() { plain(&host()) } else { config.node.clone() }
}

/// A machine's name as a node's may be, which is what other nodes take one by.
fn plain(host: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String =
        host.chars().map(|c| if is_plain(c) { c } else { '-' }).take(LONGEST_NAME).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_machine_is_called_other_nodes_take_its_name() {
        for (host, name) in
            [("relay-1.example", "relay-1.example"), ("B\u{fc}ro PC", "B-ro-PC"), ("", "localhost")]
        {
            assert_eq!(plain(host), name);
        }
        assert_eq!(plain(&"x".repeat(300)).len(), LONGEST_NAME);
    }
}
