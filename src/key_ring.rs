//! The keys that are valid now, and what each grants to the legs that send it.
//!
//! A reload replaces them whole, while legs are checked: what was read of a configuration is
//! [`Keys`], what is in force is the [`KeyRing`]. How a key is written is `key`'s affair.

mod account;
mod files;
mod grant;
mod ledger;
mod refusal;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use subtle::ConditionallySelectable as _;

use self::{account::Terms, grant::GrantedKey, ledger::Ledger};
pub use self::{
    files::{KeyRingError, Keys},
    grant::{Grant, Seats, charge},
    ledger::{UsageError, UsageFile},
    refusal::{Denied, Refusal},
};
use crate::{
    config::BitRate,
    key::{KeyFault, Likeness},
    metrics::KeyFigures,
};

/// The keys in force.
pub struct KeyRing {
    /// None at all: an open relay.
    keys: ArcSwap<Vec<Arc<GrantedKey>>>,
    ledger: Ledger,
    /// What was put in force last: whose files are watched.
    read: Mutex<Option<Keys>>,
    /// The labels whose expiry has been told of.
    told: Mutex<BTreeSet<Arc<str>>>,
}

/// One key of the ring, as an operator may see it.
#[derive(Debug, Clone)]
pub struct KeyStatus {
    /// What it is called.
    pub label: Arc<str>,
    /// From when on it lets nobody in.
    pub expires: Option<Timestamp>,
    /// Whether it already does not.
    pub expired: bool,
    /// How fast its relays may be together.
    pub bandwidth: BitRate,
    /// Its relays now.
    pub active: u32,
    /// How many there may be at once.
    pub max_relays: Option<u32>,
    /// Bytes of its relays this month (UTC), both ways.
    pub traffic: u64,
    /// How many there may be.
    pub monthly_traffic: Option<u64>,
    /// What all nodes have together, its relays and bytes this month; `None` without others.
    pub of_all: Option<(u32, u64)>,
    /// Bytes of its relays since the start, both ways.
    pub bytes: u64,
    /// How often it was denied what it grants, by the reasons' names.
    pub denied: [(&'static str, u64); Denied::COUNTED.len()],
}

/// What this process has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Which month it is, such as `2026-11`.
    pub month: String,
    /// The keys that have quotas.
    pub keys: Vec<KeyCount>,
}

/// The same of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCount {
    /// What it is called.
    pub label: Arc<str>,
    /// Its relays now.
    pub active: u32,
    /// Bytes of its relays since the start, this month.
    pub month_bytes: u64,
}

impl KeyRing {
    /// A ring of these keys. What each of them carries in a month is kept in `usage`, or else only
    /// while the process lives.
    pub fn new(keys: Keys, usage: Option<UsageFile>) -> Self {
        let ring = Self {
            keys: ArcSwap::default(),
            ledger: Ledger::new(usage, Timestamp::now()),
            read: Mutex::default(),
            told: Mutex::default(),
        };
        ring.replace(keys);
        ring
    }

    /// Puts other keys in force. Relays of a key that is no longer there go on; legs that wait with
    /// one are no longer welcome. A key that has kept its label keeps its counts.
    pub fn replace(&self, keys: Keys) {
        self.put(&mut self.read(), keys);
    }

    fn put(&self, read: &mut Option<Keys>, keys: Keys) {
        let before = self.keys.load_full();
        let granted = keys.iter().map(|(label, key, terms)| {
            let account = self.ledger.account(label);
            account.set_terms(terms);
            let same = |old: &&Arc<GrantedKey>| {
                Arc::ptr_eq(&old.account, &account) && bool::from(old.key.is(key.expose()))
            };
            let kept = before.iter().find(same).cloned();
            kept.unwrap_or_else(|| {
                let likeness = Likeness::of(key.expose());
                let revoked = AtomicBool::new(false);
                Arc::new(GrantedKey { key: key.clone(), likeness, account, revoked })
            })
        });
        let granted: Vec<_> = granted.collect();
        self.keys.store(Arc::new(granted.clone()));
        for old in before.iter().filter(|old| !granted.iter().any(|new| Arc::ptr_eq(old, new))) {
            old.revoked.store(true, Relaxed);
        }
        if read.is_some() {
            tell_of_change(&before, &granted);
        }
        *read = Some(keys);
    }

