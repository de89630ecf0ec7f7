//! The same of legs that are lent to other nodes, and come back or do not: none is lost, none is met
//! twice, and a claim is given back once.

use std::sync::{
    Mutex as Calm,
    atomic::{AtomicUsize, Ordering},
};

use mini_rust_desk_relay_server::relay::{
    passage::Departure,
    request::{NotReserved, WaitId},
};
use room::pairing::{Comer, Reserved};
use tokio::sync::mpsc;

use super::*;

/// What is kept with a leg: how often it was given back. Not shuttle's, since counting is no step.
#[derive(Clone, Default)]
struct GivenBack(std::sync::Arc<AtomicUsize>);

struct Kept(GivenBack);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A house whose legs are lent, and what came of those that were back.
struct Inn {
    house: House,
    back: std::sync::Arc<Calm<Vec<Match>>>,
    claim: GivenBack,
}

impl Inn {
    fn new() -> Self {
        let house = House::new(10);
        let back = std::sync::Arc::<Calm<Vec<Match>>>::default();
        let returned = std::sync::Arc::clone(&back);
        house.room.on_return(Box::new(move |matched| returned.lock().unwrap().push(matched)));
        Self { house, back, claim: GivenBack::default() }
    }

    fn id(&self) -> WaitId {
        self.house.room.find(&"uuid".into()).expect("it waits").id
    }

    /// Keeps the claim with the leg.
    fn keeps(&self, id: WaitId) -> JoinHandle<bool> {
        let (room, claim) = (Arc::clone(&self.house.room), self.claim.clone());
        thread::spawn(move || room.keep(&"uuid".into(), id, || Box::new(Kept(claim))))
    }

    fn claimed(&self) -> TcpStream {
        let client = self.house.waits("uuid");
        assert!(self.keeps(self.id()).join().unwrap());
        client
    }

    /// Another node asks for the leg, and `goes` says what it does then.
    fn asks<T: Send + 'static>(
        &self,
        goes: impl FnOnce(Reserved) -> T + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let room = Arc::clone(&self.house.room);
        thread::spawn(move || match room.reserve(&"uuid".into(), &Grant::default()) {
            Ok(reserved) => Some(goes(reserved)),
            Err(NotReserved::Nobody) => None,
            Err(NotReserved::Refused(refusal)) => panic!("{refusal}"),
        })
    }

    /// Another node asks, and does not come.
    fn asks_in_vain(&self) -> JoinHandle<Option<()>> {
        self.asks(drop)
    }

    /// The leg leaves for another node.
    fn departs(&self, id: WaitId) -> JoinHandle<bool> {
        let room = Arc::clone(&self.house.room);
        thread::spawn(move || {
            let lent = room.depart(&"uuid".into(), id);
            lent.is_some_and(|lent| lent.leave().is_ok())
        })
    }

    /// How many pairs were made by those who came back.
    fn met_when_back(&self) -> usize {
        let back = self.back.lock().unwrap();
        back.iter().filter(|matched| matches!(matched, Match::Paired(_))).count()
    }

    fn given_back(&self) -> usize {
        self.claim.0.load(Ordering::Relaxed)
    }

    /// Nobody is left in it, and no claim.
    fn ends(self) {
        let claim = self.claim.clone();
        self.back.lock().unwrap().clear();
        self.house.ends();
        assert_eq!(claim.0.load(Ordering::Relaxed), 1, "given back once");
    }
}

/// A leg of another node.
fn guest() -> (Comer, TcpStream) {
    let (request, client) = request("uuid");
    (Comer::try_from(request).unwrap(), client)
}

#[test]
fn who_comes_while_a_leg_is_lent_meets_it_when_it_is_back() {
    in_every_order(|| {
        let inn = Inn::new();
        let waits = inn.claimed();
        let asking = inn.asks_in_vain();
        let [comes] = joined([inn.house.arrives("uuid")]);
        asking.join().unwrap();
        let met = usize::from(comes.is_paired()) + inn.met_when_back();
        assert_eq!(met, 1, "they meet, once");
        assert!(!is_closed(&waits) && !comes.is_closed());
        assert_eq!(inn.given_back(), 1);
        inn.house.is_consistent(0);
        inn.ends();
    });
}

#[test]
fn of_two_nodes_that_ask_for_a_leg_one_has_it_at_a_time() {
    in_every_order(|| {
        let inn = Inn::new();
        let waits = inn.claimed();
        let (comer, _guest) = guest();
        let vain = inn.asks_in_vain();
        let asking = inn.asks(move |reserved| reserved.meet(comer).unwrap());
        let (met, _) = (asking.join().unwrap(), vain.join().unwrap());
        assert!(!is_closed(&waits));
        // Paired, or back in its place.
        assert_eq!(inn.given_back(), usize::from(met.is_some()));
        inn.house.is_consistent(usize::from(met.is_none()));
        inn.ends();
    });
}

