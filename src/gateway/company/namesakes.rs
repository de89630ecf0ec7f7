//! Other nodes that say of themselves what this one says: that they are reached where it is, or
//! that they have its name. Either is a fault of their settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use crate::cluster::{directory::Node, members::Member};

/// Who is seen twice, so many heartbeats apart, is no start of this node that was killed: that is
/// forgotten by then.
const BEATS: u32 = 6;

/// Those that were seen, by their start.
#[derive(Default)]
struct Namesakes {
    seen: BTreeSet<u64>,
    /// Those who still are there and were told of.
    told: BTreeSet<u64>,
}

/// Tells of each once, for as long as this is polled.
pub(super) async fn tell(
    me: Arc<Node>,
    nodes: watch::Receiver<Arc<BTreeMap<u64, Member>>>,
    heartbeat: Duration,
) {
    let every = heartbeat.saturating_mul(BEATS);
    let mut looks = interval_at(Instant::now() + every, every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut namesakes = Namesakes::default();
    loop {
        looks.tick().await;
        let all = Arc::clone(&nodes.borrow());
        for other in namesakes.look(&me, &all) {
            warn(&me, &other.node);
        }
    }
}

fn warn(me: &Node, other: &Node) {
    let (node, address) = (&other.name, &other.address);
    let instance = format_args!("{:x}", other.instance.0);
    if other.address == me.address {
        tracing::warn!(
            %node, %address, %instance,
            "another node says that it is reached where this one is, and the others reach but one of \
             the two: give each its own cluster.advertise"
        );
    } else {
        tracing::warn!(
            %node, %address, %instance,
            "another node has the name of this one, and who asks for it by name may get either: give \
             each its own cluster.node"
        );
    }
}

impl Namesakes {
    /// Those who are to be told of now.
    fn look<'a>(&mut self, me: &Node, all: &'a BTreeMap<u64, Member>) -> Vec<&'a Member> {
        // Who drains may be the process from which another has taken over, on either side of that.
        let drains = all.get(&me.instance.0).is_some_and(|me| me.draining);
        let is_one = |other: &Member| {
            let Node { instance, name, address } = &*other.node;
            let same = *name == me.name || *address == me.address;
            same && *instance != me.instance && !other.draining && !drains
        };
        let there: BTreeSet<u64> =
            all.iter().filter(|(_, other)| is_one(other)).map(|(start, _)| *start).collect();
        let last = std::mem::replace(&mut self.seen, there.clone());
        self.told.retain(|start| there.contains(start));
        let stay = there.intersection(&last).copied();
        let new: Vec<u64> = stay.filter(|start| self.told.insert(*start)).collect();
        new.iter().filter_map(|start| all.get(start)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::directory::Instance;

    fn member(start: u64, name: &str, address: &str) -> (u64, Member) {
        let node = Node { instance: Instance(start), name: name.into(), address: address.into() };
        let (node, version) = (Arc::new(node), "".into());
        (start, Member { node, version, started: 0, draining: false })
    }

    fn told(namesakes: &mut Namesakes, all: &BTreeMap<u64, Member>) -> Vec<u64> {
        let me = Arc::clone(&all[&1].node);
        namesakes.look(&me, all).iter().map(|member| member.node.instance.0).collect()
    }

    #[test]
    fn who_stays_with_our_name_or_address_is_told_of_once() {
        let mut all = BTreeMap::from([
            member(1, "a", "10.0.0.1:1"),
            member(2, "b", "10.0.0.2:1"),
            member(3, "a", "10.0.0.3:1"),
            member(4, "c", "10.0.0.1:1"),
        ]);
        let mut namesakes = Namesakes::default();
        let rounds: [&[u64]; 3] = [&[], &[3, 4], &[]];
        for round in rounds {
            assert_eq!(told(&mut namesakes, &all), round);
        }
        all.remove(&3);
        all.extend([member(5, "a", "10.0.0.1:1")]);
        assert_eq!(told(&mut namesakes, &all), [0; 0]);
        assert_eq!(told(&mut namesakes, &all), [5]);
    }

    /// For hours, where one has taken over from the other.
    #[test]
    fn processes_one_after_the_other_are_one_node() {
        for drains in [1, 2] {
            let mut all = BTreeMap::from([member(1, "a", "n:1"), member(2, "a", "n:1")]);
            all.get_mut(&drains).unwrap().draining = true;
            let mut namesakes = Namesakes::default();
            for _ in 0..3 {
                assert_eq!(told(&mut namesakes, &all), [0; 0]);
            }
        }
    }
}
