//! One connection to Redis, for all that this node asks of it: made anew with a back-off when it
//! ends or answers no more, and every question bounded in time and number.
//!
//! Redis may be away at any time, also at the start. Who asks then gets an error at once, and is
//! told when it is back. What is asked is for `directory/redis.rs` and `members.rs`.

mod connect;
mod driver;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    FromRedisValue, PushInfo, PushKind, RedisError, Script, ScriptInvocation, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{Notify, Semaphore, broadcast, mpsc, watch},
    time::{Instant, timeout},
};

pub use self::connect::RedisConfigError;
use self::{connect::Target, driver::Driver};
use super::directory::DirectoryError;
use crate::config::ClusterConfig;

/// How many questions may be with Redis at once; the rest wait, within their time.
const IN_FLIGHT: usize = 512;

/// Why Redis is not asked before the first try to connect.
const NOT_YET: &str = "not connected yet";

/// Where all nodes are told what concerns all, without the prefix.
pub(super) const NEWS_CHANNEL: &str = "news";

/// How much of that may wait for who is interested, who then is told that he has missed some.
const NEWS: usize = 256;

/// For how long Redis knows which start of its data this is, after the last node has gone.
pub(super) const EPOCH_KEPT: Duration = Duration::from_secs(3600);

/// Whether Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Up,
    /// It does not: two sides on two nodes do not find each other for now.
    Degraded {
        /// Since when.
        since: Instant,
        /// Why, as was seen last.
        why: Arc<str>,
    },
}

/// What a node is told unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// Redis is back, or has lost what it knew, or messages were missed: what was said may be gone.
    Anew,
    /// A message on one of the channels.
    Message {
        /// The channel's name without the prefix.
        channel: String,
        /// What it says.
        payload: Vec<u8>,
    },
}

/// The connection. Copies are the same one.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    prefix: String,
    timeout: Duration,
    in_flight: Semaphore,
    /// None while Redis is away. The number tells a connection from those before it.
    current: Mutex<(u64, Option<MultiplexedConnection>)>,
    /// The current connection is of no use any more.
    broken: Notify,
    /// Something that was told unasked found no place.
    missed: Notify,
    health: watch::Sender<Health>,
    /// Which start of its data Redis has shown last.
    epoch: watch::Sender<Option<String>>,
    /// Whether heartbeats show the epoch, so that nothing else has to ask for it.
    has_heartbeats: AtomicBool,
    news: broadcast::Sender<Vec<u8>>,
}

/// Whether there can be a connection to what `config` names, as far as that is known without one.
/// Files are looked for in `dir`.
///
/// # Errors
/// When there never can be.
pub fn check(config: &ClusterConfig, dir: &Path) -> Result<(), RedisConfigError> {
    Target::new(config, dir).map(drop)
}

impl Redis {
    /// A connection that is not there yet, and what makes it. `channels` (without the prefix) are
    /// listened to, and `scripts` are known to Redis before it is asked for any of them. Never fails
    /// because Redis is away.
    pub(super) fn new(
        config: &ClusterConfig,
        dir: &Path,
        channels: Vec<String>,
        scripts: Vec<&'static Script>,
        told: mpsc::Sender<Told>,
    ) -> Result<(Self, Driver), RedisConfigError> {
        let target = Target::new(config, dir)?;
        let why = NOT_YET.into();
        let redis = Self(Arc::new(Inner {
            prefix: config.prefix.clone(),
            timeout: config.redis_timeout.get(),
            in_flight: Semaphore::new(IN_FLIGHT),
            current: Mutex::new((0, None)),
            broken: Notify::new(),
            missed: Notify::new(),
            health: watch::Sender::new(Health::Degraded { since: Instant::now(), why }),
            epoch: watch::Sender::default(),
            has_heartbeats: AtomicBool::new(false),
            news: broadcast::Sender::new(NEWS),
        }));
        let check_every = config.heartbeat.get();
        let driver = Driver { redis: redis.clone(), target, channels, scripts, told, check_every };
        Ok((redis, driver))
    }

    /// Whether Redis answers, now and from now on.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    /// Which start of its data Redis has: another one, and what it knew is gone.
    pub fn epoch(&self) -> watch::Receiver<Option<String>> {
        self.0.epoch.subscribe()
    }

