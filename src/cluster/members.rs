//! Who the nodes are: each says so by a heartbeat, with what it counts, and learns the sums of what
//! the others count. A node that is silent for three heartbeats is none any more.
//!
//! A heartbeat is one script (`heartbeat.lua`), which costs the same however many nodes there are:
//! it keeps sums, and tells who came and has gone since the last one. What the sums are for (limits
//! that hold for all nodes together) is not decided here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::Script;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    directory::{DirectoryError, Instance, Node},
    redis::{EPOCH_KEPT, Redis, random},
};

/// A node lives for so many heartbeats by each of them.
const BEATS: u32 = 3;

static HEARTBEAT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("members/heartbeat.lua")));
static GOODBYE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("members/goodbye.lua")));
static LIST: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("members/list.lua")));

/// What a node says of itself with a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Says {
    /// Whether it takes no new legs any more.
    pub draining: bool,
    /// What is true of it now.
    pub counts: Counts,
    /// The month that its traffic is counted in, such as `2026-11`.
    pub month: String,
    /// Of the keys that have quotas, by label.
    pub labels: BTreeMap<Arc<str>, Usage>,
}

/// What a node counts now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Relays that are active.
    pub active: u64,
    /// Legs that wait.
    pub waiting: u64,
    /// Legs that it carries to other nodes.
    pub carried: u64,
    /// What it relays, in bytes a second.
    pub bytes_per_second: u64,
}

/// How much a key is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Relays that are active.
    pub active: u64,
    /// Bytes relayed in this month. Of a node: since this start of it.
    pub month_bytes: u64,
}

/// What all other nodes count together, as they last said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// What is true now.
    pub counts: Counts,
    /// The month of the traffic.
    pub month: String,
    /// Of the keys that have quotas, by label. The traffic is that of all there are and were, but
    /// for what this start of this node has counted.
    pub labels: HashMap<Arc<str>, Usage>,
}

/// A node, as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which it is, and where it is reached.
    pub node: Arc<Node>,
    /// The version that it runs.
    pub version: Arc<str>,
    /// When it was started: Unix time in seconds, by its own clock.
    pub started: i64,
    /// Whether it takes no new legs any more.
    pub draining: bool,
}

/// The nodes, this one among them. Copies are the same.
#[derive(Clone)]
pub struct Members(Arc<Inner>);

struct Inner {
    redis: Redis,
    me: Arc<Node>,
    started: i64,
    beats_every: Duration,
    says: Box<dyn Fn() -> Says + Send + Sync>,
    /// By start; this node too.
    nodes: watch::Sender<Arc<BTreeMap<u64, Member>>>,
    others: watch::Sender<Arc<Others>>,
    /// How often the blocks have changed, as Redis says.
    blocks: watch::Sender<u64>,
    known: Mutex<Known>,
    has_stopped: AtomicBool,
}

/// What the last heartbeat told.
#[derive(Default)]
struct Known {
    epoch: String,
    membership: u64,
}

/// What a node writes of itself.
#[derive(Serialize, Deserialize)]
struct Who {
    name: String,
    address: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    started: i64,
    #[serde(default)]
    draining: bool,
}

/// What a heartbeat is answered with; see `heartbeat.lua`.
type Answer = (
    String,
    u64,
    bool,
    Vec<(String, String)>,
    Vec<String>,
    HashMap<String, i64>,
    HashMap<String, u64>,
    u64,
);

impl Members {
    /// The nodes as seen by `me`, who says what `says` returns, every `beats_every`. `started` is
    /// Unix time in seconds. Nothing is said before [`Members::run`].
    pub fn new(
        redis: Redis,
        me: Arc<Node>,
        started: i64,
        beats_every: Duration,
        says: impl Fn() -> Says + Send + Sync + 'static,
    ) -> Self {
        redis.has_heartbeats();
        Self(Arc::new(Inner {
            redis,
            me,
            started,
            beats_every,
            says: Box::new(says),
            nodes: watch::Sender::default(),
            others: watch::Sender::default(),
            blocks: watch::Sender::new(0),
            known: Mutex::default(),
            has_stopped: AtomicBool::new(false),
        }))
    }

    /// All nodes that are known, by their start: this one too once it has said so.
    pub fn nodes(&self) -> watch::Receiver<Arc<BTreeMap<u64, Member>>> {
        self.0.nodes.subscribe()
    }

    /// What all others count together.
    pub fn others(&self) -> watch::Receiver<Arc<Others>> {
        self.0.others.subscribe()
    }

    /// How often the blocks have changed, as the last heartbeat said.
    pub fn blocks(&self) -> watch::Receiver<u64> {
        self.0.blocks.subscribe()
    }

