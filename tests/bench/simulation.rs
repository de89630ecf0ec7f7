//! Many more nodes than there are machines here, in simulated time: the real router of each, over a
//! directory and a network that are simulated, with everything that goes wrong.

use std::time::Instant;

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    kind::Kind,
    shared::simulation::{self, Report},
};

/// Pairs a minute, in full.
const MILLION: u32 = 1_000_000;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let pairs = if plan.is_quick { MILLION / 50 } else { MILLION };
    let quiet = [2, 3, 5, 10, 100].map(|nodes| {
        let a_minute = pairs / 10;
        simulation::Plan::quiet(nodes, a_minute / 4, a_minute)
    });
    let large = [
        simulation::Plan::quiet(1_000, pairs, pairs),
        simulation::Plan::troubled(1_000, pairs, pairs),
    ];
    let mut cases = Vec::new();
    for simulated in quiet.into_iter().chain(large) {
        let weather =
            if simulated.troubles.is_empty() { "a good day" } else { "all that goes wrong" };
        let simulation::Plan { nodes, a_minute, .. } = simulated;
        let task = format!("{nodes} nodes, {a_minute} pairs a minute, {weather}");
        cases.push(Case::new(task, Kind::Simulated, move |_| Ok(measure(&simulated))));
    }
    Workload {
        name: "simulation",
        title: "Nodes in simulated time".to_owned(),
        columns: vec![
            Column::new("pairs", "pairs", 0),
            Column::new("lost", "lost", 0),
            Column::new("again", "met after a node died under them", 0),
            Column::new("cross", "cross, %", 2),
            Column::new("claims", "claims/pair", 2),
            Column::new("most_claims", "at most, if no trouble was near", 0),
            Column::new("releases", "given back/pair", 2),
            Column::new("attempts", "hand-overs tried/crossing pair", 3),
            Column::new("peak", "entries at most", 0),
            Column::new("quiet_p50", "ms p50, no trouble near", 0),
            Column::new("quiet_p99", "ms p99", 0),
            Column::new("quiet_p999", "ms p999", 0),
            Column::new("all_p50", "ms p50, all", 0),
            Column::new("all_p99", "ms p99", 0),
            Column::new("all_p999", "ms p999", 0),
            Column::new("most", "the slowest", 0),
            Column::new("seconds", "s to simulate", 0),
        ],
        yardsticks: vec![],
        rounds: 1,
        fresh: true,
        cases,
        notes: "A trip across the network takes 1 ms, one in five 2 ms, one in a hundred 21 ms on \
                average; a claim takes two, a hand-over six. One pair in 20 has up to 10 s between \
                its sides. From the later side's coming until they meet. What goes wrong, within a \
                minute: the directory is slow (3 s), away (3 s), away and empty (3 s); half of the \
                nodes do not reach the other half (8 s), or not one way (6 s); 5 % of the nodes are \
                killed at once, and one every second; 0.2 % of the connections fail, 0.2 % of the \
                hand-overs break in the middle.",
    }
}

fn measure(plan: &simulation::Plan) -> Sample {
    let since = Instant::now();
    let report = plan.run();
    let seconds = since.elapsed().as_secs_f64();
    report.examples.iter().for_each(|lost| eprintln!("lost pair {lost}"));
    let Report { quiet, all, quiet_claims: (_, most_claims), .. } = report;
    vec![
        ("pairs", report.pairs as f64),
        ("lost", report.lost as f64),
        ("again", report.met_again as f64),
        ("cross", report.cross_share * 100.0),
        ("claims", report.claims),
        ("most_claims", f64::from(most_claims)),
        ("releases", report.releases),
        ("attempts", report.attempts),
        ("peak", report.peak as f64),
        ("quiet_p50", f64::from(quiet.p50)),
        ("quiet_p99", f64::from(quiet.p99)),
        ("quiet_p999", f64::from(quiet.p999)),
        ("all_p50", f64::from(all.p50)),
        ("all_p99", f64::from(all.p99)),
        ("all_p999", f64::from(all.p999)),
        ("most", f64::from(all.most)),
        ("seconds", seconds),
    ]
}
