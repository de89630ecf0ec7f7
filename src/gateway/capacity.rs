//! How many connections the process can hold.

use std::sync::Arc;

use crate::{
    cluster::link::NODES_RESERVE,
    config::Config,
    net::{listener::ConnectionLimit, strangers::MOST_LEAVING},
    relay::{Parts, splice::pipes},
};

/// Descriptors that are not for connections of the front door: listeners, files, the admin's
/// reserve, the pipes, and those of connections that give way and have not gone yet.
const RESERVED_DESCRIPTORS: usize = 64 + 2 * pipes::MOST + MOST_LEAVING;

/// Those of a thread's runtime.
const THREAD_DESCRIPTORS: usize = 4;

/// Room for as many as that.
pub(super) fn connection_limit(config: &Config, parts: &Parts) -> Arc<ConnectionLimit> {
    let (metrics, refusals) = (Arc::clone(&parts.metrics), Arc::clone(&parts.refusals));
    ConnectionLimit::new(max_connections(config), metrics, refusals)
}

/// What is configured, or less if the process may not open as many descriptors.
pub(super) fn max_connections(config: &Config) -> usize {
    let configured = config.front_door.max_connections;
    #[cfg(unix)]
    if let Some(descriptors) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    {
        let room = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let threads = config.threads.light() + config.threads.bulk();
        // On a node every connection may come with one to another node, or from there.
        let (each, nodes) = if config.cluster.is_on() { (2, NODES_RESERVE) } else { (1, 0) };
        let reserved = RESERVED_DESCRIPTORS + nodes + THREAD_DESCRIPTORS * threads;
        let room = (room.saturating_sub(reserved) / each).max(1);
        if room < configured {
            tracing::info!(
                configured,
                limit = room,
                "front_door.max_connections is lowered to what the process may open (ulimit -n)"
            );
            return room;
        }
    }
    configured
}
