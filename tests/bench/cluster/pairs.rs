//! Pairs that come and go at several nodes, and what they ask of Redis.

use std::time::Instant;

use mini_rust_desk_relay_server::wire::Transport;

use super::{Crossing, redis::more};
use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    crowd::{Arrival, Crowd},
    kind::{Kind, Logs},
    pairs::{AFTERMATH, PATIENCE, on_all_cores},
    process::own_cpu,
    subject::Subject,
};

const AT_ONCE: usize = 64;

/// What nodes call them.
const CLAIMS: &str = "relay_cluster_claims_total{";

/// With more than one lost in so many a program is broken.
const LOST: usize = 20;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let mut cases = Vec::new();
    for arrival in [Arrival::OneByOne, Arrival::Together] {
        for variant in plan.variants.iter().copied() {
            let single = Kind::Relay(variant, Logs::File);
            cases.push(case(plan, single, arrival, Crossing::None));
            for kind in super::kinds(variant) {
                cases.push(case(plan, kind, arrival, Crossing::None));
                if !matches!(kind, Kind::Cluster(_, 1)) {
                    cases.push(case(plan, kind, arrival, Crossing::Natural));
                    cases.push(case(plan, kind, arrival, Crossing::All));
                }
            }
        }
    }
    Workload {
        name: "cluster-pairs",
        title: format!(
            "Pairs at several nodes, {AT_ONCE} at a time: connect both legs, pair, 16 B echo, close"
        ),
        columns: vec![
            Column::new("pairs_s", "pairs/s", 0).with_ratio(),
            Column::new("cpu_us", "all nodes' CPU µs/pair", 1).with_ratio(),
            Column::new("redis_us", "Redis' CPU µs/pair", 1),
            Column::new("claims", "claims/pair", 2),
            Column::new("ops", "Redis operations/pair in all", 2),
            Column::new("generator_us", "generator's CPU µs/pair", 1),
            Column::new("lost", "lost", 0),
        ],
        yardsticks: plan.relay_kinds().take(1).collect(),
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "All nodes, Redis and the generator share the cores: pairs/s is what is left when \
                all have had their turn, and CPU is what carries over to machines of their own. \
                Claims are on the way to pairing; the rest of the operations are what is given back \
                afterwards, and heartbeats.",
    }
}

fn case(plan: &Plan, kind: Kind, arrival: Arrival, crossing: Crossing) -> Case {
    let pairs = plan.scale.pairs;
    let crowd = Crowd {
        transport: Transport::Tcp,
        arrival,
        crossing,
        at_once: AT_ONCE,
        pairs,
        patience: PATIENCE,
        most_lost: pairs / LOST,
    };
    let task = |crossing: Crossing| match arrival {
        Arrival::OneByOne => crossing.label().to_owned(),
        Arrival::Together => format!("{}, both sides at once", crossing.label()),
    };
    Case::new(task(crossing), kind, move |subject| measure(subject, crowd))
        .compared_with(task(Crossing::None))
}

fn measure(subject: &Subject, crowd: Crowd) -> anyhow::Result<Sample> {
    let redis = subject.cluster().ok().map(|cluster| &cluster.redis);
    let calls_before = redis.map(|redis| redis.calls()).transpose()?;
    let redis_before = redis.map(|redis| redis.cpu()).transpose()?;
    let claims_before = subject.cluster().map_or(Ok(0.0), |cluster| cluster.metric(CLAIMS))?;
    let (cpu_before, own_before) = (subject.fine_cpu()?, own_cpu()?);
    let since = Instant::now();
    let (tallies, pairs) = on_all_cores(subject, crowd)?;
    let took = since.elapsed();
    let own = own_cpu()?.saturating_sub(own_before);
    std::thread::sleep(AFTERMATH);
    let mut sample = vec![
        ("pairs_s", pairs / took.as_secs_f64()),
        ("generator_us", own.as_secs_f64() * 1e6 / pairs),
        ("lost", tallies.iter().map(|tally| tally.lost).sum::<usize>() as f64),
    ];
    if let Some((now, before)) = subject.fine_cpu()?.zip(cpu_before) {
        sample.push(("cpu_us", now.saturating_sub(before).as_secs_f64() * 1e6 / pairs));
    }
    if let Some((redis, (before, cpu))) = redis.zip(calls_before.zip(redis_before)) {
        let (now, used) = (redis.calls()?, redis.cpu()?.saturating_sub(cpu));
        sample.push(("redis_us", used.as_secs_f64() * 1e6 / pairs));
        sample.push(("ops", more(&before, &now, "evalsha") / pairs));
        let claimed = subject.cluster()?.metric(CLAIMS)? - claims_before;
        sample.push(("claims", claimed / pairs));
    }
    Ok(sample)
}