#[test]
fn a_leg_departs_or_is_met() {
    in_every_order(|| {
        let inn = Inn::new();
        let _waits = inn.claimed();
        let leaving = inn.departs(inn.id());
        let [comes] = joined([inn.house.arrives("uuid")]);
        assert_ne!(leaving.join().unwrap(), comes.is_paired(), "one of the two");
        assert_eq!(inn.given_back(), 1);
        inn.house.is_consistent(usize::from(comes.is_parked()));
        inn.ends();
    });
}

#[test]
fn a_leg_that_two_nodes_want_from_each_other_is_with_one_of_them() {
    in_every_order(|| {
        let inn = Inn::new();
        let waits = inn.claimed();
        let (leaving, vain) = (inn.departs(inn.id()), inn.asks_in_vain());
        let left = leaving.join().unwrap();
        vain.join().unwrap();
        assert_eq!(is_closed(&waits), left);
        assert_eq!(inn.given_back(), usize::from(left));
        inn.house.is_consistent(usize::from(!left));
        inn.ends();
    });
}

/// A claim comes in its own time, wherever its leg is then.
#[test]
fn a_claim_finds_its_leg_also_while_that_is_lent() {
    in_every_order(|| {
        let inn = Inn::new();
        let _waits = inn.house.waits("uuid");
        let (keeping, vain) = (inn.keeps(inn.id()), inn.asks_in_vain());
        assert!(keeping.join().unwrap(), "it was here all the time");
        vain.join().unwrap();
        assert_eq!(inn.given_back(), 0);
        inn.house.is_consistent(1);
        inn.ends();
    });
}

#[test]
fn a_claim_that_comes_too_late_is_not_kept() {
    in_every_order(|| {
        let inn = Inn::new();
        let _waits = inn.house.waits("uuid");
        let keeping = inn.keeps(inn.id());
        let (comer, _guest) = guest();
        let asking = inn.asks(move |reserved| reserved.meet(comer).unwrap());
        let kept = keeping.join().unwrap();
        assert!(asking.join().unwrap().is_some());
        assert_eq!(inn.given_back(), usize::from(kept), "with the leg, if it was there");
        inn.house.is_consistent(0);
        inn.house.ends();
    });
}

/// Nobody is put back into a room that is closed.
#[test]
fn a_leg_that_is_lent_when_the_room_closes_is_let_go() {
    in_every_order(|| {
        let inn = Inn::new();
        let waits = inn.claimed();
        let asking = inn.asks_in_vain();
        inn.house.closes().join().unwrap();
        asking.join().unwrap();
        assert!(is_closed(&waits));
        assert_eq!(inn.given_back(), 1);
        inn.house.is_consistent(0);
    });
}

#[test]
fn a_sweep_leaves_a_lent_leg_alone_and_takes_it_when_it_is_back_and_late() {
    in_every_order(|| {
        let inn = Inn::new();
        let waits = inn.claimed();
        advance(TIMEOUT);
        let (comer, _guest) = guest();
        let (sweeping, asking) =
            (inn.house.sweeps(), inn.asks(move |reserved| reserved.meet(comer).unwrap()));
        sweeping.join().unwrap();
        let met = asking.join().unwrap();
        assert_ne!(met.is_some(), is_closed(&waits), "met, or gone");
        assert_eq!(inn.given_back(), 1);
        inn.house.is_consistent(0);
        inn.ends();
    });
}

/// A leg that is back goes where all have gone since.
#[test]
fn a_leg_that_is_lent_when_another_process_takes_over_goes_there() {
    in_every_order(|| {
        let inn = Inn::new();
        let waits = inn.claimed();
        let (way, mut departures) = mpsc::unbounded_channel();
        let (room, asking) = (Arc::clone(&inn.house.room), inn.asks_in_vain());
        let leading = thread::spawn(move || room.hand_over(&way));
        let [comes] = joined([inn.house.arrives("uuid")]);
        asking.join().unwrap();
        leading.join().unwrap();
        let mut travellers = Vec::new();
        while let Ok(departure) = departures.try_recv() {
            match departure {
                Departure::Leg(traveller) => travellers.push(traveller),
                Departure::Kept { .. } => panic!("both can leave"),
            }
        }
        let met = usize::from(comes.is_paired()) + inn.met_when_back();
        assert_eq!(2 * met + travellers.len(), 2, "they met here, or both have left");
        assert!(!is_closed(&waits) && !comes.is_closed());
        assert_eq!(inn.given_back(), 1);
        drop(travellers);
        inn.house.is_consistent(0);
        inn.ends();
    });
}
