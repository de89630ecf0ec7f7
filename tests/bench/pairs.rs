//! Pairs that come and go: connect both legs, pair, 16 bytes there and back, close; and a burst
//! of connections at once.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use mini_rust_desk_relay_server::wire::Transport;

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    cluster::Crossing,
    crowd::{Arrival, Crowd, Tally},
    delays::micros,
    kind::{Kind, Logs},
    machine::cores,
    process::own_cpu,
    subject::Subject,
};

/// So that the accounts of a pair that has just ended are on the same side of the clock.
pub(crate) const AFTERMATH: Duration = Duration::from_millis(100);

const SEVERAL: usize = 16;
const MANY: usize = 256;

/// A pair that takes longer is lost; with more than one lost in so many a program is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const LOST: usize = 20;

/// Connections that are dropped are tried again after one, three and seven seconds.
const BURST_PATIENCE: Duration = Duration::from_secs(8);

/// Connections at once.
const BURST: usize = 1_500;

/// A connection that waits longer was dropped once: it is then tried again after a second.
const LONG: Duration = Duration::from_millis(900);

pub(crate) fn workload(plan: &Plan) -> Workload {
    let mut cases = Vec::new();
    for transport in [Transport::Tcp, Transport::WebSocket] {
        for (arrival, at_once) in [(Arrival::OneByOne, SEVERAL), (Arrival::Together, MANY)] {
            for kind in kinds(plan, transport) {
                let pairs = match transport {
                    Transport::Tcp => plan.scale.pairs,
                    Transport::WebSocket => plan.scale.pairs / 2,
                };
                let (patience, most_lost) = (PATIENCE, pairs / LOST);
                let crossing = Crossing::None;
                let crowd =
                    Crowd { transport, arrival, crossing, at_once, pairs, patience, most_lost };
                let measure = move |subject: &Subject| measure(subject, crowd);
                let compared = task(Crowd { transport: Transport::Tcp, ..crowd });
                cases.push(Case::new(task(crowd), kind, measure).compared_with(compared));
            }
        }
    }
    Workload {
        name: "pairs",
        title: "Pairs: connect both legs, pair, 16 B echo, close".to_owned(),
        columns: vec![
            Column::new("pairs_s", "pairs/s", 0).with_ratio(),
            Column::new("cpu_us", "its CPU µs/pair", 1).with_ratio(),
            Column::new("generator_us", "generator's CPU µs/pair", 1),
            Column::new("lost", "lost", 0),
        ],
        yardsticks: vec![Kind::Floor(1)],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "`floor` pairs on one epoll thread and does nothing else. Ratios of WebSocket rows \
                are to its TCP rows. Where both CPUs together are all that the cores have, \
                pairs/s is the generator's figure as much as the relay's.",
    }
}

pub(crate) fn burst(plan: &Plan) -> Workload {
    let mut cases = Vec::new();
    let others = [Kind::Floor(1), Kind::Wormhole];
    for kind in plan.relay_kinds().chain(others) {
        cases.push(Case::new("tcp-tcp", kind, measure_burst));
    }
    Workload {
        name: "burst",
        title: format!("{BURST} connections at once, both legs of {} pairs", BURST / 2),
        columns: vec![
            Column::new("long", "connections that take over 0.9 s", 0),
            Column::new("done_long", "over 0.9 s until all is done", 0),
            Column::new("connected_ms", "ms to connect, the slowest", 1),
            Column::new("done_p50_ms", "ms until all is done, p50", 1),
            Column::new("done_ms", "the slowest", 1),
            Column::new("lost", "lost pairs", 0),
        ],
        yardsticks: vec![],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "Done: has heard its peer's 16 B, been heard, and seen the end. A kernel may say \
                that a connection is made although the program's queue has no room for it.",
    }
}

/// TCP with every way to log.
fn kinds(plan: &Plan, transport: Transport) -> Vec<Kind> {
    match transport {
        Transport::Tcp => {
            let logs = [Logs::File, Logs::Pipe, Logs::Off];
            let relay = |variant| logs.map(|logs| Kind::Relay(variant, logs));
            let relays = plan.variants.iter().copied().flat_map(relay);
            relays.chain([Kind::Floor(1), Kind::Wormhole]).collect()
        }
        Transport::WebSocket => plan.relay_kinds().collect(),
    }
}

fn task(crowd: Crowd) -> String {
    let how = match crowd.arrival {
        Arrival::OneByOne => "at a time",
        Arrival::Together => "at a time, both sides at once",
    };
    format!("{0}-{0} {1} {how}", crowd.transport.label(), crowd.at_once)
}

fn measure(subject: &Subject, crowd: Crowd) -> anyhow::Result<Sample> {
    let cpu_before = subject.process()?.cpu()?;
    let own_before = own_cpu()?;
    let since = Instant::now();
    let (tallies, pairs) = on_all_cores(subject, crowd)?;
    let took = since.elapsed();
    let own = own_cpu()?.saturating_sub(own_before);
    thread::sleep(AFTERMATH);
    let cpu = subject.process()?.cpu()?.saturating_sub(cpu_before);
    let lost: usize = tallies.iter().map(|tally| tally.lost).sum();
    Ok(vec![
        ("pairs_s", pairs / took.as_secs_f64()),
        ("cpu_us", cpu.as_secs_f64() * 1e6 / pairs),
        ("generator_us", own.as_secs_f64() * 1e6 / pairs),
        ("lost", lost as f64),
    ])
}

/// What became of it, and how many pairs were really asked for: as many for every thread.
pub(crate) fn on_all_cores(subject: &Subject, crowd: Crowd) -> anyhow::Result<(Vec<Tally>, f64)> {
    let threads = cores();
    let share =
        Crowd { at_once: crowd.at_once.div_ceil(threads), pairs: crowd.pairs / threads, ..crowd };
    thread::scope(|scope| {
        let crowds: Vec<_> =
            (0..threads).map(|_| scope.spawn(move || share.run(subject))).collect();
        let join = |crowd: thread::ScopedJoinHandle<'_, _>| {
            crowd.join().map_err(|_| anyhow!("a crowd panicked"))?
        };
        let tallies = crowds.into_iter().map(join).collect::<anyhow::Result<_>>()?;
        Ok((tallies, (share.pairs * threads) as f64))
    })
}

fn measure_burst(subject: &Subject) -> anyhow::Result<Sample> {
    let crowd = Crowd {
        transport: Transport::Tcp,
        arrival: Arrival::Together,
        crossing: Crossing::None,
        at_once: BURST / 2,
        pairs: BURST / 2,
        patience: BURST_PATIENCE,
        most_lost: BURST / 2,
    };
    let mut tally = crowd.run(subject)?;
    let long = |times: &[Duration]| times.iter().filter(|time| **time > LONG).count() as f64;
    let (connected_long, done_long) = (long(&tally.connected), long(&tally.done));
    let [connected] = micros(&mut tally.connected, [0.9999]);
    let [p50, most] = micros(&mut tally.done, [0.5, 0.9999]);
    Ok(vec![
        ("long", connected_long),
        ("done_long", done_long),
        ("connected_ms", connected / 1e3),
        ("done_p50_ms", p50 / 1e3),
        ("done_ms", most / 1e3),
        ("lost", tally.lost as f64),
    ])
}
