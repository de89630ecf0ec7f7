//! The networks that operators put on a list while the relay runs: what one node is told holds on
//! all. Redis keeps them for whoever joins; each change is published, and heard at once.
//!
//! A node does at home what it is asked to, and tells Redis when that can be told. It counts what it
//! hears: who has missed something reads all. If Redis has lost what it knew, every node tells it
//! what it has. What configurations and files say stays each node's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::Script;
use tokio::{
    sync::{Notify, broadcast::error::RecvError, watch},
    time::sleep,
};

use super::{
    directory::DirectoryError,
    redis::{Redis, random},
};
use crate::{
    config::Network,
    net::access::{Access, Change, ListName, Source},
};

/// How many changes Redis is told at once.
const BATCH: usize = 256;

/// How long it takes until Redis is asked again that has not answered.
const RETRY: Duration = Duration::from_secs(1);

/// How long a change may be on its way that a heartbeat already knows of.
const LATE: Duration = Duration::from_millis(200);

static CHANGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("blocks/change.lua")));
static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("blocks/read.lua")));

/// What all nodes block and throttle. Copies are the same.
#[derive(Clone)]
pub struct Blocks(Arc<Inner>);

struct Inner {
    redis: Redis,
    access: Arc<Access>,
    // Held for operations on maps and lists, never across an await.
    state: Mutex<State>,
    /// There is something to be told.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// What Redis is to be told.
    pending: BTreeMap<Entry, Pending>,
    /// What Redis has, or may have.
    shared: BTreeSet<Entry>,
    /// Which start of Redis' data that is; empty before it was read.
    epoch: String,
    /// How often it had changed.
    generation: u64,
}

type Entry = (ListName, Network);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    /// It is on the list until then, or for good.
    Put(Option<Instant>),
    /// The same of what Redis has lost: unless somebody has taken it back meanwhile.
    PutAgain(Option<Instant>),
    Take,
}

/// What `read.lua` returns.
type All = (String, u64, Vec<(String, i64)>);

