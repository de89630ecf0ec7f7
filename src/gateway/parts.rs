//! The rooms of the relay stack, made from a configuration.

use std::{path::Path, sync::Arc};

use tokio_util::task::TaskTracker;

use super::{GatewayError, keys};
use crate::{
    config::{Config, Live},
    metrics::Metrics,
    net::{access::Access, refusals::Refusals},
    relay::{
        Parts, capacity::Capacity, pairing::WaitingRoom, plane::BulkPlane, registry::ActiveRelays,
        throttle::Throttle,
    },
    shutdown::Shutdown,
};

/// Makes the rooms of the relay stack, each as `config` says.
pub(super) fn parts(
    config: &Config,
    dir: &Path,
    metrics: &Arc<Metrics>,
    shutdown: &Shutdown,
    legs: &TaskTracker,
) -> Result<Parts, GatewayError> {
    let access = Arc::new(Access::new(&config.access, &config.proxy, dir));
    let bandwidth = config.bandwidth.clone();
    let throttle = Throttle::new(bandwidth, Arc::clone(&access), Arc::clone(metrics));
    let ring = keys::ring(config, dir)?;
    let limits = Live::new(config.relay.clone());
    let capacity = Capacity::new(limits.clone());
    Ok(Parts {
        metrics: Arc::clone(metrics),
        refusals: Refusals::new(Arc::clone(metrics)),
        proxies: Live::new(config.proxy.clone()),
        draining: shutdown.soft().clone(),
        room: WaitingRoom::new(
            Live::new(config.pairing.clone()),
            Arc::clone(&ring),
            Arc::clone(&access),
            capacity.clone(),
            Arc::clone(metrics),
        ),
        ring,
        capacity,
        relays: ActiveRelays::new(
            shutdown.hard().clone(),
            Arc::clone(&throttle),
            Arc::clone(metrics),
        ),
        carried: ActiveRelays::carrying(
            shutdown.hard().clone(),
            Arc::clone(&throttle),
            Arc::clone(metrics),
        ),
        access,
        throttle,
        limits,
        bulk: BulkPlane::new(&config.threads),
        legs: legs.clone(),
        route: None,
    })
}
