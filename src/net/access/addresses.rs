//! The addresses that connections come from.
//!
//! The table is bounded. An address without a connection and without a debt is as good as one that
//! was never seen, and is forgotten.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Denial,
    address::{Address, AddressPermit, AddressState, Limits},
};
use crate::config::Network;

/// So that threads which accept seldom wait for each other.
const SHARDS: usize = 32;

/// How many addresses are kept in a shard: some 65,000 in all, 20 MiB at the very most.
const MOST_IN_SHARD: usize = 2048;

/// How many bits of an IPv6 address name the network that one site has: it can take any address
/// there.
const SITE_BITS: u8 = 64;

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
        match self.address(ip, now, limits) {
            Some(address) => address.open(now, limits),
            // Where the table is full, whoever is new is let in uncounted: what bounds all
            // connections bounds theirs.
            None => Ok(AddressPermit::default()),
        }
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

    /// Whether a wrong key from `ip` may be logged.
    pub(super) fn may_be_told(&self, ip: IpAddr) -> bool {
        let site = site(ip);
        let known = self.shard(&site).addresses.get(&site).map(Arc::clone);
        known.is_none_or(|address| address.may_be_told(self.now()))
    }

    /// Forgets those that there is nothing to be kept of.
    pub(super) fn sweep(&self, limits: Limits) {
        let now = self.now();
        for shard in &self.shards {
            lock(shard).forget(|address| is_clean(address, now, limits));
        }
    }

    /// All of them, in no order, each as the network that it stands for.
    pub(super) fn list(&self) -> Vec<(Network, AddressState)> {
        let now = self.now();
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            all.extend(shard.addresses.iter().map(|(&ip, address)| {
                let network = Network::around(ip, if ip.is_ipv6() { SITE_BITS } else { 32 });
                (network, address.state(now))
            }));
        }
        all
    }

    /// What stands for a key that was sent, here and nowhere else.
    pub(super) fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    /// In nanoseconds after the epoch.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn shard(&self, site: &IpAddr) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(site) as usize % SHARDS])
    }
}

impl Shard {
    /// Forgets addresses until there is room, those that owe least first. A shard in which all are
    /// in use, or have to wait, is left in peace for a while: who is new is not to pay for looking.
    fn make_room(&mut self, now: u64, limits: Limits) -> bool {
        const PEACE: u64 = 1_000_000_000;
        if self.full_at.is_some_and(|at| now.saturating_sub(at) < PEACE) {
            return false;
        }
        let owes_little = |address: &Address| address.debt(now) <= limits.ahead() / 2;
        let goes: [&dyn Fn(&Address) -> bool; 3] = [
            &|address| is_clean(address, now, limits),
            &|address| owes_little(address) && !address.has_offended(now, limits),
            &|address| owes_little(address) && address.wait(now).is_none(),
        ];
        for may_go in goes {
            self.forget(may_go);
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

/// Whether there is nothing to be kept of it.
fn is_clean(address: &Address, now: u64, limits: Limits) -> bool {
    address.debt(now) == 0 && !address.has_offended(now, limits)
}

/// What counts as one address: of IPv6 a /64, since one machine has all addresses of that.
pub fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> SITE_BITS << SITE_BITS).into(),
        v4 => v4,
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A map operation that panicked left the map as it was.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::access::back_off::BackOff;

    const BACK_OFF: BackOff =
        BackOff { keys: 2, within: Duration::from_secs(600), longest: Duration::from_secs(60) };
    const NONE: Limits =
        Limits { connections: 0, waiting: 0, rate: 0, burst: 1, back_off: BACK_OFF };

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
        let (addresses, limits) =
            (Addresses::new(), Limits { connections: 1, rate: 1, burst: 9, ..NONE });
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
        let counted = held.iter().filter(|permit| permit.is_counted()).count();
        assert!(counted <= SHARDS * MOST_IN_SHARD, "{counted}");
        drop(held);
        addresses.sweep(limits);
        assert!(addresses.shards.iter().all(|shard| lock(shard).addresses.is_empty()));
    }

    #[test]
    fn so_many_legs_of_an_address_wait_and_their_places_come_back() {
        let (addresses, limits) = (Addresses::new(), Limits { waiting: 2, ..NONE });
        let permits = [(); 3].map(|()| addresses.take(ip(1), limits).unwrap());
        for _ in 0..5 {
            let [first, second] = [0, 1].map(|n| permits[n].wait(limits).unwrap());
            let denial = permits[2].wait(limits).unwrap_err();
            assert_eq!(denial, Denial::Waiting { limit: 2 });
            drop((first, second));
        }
        addresses.take(ip(2), limits).unwrap().wait(limits).unwrap();
        // Whoever is not counted may have any number.
        let _uncounted: Vec<_> =
            (0..9).map(|_| AddressPermit::default().wait(limits).unwrap()).collect();
    }

    #[test]
    fn who_guesses_has_to_wait_until_somebody_of_the_address_is_right() {
        let addresses = Addresses::new();
        let [guesser, neighbour, other] =
            [ip(1), ip(1), ip(2)].map(|ip| addresses.take(ip, NONE).unwrap());
        let now = addresses.now();
        assert!(!guesser.wrong_key(1, now, NONE));
        guesser.may_try(now).unwrap();
        assert!(guesser.wrong_key(2, now, NONE));
        assert_eq!(guesser.may_try(now), Err(Denial::BackOff));
        assert_eq!(neighbour.may_try(now), Err(Denial::BackOff));
        other.may_try(now).unwrap();
        // One whose key was looked at before that.
        neighbour.right_key();
        guesser.may_try(now).unwrap();
        drop((guesser, neighbour, other));
        addresses.sweep(NONE);
        assert!(addresses.list().is_empty());
    }

    #[test]
    fn what_somebody_got_wrong_is_kept_when_he_has_gone() {
        let addresses = Addresses::new();
        let permit = addresses.take(ip(1), NONE).unwrap();
        assert!(!permit.wrong_key(1, addresses.now(), NONE));
        drop(permit);
        addresses.sweep(NONE);
        let again = addresses.take(ip(1), NONE).unwrap();
        assert!(again.wrong_key(2, addresses.now(), NONE));
        let [(network, state)] = addresses.list()[..] else { panic!("one address") };
        assert_eq!(network.to_string(), "0.0.0.1");
        assert_eq!((state.open, state.refused), (1, 2));
        assert!(state.back_off.is_some());
    }

    #[test]
    fn of_one_address_so_many_wrong_keys_are_told_of() {
        let addresses = Addresses::new();
        let told = |ip| (0..100).filter(|_| addresses.may_be_told(ip)).count();
        assert_eq!(told(ip(1)), 100, "nothing is known of it");
        let _permits = [ip(1), ip(2)].map(|ip| addresses.take(ip, NONE).unwrap());
        assert_eq!([told(ip(1)), told(ip(2))], [20, 20]);
    }
}
