//! The addresses that connections come from: what each has open, and how fast it comes.
//!
//! The table is bounded. An address without a connection and without a debt is as good as one that
//! was never seen, and is forgotten.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::Denial;

/// So that threads which accept seldom wait for each other.
const SHARDS: usize = 32;

/// How many addresses are kept in a shard: some 65,000 in all, 8 MiB at most.
const MOST_IN_SHARD: usize = 2048;

/// The network that one site has: it can take any address there.
const SITE: u128 = !0 << 64;

/// What one address may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once; 0 for any number.
    pub(super) connections: u32,
    /// New connections a second; 0 for any number.
    pub(super) rate: u32,
    /// New connections at once, after a pause.
    pub(super) burst: u32,
}

/// The table.
pub(super) struct Addresses {
    // Held for a map operation only, never across an await.
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    epoch: Instant,
}

#[derive(Default)]
struct Shard {
    addresses: HashMap<IpAddr, Arc<Address>>,
    /// When it was last found full, in nanoseconds after the epoch.
    full_at: Option<u64>,
}

/// One of them. Everybody who has a connection from there has a share in it; the table has one.
#[derive(Debug, Default)]
struct Address {
    open: AtomicU32,
    /// When all its connections would have come, had they kept to the rate: in nanoseconds after
    /// the epoch.
    due: AtomicU64,
}

/// A connection's place among those of its address; given back when dropped. One that is not
/// limited has none.
#[derive(Debug, Default)]
pub struct AddressPermit(Option<Arc<Address>>);

impl Limits {
    /// Whether there is one.
    pub(super) const fn exist(&self) -> bool {
        self.connections > 0 || self.rate > 0
    }

    /// From one connection to the next at the full rate, in nanoseconds.
    fn interval(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate.max(1))
    }

    /// How far ahead of the rate a burst may get.
    fn ahead(&self) -> u64 {
        self.interval() * u64::from(self.burst.saturating_sub(1))
    }
}

impl Addresses {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            epoch: Instant::now(),
        }
    }

    /// A place for one more connection from `ip`.
    pub(super) fn take(&self, ip: IpAddr, limits: Limits) -> Result<AddressPermit, Denial> {
        let now = self.now();
        // Where the table is full, whoever is new is let in uncounted: what bounds all connections
        // bounds theirs.
        let Some(address) = self.address(ip, now, limits) else {
            return Ok(AddressPermit::default());
        };
        let before = address.open.fetch_add(1, Ordering::Relaxed);
        let permit = AddressPermit(Some(address));
        if limits.connections > 0 && before >= limits.connections {
            return Err(Denial::Connections { limit: limits.connections });
        }
        if limits.rate > 0 && !permit.comes_in_time(now, limits) {
            return Err(Denial::Rate { limit: limits.rate });
        }
        Ok(permit)
    }

    fn address(&self, ip: IpAddr, now: u64, limits: Limits) -> Option<Arc<Address>> {
        let site = site(ip);
        let mut shard = self.shard(&site);
        if let Some(known) = shard.addresses.get(&site) {
            return Some(Arc::clone(known));
        }
        if shard.addresses.len() >= MOST_IN_SHARD && !shard.make_room(now, limits) {
            return None;
        }
        let new = Arc::new(Address::default());
        shard.addresses.insert(site, Arc::clone(&new));
        Some(new)
    }

    /// Forgets those that there is nothing to be kept of.
    pub(super) fn sweep(&self) {
        let now = self.now();
        for shard in &self.shards {
            lock(shard).forget(|address| address.debt(now) == 0);
        }
    }

    fn shard(&self, site: &IpAddr) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(site) as usize % SHARDS])
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Shard {
    /// Forgets addresses until there is room, those that owe least first. A shard in which all are
    /// in use, or owe much, is left in peace for a while: who is new is not to pay for looking.
    fn make_room(&mut self, now: u64, limits: Limits) -> bool {
        const PEACE: u64 = 1_000_000_000;
        if self.full_at.is_some_and(|at| now.saturating_sub(at) < PEACE) {
            return false;
        }
        for bearable in [0, limits.ahead() / 2] {
            self.forget(|address| address.debt(now) <= bearable);
            if self.addresses.len() <= MOST_IN_SHARD / 2 {
                break;
            }
        }
        let has_room = self.addresses.len() < MOST_IN_SHARD;
        self.full_at = (!has_room).then_some(now);
        has_room
    }

    fn forget(&mut self, may_go: impl Fn(&Address) -> bool) {
        // The table's own share is the only one when nobody from there has a connection; a new
        // one is had under this lock alone.
        self.addresses.retain(|_, address| Arc::strong_count(address) > 1 || !may_go(address));
        if self.addresses.capacity() > 64 && self.addresses.len() < self.addresses.capacity() / 4 {
            self.addresses.shrink_to(2 * self.addresses.len());
        }
    }
}

