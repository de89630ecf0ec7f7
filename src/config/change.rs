//! Which keys differ between two configurations, and which of those a running relay can take on.
//!
//! One table has every key; a test holds it complete. What taking on a key means is `gateway`'s.

use super::Config;

/// When a new value of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// With the reload that reads it.
    Live,
    /// With the next start of the process, or with an upgrade in place.
    Restart,
}

/// A key, and what can be told of it without reading its value.
struct Key {
    name: &'static str,
    effect: Effect,
    is_same: fn(&Config, &Config) -> bool,
}

/// A line of the table. Values are compared as what they are: a secret would show as `***` on
/// both sides.
macro_rules! key {
    ($effect:ident $first:ident $(. $next:ident)*) => {
        Key {
            name: concat!(stringify!($first) $(, ".", stringify!($next))*),
            effect: Effect::$effect,
            is_same: |one, other| one.$first $(. $next)* == other.$first $(. $next)*,
        }
    };
}

/// Every key. A new one takes effect live, by way of `gateway`'s reload, unless there is a reason.
const KEYS: &[Key] = &[
    // A listener is bound with privileges that may be gone, and given up with what waits in it.
    key!(Restart listen),
    key!(Live key),
    key!(Live key_file),
    key!(Live keys),
    key!(Live keys_file),
    // What is used of the keys would have two places.
    key!(Restart usage_file),
    key!(Live tls.cert),
    key!(Live tls.key),
    // Whoever orders the certificate is started once.
    key!(Restart tls.acme.domains),
    key!(Restart tls.acme.email),
    key!(Restart tls.acme.cache_dir),
    key!(Restart tls.acme.directory),
    key!(Restart tls.acme.directory_ca),
    key!(Live proxy.trusted),
    key!(Live proxy.protocol),
    key!(Live proxy.headers),
    key!(Live access.blocklist),
    key!(Live access.blocklist_file),
    key!(Live access.throttle_list),
    key!(Live access.throttle_list_file),
    key!(Live access.exempt),
    key!(Live access.connections_per_address),
    key!(Live access.waiting_per_address),
    key!(Live access.connection_rate),
    key!(Live access.connection_burst),
    key!(Live access.wrong_keys),
    key!(Live access.wrong_keys_within),
    key!(Live access.max_back_off),
    key!(Live front_door.first_frame_timeout),
    key!(Live front_door.max_first_frame),
    key!(Live front_door.max_connections),
    key!(Live pairing.timeout),
    key!(Live pairing.max_waiting),
    key!(Live relay.max_active),
    key!(Live relay.idle_timeout),
    key!(Live relay.port_forward_idle_timeout),
    key!(Live relay.write_timeout),
    key!(Live relay.keepalive),
    key!(Live relay.max_message_size),
    key!(Live bandwidth.per_relay),
    key!(Live bandwidth.per_address),
    key!(Live bandwidth.total),
    key!(Live bandwidth.throttled),
    key!(Live bandwidth.downgrade_after),
    key!(Live bandwidth.downgrade_threshold),
    // The pool of pipes is made once.
    key!(Restart relay.kernel_splice),
    // Threads are started once.
    key!(Restart threads.light),
    key!(Restart threads.bulk),
    key!(Restart threads.bulk_niceness),
    key!(Restart admin.listen),
    key!(Live admin.token),
    key!(Live admin.token_file),
    // A node joins once, with the start that tells it how.
    key!(Restart cluster.redis),
    key!(Restart cluster.redis_ca),
    key!(Restart cluster.redis_timeout),
    key!(Restart cluster.prefix),
    key!(Restart cluster.listen),
    key!(Restart cluster.advertise),
    key!(Restart cluster.node),
    key!(Restart cluster.secret),
    key!(Restart cluster.secret_file),
    key!(Restart cluster.heartbeat),
    key!(Restart cluster.handover_timeout),
    key!(Restart cluster.tls.cert),
    key!(Restart cluster.tls.key),
    key!(Restart cluster.tls.ca),
    key!(Live log.level),
    // Chosen with the writer.
    key!(Restart log.format),
    key!(Live shutdown.drain_timeout),
    key!(Live shutdown.handover_timeout),
];

/// The keys that differ, in the order of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that take effect at once.
    pub live: Vec<&'static str>,
    /// Those that wait for a new process.
    pub restart: Vec<&'static str>,
}

impl Config {
    /// What `new` changes.
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        for key in KEYS.iter().filter(|key| !(key.is_same)(self, new)) {
            match key.effect {
                Effect::Live => changes.live.push(key.name),
                Effect::Restart => changes.restart.push(key.name),
            }
        }
        changes
    }
}

/// When a new value of `key` takes effect; `None` for what is no key.
pub fn effect_of(key: &str) -> Option<Effect> {
    KEYS.iter().find(|known| known.name == key).map(|known| known.effect)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        super::{Duration, Secret, schema::Schema},
        *,
    };

    #[test]
    fn every_key_is_in_the_table_once() {
        let named: BTreeSet<_> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        let there_are: BTreeSet<_> = Schema::new().keys().into_iter().collect();
        assert_eq!(named, there_are);
        assert_eq!(named.len(), KEYS.len());
    }

    #[test]
    fn what_differs_is_named_and_secrets_are_compared_as_what_they_are() {
        let old = Config::default();
        assert_eq!(old.changes(&old.clone()), Changes::default());
        let mut new = old.clone();
        new.key = Secret::new("one");
        new.pairing.timeout = Duration::from_secs(1);
        new.listen.clear();
        let changes = old.changes(&new);
        assert_eq!(changes.live, ["key", "pairing.timeout"]);
        assert_eq!(changes.restart, ["listen"]);
        let mut other = new.clone();
        other.key = Secret::new("two");
        assert_eq!(new.changes(&other).live, ["key"]);
    }
}
