//! Pairs that come and go while the relay is told to change: new settings, again and again, or a
//! new process that takes over. None of them may be lost.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use mini_rust_desk_relay_server::wire::Transport;
use rustix::process::Signal;

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    cluster::Crossing,
    crowd::{Arrival, Crowd},
    delays::micros,
    kind::{Kind, Logs},
    process::Process,
    subject::Subject,
};

/// So few that the machine has time for both.
const AT_ONCE: usize = 8;

/// How many pairs come in a row; as many rows as the changes take.
const ROW: usize = 500;

/// A pair that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// From one change to the next.
const PACE: Duration = Duration::from_millis(250);

/// What a relay is told.
#[derive(Debug, Clone, Copy)]
struct Change {
    name: &'static str,
    signal: Signal,
    /// What it says when that is done.
    says: &'static str,
}

const CHANGES: [Change; 2] = [
    Change { name: "reload (SIGHUP)", signal: Signal::HUP, says: "reloaded the configuration" },
    Change {
        name: "upgrade (SIGUSR2)",
        signal: Signal::USR2,
        says: "another process has taken over",
    },
];

pub(crate) fn workload(plan: &Plan) -> Workload {
    let times = plan.scale.changes;
    let mut cases = Vec::new();
    for variant in plan.variants.iter().copied() {
        let kind = Kind::Relay(variant, Logs::File);
        cases.push(Case::new("as it is", kind, move |subject| measure(subject, None, times)));
        for change in CHANGES {
            let measure = move |subject: &Subject| measure(subject, Some(change), times);
            cases.push(Case::new(change.name, kind, measure));
        }
    }
    Workload {
        name: "changes",
        title: format!("Pairs while the relay changes, {times} times"),
        columns: vec![
            Column::new("pairs_s", "pairs/s", 0),
            Column::new("p99_ms", "ms p99", 1),
            Column::new("most_ms", "the slowest", 1),
            Column::new("pairs", "pairs", 0),
            Column::new("lost", "lost", 0),
        ],
        yardsticks: vec![],
        rounds: plan.scale.rounds,
        fresh: true,
        cases,
        notes: "Eight pairs at a time: connect both legs, pair, 16 B echo, close. A quarter of a \
                second after a change is done the next one begins.",
    }
}

fn measure(subject: &Subject, change: Option<Change>, times: usize) -> anyhow::Result<Sample> {
    let crowd = Crowd {
        transport: Transport::Tcp,
        arrival: Arrival::OneByOne,
        crossing: Crossing::None,
        at_once: AT_ONCE,
        pairs: ROW,
        patience: PATIENCE,
        most_lost: ROW,
    };
    let process = subject.process()?;
    let (mut done, mut lost, mut rows) = (Vec::new(), 0, 0);
    let since = Instant::now();
    thread::scope(|scope| {
        let changing = scope.spawn(move || change_often(process, change, times));
        while !changing.is_finished() {
            let tally = crowd.run(subject)?;
            done.extend(tally.done);
            lost += tally.lost;
            rows += 1;
        }
        changing.join().map_err(|_| anyhow!("who changes it panicked"))?
    })?;
    let pairs = (rows * ROW) as f64;
    let pairs_s = pairs / since.elapsed().as_secs_f64();
    let [p99, most] = micros(&mut done, [0.99, 0.999_999]);
    Ok(vec![
        ("pairs_s", pairs_s),
        ("p99_ms", p99 / 1e3),
        ("most_ms", most / 1e3),
        ("pairs", pairs),
        ("lost", lost as f64),
    ])
}

fn change_often(process: &Process, change: Option<Change>, times: usize) -> anyhow::Result<()> {
    for time in 1..=times {
        thread::sleep(PACE);
        let Some(Change { name, signal, says }) = change else { continue };
        // Something new to read each time.
        let settings = format!("[front_door]\nmax_first_frame = \"{}KiB\"\n", 4 + time % 2);
        fs::write(process.dir().join("config.toml"), settings)?;
        process.signal_newest(signal)?;
        let deadline = Instant::now() + PATIENCE;
        while process.said(says) < time {
            if Instant::now() > deadline {
                bail!("{name}, time {time}: not done; it says: {}", process.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
