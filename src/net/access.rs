//! Who may come in: one decision for each connection, once its real address is known.
//!
//! What a connection says is judged elsewhere; here only whence it comes counts. The lists can
//! change at any time; whoever holds a connection asks again when they have.

mod address;
mod addresses;
mod back_off;
mod file;
mod list;
mod ranges;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use self::{address::Limits, addresses::Addresses, back_off::BackOff, ranges::Ranges};
pub use self::{
    address::{AddressPermit, AddressState, WaitingPlace},
    addresses::site,
    list::{Change, ListEntry, ListFull, NetworkList, Source},
};
use super::listener::Connection;
use crate::config::{AccessConfig, Network, ProxyConfig};

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The operator wants none from there.
    #[error("its address is blocked")]
    Blocked,
    /// Its address has as many as it may.
    #[error(
        "its address has {limit} connections open; raise access.connections_per_address if these are many clients"
    )]
    Connections {
        /// As many as it may.
        limit: u32,
    },
    /// Its address makes them too fast.
    #[error(
        "its address makes more than {limit} connections a second; raise access.connection_rate if these are many clients"
    )]
    Rate {
        /// As fast as it may.
        limit: u32,
    },
    /// Its address has as many legs waiting as it may.
    #[error(
        "its address has {limit} legs waiting; raise access.waiting_per_address if these are many clients"
    )]
    Waiting {
        /// As many as it may.
        limit: u32,
    },
    /// Its address has sent too many wrong keys.
    #[error(
        "its address has sent too many wrong keys, and has to wait before another is looked at"
    )]
    BackOff,
}

/// Who decides.
pub struct Access {
    /// Where the files of lists are.
    dir: PathBuf,
    lists: [NetworkList; 2],
    policy: ArcSwap<Policy>,
    addresses: Addresses,
    /// How often a list has changed.
    changes: AtomicU64,
    changed: Notify,
}

/// One of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListName {
    /// Who is refused.
    Block,
    /// Whose relays are slowed down.
    Throttle,
}

/// What the operator asked for.
struct Policy {
    exempt: Ranges,
    limits: Limits,
}

impl Denial {
    /// Its name as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Connections { .. } => "address_connections",
            Self::Rate { .. } => "address_rate",
            Self::Waiting { .. } => "address_waiting",
            Self::BackOff => "address_back_off",
        }
    }
}

impl ListName {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Block, Self::Throttle];
}

impl Access {
    /// Decides as `config` says, the files that it names looked for in `dir`. Trusted proxies are
    /// not limited: what they bring are many clients, each of whom is judged once the proxy has
    /// said who it is.
    pub fn new(config: &AccessConfig, proxies: &ProxyConfig, dir: &Path) -> Self {
        let access = Self {
            dir: dir.to_owned(),
            lists: Default::default(),
            policy: ArcSwap::from_pointee(Policy::of(config, proxies)),
            addresses: Addresses::new(),
            changes: AtomicU64::new(0),
            changed: Notify::new(),
        };
        access.replace(config, proxies);
        access
    }

    /// Decides as another configuration says from now on. What was added to the lists while the
    /// relay ran stays.
    pub fn replace(&self, config: &AccessConfig, proxies: &ProxyConfig) {
        self.policy.store(Policy::of(config, proxies).into());
        // An empty name is no file, and no folder either.
        let path = |file: &Path| match file.as_os_str().is_empty() {
            true => PathBuf::new(),
            false => self.dir.join(file),
        };
        self.list(ListName::Block).configure(&config.blocklist, &path(&config.blocklist_file));
        let file = path(&config.throttle_list_file);
        self.list(ListName::Throttle).configure(&config.throttle_list, &file);
        self.note_change();
    }

    /// Lets a connection in, or says why not. To be asked once its `peer` is who it really is, and
    /// again if that turns out to be somebody else; the place that it had is then given back.
    ///
    /// # Errors
    /// When it is to be turned away.
    pub fn admit<S>(&self, connection: &mut Connection<S>) -> Result<(), Denial> {
        let ip = connection.peer.ip();
        connection.permit.address = self.permit(ip)?;
        if let Some(stranger) = connection.permit.stranger() {
            stranger.comes_from(ip);
        }
        Ok(())
    }

    /// A place for one more connection from `ip`: for who has none at hand yet.
    ///
    /// # Errors
    /// When it is to be turned away.
    pub fn permit(&self, ip: IpAddr) -> Result<AddressPermit, Denial> {
        if self.is_blocked(ip) {
            return Err(Denial::Blocked);
        }
        let policy = self.policy.load();
        if !policy.limits.exist() || policy.exempt.contain(ip) {
            return Ok(AddressPermit::default());
        }
        self.addresses.take(ip, policy.limits)
    }

    /// Forgets that a connection came: it went without a word, as hbbs does to see whether a relay
    /// is there.
    pub fn forgive<S>(&self, connection: &Connection<S>) {
        connection.permit.address.forgive(self.policy.load().limits);
    }

