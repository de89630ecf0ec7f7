//! The directory over a real Redis: who holds a name, whatever befalls Redis.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
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
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

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
        let (directory, events, drive) =
            RedisDirectory::new(&config, Path::new("."), &node).expect("a URL");
        Self { node, directory, events, driving: tokio::spawn(drive) }
    }

    /// One that is connected.
    async fn start(number: u64, url: &str) -> Self {
        // Many tests run at once.
        let mut node = Self::new(number, url, |config| {
            config.redis_timeout = "10s".parse().expect("a duration");
        });
        node.until_up().await;
        assert_eq!(node.told().await, Event::Forgotten);
        node
    }

    async fn until_up(&self) {
        let mut health = self.directory.health();
        let up = health.wait_for(|health| *health == Health::Up);
        timeout(PATIENCE, up).await.expect("in time").expect("it is driven");
    }

    /// Until it says that of a Redis that is of no use.
    async fn until_it_says(&self, why: &str) {
        let what = format!("it says {why}");
        eventually(&what, async || self.until_degraded().await.contains(why)).await;
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
    stranger.until_it_says("certificate").await;
}

#[tokio::test]
async fn sentinels_who_speak_tls_are_checked_and_so_is_whom_they_name() {
    let Some((redis, sentinel)) = Redis::start_tls_watched().await else { return };
    let url = format!("rediss+sentinel://{}/main", sentinel.addr);
    let node = TestNode::new(1, &url, |config| config.redis_ca = redis.ca());
    node.until_up().await;
    let uuid = uuid();
    assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
    assert_eq!(redis.keys("*leg:*").await.len(), 1);
    let stranger = TestNode::new(2, &url, |_| {});
    stranger.until_it_says("certificate").await;
    let unknown = url.replace("main", "other");
    let unknown = TestNode::new(3, &unknown, |config| config.redis_ca = redis.ca());
    unknown.until_it_says("not found in sentinel").await;
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

/// Several nodes claim thousands of names at once, each in an order of its own.
#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_claim_at_once_one_has_the_name_and_the_others_are_told_who() {
    const NAMES: u64 = 4000;
    let Some(redis) = Redis::start().await else { return };
    for count in 2..=5 {
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(Arc::new(TestNode::start(number, &redis.url()).await));
        }
        let race = unique("race");
        let claims = nodes.iter().map(|node| {
            let (node, race) = (Arc::clone(node), race.clone());
            tokio::spawn(async move {
                // Each has a stride that the number of names shares no factor with.
                let stride = [1, 3, 7, 11, 13][node.node.instance.0 as usize - 1];
                let names = (0..NAMES).map(|at| at * stride % NAMES);
                let claims = names.map(|name| {
                    let (node, uuid) = (&node, RelayUuid::from(format!("{race}-{name}").as_str()));
                    async move { (name, node.claim(&uuid, name).await) }
                });
                futures_util::stream::iter(claims).buffer_unordered(256).collect::<Vec<_>>().await
            })
        });
        let mut claimed = vec![Vec::new(); NAMES as usize];
        for (claims, node) in join_all(claims).await.into_iter().zip(&nodes) {
            for (name, claim) in claims.expect("no panic") {
                claimed[name as usize].push((node.node.clone(), claim));
            }
        }
        for (name, claims) in claimed.iter().enumerate() {
            let mine: Vec<_> = claims.iter().filter(|(_, claim)| *claim == Claimed::Mine).collect();
            assert_eq!((claims.len(), mine.len()), (count as usize, 1), "{name}: {claims:?}");
            let holder = Holder { node: mine[0].0.clone(), leg: WaitId(name as u64) };
            let told = claims.iter().filter(|(_, claim)| *claim == Claimed::HeldBy(holder.clone()));
            assert_eq!(told.count(), count as usize - 1, "{name}: {claims:?}");
        }
    }
}

