//! As many bytes as will go: one way, from the first leg of every pair to the second, or both ways.

use std::thread;

use anyhow::Context as _;
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    flow::{Flow, Shared, Ways},
    kind::Kind,
    machine::cores,
    options::Scale,
    subject::Subject,
};

/// What is asked of a program.
#[derive(Debug, Clone, Copy)]
struct Task {
    transports: [Transport; 2],
    ways: Ways,
    pairs: usize,
    /// Bytes a write.
    len: usize,
}

impl Task {
    const fn of(transports: [Transport; 2], pairs: usize, len: usize) -> Self {
        Self { transports, ways: Ways::One, pairs, len }
    }

    fn name(self) -> String {
        let [from, to] = self.transports.map(Transport::label);
        let ways = if self.ways == Ways::Both { " both ways" } else { "" };
        let len = match self.len {
            len if len % 1024 == 0 => format!("{} KiB", len >> 10),
            len => format!("{len} B"),
        };
        format!("{from}-{to} x{} {len}{ways}", self.pairs)
    }
}

const TCP: [Task; 6] = [
    Task::of([Tcp, Tcp], 1, 16 << 10),
    Task::of([Tcp, Tcp], 8, 16 << 10),
    Task::of([Tcp, Tcp], 64, 16 << 10),
    Task::of([Tcp, Tcp], 8, 1_400),
    Task::of([Tcp, Tcp], 8, 256 << 10),
    Task { ways: Ways::Both, ..Task::of([Tcp, Tcp], 8, 16 << 10) },
];

pub(crate) fn workload(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let others = [Kind::HaProxy, Kind::Nginx, Kind::Socat, Kind::Wormhole, Kind::Floor(cores())];
    let mut cases = Vec::new();
    for task in TCP {
        for kind in plan.relay_kinds().chain(others).chain([Kind::Direct]) {
            cases.push(case(task, kind, scale));
        }
    }
    for transports in [[WebSocket, WebSocket], [Tcp, WebSocket], [WebSocket, Tcp]] {
        for len in [1_400, 16 << 10, 256 << 10] {
            for kind in plan.relay_kinds() {
                // Nothing else here speaks WebSocket: beside what TCP costs the others.
                let beside = Task::of([Tcp, Tcp], 8, len).name();
                let task = Task::of(transports, 8, len);
                cases.push(case(task, kind, scale).compared_with(beside));
            }
        }
    }
    Workload {
        name: "bulk",
        title: "Bulk, in writes of one size".to_owned(),
        columns: vec![
            Column::new("gbit_s", "Gbit/s", 2).with_ratio(),
            Column::new("cpu_s_gb", "its CPU s/GB", 3).with_ratio(),
            Column::new("generator_s_gb", "generator's CPU s/GB", 3),
            Column::new("busy", "cores busy %", 0),
        ],
        yardsticks: vec![Kind::HaProxy, Kind::Nginx, Kind::Floor(cores())],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "Payload only, 1 GB = 10⁹ bytes. Every byte is counted and one MiB of every 16 of a \
                direction is compared. Ratios of WebSocket rows are to the yardstick's TCP row of \
                the same size. Near 100 % busy the figure is what the cores have left for the \
                program beside the generator; below, somebody waits for somebody.",
    }
}

fn case(task: Task, kind: Kind, scale: Scale) -> Case {
    Case::new(task.name(), kind, move |subject| measure(subject, task, &scale))
}

fn measure(subject: &Subject, task: Task, scale: &Scale) -> anyhow::Result<Sample> {
    let shared = Shared::new(task.transports[0], task.len)?;
    let mut pairs = Vec::new();
    for _ in 0..task.pairs {
        pairs.push(subject.pair(task.transports)?);
    }
    let watched = thread::scope(|scope| {
        let flows: anyhow::Result<Vec<_>> =
            pairs.into_iter().map(|pair| Flow::start(scope, pair, task.ways, &shared)).collect();
        thread::sleep(scale.bulk_warm_up);
        let pause = || {
            thread::sleep(scale.bulk_window);
            Ok(())
        };
        let watched = shared.watch(subject, pause);
        // Whatever went wrong: the threads wait for it.
        shared.stop();
        for flow in flows.context("a pair")? {
            flow.finish()?;
        }
        watched
    });
    let (watched, ()) = watched?;
    let mut sample = vec![
        ("gbit_s", watched.gbit_s),
        ("generator_s_gb", watched.generator_s_gb),
        ("busy", watched.busy * 100.0),
    ];
    sample.extend(watched.cpu_s_gb.map(|cpu| ("cpu_s_gb", cpu)));
    Ok(sample)
}
