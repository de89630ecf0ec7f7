//! The directory in Redis: a key for every name that is held, with the time that its leg may wait
//! as its expiry. A claim is one script, and so is giving it back.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::Script;
use tokio::sync::{mpsc, watch};

use super::{Claimed, Directory, DirectoryError, Event, Holder, Instance, Node};
use crate::{
    cluster::redis::{Health, NEWS_CHANNEL, Redis, RedisConfigError, Told},
    config::ClusterConfig,
    wire::rendezvous::RelayUuid,
};

/// How much may wait to be taken by the node before it is told to claim all anew instead.
const EVENTS: usize = 1024;

/// KEYS: the name. ARGV: who claims it; how every holder of the same node begins; for how long (ms);
/// which holder is stale, or nothing; the channel of its node; the name as that one knows it.
/// Returns who else holds it, or nothing.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[1])
         local ours = not held or held:sub(1, #ARGV[2]) == ARGV[2]
         -- A later release may have written more fields than the claimer knows of.
         local stale = held == ARGV[4] or held and held:sub(1, #ARGV[4] + 1) == ARGV[4] .. ' '
         if not ours and not stale then return held end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
         if not ours and ARGV[5] ~= '' then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
         return false",
    )
});

/// KEYS: the name. ARGV: who gives it back. Returns whether it was theirs.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         return redis.call('DEL', KEYS[1])",
    )
});

/// The directory of a node's.
#[derive(Clone)]
pub struct RedisDirectory {
    redis: Redis,
}

impl RedisDirectory {
    /// The directory, what `me` is told unasked, and what keeps it connected: to be polled for as
    /// long as the directory is used. Files are looked for in `dir`. Redis need not be there.
    ///
    /// # Errors
    /// When the configuration is such that it never could be.
    pub fn new(
        config: &ClusterConfig,
        dir: &Path,
        me: &Arc<Node>,
    ) -> Result<
        (Self, mpsc::Receiver<Event>, impl Future<Output = ()> + Send + use<>),
        RedisConfigError,
    > {
        let (told, mut tells) = mpsc::channel(EVENTS);
        let channel = channel_of(me.instance);
        let channels = vec![channel.clone(), NEWS_CHANNEL.to_owned()];
        let scripts: Vec<&Script> = vec![&CLAIM, &RELEASE];
        let (redis, driver) = Redis::new(config, dir, channels, scripts, told)?;
        let (events, happens) = mpsc::channel(EVENTS);
        let tell = async move {
            while let Some(told) = tells.recv().await {
                let Some(event) = event(&channel, told) else { continue };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        };
        let drive = async move {
            tokio::select! {
                () = driver.run() => {}
                () = tell => {}
            }
        };
        Ok((Self { redis }, happens, drive))
    }

    /// Whether Redis answers, now and from now on.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.redis.health()
    }

    /// The connection, for what else is asked of Redis.
    pub fn redis(&self) -> Redis {
        self.redis.clone()
    }

    /// One claim. `stale` is a holder's text, and the channel of its node where that is known.
    async fn claim_once(
        &self,
        uuid: &RelayUuid,
        me: &Holder,
        (stale, channel): (&str, &str),
        ttl: Duration,
    ) -> Result<Option<String>, DirectoryError> {
        let text = me.to_string();
        // "1 <instance> ": a version, and which start of a node.
        let node: String = text.split_inclusive(' ').take(2).collect();
        let mut call = CLAIM.key(self.key(uuid));
        let ttl = ttl.as_millis().max(1).to_string();
        call.arg(text).arg(node).arg(ttl).arg(stale).arg(channel).arg(uuid.as_str());
        self.redis.run(&call).await
    }

    fn key(&self, uuid: &RelayUuid) -> String {
        self.redis.name(format_args!("leg:{}", uuid.as_str()))
    }
}

impl Directory for RedisDirectory {
    async fn claim(
        &self,
        uuid: &RelayUuid,
        me: &Holder,
        stale: Option<&Holder>,
        ttl: Duration,
    ) -> Result<Claimed, DirectoryError> {
        let text = stale.map(Holder::to_string).unwrap_or_default();
        let channel = stale.map(|stale| channel_of(stale.node.instance));
        let channel = channel.map(|channel| self.redis.name(channel)).unwrap_or_default();
        let Some(held) = self.claim_once(uuid, me, (&text, &channel), ttl).await? else {
            return Ok(Claimed::Mine);
        };
        if let Ok(holder) = held.parse() {
            return Ok(Claimed::HeldBy(holder));
        }
        // What no node of this release has written is taken over: nobody could be asked about it.
        match self.claim_once(uuid, me, (&held, ""), ttl).await? {
            None => Ok(Claimed::Mine),
            Some(held) => match held.parse() {
                Ok(holder) => Ok(Claimed::HeldBy(holder)),
                Err(unreadable) => Err(DirectoryError(format!("{unreadable}"))),
            },
        }
    }

    async fn release(&self, uuid: &RelayUuid, me: &Holder) -> Result<(), DirectoryError> {
        let mut call = RELEASE.key(self.key(uuid));
        call.arg(me.to_string());
        self.redis.run::<()>(&call).await
    }
}

/// Where a node is told what concerns it alone, without the prefix.
fn channel_of(node: Instance) -> String {
    format!("to:{:x}", node.0)
}

fn event(mine: &str, told: Told) -> Option<Event> {
    match told {
        Told::Anew => Some(Event::Forgotten),
        Told::Message { channel, payload } if channel == mine => {
            let uuid = String::from_utf8(payload).ok()?;
            Some(Event::Lost(RelayUuid::from(uuid.as_str())))
        }
        Told::Message { .. } => None,
    }
}
