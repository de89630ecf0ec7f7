//! The round trip of a small message over some pairs, one at a time: while nothing else happens,
//! and beside pairs that are filled with all that goes through.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{Leg, incoming, outgoing},
    delays::micros,
    flow::{Flow, Shared, Ways},
    kind::Kind,
    machine::cores,
    options::Scale,
    subject::Subject,
};

const PAIRS: usize = 20;

const PAYLOAD: [u8; 64] = [b'p'; 64];

/// The pairs that are filled, and what with.
const FILLED: usize = 4;
const MESSAGE: usize = 16 << 10;

/// Fewer say nothing of their slowest.
const FEWEST: usize = 5;

/// Over idle pairs.
pub(crate) fn idle(plan: &Plan) -> Workload {
    let pings = plan.scale.pings;
    let measure = move |subject: &Subject, transports| measure_idle(subject, transports, pings);
    Workload {
        name: "round-trip",
        title: format!("Round trip of {} B over {PAIRS} idle pairs", PAYLOAD.len()),
        columns: vec![
            Column::new("p50_us", "p50 µs", 0).with_ratio(),
            Column::new("p99_us", "p99 µs", 0).with_ratio(),
            Column::new("cpu_us", "its CPU µs a round trip", 1).with_ratio(),
        ],
        yardsticks: vec![Kind::Nginx, Kind::Floor(1)],
        rounds: plan.scale.rounds,
        fresh: false,
        cases: cases(plan, &[[Tcp, Tcp], [WebSocket, WebSocket], [Tcp, WebSocket]], 1, measure),
        notes: "One message is under way at a time; the pairs take turns. `direct` is no relay at \
                all: what it takes, the others cannot do without.",
    }
}

/// Over the same beside bulk: what the curve of throughput against delay is drawn from.
pub(crate) fn beside(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let measure = move |subject: &Subject, transports| measure_beside(subject, transports, &scale);
    Workload {
        name: "beside",
        title: format!(
            "Round trip of {} B over {PAIRS} pairs beside {FILLED} that are filled, {} KiB writes",
            PAYLOAD.len(),
            MESSAGE >> 10
        ),
        columns: vec![
            Column::new("p50_us", "p50 µs", 0).with_ratio(),
            Column::new("p99_us", "p99 µs", 0).with_ratio(),
            Column::new("gbit_s", "bulk Gbit/s", 2).with_ratio(),
            Column::new("cpu_s_gb", "its CPU s/GB", 3).with_ratio(),
            Column::new("trips", "round trips", 0),
        ],
        yardsticks: vec![Kind::HaProxy, Kind::Nginx, Kind::Floor(cores())],
        rounds: plan.scale.rounds,
        fresh: false,
        cases: cases(plan, &[[Tcp, Tcp], [WebSocket, WebSocket]], cores(), measure),
        notes: "Low delay is easy at low throughput, and the reverse: read the two together. Where \
                a program answers late there are few round trips, and p99 is nearly the slowest.",
    }
}

fn cases(
    plan: &Plan,
    transports: &[[Transport; 2]],
    floor_threads: usize,
    measure: impl Fn(&Subject, [Transport; 2]) -> anyhow::Result<Sample> + Clone + 'static,
) -> Vec<Case> {
    let others = [Kind::Floor(floor_threads), Kind::Nginx, Kind::HaProxy, Kind::Socat];
    let mut cases = Vec::new();
    for transports in transports.iter().copied() {
        let yardsticks = match transports {
            [Tcp, Tcp] => others.into_iter().chain([Kind::Wormhole, Kind::Direct]).collect(),
            _ => Vec::new(),
        };
        for kind in plan.relay_kinds().chain(yardsticks) {
            let task = format!("{}-{}", transports[0].label(), transports[1].label());
            let measure = measure.clone();
            let case = Case::new(task, kind, move |subject| measure(subject, transports));
            cases.push(case.compared_with("tcp-tcp"));
        }
    }
    cases
}

