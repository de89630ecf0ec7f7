//! Who the nodes are, over a real Redis: what each says, and what all learn of it.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use mini_rust_desk_relay_server::{
    cluster::{
        directory::{Instance, Node, redis::RedisDirectory},
        members::{Counts, Members, Others, Says, Usage},
        redis::Health,
    },
    config::{ClusterConfig, Secret},
};
use tokio::{sync::watch, task::JoinHandle};

use super::redis::Redis;
use crate::support::eventually;

const BEAT: Duration = Duration::from_millis(50);

/// A node, as far as the others know it.
struct TestNode {
    members: Members,
    says: Arc<Mutex<Says>>,
    health: watch::Receiver<Health>,
    driving: JoinHandle<()>,
}

impl TestNode {
    fn start(number: u64, redis: &Redis) -> Self {
        Self::start_beating(number, redis, BEAT)
    }

    fn start_beating(number: u64, redis: &Redis, beat: Duration) -> Self {
        let node = Arc::new(Node {
            instance: Instance(number),
            name: format!("node-{number}").into(),
            address: format!("127.0.0.1:{number}").into(),
        });
        let config = ClusterConfig { redis: Secret::new(redis.url()), ..ClusterConfig::default() };
        let (directory, mut events, drive) =
            RedisDirectory::new(&config, Path::new("."), &node).expect("a URL");
        let says = Arc::new(Mutex::new(Says { month: "2026-11".to_owned(), ..Says::default() }));
        let said = Arc::clone(&says);
        let says_now = move || said.lock().expect("no panic").clone();
        let health = directory.health();
        let members = Members::new(directory.redis(), node, 1_700_000_000, beat, says_now);
        let beats = members.clone();
        let driving = tokio::spawn(async move {
            tokio::join!(drive, beats.run(), async { while events.recv().await.is_some() {} });
        });
        Self { members, says, health, driving }
    }