    /// Whether what is for each address does not apply to this one.
    pub fn is_exempt(&self, ip: IpAddr) -> bool {
        self.policy.load().exempt.contain(ip)
    }

    /// A place for one more leg that waits, of the address whose connection it is.
    ///
    /// # Errors
    /// When the address has as many as it may.
    pub fn wait(&self, permit: &AddressPermit) -> Result<WaitingPlace, Denial> {
        permit.wait(self.policy.load().limits)
    }

    /// Whether a leg's key is looked at: it has said who it is, which may have taken a while.
    ///
    /// # Errors
    /// When it is to be turned away.
    pub fn may_try(&self, ip: IpAddr, permit: &AddressPermit) -> Result<(), Denial> {
        if self.is_blocked(ip) {
            return Err(Denial::Blocked);
        }
        permit.may_try(self.addresses.now())
    }

    /// A key was wrong that came from there.
    pub fn wrong_key(&self, permit: &AddressPermit, key: &str) {
        let limits = self.policy.load().limits;
        if limits.back_off.keys > 0 {
            permit.wrong_key(self.addresses.hash(key), self.addresses.now(), limits);
        }
    }

    /// A key was right that came from there: what others from there got wrong was no guessing.
    pub fn right_key(&self, permit: &AddressPermit) {
        permit.right_key();
    }

    /// Whether a wrong key from `ip` may be logged: of each address so many are.
    pub fn may_be_told(&self, ip: IpAddr) -> bool {
        self.addresses.may_be_told(ip)
    }

    /// What is known of the addresses that are not exempt, in no order.
    pub fn addresses(&self) -> Vec<(Network, AddressState)> {
        self.addresses.list()
    }

    /// Whether the operator wants nobody from there.
    pub fn is_blocked(&self, ip: IpAddr) -> bool {
        self.list(ListName::Block).contains(ip)
    }

    /// Whether the operator wants relays with a leg from there to be slow.
    pub fn is_throttled(&self, ip: IpAddr) -> bool {
        self.list(ListName::Throttle).contains(ip)
    }

    /// One of the lists, to be looked at.
    pub fn list(&self, name: ListName) -> &NetworkList {
        &self.lists[name as usize]
    }

    /// Puts a network on a list, for a time or until the relay is started anew.
    ///
    /// # Errors
    /// When too many were added already.
    pub fn add(
        &self,
        name: ListName,
        network: Network,
        lasts: Option<Duration>,
    ) -> Result<(), ListFull> {
        // A time beyond what the clock counts to is for good.
        let lapses = lasts.and_then(|lasts| Instant::now().checked_add(lasts));
        self.list(name).add(network, lapses)?;
        self.note_change();
        Ok(())
    }

    /// Does many such changes of a list at once, as other nodes want them.
    ///
    /// # Errors
    /// When too many were added already: those that found no place are left out.
    pub fn change(&self, name: ListName, changes: &[(Network, Change)]) -> Result<(), ListFull> {
        let done = self.list(name).change(changes);
        self.note_change();
        done
    }

    /// Takes back what was added to a list; whether it was.
    pub fn remove(&self, name: ListName, network: Network) -> bool {
        let was_added = self.list(name).remove(network);
        self.note_change();
        was_added
    }

    /// Takes back everything that was added to a list: which.
    pub fn remove_all(&self, name: ListName) -> Vec<Network> {
        let removed = self.list(name).remove_all();
        self.note_change();
        removed
    }

    /// Takes off the lists what has lapsed; to be called every second.
    pub fn lapse(&self) {
        let now = Instant::now();
        for list in &self.lists {
            if list.lapse(now) {
                self.note_change();
            }
        }
    }

    /// Reads the lists' files again; to be called every few seconds, by a thread that may wait.
    pub fn read_files(&self) {
        for list in &self.lists {
            if list.read_file() {
                self.note_change();
            }
        }
    }

    /// How often a list has changed: for who looks whether one has.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Waits for a change of a list. One that comes between two calls is missed: look at
    /// [`Access::changes`] now and then.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Forgets the addresses that there is nothing to be kept of; to be called every few seconds.
    pub fn sweep(&self) {
        self.addresses.sweep(self.policy.load().limits);
    }
}

impl Policy {
    fn of(config: &AccessConfig, proxies: &ProxyConfig) -> Self {
        Self {
            exempt: config.exempt.iter().chain(&proxies.trusted).copied().collect(),
            limits: Limits {
                connections: config.connections_per_address,
                waiting: config.waiting_per_address,
                rate: config.connection_rate,
                burst: config.connection_burst,
                back_off: BackOff {
                    keys: config.wrong_keys,
                    within: config.wrong_keys_within.get(),
                    longest: config.max_back_off.get(),
                },
            },
        }
    }
}
