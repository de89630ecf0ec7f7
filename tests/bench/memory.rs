//! What a relay costs while nothing happens: memory and processor time of many idle relays, and
//! of many legs that wait; and what is kept when they are gone, once and again.
//!
//! Memory is what the process itself asked for (its anonymous pages). Socket buffers are the
//! kernel's, the same for every program, and empty here.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{Leg, echo, unique_uuid},
    kind::Kind,
    subject::Subject,
};

/// How many threads open connections.
const OPENERS: usize = 4;

pub(crate) const KIB: f64 = 1024.0;
pub(crate) const MIB: f64 = 1024.0 * 1024.0;

const NOTES: &str = "In the process' own memory (anonymous pages of smaps_rollup); socket buffers \
    are the kernel's. The last time is in the same process, after all were closed every time.";

/// Idle relays.
pub(crate) fn idle(plan: &Plan) -> Workload {
    let (held, window, times) = (plan.scale.held, plan.scale.idle_window, plan.scale.reopened);
    let mut cases = Vec::new();
    for transports in [[Tcp, Tcp], [WebSocket, WebSocket], [Tcp, WebSocket]] {
        let yardsticks = match transports {
            [Tcp, Tcp] => vec![Kind::HaProxy, Kind::Wormhole],
            _ => Vec::new(),
        };
        for kind in plan.relay_kinds().chain(yardsticks) {
            let task = format!("{}-{}", transports[0].label(), transports[1].label());
            // What others keep is told by a few times, and they are slow.
            let times = if kind.is_relay() { times } else { 2 };
            cases.push(Case::new(task, kind, move |subject| {
                let open = || open(held, &|| open_pair(subject, transports));
                hold(subject, Held { count: held, times, window, stat: "relays_active" }, &open)
            }));
        }
    }
    Workload {
        name: "idle",
        title: format!(
            "{held} idle relays, after one small message each way; opened and closed {times} times"
        ),
        columns: COLUMNS.to_vec(),
        yardsticks: vec![],
        rounds: 1,
        fresh: true,
        cases,
        notes: NOTES,
    }
}

/// Waiting legs.
pub(crate) fn waiting(plan: &Plan) -> Workload {
    let (held, window) = (plan.scale.held, plan.scale.idle_window);
    let mut cases = Vec::new();
    for transport in [Tcp, WebSocket] {
        for kind in plan.relay_kinds() {
            cases.push(Case::new(transport.label(), kind, move |subject| {
                let leg = || Leg::arrive(subject.addr(), transport, &unique_uuid());
                let held = Held { count: held, times: 2, window, stat: "legs_waiting" };
                hold(subject, held, &|| open(held.count, &leg))
            }));
        }
    }
    Workload {
        name: "waiting",
        title: format!("{held} legs that wait for their peers, twice"),
        columns: COLUMNS.to_vec(),
        yardsticks: vec![],
        rounds: 1,
        fresh: true,
        cases,
        notes: NOTES,
    }
}

const COLUMNS: &[Column] = &[
    Column::new("kib", "KiB each", 2),
    Column::new("kib_again", "KiB each, last time", 2),
    Column::new("cpu_percent", "CPU while held, % of a core", 2),
    Column::new("start_mib", "MiB at start", 1),
    Column::new("held_mib", "MiB held (Pss)", 1),
    Column::new("kept_mib", "MiB more than at start when all are closed", 1),
    Column::new("kept_again_mib", "the same, last time", 1),
    Column::new("opened_s", "opened a second", 0),
];

/// What is held open.
#[derive(Debug, Clone, Copy)]
struct Held {
    count: usize,
    times: usize,
    window: Duration,
    /// What the relay itself calls their number.
    stat: &'static str,
}

/// Opens them so many times and looks at the process before, at the first and last time, and after.
fn hold<T>(
    subject: &Subject,
    held: Held,
    open: &dyn Fn() -> anyhow::Result<Vec<T>>,
) -> anyhow::Result<Sample> {
    let Held { count, times, window, stat } = held;
    let process = subject.process()?;
    // The admin API has its own first time.
    subject.until_stat(stat, 0)?;
    process.settle()?;
    let start = process.memory()?.anonymous;
    let mut sample = vec![("start_mib", start / MIB)];
    for time in 1..=times {
        let since = Instant::now();
        let all = open()?;
        let took = since.elapsed();
        subject.until_stat(stat, count as u64)?;
        let names = match time {
            1 => Some(["kib", "kept_mib"]),
            _ if time == times => Some(["kib_again", "kept_again_mib"]),
            _ => None,
        };
        if let Some([each, _]) = names {
            process.settle()?;
            let held = process.memory()?;
            sample.push((each, (held.anonymous - start) / KIB / count as f64));
            if time == 1 {
                sample.push(("opened_s", count as f64 / took.as_secs_f64()));
                sample.push(("held_mib", held.proportional / MIB));
                let before = process.fine_cpu()?;
                thread::sleep(window);
                let used = process.fine_cpu()?.saturating_sub(before);
                sample.push(("cpu_percent", used.as_secs_f64() / window.as_secs_f64() * 100.0));
            }
        }
        drop(all);
        subject.until_stat(stat, 0)?;
        if let Some([_, kept]) = names {
            process.settle()?;
            sample.push((kept, (process.memory()?.anonymous - start) / MIB));
        }
    }
    Ok(sample)
}

/// Opens `count` of them, some at a time.
pub(crate) fn open<T: Send>(
    count: usize,
    one: &(dyn Fn() -> anyhow::Result<T> + Sync),
) -> anyhow::Result<Vec<T>> {
    let shares = (0..OPENERS).map(|index| (count + index) / OPENERS);
    thread::scope(|scope| {
        let openers: Vec<_> = shares
            .map(|share| scope.spawn(move || (0..share).map(|_| one()).collect::<Vec<_>>()))
            .collect();
        let mut all = Vec::with_capacity(count);
        for opener in openers {
            for opened in opener.join().ok().context("an opener panicked")? {
                all.push(opened?);
            }
        }
        Ok(all)
    })
}

pub(crate) fn open_pair(subject: &Subject, transports: [Transport; 2]) -> anyhow::Result<[Leg; 2]> {
    let mut pair = subject.pair(transports)?;
    echo(&mut pair, b"a small message")?;
    Ok(pair)
}