    /// Looks whether the files of keys hold something else than they did, and puts that in force;
    /// whether it did. To be called every few seconds; blocks.
    pub fn reread(&self) -> bool {
        let mut read = self.read();
        match read.as_ref().and_then(Keys::again) {
            None => false,
            Some(Ok(keys)) => {
                self.put(&mut read, keys);
                true
            }
            Some(Err(error)) => {
                let error = with_causes(&error);
                tracing::error!("the keys stay as they were: {error}");
                false
            }
        }
    }

    fn read(&self) -> MutexGuard<'_, Option<Keys>> {
        // What was read before a panic is as good as ever.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every client is let in.
    pub fn is_open(&self) -> bool {
        self.keys.load().is_empty()
    }

    /// What the key that a client sent grants it.
    ///
    /// It is compared with every key, found or not, so that the time it takes tells nothing of
    /// which one it is, or is like.
    ///
    /// # Errors
    /// When it is none of the keys, which tells the usual mistake that it is; when it has expired,
    /// or its month's traffic is used up.
    pub fn verify(&self, sent: &str) -> Result<Grant, Refusal> {
        let keys = self.keys.load();
        if keys.is_empty() {
            return Ok(Grant::default());
        }
        let mut found = 0_u32;
        for (key, n) in keys.iter().zip(1..) {
            found.conditional_assign(&n, key.key.is(sent));
        }
        let index = usize::try_from(found).unwrap_or_default().checked_sub(1);
        let Some(key) = index.and_then(|index| keys.get(index)) else {
            return Err(KeyFault::diagnose(sent, keys.iter().map(|key| &key.likeness)).into());
        };
        admit(key).inspect_err(|denied| key.account.deny(denied)).map_err(Refusal::from)
    }

    /// The same for a leg that another process has already let in by the key of this label.
    ///
    /// # Errors
    /// When the label is not on this ring, or its key has expired. That a month's traffic has been
    /// used up since it was let in is no reason: the leg could have waited here.
    pub fn verify_label(&self, label: Option<&str>) -> Result<Grant, Denied> {
        let keys = self.keys.load();
        if keys.is_empty() {
            return Ok(Grant::default());
        }
        let key = keys.iter().find(|key| Some(&*key.account.label) == label);
        let key = key.ok_or(Denied::Revoked)?;
        key.is_valid(Timestamp::now).inspect_err(|denied| key.account.deny(denied))?;
        Ok(Grant::of(key))
    }

    /// Whether what was granted to a leg that waits still holds.
    ///
    /// # Errors
    /// When its key is no longer on the ring, or has expired.
    pub fn still_grants(&self, grant: &Grant) -> Result<(), Denied> {
        match grant.key() {
            _ if self.is_open() => Ok(()),
            Some(key) => key.is_valid(Timestamp::now),
            // It came when the relay was open.
            None => Err(Denied::Revoked),
        }
    }

    /// Begins a month when it is time to, and tells of keys that have expired. To be called every
    /// second or so.
    pub fn tick(&self, now: Timestamp) {
        self.ledger.turn_over(now);
        let accounts = self.keys.load_full();
        let accounts = accounts.iter().map(|key| &key.account);
        let expired = accounts.filter(|account| account.terms().has_expired(|| now));
        let expired: BTreeSet<_> = expired.map(|account| Arc::clone(&account.label)).collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for label in expired.difference(&told) {
            tracing::warn!(key = %label, "this key has expired: it lets nobody in any more");
        }
        // One that was given more time may expire once more.
        *told = expired;
    }

    /// What this process has counted of the keys with quotas, for the other nodes.
    pub fn counts(&self) -> Counts {
        let (month, accounts) = self.ledger.accounts();
        let with_quotas = accounts.iter().filter(|account| account.terms().have_quotas());
        let keys = with_quotas.map(|account| KeyCount {
            label: Arc::clone(&account.label),
            active: account.active(),
            month_bytes: account.here(),
        });
        Counts { month: month.to_string(), keys: keys.collect() }
    }

    /// The other nodes have counted this, by label, in that month: it counts here too. What is said
    /// of another month than this is passed over.
    pub fn hear_of_others(&self, month: &str, of: impl Fn(&str) -> (u32, u64)) {
        self.ledger.each_in(month, |account| {
            if account.terms().have_quotas() {
                let (active, bytes) = of(&account.label);
                account.hear_of_others(active, bytes);
            }
        });
    }

