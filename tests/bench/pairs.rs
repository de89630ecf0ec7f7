//! Pairs that come and go: connect both legs, pair, 16 bytes there and back, close.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use mini_rust_desk_relay_server::wire::Transport;

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client,
    process::own_cpu,
    subject::{Kind, Subject},
};

const AT_ONCE: usize = 16;

const PAYLOAD: &[u8; 16] = b"sixteen bytes it";

/// So that the accounts of a pair that has just ended are on the same side of the clock.
const AFTERMATH: Duration = Duration::from_millis(100);

/// Beyond this the program is broken, and each lost pair costs seconds.
const MOST_LOST: usize = 3;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let mut cases = Vec::new();
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let pairs = match transport {
            Transport::Tcp => plan.scale.pairs,
            Transport::WebSocket => plan.scale.pairs / 2,
        };
        let floor = (transport == Transport::Tcp).then_some(Kind::Floor(1));
        for kind in plan.relay_kinds().chain(floor) {
            let task = format!("{0}-{0}", transport.label());
            cases.push(Case::new(task, kind, move |subject| measure(subject, transport, pairs)));
        }
    }
    Workload {
        name: "pairs",
        title: format!("Pairs: connect both legs, pair, 16 B echo, close; {AT_ONCE} at a time"),
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
        notes: "`floor` pairs on one epoll thread and does nothing else. Where both CPUs together \
                are all that the cores have, pairs/s is the generator's figure as much as the \
                relay's.",
    }
}

fn measure(subject: &Subject, transport: Transport, pairs: usize) -> anyhow::Result<Sample> {
    let cpu_before = subject.process()?.cpu()?;
    let own_before = own_cpu()?;
    let since = Instant::now();
    let lost = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| come_and_go(subject, transport, pairs / AT_ONCE)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(MOST_LOST + 1)).collect::<Vec<_>>()
    });
    let took = since.elapsed();
    let own = own_cpu()?.saturating_sub(own_before);
    thread::sleep(AFTERMATH);
    let cpu = subject.process()?.cpu()?.saturating_sub(cpu_before);
    let pairs = (pairs / AT_ONCE * AT_ONCE) as f64;
    ensure!(
        lost.iter().all(|lost| *lost <= MOST_LOST),
        "a thread gave up after {MOST_LOST} lost pairs"
    );
    Ok(vec![
        ("pairs_s", pairs / took.as_secs_f64()),
        ("cpu_us", cpu.as_secs_f64() * 1e6 / pairs),
        ("generator_us", own.as_secs_f64() * 1e6 / pairs),
        ("lost", lost.iter().sum::<usize>() as f64),
    ])
}

/// How many pairs were lost.
fn come_and_go(subject: &Subject, transport: Transport, pairs: usize) -> usize {
    let mut lost = 0;
    for _ in 0..pairs {
        if let Err(error) = one(subject, transport) {
            lost += 1;
            eprintln!("lost pair: {error:#}");
            if lost > MOST_LOST {
                break;
            }
        }
    }
    lost
}

fn one(subject: &Subject, transport: Transport) -> anyhow::Result<()> {
    let mut pair = subject.pair([transport, transport])?;
    client::echo(&mut pair, PAYLOAD)?;
    let [mut first, mut second] = pair;
    first.finish()?;
    second.expect_end()?;
    if transport == Transport::Tcp {
        second.finish()?;
    }
    first.expect_end()
}