impl Blocks {
    /// What is put on `access`' lists on any node is on all. Nothing is told or heard before
    /// [`Blocks::run`].
    pub fn new(redis: Redis, access: Arc<Access>) -> Self {
        let (state, wake) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { redis, access, state, wake }))
    }

    /// This node's operator has put a network on a list. Does not block.
    pub fn put(&self, list: ListName, network: Network, lasts: Option<Duration>) {
        let lapses = lasts.and_then(|lasts| Instant::now().checked_add(lasts));
        self.state().pending.insert((list, network), Pending::Put(lapses));
        self.0.wake.notify_one();
    }

    /// This node's operator has taken a network off a list. Does not block.
    pub fn take(&self, list: ListName, network: Network) {
        let (mut state, entry) = (self.state(), (list, network));
        // Of what Redis never heard it need not hear that it is gone.
        if state.shared.contains(&entry) {
            state.pending.insert(entry, Pending::Take);
        } else {
            state.pending.remove(&entry);
        }
        drop(state);
        self.0.wake.notify_one();
    }

    /// Tells and hears, for as long as this is polled. `generation` is how often the lists have
    /// changed, as the last heartbeat said.
    pub async fn run(&self, mut generation: watch::Receiver<u64>) {
        let (mut news, mut health) = (self.0.redis.news(), self.0.redis.health());
        let (mut in_step, mut is_late) = (false, false);
        loop {
            let done = self.catch_up(&mut in_step).await;
            if let Err(error) = &done {
                tracing::debug!(%error, "the lists of other nodes are not known for now");
            }
            tokio::select! {
                () = self.0.wake.notified() => {}
                news = news.recv() => match news {
                    Ok(news) => in_step &= self.hear(&news),
                    Err(RecvError::Lagged(_)) => in_step = false,
                    Err(RecvError::Closed) => return,
                },
                // What was published while Redis was away was not heard.
                Ok(()) = health.changed() => in_step = false,
                Ok(()) = generation.changed(), if !is_late => is_late = true,
                () = sleep(LATE), if is_late => {
                    is_late = false;
                    in_step &= *generation.borrow_and_update() == self.state().generation;
                }
                () = sleep(RETRY), if done.is_err() => {}
            }
        }
    }

    /// Tells what is to be told, and reads what was missed.
    async fn catch_up(&self, in_step: &mut bool) -> Result<(), DirectoryError> {
        self.tell().await?;
        if !*in_step {
            let mut all = self.read().await?;
            if self.is_lost(&all.0) {
                tracing::warn!(
                    "Redis has lost the networks that operators block: it is told again"
                );
                self.tell().await?;
                all = self.read().await?;
            }
            self.apply(all);
            *in_step = true;
        }
        Ok(())
    }

    async fn read(&self) -> Result<All, DirectoryError> {
        self.0.redis.run(&READ.key(self.0.redis.name(""))).await
    }

    async fn tell(&self) -> Result<(), DirectoryError> {
        loop {
            let batch = self.batch();
            if batch.is_empty() {
                return Ok(());
            }
            let mut call = CHANGE.key(self.0.redis.name(""));
            call.arg(format!("{:x}", random()));
            for (entry, change) in &batch {
                let (sign, lasts) = change.as_said(Instant::now());
                call.arg(sign).arg(name(entry)).arg(lasts);
            }
            self.0.redis.run::<()>(&call).await?;
            let mut state = self.state();
            for (entry, change) in batch {
                // It may have been changed once more.
                if state.pending.get(&entry) == Some(&change) {
                    state.pending.remove(&entry);
                }
            }
        }
    }

    /// The next changes that Redis is told.
    fn batch(&self) -> Vec<(Entry, Pending)> {
        let mut state = self.state();
        let batch: Vec<_> = state.pending.iter().take(BATCH).map(|(e, p)| (*e, *p)).collect();
        state.shared.extend(batch.iter().map(|(entry, _)| *entry));
        batch
    }

    /// Whether what was told to Redis before is gone. All that is there was added is then to be told
    /// again.
    fn is_lost(&self, epoch: &str) -> bool {
        let mut state = self.state();
        if state.epoch.is_empty() || state.epoch == epoch {
            return false;
        }
        state.epoch.clear();
        let now = Instant::now();
        for list in ListName::BOTH {
            for entry in self.0.access.list(list).entries() {
                if entry.source == Source::Api {
                    let lapses = entry.remaining.and_then(|lasts| now.checked_add(lasts));
                    let pending = state.pending.entry((list, entry.network));
                    pending.or_insert(Pending::PutAgain(lapses));
                }
            }
        }
        true
    }

    /// Has the lists be what Redis says, but for what it is still to be told.
    fn apply(&self, (epoch, generation, all): All) {
        let now = Instant::now();
        let entries = all.iter().filter_map(|(entry, lasts)| Some((parsed(entry)?, *lasts)));
        let entries: BTreeMap<Entry, i64> = entries.collect();
        let mut state = self.state();
        for list in ListName::BOTH {
            let is_ours = |entry: &Entry| entry.0 == list && !state.pending.contains_key(entry);
            let put = entries.iter().filter(|(entry, _)| is_ours(entry));
            let put = put.map(|(entry, lasts)| (entry.1, Change::Put(until(now, *lasts))));
            let gone = state.shared.iter().filter(|entry| !entries.contains_key(entry));
            let gone = gone.filter(|entry| is_ours(entry)).map(|entry| (entry.1, Change::Take));
            let changes: Vec<_> = gone.chain(put).collect();
            self.change(list, &changes);
        }
        state.shared = entries.into_keys().collect();
        (state.epoch, state.generation) = (epoch, generation);
    }

    /// Takes in what was published; whether nothing was missed.
    fn hear(&self, payload: &[u8]) -> bool {
        let Some(News { epoch, generation, change }) = News::read(payload) else { return false };
        let mut state = self.state();
        if epoch != state.epoch || generation > state.generation + 1 {
            return false;
        }
        if generation <= state.generation {
            return true;
        }
        let Some((entry, change)) = change else { return false };
        state.generation = generation;
        match change {
            Change::Put(_) => state.shared.insert(entry),
            Change::Take => state.shared.remove(&entry),
        };
        // What it is still to be told is newer.
        if !state.pending.contains_key(&entry) {
            self.change(entry.0, &[(entry.1, change)]);
        }
        true
    }

    fn change(&self, list: ListName, changes: &[(Network, Change)]) {
        if changes.is_empty() {
            return;
        }
        if let Err(full) = self.0.access.change(list, changes) {
            tracing::warn!("a list has not all that other nodes have: {full}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What panicked had changed maps one entry at a time; all is read again sooner or later.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// As `change.lua` takes it.
    fn as_said(self, now: Instant) -> (&'static str, String) {
        let (sign, lapses) = match self {
            Self::Take => return ("-", String::new()),
            Self::Put(lapses) => ("+", lapses),
            Self::PutAgain(lapses) => ("=", lapses),
        };
        // What has lapsed meanwhile does so there at once.
        let left = |lapses: Instant| lapses.saturating_duration_since(now).as_millis().max(1);
        (sign, lapses.map(|lapses| left(lapses).to_string()).unwrap_or_default())
    }
}

/// What is published of a change.
struct News {
    epoch: String,
    generation: u64,
    /// `None`: several, which are to be read.
    change: Option<(Entry, Change)>,
}

impl News {
    fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let mut words = text.splitn(4, ' ');
        let (epoch, generation) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        let change = match words.next() {
            None => None,
            Some(sign) => {
                let (entry, lasts) = words.next()?.rsplit_once(' ')?;
                let lasts = if lasts.is_empty() { -1 } else { lasts.parse().ok()? };
                let change = match sign {
                    "+" => Change::Put(until(Instant::now(), lasts)),
                    _ => Change::Take,
                };
                Some((parsed(entry)?, change))
            }
        };
        Some(Self { epoch, generation, change })
    }
}

/// When something lapses that stays for so many milliseconds, if it does.
fn until(now: Instant, lasts: i64) -> Option<Instant> {
    u64::try_from(lasts).ok().and_then(|lasts| now.checked_add(Duration::from_millis(lasts)))
}

/// As Redis has it: the list and the network.
fn name((list, network): &Entry) -> String {
    let list = match list {
        ListName::Block => "block",
        ListName::Throttle => "throttle",
    };
    format!("{list} {network}")
}

/// What a later release may have there besides is passed over.
fn parsed(entry: &str) -> Option<Entry> {
    let (list, network) = entry.split_once(' ')?;
    let list = match list {
        "block" => ListName::Block,
        "throttle" => ListName::Throttle,
        _ => return None,
    };
    Some((list, network.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_as_it_was_said() {
        let news = News::read(b"e1 7 + block 192.0.2.0/24 5000").unwrap();
        assert_eq!((&*news.epoch, news.generation), ("e1", 7));
        let (entry, change) = news.change.unwrap();
        assert_eq!(name(&entry), "block 192.0.2.0/24");
        assert!(matches!(change, Change::Put(Some(_))));
        let (entry, change) = News::read(b"e 8 + throttle 2001:db8::/32 ").unwrap().change.unwrap();
        assert_eq!((entry.0, change), (ListName::Throttle, Change::Put(None)));
        let (_, change) = News::read(b"e 9 - block 192.0.2.1/32 ").unwrap().change.unwrap();
        assert_eq!(change, Change::Take);
        assert!(News::read(b"e 10").unwrap().change.is_none());
        for strange in ["", "e", "e x", "e 1 + nothing 192.0.2.1 ", "e 1 + block x 5", "e 1 +"] {
            assert!(News::read(strange.as_bytes()).is_none(), "{strange}");
        }
    }

    #[test]
    fn an_entry_is_called_the_same_however_it_was_written() {
        for network in ["192.0.2.1", "192.0.2.1/32", "2001:db8::1", "10.0.0.0/8"] {
            let entry = (ListName::Block, network.parse().unwrap());
            assert_eq!(parsed(&name(&entry)), Some(entry), "{network}");
        }
    }
}
