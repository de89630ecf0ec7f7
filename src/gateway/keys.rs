//! The upkeep of the key ring: its files looked at, its months begun, its traffic kept.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::GatewayError;
use crate::{
    config::Config,
    key_ring::{KeyRing, KeyRingError, Keys, UsageFile},
    relay::Parts,
    relay::registry::ActiveRelays,
    shutdown::Shutdown,
};

/// How often the clock is looked at: a key has expired, a month has begun.
const TICK: Duration = Duration::from_secs(1);

/// In ticks: how often the files of keys are looked at.
const REREAD_EVERY: u32 = 2;

/// In ticks: how often the traffic is kept. A process that is killed loses as much.
const SAVE_EVERY: u32 = 60;

/// The ring that `config` asks for, its files in `dir`.
pub(super) fn ring(config: &Config, dir: &Path) -> Result<Arc<KeyRing>, GatewayError> {
    let usage = match config.usage_file.as_os_str().is_empty() {
        true => None,
        false => Some(UsageFile::open(&dir.join(&config.usage_file))?),
    };
    let keys = Keys::read(config, dir)?.made(dir).map_err(KeyRingError::from)?;
    Ok(Arc::new(KeyRing::new(keys, usage)))
}

/// Looks after the ring until the end; active relays keep to what their keys grant.
pub(super) async fn look_after(ring: Arc<KeyRing>, relays: Arc<ActiveRelays>, shutdown: Shutdown) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u32.. {
        if shutdown.hard().run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        ring.tick(Timestamp::now());
        if round.is_multiple_of(REREAD_EVERY) {
            let ring = Arc::clone(&ring);
            if spawn_blocking(move || ring.reread()).await.unwrap_or(false) {
                relays.limit_all();
            }
        }
        if round.is_multiple_of(SAVE_EVERY) {
            save(&ring).await;
        }
    }
}

/// Keeps all traffic, at the end: also of the relays that did not end by themselves.
pub(super) async fn save_all(parts: &Parts) {
    parts.relays.sample(TICK);
    save(&parts.ring).await;
}

/// Keeps the traffic that is not kept yet.
async fn save(ring: &Arc<KeyRing>) {
    let ring = Arc::clone(ring);
    if let Ok(Err(error)) = spawn_blocking(move || ring.save()).await {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(cause, "{error}; it is kept in memory until it can be");
    }
}