impl Address {
    /// How far it is ahead of its rate, in nanoseconds.
    fn debt(&self, now: u64) -> u64 {
        self.due.load(Ordering::Relaxed).saturating_sub(now)
    }
}

impl AddressPermit {
    fn comes_in_time(&self, now: u64, limits: Limits) -> bool {
        let Some(address) = &self.0 else { return true };
        let counted = address.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
            let due = due.max(now);
            (due - now <= limits.ahead()).then(|| due + limits.interval())
        });
        counted.is_ok()
    }

    /// Takes the connection out of what its address' rate has counted.
    pub(super) fn forgive(&self, limits: Limits) {
        if let Some(address) = &self.0
            && limits.rate > 0
        {
            let due = |due: u64| Some(due.saturating_sub(limits.interval()));
            let _ = address.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due);
        }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Some(address) = &self.0 {
            address.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What counts as one address.
fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & SITE).into(),
        v4 => v4,
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A map operation that panicked left the map as it was.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits { connections: 0, rate: 0, burst: 1 };

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn an_ipv6_address_counts_as_its_network_of_64_bits() {
        let (addresses, limits) = (Addresses::new(), Limits { connections: 1, ..NONE });
        let take = |ip: &str| addresses.take(ip.parse().unwrap(), limits);
        let _first = take("2001:db8::1").unwrap();
        take("2001:db8::ffff:ffff:ffff:ffff").unwrap_err();
        let _neighbour = take("2001:db8:0:1::1").unwrap();
        let _v4 = take("192.0.2.1").unwrap();
        take("::ffff:192.0.2.1").unwrap_err();
    }

    #[test]
    fn a_place_that_is_given_back_can_be_taken_again() {
        let (addresses, limits) = (Addresses::new(), Limits { connections: 2, ..NONE });
        for _ in 0..10 {
            let taken = [(); 2].map(|()| addresses.take(ip(1), limits).unwrap());
            for _ in 0..3 {
                let denial = addresses.take(ip(1), limits).unwrap_err();
                assert!(matches!(denial, Denial::Connections { limit: 2 }));
            }
            drop(taken);
        }
    }

    #[test]
    fn a_burst_is_let_in_and_no_more_and_what_is_forgiven_does_not_count() {
        let (addresses, limits) = (Addresses::new(), Limits { rate: 1, burst: 5, ..NONE });
        for _ in 0..5 {
            addresses.take(ip(1), limits).unwrap();
        }
        assert!(matches!(addresses.take(ip(1), limits), Err(Denial::Rate { limit: 1 })));
        addresses.take(ip(2), limits).unwrap();
        for _ in 0..1000 {
            addresses.take(ip(3), limits).unwrap().forgive(limits);
        }
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_and_nobody_is_locked_out() {
        let (addresses, limits) = (Addresses::new(), Limits { connections: 1, rate: 1, burst: 9 });
        let held: Vec<_> = (0..1000).map(|n| addresses.take(ip(n), limits).unwrap()).collect();
        for n in 1000..300_000 {
            addresses.take(ip(n), limits).unwrap();
        }
        let kept = || addresses.shards.iter().map(|shard| lock(shard).addresses.len()).sum();
        let most: usize = kept();
        assert!(most <= SHARDS * MOST_IN_SHARD, "{most}");
        for n in 0..1000 {
            addresses.take(ip(n), limits).unwrap_err();
        }
        drop(held);
    }

    #[test]
    fn a_table_that_is_full_of_open_connections_lets_in_who_is_new() {
        let (addresses, limits) = (Addresses::new(), Limits { connections: 1, ..NONE });
        let most = u32::try_from(SHARDS * MOST_IN_SHARD).unwrap();
        let held: Vec<_> = (0..2 * most).map(|n| addresses.take(ip(n), limits).unwrap()).collect();
        let counted = held.iter().filter(|permit| permit.0.is_some()).count();
        assert!(counted <= SHARDS * MOST_IN_SHARD, "{counted}");
        drop(held);
        addresses.sweep();
        assert!(addresses.shards.iter().all(|shard| lock(shard).addresses.is_empty()));
    }
}
