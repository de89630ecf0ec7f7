//! What keeps a node connected to Redis: it connects, listens, looks whether all is still there,
//! and begins anew with a pause when it is not.

use std::{
    sync::{Arc, LazyLock, atomic::Ordering},
    time::Duration,
};

use redis::{Script, ScriptInvocation};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

use super::{EPOCH_KEPT, Redis, Told, connect::Target, random};

/// The first pause between two tries to connect. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection that has lasted this long was a good one: the pauses begin anew.
const GOOD: Duration = Duration::from_secs(5);

/// Writes, so that a server that may only be read, or is full, is found out.
/// KEYS: the epoch. ARGV: one to begin with, and how long to keep it (ms). Returns the epoch.
static EPOCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local epoch = redis.call('GET', KEYS[1]) or ARGV[1]
         redis.call('SET', KEYS[1], epoch, 'PX', ARGV[2])
         return epoch",
    )
});

/// What keeps a [`Redis`] connected; see [`Driver::run`].
pub(in crate::cluster) struct Driver {
    pub(super) redis: Redis,
    pub(super) target: Target,
    pub(super) channels: Vec<String>,
    pub(super) scripts: Vec<&'static Script>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) check_every: Duration,
}

impl Driver {
    /// Connects, and connects anew for as long as this is polled. Ends when nobody takes any more
    /// what is told.
    pub(in crate::cluster) async fn run(mut self) {
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
            epoch_call(&self.redis).invoke_async::<String>(&mut connection).await
        };
        let greeted = timeout(self.redis.0.timeout, greeting).await.map_err(too_slow)?;
        let epoch = greeted.map_err(|error| error.to_string())?;
        self.redis.0.epoch.send_replace(Some(epoch));
        *self.redis.current() = (number, Some(connection));
        Ok(number)
    }

    /// Until the connection is given up.
    async fn stay(&mut self, number: u64) {
        let mut check = interval_at(Instant::now() + self.check_every, self.check_every);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.redis.is_current(number) {
            tokio::select! {
                () = self.redis.0.broken.notified() => {}
                () = self.redis.0.missed.notified() => {
                    if self.told.send(Told::Anew).await.is_err() {
                        return;
                    }
                }
                _ = check.tick() => self.check().await,
                () = self.told.closed() => return,
            }
        }
    }

    /// Whether Redis still answers, and still knows what it knew.
    async fn check(&self) {
        if self.redis.0.has_heartbeats.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(epoch) = self.redis.run::<String>(&epoch_call(&self.redis)).await {
            self.redis.saw_epoch(&epoch);
        }
    }
}

impl Drop for Driver {
    /// The connection knows whom it tells, and would be kept by that for ever.
    fn drop(&mut self) {
        self.redis.current().1 = None;
    }
}

fn epoch_call(redis: &Redis) -> ScriptInvocation<'static> {
    let mut call = EPOCH.key(redis.name("epoch"));
    call.arg(random().to_string()).arg(EPOCH_KEPT.as_millis().to_string());
    call
}

/// Half to all of it, so that a thousand nodes do not come at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(
        0.5 + 0.5 * f64::from(u32::try_from(random() >> 32).unwrap_or(0)) / f64::from(u32::MAX),
    )
}