    /// Somebody's heartbeats will show the epoch.
    pub(super) fn has_heartbeats(&self) {
        self.0.has_heartbeats.store(true, Ordering::Relaxed);
    }

    /// Redis has shown its epoch.
    pub(super) fn saw_epoch(&self, epoch: &str) {
        let is_new = self.0.epoch.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(epoch);
            *known = Some(epoch.to_owned());
            is_new
        });
        if is_new {
            self.0.missed.notify_one();
        }
    }

    /// What is said to all nodes, from now on.
    pub fn news(&self) -> broadcast::Receiver<Vec<u8>> {
        self.0.news.subscribe()
    }

    /// A key's or channel's full name.
    pub(super) fn name(&self, name: impl fmt::Display) -> String {
        format!("{}{name}", self.0.prefix)
    }

    /// Runs a script, at most for the configured time, waiting included.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, DirectoryError> {
        let (number, connection) = self.current().clone();
        let Some(connection) = connection else {
            return Err(DirectoryError(match &*self.0.health.borrow() {
                Health::Degraded { why, .. } => why.to_string(),
                Health::Up => "not connected".to_owned(),
            }));
        };
        let asked = timeout(self.0.timeout, self.ask(connection, call)).await;
        let why = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            // About this one key, not about Redis.
            Ok(Err(error)) if error.to_string().contains("WRONGTYPE") => {
                return Err(DirectoryError(error.to_string()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => self.too_slow(),
        };
        self.gave_up(number, &why);
        Err(DirectoryError(why))
    }

    async fn ask<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        // It is never closed.
        let _place = self.0.in_flight.acquire().await;
        call.invoke_async(&mut connection).await
    }

    fn too_slow(&self) -> String {
        format!("no answer within {:?}", self.0.timeout)
    }

    /// A connection is given up. One that was given up before is nobody's any more.
    fn gave_up(&self, number: u64, why: &str) {
        let mut current = self.current();
        if current.0 == number && current.1.take().is_some() {
            drop(current);
            self.is_degraded(why);
            self.0.broken.notify_one();
        }
    }

    fn is_degraded(&self, why: &str) {
        self.0.health.send_modify(|health| {
            let (since, is_news) = match health {
                Health::Degraded { since, why } => (*since, **why == *NOT_YET),
                Health::Up => (Instant::now(), true),
            };
            if is_news {
                tracing::warn!(why, "Redis does not answer: legs on two nodes have to wait");
            }
            *health = Health::Degraded { since, why: why.into() };
        });
    }

    fn is_up(&self) {
        let before = self.0.health.send_replace(Health::Up);
        if let Health::Degraded { since, .. } = before {
            let seconds = since.elapsed().as_secs_f64();
            tracing::info!(seconds, "Redis answers");
        }
    }

    fn current(&self) -> MutexGuard<'_, (u64, Option<MultiplexedConnection>)> {
        // Two words that are set together.
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Redis {
    fn is_current(&self, number: u64) -> bool {
        let current = self.current();
        current.0 == number && current.1.is_some()
    }

    /// Must not block: it is called where the connection is read.
    fn is_told(&self, number: u64, push: PushInfo, told: &mpsc::Sender<Told>) {
        match push.kind {
            PushKind::Disconnection => self.gave_up(number, "the connection has ended"),
            PushKind::Message => {
                let Some((channel, payload)) = self.message(push.data) else { return };
                if channel == NEWS_CHANNEL {
                    // Nobody may be interested.
                    let _ = self.0.news.send(payload);
                } else if told.try_send(Told::Message { channel, payload }).is_err() {
                    self.0.missed.notify_one();
                }
            }
            _ => {}
        }
    }

    fn message(&self, data: Vec<Value>) -> Option<(String, Vec<u8>)> {
        let [Value::BulkString(channel), Value::BulkString(payload)] =
            <[Value; 2]>::try_from(data).ok()?
        else {
            return None;
        };
        let channel = String::from_utf8(channel).ok()?;
        let channel = channel.strip_prefix(&self.0.prefix)?.to_owned();
        Some((channel, payload))
    }
}

pub(super) fn random() -> u64 {
    // Without an entropy source nothing here would be unsafe, only less spread.
    getrandom::u64().unwrap_or_default()
}
