//! A relay of very many nodes in one process, in simulated time: the real router of every node over
//! the real directory trait, between rooms and a network that are simulated.
//!
//! Time goes in steps of a millisecond, and only when nobody has anything to do: what is measured
//! is what the design costs in round trips and tries, not what the machine costs. Everything that
//! is drawn comes from one seed.

mod dice;
mod directory;
mod hand_over;
mod node;
mod pairs;
mod report;
mod weather;
mod world;

use std::time::Duration;

use tokio::runtime;

pub(crate) use self::{
    report::Report,
    weather::{Trouble, What},
};

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// In all.
    pub(crate) pairs: u32,
    /// How many begin in a minute.
    pub(crate) a_minute: u32,
    pub(crate) troubles: Vec<Trouble>,
    /// The share of connections between nodes that fail.
    pub(crate) failing_dials: f64,
    /// The share of hand-overs that break in the middle: the leg's client hears of it, the other node
    /// only when its time is over.
    pub(crate) breaking: f64,
    /// How often a node is killed; another takes its place after a while.
    pub(crate) killing: Option<Duration>,
}

impl Plan {
    /// Nothing but what networks do on a good day.
    pub(crate) fn quiet(nodes: usize, pairs: u32, a_minute: u32) -> Self {
        let (troubles, killing) = (Vec::new(), None);
        let (failing_dials, breaking) = (0.0, 0.0);
        Self { seed: 1, nodes, pairs, a_minute, troubles, failing_dials, breaking, killing }
    }

    /// Everything that goes wrong, one thing after another within a minute, and nodes that die all
    /// the time.
    pub(crate) fn troubled(nodes: usize, pairs: u32, a_minute: u32) -> Self {
        let trouble = |at, seconds, what| Trouble {
            at: Duration::from_secs(at),
            lasts: Duration::from_secs(seconds),
            what,
        };
        Self {
            troubles: vec![
                trouble(4, 3, What::DirectorySlow),
                trouble(11, 3, What::DirectoryAway),
                trouble(19, 3, What::DirectoryLost),
                trouble(27, 8, What::Partition),
                trouble(40, 6, What::OneWay),
                trouble(50, 2, What::Killed(nodes / 20)),
            ],
            failing_dials: 0.002,
            breaking: 0.002,
            killing: Some(Duration::from_secs(1)),
            ..Self::quiet(nodes, pairs, a_minute)
        }
    }

    /// Runs it to the end.
    pub(crate) fn run(&self) -> Report {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(world::run(self.clone()))
    }
}