/// Of two that take over from a third, one does, and the third is told once.
#[tokio::test]
async fn of_those_who_take_over_at_once_one_does() {
    let Some(redis) = Redis::start().await else { return };
    let mut holder = TestNode::start(1, &redis.url()).await;
    let (one, other) =
        (TestNode::start(2, &redis.url()).await, TestNode::start(3, &redis.url()).await);
    for leg in 0..500 {
        let (uuid, stale) = (uuid(), holder.holder(leg));
        assert_eq!(holder.claim(&uuid, leg).await, Claimed::Mine);
        let take = async |node: &TestNode| {
            node.directory.claim(&uuid, &node.holder(leg), Some(&stale), TTL).await.unwrap()
        };
        let taken = tokio::join!(take(&one), take(&other));
        let held = |node: &TestNode| Claimed::HeldBy(node.holder(leg));
        let one_has_it = taken == (Claimed::Mine, held(&one));
        assert!(one_has_it || taken == (held(&other), Claimed::Mine), "{taken:?}");
        assert_eq!(holder.told().await, Event::Lost(uuid));
    }
    assert!(holder.events.try_recv().is_err());
}

#[tokio::test]
async fn entries_of_a_later_release_are_read_as_far_as_they_can_be_or_taken_over() {
    let Some(redis) = Redis::start().await else { return };
    let node = TestNode::start(1, &redis.url()).await;
    let later = Node { instance: Instance(9), name: "later".into(), address: "h:1".into() };
    let later = Holder { node: Arc::new(later), leg: WaitId(5) };
    let written = async |text: String| {
        let uuid = uuid();
        let mut set = redis::cmd("SET");
        set.arg(format!("relay:leg:{}", uuid.as_str())).arg(text);
        let _: () = set.query_async(&mut redis.connect().await).await.unwrap();
        uuid
    };
    let uuid = written(format!("{later} more")).await;
    assert_eq!(node.claim(&uuid, 1).await, Claimed::HeldBy(later.clone()));
    let take = node.directory.claim(&uuid, &node.holder(1), Some(&later), TTL).await;
    assert_eq!(take.unwrap(), Claimed::Mine, "more fields do not keep anybody from taking it over");
    let uuid = written("2 of quite another form".to_owned()).await;
    assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
}

#[tokio::test]
async fn a_redis_that_has_forgotten_the_scripts_is_told_them_again() {
    let Some(redis) = Redis::start().await else { return };
    let node = TestNode::start(1, &redis.url()).await;
    let _: () = redis.ask("SCRIPT FLUSH").await.unwrap();
    let uuid = uuid();
    assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
    let _: () = redis.ask("SCRIPT FLUSH").await.unwrap();
    node.directory.release(&uuid, &node.holder(1)).await.unwrap();
    assert_eq!(redis.keys("*leg:*").await, [""; 0]);
    assert_eq!(node.directory.health().borrow().clone(), Health::Up);
}

#[tokio::test]
async fn a_redis_that_is_full_or_read_only_is_of_no_use_until_it_is_not() {
    let Some(redis) = Redis::start().await else { return };
    let mut node = TestNode::start(1, &redis.url()).await;
    let (host, port) = (redis.addr.ip(), redis.addr.port());
    let uuid = uuid();
    for (befalls, why, passes) in [
        ("CONFIG SET maxmemory 1mb".to_owned(), "OOM", "CONFIG SET maxmemory 0"),
        (format!("REPLICAOF {host} {port}"), "read only replica", "REPLICAOF NO ONE"),
    ] {
        assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
        let _: () = redis.ask(&befalls).await.unwrap();
        node.ask(&uuid, 1).await.expect_err(why);
        node.until_it_says(why).await;
        let _: () = redis.ask(passes).await.unwrap();
        assert_eq!(node.told().await, Event::Forgotten);
        node.until_up().await;
    }
    assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
}

