//! How long the second leg of a pair waits for the first one's bytes, when that waits at another
//! node.

use std::{
    thread,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::wire::Transport::Tcp;

use super::{CLAIMED, Crossing};
use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{Leg, incoming, unique_uuid},
    delays::micros,
    kind::{Kind, Logs},
    subject::Subject,
};

/// How many first legs wait at once.
const ROW: usize = 25;

/// Of what the nodes themselves say how long it takes, and in which column that goes.
const MEANS: [(&str, &str); 2] = [("claim_us", "claim"), ("handover_us", "handover")];

/// What a first leg says at once, so that it is there when the second comes.
const EARLY: &[u8] = b"sixteen bytes it";

pub(crate) fn workload(plan: &Plan) -> Workload {
    let pairs = plan.scale.pairs / 5;
    let mut cases = Vec::new();
    for variant in plan.variants.iter().copied() {
        let mut add = |kind, crossing: Crossing| {
            let measure = move |subject: &Subject| measure(subject, crossing, pairs);
            cases.push(
                Case::new(crossing.label(), kind, measure).compared_with(Crossing::None.label()),
            );
        };
        add(Kind::Relay(variant, Logs::File), Crossing::None);
        for kind in super::kinds(variant) {
            add(kind, Crossing::None);
            if !matches!(kind, Kind::Cluster(_, 1)) {
                add(kind, Crossing::All);
            }
        }
    }
    Workload {
        name: "cluster-latency",
        title: "From a second leg's request to its peer's first bytes, one pair at a time"
            .to_owned(),
        columns: vec![
            Column::new("p50_us", "µs p50", 0).with_ratio(),
            Column::new("p99_us", "µs p99", 0).with_ratio(),
            Column::new("p999_us", "µs p999", 0),
            Column::new("claim_us", "µs a claim, mean", 0),
            Column::new("handover_us", "µs a hand-over, mean", 0),
        ],
        yardsticks: plan.relay_kinds().take(1).collect(),
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "The first leg has waited for at least 20 ms, and has said 16 B. What is added where \
                all cross: a claim at Redis, a connection to the other node, and two round trips \
                over it.",
    }
}

fn measure(subject: &Subject, crossing: Crossing, pairs: usize) -> anyhow::Result<Sample> {
    let mut delays: Vec<Duration> = Vec::with_capacity(pairs);
    let before = MEANS.map(|(_, what)| Spent::look(subject, what));
    let expected = incoming(Tcp, EARLY)?;
    for row in 0..pairs / ROW {
        let mut waiting = Vec::new();
        for number in row * ROW..(row + 1) * ROW {
            let (uuid, [first, second]) = (unique_uuid(), subject.addrs(crossing, number));
            let mut first = Leg::arrive(first, Tcp, &uuid)?;
            first.send(EARLY)?;
            waiting.push((uuid, second, first));
        }
        thread::sleep(CLAIMED);
        for (uuid, addr, first) in waiting {
            let mut second = Leg::connect(addr, Tcp)?;
            let greeting = subject.greeting(Tcp, &uuid, 1)?;
            let since = Instant::now();
            second.send_raw(&greeting.says)?;
            second.receive_raw(&expected)?;
            delays.push(since.elapsed());
            drop(first);
        }
    }
    let [p50, p99, p999] = micros(&mut delays, [0.5, 0.99, 0.999]);
    let mut sample = vec![("p50_us", p50), ("p99_us", p99), ("p999_us", p999)];
    for ((key, what), before) in MEANS.into_iter().zip(before) {
        sample.extend(before.zip(Spent::look(subject, what)).and_then(|(before, now)| {
            let times = now.times - before.times;
            (times > 0.0).then(|| (key, (now.seconds - before.seconds) / times * 1e6))
        }));
    }
    Ok(sample)
}

/// What the nodes of a cluster have spent on something.
struct Spent {
    seconds: f64,
    times: f64,
}

impl Spent {
    /// `None` where there are no nodes.
    fn look(subject: &Subject, what: &str) -> Option<Self> {
        let cluster = subject.cluster().ok()?;
        let of = |part: &str| cluster.metric(&format!("relay_cluster_{what}_seconds_{part} ")).ok();
        Some(Self { seconds: of("sum")?, times: of("count")? })
    }
}