/// Pairs whose far ends give back what they get.
struct Echoing {
    near: Vec<Leg>,
    far: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Echoing {
    fn start(subject: &Subject, transports: [Transport; 2]) -> anyhow::Result<Self> {
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let [first, second] = subject.pair(transports)?;
            near.push(first);
            far.push(thread::spawn(move || echo_until_end(second)));
        }
        Ok(Self { near, far })
    }

    /// Until so many have come back, or the time is over.
    fn ping(&mut self, most: usize, window: Duration) -> anyhow::Result<Vec<Duration>> {
        let transport = self.near[0].transport;
        let (there, back) = (outgoing(transport, &PAYLOAD)?, incoming(transport, &PAYLOAD)?);
        let (mut trips, start) = (Vec::new(), Instant::now());
        while trips.len() < most && start.elapsed() < window {
            let leg = &mut self.near[trips.len() % PAIRS];
            let since = Instant::now();
            leg.send_raw(&there)?;
            leg.receive_raw(&back)?;
            trips.push(since.elapsed());
        }
        Ok(trips)
    }

    fn end(self) {
        drop(self.near);
        for echo in self.far {
            // It ends with an error: the pair's end is no message.
            let _ = echo.join();
        }
    }
}

fn measure_idle(
    subject: &Subject,
    transports: [Transport; 2],
    pings: usize,
) -> anyhow::Result<Sample> {
    let mut pairs = Echoing::start(subject, transports)?;
    // The first of each pair meets cold caches and fresh sockets.
    pairs.ping(PAIRS * 5, Duration::MAX)?;
    let before = subject.fine_cpu()?;
    let mut trips = pairs.ping(pings, Duration::MAX)?;
    let cpu = subject.fine_cpu()?.zip(before).map(|(after, before)| after.saturating_sub(before));
    pairs.end();
    let [p50, p99] = micros(&mut trips, [0.50, 0.99]);
    let mut sample = vec![("p50_us", p50), ("p99_us", p99)];
    if let Some(cpu) = cpu {
        sample.push(("cpu_us", cpu.as_secs_f64() * 1e6 / pings as f64));
    }
    Ok(sample)
}

fn measure_beside(
    subject: &Subject,
    transports: [Transport; 2],
    scale: &Scale,
) -> anyhow::Result<Sample> {
    let shared = Shared::new(transports[0], MESSAGE)?;
    let mut pairs = Echoing::start(subject, transports)?;
    pairs.ping(PAIRS * 5, Duration::MAX)?;
    let mut filled = Vec::new();
    for _ in 0..FILLED {
        filled.push(subject.pair(transports)?);
    }
    let watched = thread::scope(|scope| {
        let flows: anyhow::Result<Vec<_>> =
            filled.into_iter().map(|pair| Flow::start(scope, pair, Ways::One, &shared)).collect();
        thread::sleep(scale.bulk_warm_up);
        let watched = shared.watch(subject, || pairs.ping(usize::MAX, scale.beside_window));
        shared.stop();
        for flow in flows.context("a pair")? {
            flow.finish()?;
        }
        watched
    });
    pairs.end();
    let (watched, mut trips) = watched?;
    ensure!(trips.len() >= FEWEST, "only {} round trips", trips.len());
    let [p50, p99] = micros(&mut trips, [0.50, 0.99]);
    let mut sample = vec![
        ("p50_us", p50),
        ("p99_us", p99),
        ("gbit_s", watched.gbit_s),
        ("trips", trips.len() as f64),
    ];
    sample.extend(watched.cpu_s_gb.map(|cpu| ("cpu_s_gb", cpu)));
    Ok(sample)
}

fn echo_until_end(mut far: Leg) -> anyhow::Result<()> {
    let there = incoming(far.transport, &PAYLOAD)?;
    let back = outgoing(far.transport, &PAYLOAD)?;
    loop {
        far.receive_raw(&there)?;
        far.send_raw(&back)?;
    }
}
