//! The round trip of a small message over pairs that have nothing else to do, one at a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::wire::Transport;

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{Leg, incoming, outgoing},
    subject::{Kind, Subject},
};

const PAIRS: usize = 20;

const PAYLOAD: [u8; 64] = [b'p'; 64];

pub(crate) fn workload(plan: &Plan) -> Workload {
    use Transport::{Tcp, WebSocket};
    let mut cases = Vec::new();
    for transports in [[Tcp, Tcp], [WebSocket, WebSocket], [Tcp, WebSocket]] {
        let yardsticks = match transports {
            [Tcp, Tcp] => vec![Kind::Floor(1), Kind::Nginx, Kind::HaProxy, Kind::Direct],
            _ => Vec::new(),
        };
        let pings = plan.scale.pings;
        for kind in plan.relay_kinds().chain(yardsticks) {
            let task = format!("{}-{}", transports[0].label(), transports[1].label());
            cases.push(Case::new(task, kind, move |subject| measure(subject, transports, pings)));
        }
    }
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
        cases,
        notes: "One message is under way at a time; the pairs take turns. `direct` is no relay at \
                all: what it takes, the others cannot do without.",
    }
}

fn measure(subject: &Subject, transports: [Transport; 2], pings: usize) -> anyhow::Result<Sample> {
    let (mut near, mut echoes) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let [first, second] = subject.pair(transports)?;
        near.push(first);
        echoes.push(thread::spawn(move || echo_until_end(second)));
    }
    // The first of each pair meets cold caches and fresh sockets.
    ping(&mut near, PAIRS * 5)?;
    let before = subject.fine_cpu()?;
    let mut trips = ping(&mut near, pings)?;
    let cpu = subject.fine_cpu()?.zip(before).map(|(after, before)| after.saturating_sub(before));
    drop(near);
    for echo in echoes {
        // It ends with an error: the pair's end is no message.
        let _ = echo.join();
    }
    trips.sort_unstable();
    let at = |share: f64| trips[(trips.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    let mut sample = vec![("p50_us", at(0.50)), ("p99_us", at(0.99))];
    if let Some(cpu) = cpu {
        sample.push(("cpu_us", cpu.as_secs_f64() * 1e6 / pings as f64));
    }
    Ok(sample)
}

fn ping(near: &mut [Leg], count: usize) -> anyhow::Result<Vec<Duration>> {
    let transport = near[0].transport;
    let (there, back) = (outgoing(transport, &PAYLOAD)?, incoming(transport, &PAYLOAD)?);
    let mut trips = Vec::with_capacity(count);
    for turn in 0..count {
        let leg = &mut near[turn % PAIRS];
        let since = Instant::now();
        leg.send_raw(&there)?;
        leg.receive_raw(&back)?;
        trips.push(since.elapsed());
    }
    Ok(trips)
}

fn echo_until_end(mut far: Leg) -> anyhow::Result<()> {
    let there = incoming(far.transport, &PAYLOAD)?;
    let back = outgoing(far.transport, &PAYLOAD)?;
    loop {
        far.receive_raw(&there)?;
        far.send_raw(&back)?;
    }
}