#[tokio::test]
async fn a_redis_that_is_still_loading_is_waited_for() {
    // A thousandth of a second for each key, and now and then it looks who asks.
    let slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let Some(redis) = Redis::start_with(&slowly).await else { return };
    let fill = "for at = 1, 2000 do redis.call('SET', 'filling-' .. at, string.rep('x', 100)) end";
    let filled: redis::RedisResult<()> =
        redis::cmd("EVAL").arg(fill).arg(0).query_async(&mut redis.connect().await).await;
    filled.unwrap();
    let _: () = redis.ask("SAVE").await.unwrap();
    redis.restart().await;
    let mut node = TestNode::new(1, &redis.url(), |_| {});
    node.until_it_says("loading the dataset").await;
    assert_eq!(node.told().await, Event::Forgotten);
    assert_eq!(node.claim(&uuid(), 1).await, Claimed::Mine);
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let Some(redis) = Redis::start_with(&["--requirepass", "hunter2"]).await else { return };
    let with = |password: &str| redis.url().replace("//", &format!("//:{password}@"));
    let node = TestNode::new(1, &with("hunter2"), |_| {});
    node.until_up().await;
    assert_eq!(node.claim(&uuid(), 1).await, Claimed::Mine);
    let wrong = TestNode::new(2, &with("swordfish"), |_| {});
    wrong.until_it_says("WRONGPASS").await;
    let why = wrong.until_degraded().await;
    assert!(!why.contains("swordfish"), "{why}");
    let error = wrong.ask(&uuid(), 1).await.unwrap_err();
    assert!(!error.to_string().contains("swordfish"), "{error}");
    let none = TestNode::new(3, &redis.url(), |_| {});
    none.until_it_says("NOAUTH").await;
}

/// Each answer comes late, but it comes.
#[tokio::test]
async fn a_redis_that_is_slow_is_waited_for_as_long_as_it_may_be() {
    let Some(redis) = Redis::start().await else { return };
    let node = TestNode::new(1, &redis.url(), |_| {});
    node.until_up().await;
    let uuid = uuid();
    let _: () = redis.ask("CLIENT PAUSE 300 ALL").await.unwrap();
    let began = Instant::now();
    assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
    assert!(began.elapsed() > Duration::from_millis(200));
    let _: () = redis.ask("CLIENT PAUSE 1500 ALL").await.unwrap();
    let began = Instant::now();
    node.ask(&uuid, 1).await.expect_err("too late");
    assert!(began.elapsed() < Duration::from_millis(1400));
    node.until_up().await;
    assert_eq!(node.claim(&uuid, 1).await, Claimed::Mine);
}

/// More claims than may be under way at once: the rest wait their turn.
#[tokio::test]
async fn a_crowd_is_served_in_turn_and_leaves_nothing_behind() {
    let Some(redis) = Redis::start().await else { return };
    let node = TestNode::start(1, &redis.url()).await;
    let names: Vec<_> = (0..5000).map(|_| uuid()).collect();
    let claims = join_all(names.iter().map(|name| node.claim(name, 1))).await;
    assert!(claims.iter().all(|claimed| *claimed == Claimed::Mine));
    assert_eq!(redis.keys("*leg:*").await.len(), names.len());
    let holder = node.holder(1);
    let releases = names.iter().map(|name| node.directory.release(name, &holder));
    assert!(join_all(releases).await.iter().all(Result::is_ok));
    drop(node);
    for key in redis.keys("*").await {
        let left: i64 = redis.ask(&format!("PTTL {key}")).await.unwrap();
        assert!(left > 0, "{key} stays for good");
    }
    eventually("nobody is connected", async || {
        redis.ask::<String>("CLIENT LIST").await.unwrap().lines().count() == 1
    })
    .await;
}

/// A leg whose claim nobody could give back: the node has died.
#[tokio::test]
async fn what_a_dead_node_has_claimed_is_gone_with_its_time() {
    let Some(redis) = Redis::start().await else { return };
    let node = TestNode::start(1, &redis.url()).await;
    let (uuid, short) = (uuid(), Duration::from_millis(200));
    let claimed = node.directory.claim(&uuid, &node.holder(1), None, short).await;
    assert_eq!(claimed.unwrap(), Claimed::Mine);
    drop(node);
    eventually("nothing is left", async || redis.keys("*leg:*").await.is_empty()).await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_at_the_start_is_found_when_it_is() {
    let Some(redis) = Redis::start().await else { return };
    redis.stop();
    let mut node = TestNode::new(1, &redis.url(), |_| {});
    node.until_it_says("refused").await;
    redis.restart().await;
    assert_eq!(node.told().await, Event::Forgotten);
    assert_eq!(node.claim(&uuid(), 1).await, Claimed::Mine);
}
