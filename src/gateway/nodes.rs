//! What this node is called, and the others as the admin API asks for them.

use std::sync::Arc;

use crate::{
    config::ClusterConfig,
    http::{Alone, NodeName, Nodes},
};

/// A node that has no others.
pub(super) fn alone(config: &ClusterConfig) -> Arc<dyn Nodes> {
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
