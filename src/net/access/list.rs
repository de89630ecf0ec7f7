//! A list of networks: what the configuration says, what a file says, and what an operator has
//! added while the relay runs.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::{
    file::{self, ListFile},
    ranges::Ranges,
};
use crate::config::Network;

/// How many networks can be added while the relay runs.
const MOST_ADDED: usize = 100_000;

/// The list.
#[derive(Default)]
pub struct NetworkList {
    /// All of it, for the question whether an address is in it.
    ranges: ArcSwap<Ranges>,
    // Held to change a few words and to lay out the ranges; never across an await, nor while a
    // file is read.
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    config: Vec<Network>,
    file: ListFile,
    /// Each with when it lapses, if it does.
    added: BTreeMap<Network, Option<Instant>>,
}

/// One network on the list.
#[derive(Debug, Clone)]
pub struct ListEntry {
    /// The network.
    pub network: Network,
    /// Who put it there.
    pub source: Source,
    /// How long it stays, if it does not stay.
    pub remaining: Option<Duration>,
}

/// Who put a network on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The configuration.
    Config,
    /// This file.
    File(PathBuf),
    /// An operator, by the admin API.
    Api,
}

/// What becomes of a network that an operator adds or takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is on the list until then, or for good.
    Put(Option<Instant>),
    /// It is not, as far as that goes.
    Take,
}

/// Why a network cannot be added.
#[derive(Debug, thiserror::Error)]
#[error("{MOST_ADDED} networks were added already: put them into the file, or add larger networks")]
pub struct ListFull;

