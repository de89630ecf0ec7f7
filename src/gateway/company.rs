//! What this node has in common with the others: that they know of each other, limits that hold for
//! all together, and what operators block.

mod namesakes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::watch;

use super::limits;
use crate::{
    cluster::{
        blocks::Blocks,
        directory::Node,
        members::{Member, Members},
        redis::Redis,
    },
    config::ClusterConfig,
    metrics::Metrics,
    relay::Parts,
};

/// What one node has in common with the others.
#[derive(Clone)]
pub(super) struct Company {
    me: Arc<Node>,
    pub(super) members: Members,
    pub(super) blocks: Blocks,
    heartbeat: Duration,
}

impl Company {
    /// Nothing is said or heard before [`Company::keep`].
    pub(super) fn new(
        config: &ClusterConfig,
        redis: &Redis,
        me: &Arc<Node>,
        parts: &Parts,
    ) -> Self {
        let heartbeat = config.heartbeat.get();
        let (redis, counted) = (redis.clone(), parts.clone());
        let blocks = Blocks::new(redis.clone(), Arc::clone(&parts.access));
        let says = move || limits::says(&counted);
        let started = Timestamp::now().as_second();
        let members = Members::new(redis, Arc::clone(me), started, heartbeat, says);
        Self { me: Arc::clone(me), members, blocks, heartbeat }
    }

    /// Keeps it up, for as long as this is polled.
    pub(super) async fn keep(&self, parts: Parts) {
        let metrics = Arc::clone(&parts.metrics);
        tokio::join!(
            self.members.run(),
            self.blocks.run(self.members.blocks()),
            limits::keep(parts, self.members.others(), self.heartbeat),
            show(self.members.nodes(), metrics),
            namesakes::tell(Arc::clone(&self.me), self.members.nodes(), self.heartbeat),
        );
    }
}

/// Shows in the metrics how many nodes there are.
async fn show(mut nodes: watch::Receiver<Arc<BTreeMap<u64, Member>>>, metrics: Arc<Metrics>) {
    loop {
        let count = nodes.borrow_and_update().len();
        metrics.cluster.nodes.set(count.max(1) as f64);
        if nodes.changed().await.is_err() {
            return;
        }
    }
}