    /// Keeps what the keys have carried. To be called every minute, and at the end; blocks.
    ///
    /// # Errors
    /// When it cannot be kept now. It is not forgotten, and may be kept the next time.
    pub fn save(&self) -> Result<(), UsageError> {
        self.ledger.save()
    }

    /// The keys, in the order of the configuration.
    pub fn list(&self) -> Vec<KeyStatus> {
        let now = Timestamp::now();
        self.keys.load().iter().map(|key| KeyStatus::of(key, now)).collect()
    }

    /// The same as the metrics have it.
    pub fn figures(&self) -> Vec<KeyFigures> {
        let figures = self.list().into_iter().map(|key| KeyFigures {
            label: key.label,
            active: key.active,
            bytes: key.bytes,
            traffic: key.traffic,
            refused: key.denied,
        });
        figures.collect()
    }
}

impl KeyStatus {
    fn of(key: &GrantedKey, now: Timestamp) -> Self {
        let account = &key.account;
        let Terms { expires, bandwidth, max_relays, monthly_traffic } = **account.terms();
        let counts = account.denied();
        Self {
            label: Arc::clone(&account.label),
            expires,
            expired: account.terms().has_expired(|| now),
            bandwidth,
            active: account.active(),
            max_relays,
            traffic: account.used(),
            of_all: account.of_all(),
            monthly_traffic,
            bytes: account.bytes(),
            denied: std::array::from_fn(|index| (Denied::COUNTED[index], counts[index])),
        }
    }
}

/// What a key grants to a leg that comes.
fn admit(key: &Arc<GrantedKey>) -> Result<Grant, Denied> {
    key.is_valid(Timestamp::now)?;
    if key.account.is_used_up() {
        return Err(Denied::Traffic { label: Arc::clone(&key.account.label) });
    }
    Ok(Grant::of(key))
}