    fn say(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().expect("no panic"));
    }

    fn use_key(&self, label: &str, active: u64, month_bytes: u64) {
        let usage = Usage { active, month_bytes };
        self.say(|says| says.labels.extend([(label.into(), usage)]));
    }

    fn others(&self) -> Arc<Others> {
        Arc::clone(&self.members.others().borrow())
    }

    fn other_use(&self, label: &str) -> Usage {
        self.others().labels.get(label).copied().unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        let nodes = Arc::clone(&self.members.nodes().borrow());
        nodes.values().map(|member| member.node.name.to_string()).collect()
    }

    async fn until_it_knows(&self, names: &[&str]) {
        let what = format!("{names:?} are known");
        eventually(&what, async || self.names() == names).await;
    }

    /// Without a goodbye.
    fn dies(&self) {
        self.driving.abort();
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

#[tokio::test]
async fn nodes_come_drain_go_and_die_and_all_know() {
    let Some(redis) = Redis::start().await else { return };
    let nodes: Vec<_> = (1..=4).map(|number| TestNode::start(number, &redis)).collect();
    for node in &nodes {
        node.until_it_knows(&["node-1", "node-2", "node-3", "node-4"]).await;
    }
    nodes[1].say(|says| says.draining = true);
    eventually("that it drains is known", async || nodes[0].members.nodes().borrow()[&2].draining)
        .await;
    nodes[1].members.goodbye().await;
    nodes[2].dies();
    for node in [&nodes[0], &nodes[3]] {
        node.until_it_knows(&["node-1", "node-4"]).await;
    }
    let _back = TestNode::start(3, &redis);
    nodes[0].until_it_knows(&["node-1", "node-3", "node-4"]).await;
}

#[tokio::test]
async fn what_others_count_is_added_up_and_what_the_dead_have_relayed_stays() {
    let Some(redis) = Redis::start().await else { return };
    let nodes: Vec<_> = (1..=3).map(|number| TestNode::start(number, &redis)).collect();
    for (node, active) in nodes.iter().zip([1, 20, 300]) {
        node.say(|says| says.counts = Counts { active, waiting: 7, ..Counts::default() });
        node.use_key("key", active, 1000 * active);
    }
    let sees = async |node: &TestNode, active, month_bytes| {
        let what = format!("others have {active} and {month_bytes}");
        eventually(&what, async || {
            node.others().counts.active == active
                && node.other_use("key") == Usage { active, month_bytes }
        })
        .await;
    };
    sees(&nodes[0], 320, 320_000).await;
    sees(&nodes[1], 301, 301_000).await;
    assert_eq!(nodes[2].others().month, "2026-11");
    // Less is active, and more was relayed.
    nodes[2].say(|says| says.counts.active = 100);
    nodes[2].use_key("key", 100, 400_000);
    sees(&nodes[0], 120, 420_000).await;
    nodes[2].dies();
    sees(&nodes[0], 20, 420_000).await;
    nodes[1].members.goodbye().await;
    sees(&nodes[0], 0, 420_000).await;
    // A key that is none any more.
    let back = TestNode::start(4, &redis);
    back.use_key("other", 5, 5);
    eventually("a new key", async || nodes[0].other_use("other").active == 5).await;
    back.say(|says| says.labels.clear());
    eventually("no key", async || nodes[0].other_use("other").active == 0).await;
    assert_eq!(nodes[0].other_use("other").month_bytes, 5);
}

/// As when an operator takes a key's quotas away, or the key, and thinks better of it.
#[tokio::test]
async fn a_key_that_has_quotas_again_has_used_what_it_had_and_not_twice_that() {
    let Some(redis) = Redis::start().await else { return };
    let (one, other) = (TestNode::start(1, &redis), TestNode::start(2, &redis));
    let sees = async |active, month_bytes| {
        let usage = Usage { active, month_bytes };
        eventually(&format!("{usage:?}"), async || other.other_use("key") == usage).await;
    };
    one.use_key("key", 2, 1000);
    sees(2, 1000).await;
    one.say(|says| says.labels.clear());
    sees(0, 1000).await;
    one.use_key("key", 1, 1200);
    sees(1, 1200).await;
}

/// Labels come and go for as long as nodes are there.
#[tokio::test]
async fn of_labels_that_nobody_uses_any_more_nothing_is_kept() {
    let Some(redis) = Redis::start().await else { return };
    let (one, other) = (TestNode::start(1, &redis), TestNode::start(2, &redis));
    let has = async |label: &str| {
        let sums: Vec<String> = redis.ask("HKEYS relay:sums").await.unwrap();
        sums.contains(&format!("n:key:{label}"))
    };
    one.use_key("old", 3, 0);
    other.use_key("other", 3, 0);
    eventually("they are there", async || has("old").await && has("other").await).await;
    one.say(|says| says.labels.clear());
    eventually("it is gone", async || !has("old").await).await;
    other.members.goodbye().await;
    eventually("so is it", async || !has("other").await).await;
}

/// Members that others than this test's nodes have written, and more who have gone than is kept.
#[tokio::test]
async fn who_joins_learns_of_all_nodes_however_many_came_and_went_before() {
    const MANY: usize = 300;
    let Some(redis) = Redis::start().await else { return };
    let far = "4102444800000";
    for number in 1..=MANY {
        let who = format!("{{\"name\":\"old-{number:03}\",\"address\":\"127.0.0.1:1\"}}");
        let _: () = redis.ask(&format!("HSET relay:said:{number:x} who {who}")).await.unwrap();
    }
    let scored = |score: &dyn Fn(usize) -> String, from: usize, count: usize| {
        let pairs = (from..from + count).map(|number| format!(" {} {number:x}", score(number)));
        pairs.collect::<String>()
    };
    let by_number = |number: usize| number.to_string();
    let nodes = scored(&|_| far.to_owned(), 1, MANY);
    let (came, gone) = (scored(&by_number, 1, MANY), scored(&by_number, 100_000, 1024));
    for (key, scored) in [("nodes", nodes), ("came", came), ("gone", gone)] {
        let _: () = redis.ask(&format!("ZADD relay:{key}{scored}")).await.unwrap();
    }
    let _: () = redis.ask("SET relay:generation 200000").await.unwrap();
    let node = TestNode::start(0xffff, &redis);
    eventually("all are known", async || node.names().len() == MANY + 1).await;
    let _: () = redis.ask("ZADD relay:nodes 1 7").await.unwrap();
    eventually("it is known who has gone", async || node.names().len() == MANY).await;
}

#[tokio::test]
async fn a_month_begins_with_nothing() {
    let Some(redis) = Redis::start().await else { return };
    let (one, other) = (TestNode::start(1, &redis), TestNode::start(2, &redis));
    one.use_key("key", 0, 1000);
    eventually("it is known", async || other.other_use("key").month_bytes == 1000).await;
    for node in [&one, &other] {
        node.say(|says| says.month = "2026-12".to_owned());
    }
    one.use_key("key", 0, 3);
    eventually("the new month's", async || {
        other.others().month == "2026-12" && other.other_use("key").month_bytes == 3
    })
    .await;
}

/// Two processes that are one after the other count as one in nothing: neither twice nor not at all.
#[tokio::test]
async fn a_node_that_is_counted_out_while_it_hangs_is_counted_once_when_it_goes_on() {
    let Some(redis) = Redis::start().await else { return };
    let (one, other) = (TestNode::start(1, &redis), TestNode::start(2, &redis));
    other.use_key("key", 4, 4000);
    let sees = async |active, month_bytes| {
        let usage = Usage { active, month_bytes };
        eventually(&format!("{usage:?}"), async || one.other_use("key") == usage).await;
    };
    sees(4, 4000).await;
    other.dies();
    sees(0, 4000).await;
    let again = TestNode::start(2, &redis);
    again.use_key("key", 4, 4500);
    sees(4, 4500).await;
}

#[tokio::test]
async fn all_is_said_anew_to_a_redis_that_has_forgotten() {
    let Some(redis) = Redis::start().await else { return };
    let (one, other) = (TestNode::start(1, &redis), TestNode::start(2, &redis));
    other.use_key("key", 4, 4000);
    one.until_it_knows(&["node-1", "node-2"]).await;
    for restarts in [false, true] {
        if restarts {
            redis.restart().await;
        } else {
            let _: () = redis.ask("FLUSHALL").await.unwrap();
        }
        let third = TestNode::start(3, &redis);
        one.until_it_knows(&["node-1", "node-2", "node-3"]).await;
        eventually("the sums", async || {
            third.other_use("key") == Usage { active: 4, month_bytes: 4000 }
        })
        .await;
        third.members.goodbye().await;
        one.until_it_knows(&["node-1", "node-2"]).await;
    }
}

#[tokio::test]
async fn the_list_has_what_each_counts() {
    let Some(redis) = Redis::start().await else { return };
    let (one, other) = (TestNode::start(1, &redis), TestNode::start(2, &redis));
    other.say(|says| says.counts.waiting = 9);
    eventually("it is listed", async || {
        let list = one.members.list().await.unwrap_or_default();
        list.len() == 2 && list[1].1.waiting == 9
    })
    .await;
    let (member, counts, _) = one.members.list().await.unwrap().remove(0);
    assert_eq!((&*member.node.name, member.started), ("node-1", 1_700_000_000));
    assert_eq!(counts, Counts::default());
}

/// In commands that it has Redis do, without what the test itself asks.
async fn cost_of_a_heartbeat(redis: &Redis) -> f64 {
    let _: () = redis.ask("CONFIG RESETSTAT").await.expect("it answers");
    let mut calls = HashMap::new();
    eventually("they beat", async || {
        calls = redis.calls().await;
        calls.get("evalsha") > Some(&20)
    })
    .await;
    let is_the_test = |name: &str| ["info", "config", "client", "hello"].contains(&name);
    let by_nodes =
        calls.iter().filter(|(name, _)| !is_the_test(name.split('|').next().unwrap_or(name)));
    by_nodes.map(|(_, count)| count).sum::<u64>() as f64 / calls["evalsha"] as f64
}

/// What Redis does for a heartbeat does not grow with the number of nodes.
#[tokio::test]
async fn a_heartbeat_costs_the_same_with_many_nodes() {
    const SELDOM: Duration = Duration::from_millis(500);
    let Some(redis) = Redis::start().await else { return };
    let mut costs = Vec::new();
    let mut nodes = Vec::new();
    for count in [2, 40] {
        let numbers = nodes.len() as u64 + 1..=count as u64;
        // Seldom enough that none is taken for dead.
        nodes.extend(numbers.map(|number| TestNode::start_beating(number, &redis, SELDOM)));
        for node in &nodes {
            eventually("all are known", async || node.names().len() == count).await;
        }
        // A node that the machine held up was taken for dead, and costs more when it is back.
        let most = costs.first().map_or(f64::MAX, |two| two * 1.3);
        eventually(&format!("a heartbeat costs less than {most} calls"), async || {
            costs.push(cost_of_a_heartbeat(&redis).await);
            costs[costs.len() - 1] < most
        })
        .await;
    }
}

/// A heartbeat is how a node notices, when nobody claims.
#[tokio::test]
async fn a_heartbeat_to_a_redis_that_is_full_fails() {
    let Some(redis) = Redis::start().await else { return };
    let node = TestNode::start(1, &redis);
    node.until_it_knows(&["node-1"]).await;
    for _ in 0..5 {
        let _: () = redis.ask("CONFIG SET maxmemory 1").await.unwrap();
        let full =
            |health: &Health| matches!(health, Health::Degraded { why, .. } if why.contains("OOM"));
        eventually("it is noticed", async || full(&node.health.borrow())).await;
        let _: () = redis.ask("CONFIG SET maxmemory 0").await.unwrap();
        eventually("it is over", async || *node.health.borrow() == Health::Up).await;
    }
}