    /// All nodes with what they count and how long ago they said so, asked for now.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn list(&self) -> Result<Vec<(Member, Counts, Duration)>, DirectoryError> {
        let call = LIST.key(self.0.redis.name(""));
        let list: Vec<(String, String, String, u64)> = self.0.redis.run(&call).await?;
        let lives = self.0.beats_every * BEATS;
        let members = list.into_iter().filter_map(|(start, who, shows, left)| {
            let counts = serde_json::from_str(&shows).unwrap_or_default();
            let heard = lives.saturating_sub(Duration::from_millis(left));
            Some((member(&start, &who)?, counts, heard))
        });
        Ok(members.collect())
    }

    /// Says every heartbeat that this node lives, for as long as this is polled.
    pub async fn run(&self) {
        let mut beats = interval(self.0.beats_every);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut health = self.0.redis.health();
        while !self.0.has_stopped.load(Ordering::Relaxed) {
            tokio::select! {
                _ = beats.tick() => {}
                // Redis is back, or away.
                Ok(()) = health.changed() => {}
            }
            if let Err(error) = self.beat().await {
                tracing::debug!(%error, "no heartbeat");
            }
        }
    }

    /// Says that this node stops, after what it counts last. What is not said in time expires.
    pub async fn goodbye(&self) {
        self.0.has_stopped.store(true, Ordering::Relaxed);
        let mut call = GOODBYE.key(self.0.redis.name(""));
        call.arg(self.start());
        let said = async {
            self.say().await?;
            self.0.redis.run::<()>(&call).await
        };
        if let Err(error) = said.await {
            tracing::debug!(%error, "no goodbye to the other nodes");
        }
    }

    /// One heartbeat.
    async fn beat(&self) -> Result<(), DirectoryError> {
        if self.0.has_stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (says, answer) = self.say().await?;
        let (epoch, membership, void, came, gone, sums, traffic, blocks) = answer;
        self.0.redis.saw_epoch(&epoch);
        *self.known() = Known { epoch, membership };
        self.learn(void, &came, &gone);
        self.0.others.send_replace(Arc::new(others(&says, &sums, &traffic)));
        self.0.blocks.send_if_modified(|known| std::mem::replace(known, blocks) != blocks);
        Ok(())
    }

    async fn say(&self) -> Result<(Says, Answer), DirectoryError> {
        let says = (self.0.says)();
        let me = &*self.0.me;
        let who = Who {
            name: me.name.to_string(),
            address: me.address.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.0.started,
            draining: says.draining,
        };
        let lives = (self.0.beats_every * BEATS).as_millis().to_string();
        let mut call = HEARTBEAT.key(self.0.redis.name(""));
        call.arg(self.start()).arg(json(&who)).arg(json(&says.counts)).arg(lives);
        call.arg(random().to_string()).arg(EPOCH_KEPT.as_millis().to_string());
        {
            let known = self.known();
            call.arg(&says.month).arg(known.membership).arg(&known.epoch);
        }
        for (name, number) in numbers(&says) {
            call.arg(name).arg(number);
        }
        let answer = self.0.redis.run(&call).await?;
        Ok((says, answer))
    }

    /// Changes the list of nodes as a heartbeat has told.
    fn learn(&self, void: bool, came: &[(String, String)], gone: &[String]) {
        if !void && came.is_empty() && gone.is_empty() {
            return;
        }
        self.0.nodes.send_modify(|nodes| {
            let nodes = Arc::make_mut(nodes);
            if void {
                nodes.clear();
            }
            for start in gone.iter().filter_map(|start| number(start)) {
                nodes.remove(&start);
            }
            for member in came.iter().filter_map(|(start, who)| member(start, who)) {
                nodes.insert(member.node.instance.0, member);
            }
        });
    }

    fn start(&self) -> String {
        format!("{:x}", self.0.me.instance.0)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Two words that are set together.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said in numbers, by the names that `heartbeat.lua` knows.
fn numbers(says: &Says) -> impl Iterator<Item = (String, u64)> {
    let Counts { active, waiting, carried, bytes_per_second } = says.counts;
    let counts = [
        ("n:active", active),
        ("n:waiting", waiting),
        ("n:carried", carried),
        ("n:bytes_per_second", bytes_per_second),
    ];
    let counts = counts.map(|(name, number)| (name.to_owned(), number));
    let labels = says.labels.iter().flat_map(|(label, usage)| {
        let traffic = format!("t:{}:{label}", says.month);
        [(format!("n:key:{label}"), usage.active), (traffic, usage.month_bytes)]
    });
    counts.into_iter().chain(labels)
}

/// What all others say, of the sums of all.
fn others(says: &Says, sums: &HashMap<String, i64>, traffic: &HashMap<String, u64>) -> Others {
    let other = |name: &str, mine: u64| {
        let sum = sums.get(name).copied().unwrap_or_default();
        u64::try_from(sum).unwrap_or_default().saturating_sub(mine)
    };
    let mine = |label: &str| says.labels.get(label).copied().unwrap_or_default();
    let labels = sums.keys().filter_map(|name| name.strip_prefix("n:key:"));
    let labels = labels.chain(traffic.keys().map(String::as_str)).map(|label| {
        let used = traffic.get(label).copied().unwrap_or_default();
        let usage = Usage {
            active: other(&format!("n:key:{label}"), mine(label).active),
            month_bytes: used.saturating_sub(mine(label).month_bytes),
        };
        (Arc::from(label), usage)
    });
    let counts = Counts {
        active: other("n:active", says.counts.active),
        waiting: other("n:waiting", says.counts.waiting),
        carried: other("n:carried", says.counts.carried),
        bytes_per_second: other("n:bytes_per_second", says.counts.bytes_per_second),
    };
    Others { counts, month: says.month.clone(), labels: labels.collect() }
}

/// A node as it has written itself; `None` for what this release cannot read.
fn member(start: &str, who: &str) -> Option<Member> {
    let instance = Instance(number(start)?);
    let Who { name, address, version, started, draining } = serde_json::from_str(who).ok()?;
    let node = Node { instance, name: name.into(), address: address.into() };
    Some(Member { node: Arc::new(node), version: version.into(), started, draining })
}

fn number(start: &str) -> Option<u64> {
    u64::from_str_radix(start, 16).ok()
}

fn json(value: &impl Serialize) -> String {
    // Plain structs of numbers and text: there is nothing in them that could fail.
    serde_json::to_string(value).unwrap_or_default()
}