fn tell_of_change(before: &[Arc<GrantedKey>], after: &[Arc<GrantedKey>]) {
    let missing_in = |there: &[Arc<GrantedKey>], here: &[Arc<GrantedKey>]| {
        let gone = here.iter().filter(|key| !there.iter().any(|other| Arc::ptr_eq(key, other)));
        gone.map(|key| key.account.label.to_string()).collect::<Vec<_>>().join(" ")
    };
    let (added, removed) = (missing_in(before, after), missing_in(after, before));
    if !(added.is_empty() && removed.is_empty()) {
        tracing::info!(keys = after.len(), added, removed, "the keys have changed");
    }
    if after.is_empty() && !before.is_empty() {
        tracing::warn!(
            "OPEN RELAY: there is no key any more, so anyone may relay through this machine"
        );
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, KeyConfig, Secret};

    /// A ring of one key without a table.
    pub(crate) fn ring(key: &str) -> KeyRing {
        let config = Config { key: Secret::new(key), ..Config::default() };
        ring_of(&config)
    }

    fn labelled(keys: &[(&str, &str)]) -> Config {
        let table = |&(label, key): &(&str, &str)| KeyConfig {
            label: label.to_owned(),
            key: Secret::new(key),
            ..KeyConfig::default()
        };
        Config { keys: keys.iter().map(table).collect(), ..Config::default() }
    }

    fn read(config: &Config) -> Result<Keys, KeyRingError> {
        Keys::read(config, Path::new("/nonexistent"))
    }

    fn ring_of(config: &Config) -> KeyRing {
        KeyRing::new(read(config).unwrap(), None)
    }

    fn wrong(ring: &KeyRing, sent: &str) -> KeyFault {
        match ring.verify(sent) {
            Err(Refusal::Wrong(fault)) => fault,
            other => panic!("a wrong key, not {other:?}"),
        }
    }

    #[test]
    fn each_key_grants_under_its_own_label() {
        let config =
            Config { key: Secret::new("one"), ..labelled(&[("b", "two"), ("c", "three")]) };
        let ring = ring_of(&config);
        for (sent, label) in [("one", "default"), ("two", "b"), ("three", "c")] {
            assert_eq!(ring.verify(sent).unwrap().label(), Some(label));
        }
        assert_eq!(wrong(&ring, "TWO"), KeyFault::Case);
        assert_eq!(wrong(&ring, "three "), KeyFault::Whitespace);
        assert_eq!(wrong(&ring, "four"), KeyFault::Unknown);
    }

    #[test]
    fn one_key_under_two_labels_is_refused_without_being_shown() {
        let error = read(&labelled(&[("a", "letmein"), ("b", "letmein")])).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("\"a\" and \"b\"") && !said.contains("letmein"), "{said}");
    }

    #[test]
    fn no_key_lets_everybody_in_and_grants_nothing() {
        let ring = ring("");
        assert!(ring.is_open());
        assert_eq!(ring.verify("anything").unwrap().label(), None);
    }

    #[test]
    fn other_keys_are_in_force_at_once() {
        let ring = ring("old");
        let grant = ring.verify("old").unwrap();
        ring.replace(read(&labelled(&[("new", "new")])).unwrap());
        assert_eq!(wrong(&ring, "old"), KeyFault::Unknown);
        assert_eq!(ring.verify("new").unwrap().label(), Some("new"));
        assert_eq!(grant.label(), Some("default"));
        assert_eq!(ring.still_grants(&grant), Err(Denied::Revoked));
    }

    #[test]
    fn a_key_that_stays_keeps_what_it_granted_and_its_counts() {
        let ring = ring_of(&labelled(&[("a", "one"), ("b", "two")]));
        let (a, b) = (ring.verify("one").unwrap(), ring.verify("two").unwrap());
        let seats = Seats::take([&a, &a]).unwrap();
        charge([&a, &b], 7);
        // Another text under b's label, and a's terms changed.
        let mut config = labelled(&[("b", "three"), ("a", "one")]);
        config.keys[1].bandwidth = BitRate::from_mbit(5);
        ring.replace(read(&config).unwrap());
        assert_eq!(ring.still_grants(&a), Ok(()));
        assert_eq!(a.bandwidth(), BitRate::from_mbit(5));
        assert_eq!(ring.still_grants(&b), Err(Denied::Revoked));
        let counts = |label: &str| {
            let status = ring.list().into_iter().find(|key| &*key.label == label).unwrap();
            (status.active, status.traffic, status.bytes)
        };
        assert_eq!((counts("a"), counts("b")), ((1, 7, 7), (0, 7, 7)));
        drop(seats);
        assert_eq!(counts("a"), (0, 7, 7));
        // Whatever is granted on an open relay no longer holds once there is a key.
        ring.replace(read(&Config::default()).unwrap());
        assert!(ring.is_open() && ring.still_grants(&b).is_ok());
        let open = ring.verify("").unwrap();
        ring.replace(read(&config).unwrap());
        assert_eq!(ring.still_grants(&open), Err(Denied::Revoked));
    }

    #[test]
    fn a_ring_whose_keys_have_all_expired_is_no_open_relay() {
        let mut config = labelled(&[("a", "one")]);
        config.keys[0].expires = Some("2020-01-01".parse().unwrap());
        let ring = ring_of(&config);
        assert!(!ring.is_open());
        let label = Arc::from("a");
        assert_eq!(ring.verify("one").unwrap_err(), Denied::Expired { label }.into());
        assert_eq!(wrong(&ring, ""), KeyFault::Empty);
        assert_eq!(ring.list()[0].denied[0], ("key_expired", 1));
        config.keys[0].expires = Some("9000-01-01".parse().unwrap());
        ring.replace(read(&config).unwrap());
        assert!(ring.verify("one").is_ok());
    }

    #[test]
    fn a_relay_takes_one_place_on_each_key_or_none() {
        let mut config = labelled(&[("a", "one"), ("b", "two")]);
        config.keys[0].max_relays = Some(2);
        config.keys[1].max_relays = Some(1);
        let ring = ring_of(&config);
        let (a, b) = (ring.verify("one").unwrap(), ring.verify("two").unwrap());
        let mixed = Seats::take([&a, &b]).unwrap();
        let refused = Seats::take([&a, &b]).unwrap_err();
        assert_eq!(refused, Denied::Relays { label: Arc::from("b") });
        // The place on a that was taken for it has been given back.
        let same = Seats::take([&a, &a]).unwrap();
        assert_eq!(Seats::take([&a, &a]).unwrap_err(), Denied::Relays { label: Arc::from("a") });
        drop((mixed, same));
        assert_eq!(ring.list().iter().map(|key| key.active).collect::<Vec<_>>(), [0, 0]);
    }

    #[test]
    fn of_many_that_want_a_place_at_once_no_more_than_may_have_one() {
        let mut config = labelled(&[("a", "one")]);
        config.keys[0].max_relays = Some(10);
        let ring = ring_of(&config);
        let grant = ring.verify("one").unwrap();
        for _ in 0..20 {
            let seats: Vec<_> = std::thread::scope(|scope| {
                let takers = (0..8).map(|_| {
                    scope.spawn(|| {
                        (0..50).flat_map(|_| Seats::take([&grant, &grant])).collect::<Vec<_>>()
                    })
                });
                let takers: Vec<_> = takers.collect();
                takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
            });
            assert_eq!(seats.len(), 10);
        }
        assert_eq!(ring.list()[0].active, 0);
    }

    #[test]
    fn traffic_that_is_used_up_lets_nobody_in_until_the_month_is_over() {
        let mut config = labelled(&[("a", "one")]);
        config.keys[0].monthly_traffic = Some("1KiB".parse().unwrap());
        let ring = ring_of(&config);
        let grant = ring.verify("one").unwrap();
        charge([&grant, &Grant::default()], 1023);
        assert!(ring.verify("one").is_ok());
        charge([&grant, &grant], 1);
        assert_eq!(
            ring.verify("one").unwrap_err(),
            Denied::Traffic { label: Arc::from("a") }.into()
        );
        // What was granted before stays so.
        assert_eq!(ring.still_grants(&grant), Ok(()));
        ring.tick("9000-01-01T00:00:00Z".parse().unwrap());
        assert!(ring.verify("one").is_ok());
    }

    #[test]
    fn the_files_of_keys_are_read_again_when_they_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.toml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        let config = Config { keys_file: "keys.toml".into(), ..Config::default() };
        let read = || Keys::read(&config, dir.path());
        write("");
        let error = read().unwrap_err();
        assert!(matches!(&error, KeyRingError::EmptyFile { .. }), "{error}");
        write("[[keys]]\nlabel = 'a'\nkey_file = 'a.key'");
        assert!(matches!(read().unwrap_err(), KeyRingError::Labelled { .. }));
        std::fs::write(dir.path().join("a.key"), "one\n").unwrap();
        let ring = KeyRing::new(read().unwrap(), None);
        assert!(ring.verify("one").is_ok());
        write("[[keys]]\nlabel = 'b'\nkey = 'two'");
        assert!(ring.verify("two").is_err());
        ring.reread();
        assert!(ring.verify("two").is_ok() && ring.verify("one").is_err());
        for damaged in ["", "[[keys]]\nlabel = 'b'", "key = 'two'", "[[keys"] {
            write(damaged);
            ring.reread();
            assert!(ring.verify("two").is_ok(), "{damaged}");
        }
        std::fs::remove_file(&file).unwrap();
        ring.reread();
        assert!(ring.verify("two").is_ok());
    }

    #[test]
    fn a_leg_that_another_process_let_in_is_known_by_its_label() {
        let mut config = labelled(&[("a", "one"), ("b", "two")]);
        config.keys[1].expires = Some("2020-01-01".parse().unwrap());
        let ring = ring_of(&config);
        assert_eq!(ring.verify_label(Some("a")).unwrap().label(), Some("a"));
        assert_eq!(ring.verify_label(Some("c")).unwrap_err(), Denied::Revoked);
        assert_eq!(ring.verify_label(None).unwrap_err(), Denied::Revoked);
        assert!(matches!(ring.verify_label(Some("b")), Err(Denied::Expired { .. })));
        assert_eq!(ring_of(&Config::default()).verify_label(Some("a")).unwrap().label(), None);
    }

    #[test]
    fn no_key_is_shown() {
        let config = labelled(&[("a", "letmein")]);
        let keys = read(&config).unwrap();
        let grant = ring_of(&config).verify("letmein").unwrap();
        let said = format!("{keys:?} {grant:?}");
        assert!(!said.contains("letmein"), "{said}");
    }
}
