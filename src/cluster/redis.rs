//! One connection to Redis, for all that this node asks of it: made anew with a back-off when it
//! ends or answers no more, and every question bounded in time and number.
//!
//! Redis may be away at any time, also at the start. Who asks then gets an error at once, and is
//! told when it is back. What is asked is for `directory/redis.rs` and `members.rs`.

mod connect;

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    FromRedisValue, PushInfo, PushKind, RedisError, Script, ScriptInvocation, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

pub use self::connect::RedisConfigError;
use self::connect::Target;
use super::directory::DirectoryError;
use crate::config::ClusterConfig;

/// How many questions may be with Redis at once; the rest wait, within their time.
const IN_FLIGHT: usize = 512;

/// The first pause between two tries to connect. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection that has lasted this long was a good one: the pauses begin anew.
const GOOD: Duration = Duration::from_secs(5);

/// For how long Redis knows which start of its data this is, after the last node has gone.
const EPOCH_KEPT: Duration = Duration::from_secs(3600);

/// Writes, so that a server that may only be read, or is full, is found out.
/// KEYS: the epoch. ARGV: one to begin with, and how long to keep it (ms). Returns the epoch.
static EPOCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local epoch = redis.call('GET', KEYS[1]) or ARGV[1]
         redis.call('SET', KEYS[1], epoch, 'PX', ARGV[2])
         return epoch",
    )
});

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
}

/// What keeps a [`Redis`] connected; see [`Driver::run`].
pub(super) struct Driver {
    redis: Redis,
    target: Target,
    channels: Vec<String>,
    scripts: Vec<&'static Script>,
    told: mpsc::Sender<Told>,
    check_every: Duration,
    epoch: Option<String>,
}

impl Redis {
    /// A connection that is not there yet, and what makes it. `channels` (without the prefix) are
    /// listened to, and `scripts` are known to Redis before it is asked for any of them. Never fails
    /// because Redis is away.
    pub(super) fn new(
        config: &ClusterConfig,
        channels: Vec<String>,
        scripts: Vec<&'static Script>,
        told: mpsc::Sender<Told>,
    ) -> Result<(Self, Driver), RedisConfigError> {
        let target = Target::new(config)?;
        let why = "not connected yet".into();
        let redis = Self(Arc::new(Inner {
            prefix: config.prefix.clone(),
            timeout: config.redis_timeout.get(),
            in_flight: Semaphore::new(IN_FLIGHT),
            current: Mutex::new((0, None)),
            broken: Notify::new(),
            missed: Notify::new(),
            health: watch::Sender::new(Health::Degraded { since: Instant::now(), why }),
        }));
        let (check_every, epoch) = (config.heartbeat.get(), None);
        let driver =
            Driver { redis: redis.clone(), target, channels, scripts, told, check_every, epoch };
        Ok((redis, driver))
    }

    /// Whether Redis answers, now and from now on.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
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
            let since = match *health {
                Health::Degraded { since, .. } => since,
                Health::Up => {
                    tracing::warn!(why, "Redis does not answer: legs on two nodes have to wait");
                    Instant::now()
                }
            };
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

impl Driver {
    /// Connects, and connects anew for as long as this is polled. Ends when nobody takes any more
    /// what is told.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        while !self.told.is_closed() {
            match self.connect().await {
                Ok(number) => {
                    let since = Instant::now();
                    self.redis.is_up();
                    if self.told.send(Told::Anew).await.is_err() {
                        return;
                    }
                    self.stay(number).await;
                    if since.elapsed() >= GOOD {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(why) => {
                    tracing::debug!(why, "no connection to Redis");
                    self.redis.is_degraded(&why);
                }
            }
            sleep(jittered(pause)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// A connection that listens, and to a server that can be written to.
    async fn connect(&mut self) -> Result<u64, String> {
        let number = self.redis.current().0 + 1;
        let (redis, told) = (self.redis.clone(), self.told.clone());
        let told = Arc::new(move |push| redis.is_told(number, push, &told));
        let connecting = timeout(self.target.patience(), self.target.connect(told));
        let too_slow = |_| self.redis.too_slow();
        let mut connection =
            connecting.await.map_err(too_slow)?.map_err(|error| error.to_string())?;
        let greeting = async {
            let channels: Vec<_> =
                self.channels.iter().map(|channel| self.redis.name(channel)).collect();
            connection.subscribe(channels).await?;
            for script in &self.scripts {
                script.prepare_invoke().load_async(&mut connection).await?;
            }
            self.redis.epoch_call().invoke_async::<String>(&mut connection).await
        };
        let greeted = timeout(self.redis.0.timeout, greeting).await.map_err(too_slow)?;
        self.epoch = Some(greeted.map_err(|error| error.to_string())?);
        *self.redis.current() = (number, Some(connection));
        Ok(number)
    }

    /// Until the connection is given up.
    async fn stay(&mut self, number: u64) {
        let mut check = interval_at(Instant::now() + self.check_every, self.check_every);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.redis.is_current(number) {
            let anew = tokio::select! {
                () = self.redis.0.broken.notified() => continue,
                () = self.redis.0.missed.notified() => true,
                _ = check.tick() => self.has_forgotten().await,
                () = self.told.closed() => return,
            };
            if anew && self.told.send(Told::Anew).await.is_err() {
                return;
            }
        }
    }

    /// Whether Redis has lost its data without losing the connection.
    async fn has_forgotten(&mut self) -> bool {
        match self.redis.run::<String>(&self.redis.epoch_call()).await {
            Ok(epoch) => self.epoch.replace(epoch.clone()).is_some_and(|before| before != epoch),
            Err(_) => false,
        }
    }
}

impl Drop for Driver {
    /// The connection knows whom it tells, and would be kept by that for ever.
    fn drop(&mut self) {
        self.redis.current().1 = None;
    }
}

impl Redis {
    fn epoch_call(&self) -> ScriptInvocation<'static> {
        let mut call = EPOCH.key(self.name("epoch"));
        call.arg(random().to_string()).arg(EPOCH_KEPT.as_millis().to_string());
        call
    }

    fn is_current(&self, number: u64) -> bool {
        let current = self.current();
        current.0 == number && current.1.is_some()
    }

    /// Must not block: it is called where the connection is read.
    fn is_told(&self, number: u64, push: PushInfo, told: &mpsc::Sender<Told>) {
        match push.kind {
            PushKind::Disconnection => self.gave_up(number, "the connection has ended"),
            PushKind::Message => {
                let Some(message) = self.message(push.data) else { return };
                if told.try_send(message).is_err() {
                    self.0.missed.notify_one();
                }
            }
            _ => {}
        }
    }

    fn message(&self, data: Vec<Value>) -> Option<Told> {
        let [Value::BulkString(channel), Value::BulkString(payload)] =
            <[Value; 2]>::try_from(data).ok()?
        else {
            return None;
        };
        let channel = String::from_utf8(channel).ok()?;
        let channel = channel.strip_prefix(&self.0.prefix)?.to_owned();
        Some(Told::Message { channel, payload })
    }
}

/// Half to all of it, so that a thousand nodes do not come at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(
        0.5 + 0.5 * f64::from(u32::try_from(random() >> 32).unwrap_or(0)) / f64::from(u32::MAX),
    )
}

fn random() -> u64 {
    // Without an entropy source nothing here would be unsafe, only less spread.
    getrandom::u64().unwrap_or_default()
}
