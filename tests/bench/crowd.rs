//! Many pairs on one thread: connect both legs, pair, 16 bytes there and back, close, and the
//! next. An epoll and a script a leg, the least that a load generator can cost.

mod leg;

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use mini_rust_desk_relay_server::wire::Transport;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

use self::leg::{Leg, Progress};
use crate::{client::unique_uuid, cluster::Crossing, subject::Subject};

/// How often slow pairs are looked for.
const LOOK: Duration = Duration::from_millis(250);

/// How the legs of a pair come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The second when the first has said which pair it is of.
    OneByOne,
    Together,
}

/// What a crowd is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) transport: Transport,
    pub(crate) arrival: Arrival,
    /// At which nodes, where there are several.
    pub(crate) crossing: Crossing,
    pub(crate) at_once: usize,
    /// In all.
    pub(crate) pairs: usize,
    /// A pair that takes longer is lost.
    pub(crate) patience: Duration,
    /// With more the program is broken, and there is nothing to measure.
    pub(crate) most_lost: usize,
}

/// What became of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) lost: usize,
    /// How long each leg that was not lost took until it was connected …
    pub(crate) connected: Vec<Duration>,
    /// … and until it had heard its peer, been heard, and seen the end.
    pub(crate) done: Vec<Duration>,
}

/// A pair under way.
struct Slot {
    uuid: String,
    addrs: [SocketAddr; 2],
    since: Instant,
    first: Leg,
    second: Option<Leg>,
}

struct Running<'a> {
    crowd: Crowd,
    subject: &'a Subject,
    epoll: OwnedFd,
    slots: Vec<Option<Slot>>,
    /// How many pairs have not begun.
    left: usize,
    under_way: usize,
    tally: Tally,
}

impl Crowd {
    pub(crate) fn run(self, subject: &Subject) -> anyhow::Result<Tally> {
        let mut running = Running {
            crowd: self,
            subject,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            slots: Vec::new(),
            left: self.pairs,
            under_way: 0,
            tally: Tally::default(),
        };
        for number in 0..self.at_once.min(self.pairs) {
            running.slots.push(None);
            running.begin(number)?;
        }
        running.run()?;
        Ok(running.tally)
    }
}

impl Running<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        let mut looked = Instant::now();
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
        while self.under_way > 0 {
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience))?;
            for event in &events {
                let token = event.data.u64() as usize;
                self.turn(token / 2, token % 2, event.flags)?;
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                self.drop_slow()?;
            }
        }
        Ok(())
    }

    /// Begins the slot's next pair, if there is one.
    fn begin(&mut self, number: usize) -> anyhow::Result<()> {
        self.slots[number] = None;
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        self.under_way += 1;
        let addrs = self.subject.addrs(self.crowd.crossing, self.left);
        let (uuid, since) = (unique_uuid(), Instant::now());
        let first = self.connect(number, 0, addrs, &uuid)?;
        let together = self.crowd.arrival == Arrival::Together;
        let second = together.then(|| self.connect(number, 1, addrs, &uuid)).transpose()?;
        self.slots[number] = Some(Slot { uuid, addrs, since, first, second });
        Ok(())
    }

    fn connect(
        &self,
        number: usize,
        side: usize,
        addrs: [SocketAddr; 2],
        uuid: &str,
    ) -> anyhow::Result<Leg> {
        let greeting = self.subject.greeting(self.crowd.transport, uuid, side)?;
        let leg = Leg::connect(addrs[side], self.crowd.transport, greeting, side)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let token = EventData::new_u64((number * 2 + side) as u64);
        epoll::add(&self.epoll, leg.socket(), token, flags)?;
        Ok(leg)
    }

    fn turn(&mut self, number: usize, side: usize, flags: EventFlags) -> anyhow::Result<()> {
        let Some(Some(slot)) = self.slots.get_mut(number) else { return Ok(()) };
        let leg = if side == 0 { Some(&mut slot.first) } else { slot.second.as_mut() };
        let Some(leg) = leg else { return Ok(()) };
        match leg.turn(flags) {
            Ok(Progress::Greeted) if side == 0 && slot.second.is_none() => {
                let (uuid, addrs) = (slot.uuid.clone(), slot.addrs);
                let second = self.connect(number, 1, addrs, &uuid)?;
                if let Some(slot) = &mut self.slots[number] {
                    slot.second = Some(second);
                }
            }
            Ok(Progress::Done) if slot.is_done() => {
                for leg in [Some(&slot.first), slot.second.as_ref()].into_iter().flatten() {
                    self.tally.connected.extend(leg.connected_at.map(|at| at - slot.since));
                    self.tally.done.extend(leg.done_at.map(|at| at - slot.since));
                }
                self.under_way -= 1;
                self.begin(number)?;
            }
            Ok(_) => {}
            Err(error) => self.lose(number, &error)?,
        }
        Ok(())
    }

    fn drop_slow(&mut self) -> anyhow::Result<()> {
        let patience = self.crowd.patience;
        for number in 0..self.slots.len() {
            if self.slots[number].as_ref().is_some_and(|slot| slot.since.elapsed() > patience) {
                self.lose(number, &anyhow!("not done after {patience:?}"))?;
            }
        }
        Ok(())
    }

    fn lose(&mut self, number: usize, error: &anyhow::Error) -> anyhow::Result<()> {
        if self.tally.lost < 3 {
            eprintln!("lost pair: {error:#}");
        }
        self.tally.lost += 1;
        ensure!(self.tally.lost <= self.crowd.most_lost, "{} pairs lost", self.tally.lost);
        self.under_way -= 1;
        self.begin(number)
    }
}

impl Slot {
    fn is_done(&self) -> bool {
        [Some(&self.first), self.second.as_ref()]
            .iter()
            .all(|leg| leg.is_some_and(|leg| leg.done_at.is_some()))
    }
}
