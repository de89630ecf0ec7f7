//! As many bytes as will go, when they cross from one node to another.

use std::{thread, time::Duration};

use anyhow::Context as _;
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};

use super::{Cluster, Crossing};
use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    flow::{Flow, Shared, Ways},
    kind::{Kind, Logs},
    options::Scale,
    subject::Subject,
};

const PAIRS: usize = 8;
const LEN: usize = 16 << 10;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let mut cases = Vec::new();
    for transports in [[Tcp, Tcp], [WebSocket, Tcp], [Tcp, WebSocket], [WebSocket, WebSocket]] {
        for variant in plan.variants.iter().copied() {
            let mut add = |kind, crossing: Crossing| {
                let task = |crossing: Crossing| {
                    let [from, to] = transports.map(Transport::label);
                    format!("{from}-{to} x{PAIRS} {} KiB, {}", LEN >> 10, crossing.label())
                };
                let measure =
                    move |subject: &Subject| measure(subject, transports, crossing, &scale);
                let case = Case::new(task(crossing), kind, measure);
                cases.push(case.compared_with(task(Crossing::None)));
            };
            add(Kind::Relay(variant, Logs::File), Crossing::None);
            add(Kind::Cluster(variant, 2), Crossing::None);
            add(Kind::Cluster(variant, 2), Crossing::All);
        }
    }
    Workload {
        name: "cluster-bulk",
        title: "Bulk across two nodes, from the leg that waited to the one that was handed over"
            .to_owned(),
        columns: vec![
            Column::new("gbit_s", "Gbit/s", 2).with_ratio(),
            Column::new("cpu_s_gb", "all nodes' CPU s/GB", 3).with_ratio(),
            Column::new("holder_s_gb", "of these, the first leg's node", 3),
            Column::new("carrier_s_gb", "the second's", 3),
            Column::new("generator_s_gb", "generator's CPU s/GB", 3),
            Column::new("busy", "cores busy %", 0),
        ],
        yardsticks: plan.relay_kinds().take(1).collect(),
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "The first leg's node has the relay; the second's is a pipe between its client and \
                that node. Where the cores are busy, Gbit/s is what both nodes and the generator \
                can do on the same cores; with a machine each it is CPU that counts.",
    }
}

fn measure(
    subject: &Subject,
    transports: [Transport; 2],
    crossing: Crossing,
    scale: &Scale,
) -> anyhow::Result<Sample> {
    let shared = Shared::new(transports[0], LEN)?;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push(match subject.cluster() {
            // Always the same two, so that each has its part.
            Ok(cluster) => cluster.pair(transports, crossing.nodes(0, 2))?,
            Err(_) => subject.pair(transports)?,
        });
    }
    let watched = thread::scope(|scope| {
        let flows: anyhow::Result<Vec<_>> =
            pairs.into_iter().map(|pair| Flow::start(scope, pair, Ways::One, &shared)).collect();
        thread::sleep(scale.bulk_warm_up);
        let watched = shared.watch(subject, || {
            let before = cpus(subject.cluster().ok())?;
            thread::sleep(scale.bulk_window);
            let now = cpus(subject.cluster().ok())?;
            let used = now.iter().zip(before).map(|(now, before)| now.saturating_sub(before));
            Ok(used.collect::<Vec<_>>())
        });
        // Whatever went wrong: the threads wait for it.
        shared.stop();
        for flow in flows.context("a pair")? {
            flow.finish()?;
        }
        watched
    });
    let (watched, used) = watched?;
    let mut sample = vec![
        ("gbit_s", watched.gbit_s),
        ("generator_s_gb", watched.generator_s_gb),
        ("busy", watched.busy * 100.0),
    ];
    sample.extend(watched.cpu_s_gb.map(|cpu| ("cpu_s_gb", cpu)));
    let gigabytes = watched.gbit_s / 8.0 * scale.bulk_window.as_secs_f64();
    for (name, used) in ["holder_s_gb", "carrier_s_gb"].into_iter().zip(used) {
        sample.push((name, used.as_secs_f64() / gigabytes));
    }
    Ok(sample)
}

/// Of each node.
fn cpus(cluster: Option<&Cluster>) -> anyhow::Result<Vec<Duration>> {
    cluster.map_or_else(
        || Ok(Vec::new()),
        |cluster| cluster.nodes.iter().map(super::Node::cpu).collect(),
    )
}