impl NetworkList {
    /// Whether an address is on it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.load().contain(ip)
    }

    /// What the configuration says from now on. What was added stays.
    pub(super) fn configure(&self, networks: &[Network], path: &Path) {
        let mut entries = self.lock();
        entries.config = networks.to_vec();
        // The same file keeps what it held until it is read again.
        if entries.file.path() != ListFile::at(path).path() {
            entries.file = ListFile::at(path);
        }
        self.lay_out(&entries);
        drop(entries);
        self.read_file();
    }

    /// Reads the file again; whether there was news. Not for a thread that may not wait.
    pub(super) fn read_file(&self) -> bool {
        let Some(path) = self.lock().file.path().map(Path::to_owned) else { return false };
        let read = file::read(&path);
        let mut entries = self.lock();
        // It may have been told of another file meanwhile.
        let has_news = entries.file.path() == Some(&path) && entries.file.take(read);
        if has_news {
            self.lay_out(&entries);
        }
        has_news
    }

    /// Puts a network on the list until `lapses`, or for good; in place of what was said of it
    /// before.
    pub(super) fn add(&self, network: Network, lapses: Option<Instant>) -> Result<(), ListFull> {
        let mut entries = self.lock();
        if entries.added.len() >= MOST_ADDED && !entries.added.contains_key(&network) {
            return Err(ListFull);
        }
        entries.added.insert(network, lapses);
        self.lay_out(&entries);
        Ok(())
    }

    /// Does many such changes at once. What finds no place is left out.
    pub(super) fn change(&self, changes: &[(Network, Change)]) -> Result<(), ListFull> {
        let (mut entries, mut done) = (self.lock(), Ok(()));
        for &(network, change) in changes {
            match change {
                Change::Take => drop(entries.added.remove(&network)),
                Change::Put(lapses) => {
                    if entries.added.len() < MOST_ADDED || entries.added.contains_key(&network) {
                        entries.added.insert(network, lapses);
                    } else {
                        done = Err(ListFull);
                    }
                }
            }
        }
        self.lay_out(&entries);
        done
    }

    /// Takes back what was added; whether it was.
    pub(super) fn remove(&self, network: Network) -> bool {
        let mut entries = self.lock();
        let was_added = entries.added.remove(&network).is_some();
        if was_added {
            self.lay_out(&entries);
        }
        was_added
    }

    /// Takes back everything that was added: which.
    pub(super) fn remove_all(&self) -> Vec<Network> {
        let mut entries = self.lock();
        let removed = std::mem::take(&mut entries.added).into_keys().collect();
        self.lay_out(&entries);
        removed
    }

    /// Takes off what has lapsed; whether anything has.
    pub(super) fn lapse(&self, now: Instant) -> bool {
        let mut entries = self.lock();
        let before = entries.added.len();
        entries.added.retain(|_, lapses| lapses.is_none_or(|at| at > now));
        let has_lapsed = entries.added.len() < before;
        if has_lapsed {
            self.lay_out(&entries);
        }
        has_lapsed
    }

    /// All of it, by network.
    pub fn entries(&self) -> Vec<ListEntry> {
        let (entries, now) = (self.lock(), Instant::now());
        let entry = |network, source, remaining| ListEntry { network, source, remaining };
        let config = entries.config.iter().map(|&network| entry(network, Source::Config, None));
        let path = entries.file.path().unwrap_or(Path::new(""));
        let of_file = entries.file.networks().iter();
        let of_file = of_file.map(|&network| entry(network, Source::File(path.to_owned()), None));
        let added = entries.added.iter().map(|(&network, lapses)| {
            let remaining = lapses.map(|at| at.saturating_duration_since(now));
            entry(network, Source::Api, remaining)
        });
        let mut all: Vec<_> = config.chain(of_file).chain(added).collect();
        all.sort_by_key(|entry| entry.network);
        all
    }

    fn lay_out(&self, entries: &Entries) {
        let added = entries.added.keys();
        let all = entries.config.iter().chain(entries.file.networks()).chain(added);
        self.ranges.store(Arc::new(all.copied().collect()));
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Whatever panicked had not begun to change anything.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn contains(list: &NetworkList, ip: &str) -> bool {
        list.contains(ip.parse().unwrap())
    }

    #[test]
    fn a_network_is_on_the_list_as_long_as_one_source_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        fs::write(&path, "192.0.2.0/24\n").unwrap();
        let list = NetworkList::default();
        list.configure(&[network("192.0.2.1")], &path);
        list.add(network("192.0.2.1"), None).unwrap();
        let sources: Vec<_> = list.entries().into_iter().map(|entry| entry.source).collect();
        assert_eq!(sources, [Source::File(path.clone()), Source::Config, Source::Api]);
        assert!(contains(&list, "192.0.2.9"));
        fs::write(&path, "").unwrap();
        assert!(list.read_file() && !list.read_file());
        assert!(contains(&list, "192.0.2.1") && !contains(&list, "192.0.2.9"));
        list.configure(&[], &path);
        assert!(contains(&list, "192.0.2.1"), "what was added stays");
        assert!(list.remove(network("192.0.2.1")) && !list.remove(network("192.0.2.1")));
        assert!(!contains(&list, "192.0.2.1"));
    }

    #[test]
    fn what_was_added_for_a_time_lapses_then() {
        let (list, now) = (NetworkList::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        list.add(network("192.0.2.1"), Some(later)).unwrap();
        list.add(network("192.0.2.2"), None).unwrap();
        assert!(!list.lapse(now));
        let remaining = list.entries()[0].remaining.unwrap();
        assert!(remaining <= Duration::from_secs(60), "{remaining:?}");
        assert!(list.lapse(later));
        assert!(!contains(&list, "192.0.2.1") && contains(&list, "192.0.2.2"));
        assert_eq!(list.remove_all(), [network("192.0.2.2")]);
        assert!(list.entries().is_empty());
    }

    #[test]
    fn another_file_takes_the_place_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["one", "other"].map(|name| dir.path().join(name));
        fs::write(&paths[0], "192.0.2.1").unwrap();
        fs::write(&paths[1], "192.0.2.2").unwrap();
        let list = NetworkList::default();
        for (path, inside, outside) in
            [(&paths[0], "192.0.2.1", "192.0.2.2"), (&paths[1], "192.0.2.2", "192.0.2.1")]
        {
            list.configure(&[], path);
            assert!(contains(&list, inside) && !contains(&list, outside));
        }
        list.configure(&[], Path::new(""));
        assert!(list.entries().is_empty() && !contains(&list, "192.0.2.2"));
    }
}
