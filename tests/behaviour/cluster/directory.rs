//! The directory over a real Redis: who holds a name, whatever befalls Redis.

use std::{sync::Arc, time::Duration};

use mini_rust_desk_relay_server::{
    cluster::{
        directory::{
            Claimed, Directory as _, DirectoryError, Event, Holder, Instance, Node,
            redis::RedisDirectory,
        },
        redis::Health,
    },
    config::{ClusterConfig, Secret},
    relay::route::WaitId,
    wire::rendezvous::RelayUuid,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::redis::{Redis, Watched};
use crate::support::{PATIENCE, eventually, unique};

const TTL: Duration = Duration::from_secs(30);

/// A node, as far as the directory is concerned.
struct TestNode {
    node: Arc<Node>,
    directory: RedisDirectory,
    events: mpsc::Receiver<Event>,
    driving: JoinHandle<()>,
}

impl TestNode {
    /// One that is not connected yet.
    fn new(number: u64, url: &str, change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let node = Arc::new(Node {
            instance: Instance(number),
            name: format!("node-{number}").into(),
            address: format!("127.0.0.1:{number}").into(),
        });
        let mut config = ClusterConfig { redis: Secret::new(url), ..ClusterConfig::default() };
        change(&mut config);
        let (directory, events, drive) = RedisDirectory::new(&config, &node).expect("a URL");
        Self { node, directory, events, driving: tokio::spawn(drive) }
    }

    /// One that is connected.
    async fn start(number: u64, url: &str) -> Self {
        let mut node = Self::new(number, url, |_| {});
        node.until_up().await;
        assert_eq!(node.told().await, Event::Forgotten);
        node
    }

    async fn until_up(&self) {
        let mut health = self.directory.health();
        let up = health.wait_for(|health| *health == Health::Up);
        timeout(PATIENCE, up).await.expect("in time").expect("it is driven");
    }

    /// Until Redis is found to be away; why, as it says.
    async fn until_degraded(&self) -> String {
        let mut health = self.directory.health();
        let degraded = health.wait_for(|health| *health != Health::Up);
        let health = timeout(PATIENCE, degraded).await.expect("in time").expect("driven").clone();
        let Health::Degraded { why, .. } = health else { unreachable!() };
        why.to_string()
    }

    async fn told(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("it is driven")
    }

    fn holder(&self, leg: u64) -> Holder {
        Holder { node: self.node.clone(), leg: WaitId(leg) }
    }

    async fn claim(&self, uuid: &RelayUuid, leg: u64) -> Claimed {
        self.ask(uuid, leg).await.expect("an answer")
    }

    async fn ask(&self, uuid: &RelayUuid, leg: u64) -> Result<Claimed, DirectoryError> {
        self.directory.claim(uuid, &self.holder(leg), None, TTL).await
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

fn uuid() -> RelayUuid {
    RelayUuid::from(unique("leg").as_str())
}

#[tokio::test]
async fn the_first_has_it_until_it_gives_it_back_loses_it_or_its_time_is_over() {
    let Some(redis) = Redis::start().await else { return };
    let (mut one, other) =
        (TestNode::start(1, &redis.url()).await, TestNode::start(2, &redis.url()).await);
    let uuid = uuid();
    assert_eq!(one.claim(&uuid, 1).await, Claimed::Mine);
    assert_eq!(other.claim(&uuid, 1).await, Claimed::HeldBy(one.holder(1)));
    assert_eq!(one.claim(&uuid, 2).await, Claimed::Mine, "another leg of the same node");
    one.directory.release(&uuid, &one.holder(1)).await.unwrap();
    let take = async |stale: &Holder| {
        other.directory.claim(&uuid, &other.holder(1), Some(stale), TTL).await.unwrap()
    };
    assert_eq!(take(&one.holder(1)).await, Claimed::HeldBy(one.holder(2)));
    assert_eq!(take(&one.holder(2)).await, Claimed::Mine);
    assert_eq!(one.told().await, Event::Lost(uuid.clone()));
    let short = Duration::from_millis(20);
    assert!(other.directory.claim(&uuid, &other.holder(2), None, short).await.is_ok());
    eventually("the claim expires", async || one.claim(&uuid, 3).await == Claimed::Mine).await;
    one.directory.release(&uuid, &one.holder(3)).await.unwrap();
    assert_eq!(redis.keys("*leg:*").await, [""; 0]);
}

/// Both in the same way: at once known, and forgotten when it is over.
#[tokio::test]
async fn a_redis_that_has_gone_or_hangs_is_missed_and_met_again() {
    let Some(redis) = Redis::start().await else { return };
    let mut node = TestNode::new(1, &redis.url(), |config| {
        config.redis_timeout = "200ms".parse().unwrap();
    });
    node.until_up().await;
    assert_eq!(node.told().await, Event::Forgotten);
    let uuid = uuid();
    for hangs in [false, true] {
        assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
        if hangs {
            redis.pause()
        } else {
            redis.stop()
        }
        node.ask(&uuid, 1).await.expect_err("nobody answers");
        node.until_degraded().await;
        let asked = timeout(Duration::from_millis(50), node.ask(&uuid, 1));
        asked.await.expect("at once").expect_err("away");
        if hangs {
            redis.resume()
        } else {
            redis.restart().await
        }
        assert_eq!(node.told().await, Event::Forgotten);
    }
    assert_eq!(node.claim(&uuid, 2).await, Claimed::Mine);
}

#[tokio::test]
async fn what_redis_forgets_by_itself_is_told() {
    let Some(redis) = Redis::start().await else { return };
    let mut node = TestNode::new(1, &redis.url(), |config| {
        config.heartbeat = "20ms".parse().unwrap();
    });
    assert_eq!(node.told().await, Event::Forgotten);
    let _: () = redis.ask("FLUSHALL").await.unwrap();
    assert_eq!(node.told().await, Event::Forgotten);
}

#[tokio::test]
async fn a_pair_costs_two_claims_and_a_release() {
    let Some(redis) = Redis::start().await else { return };
    let (one, other) =
        (TestNode::start(1, &redis.url()).await, TestNode::start(2, &redis.url()).await);
    let (uuid, before) = (uuid(), redis.calls().await);
    assert_eq!(one.claim(&uuid, 1).await, Claimed::Mine);
    assert_eq!(other.claim(&uuid, 1).await, Claimed::HeldBy(one.holder(1)));
    one.directory.release(&uuid, &one.holder(1)).await.unwrap();
    let after = redis.calls().await;
    let calls = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    assert_eq!(calls("evalsha"), 3, "{before:?} {after:?}");
}

#[tokio::test]
async fn a_redis_that_speaks_tls_is_checked() {
    let Some(redis) = Redis::start_tls().await else { return };
    let node = TestNode::new(1, &redis.url(), |config| config.redis_ca = redis.ca());
    node.until_up().await;
    assert_eq!(node.claim(&uuid(), 1).await, Claimed::Mine);
    let stranger = TestNode::new(2, &redis.url(), |_| {});
    eventually("a server that nobody vouches for is left alone", async || {
        stranger.until_degraded().await.contains("certificate")
    })
    .await;
}

#[tokio::test]
async fn when_the_primary_has_gone_the_sentinel_names_the_next() {
    let Some(redis) = Watched::start().await else { return };
    let (mut one, other) =
        (TestNode::start(1, &redis.url()).await, TestNode::start(2, &redis.url()).await);
    let uuid = uuid();
    assert_eq!(one.claim(&uuid, 1).await, Claimed::Mine);
    redis.primary.stop();
    one.until_degraded().await;
    assert_eq!(one.told().await, Event::Forgotten);
    assert_eq!(one.claim(&uuid, 1).await, Claimed::Mine);
    other.until_up().await;
    assert_eq!(other.claim(&uuid, 1).await, Claimed::HeldBy(one.holder(1)));
    assert!(redis.replica.keys("*leg:*").await.len() == 1);
}
