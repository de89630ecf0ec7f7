//! What a node holds for legs that wait and whose names it has claimed, and for relays that cross.

use anyhow::Context as _;
use mini_rust_desk_relay_server::wire::Transport::Tcp;

use super::{Cluster, Node};
use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{Leg, echo, unique_uuid},
    kind::Kind,
    memory::{KIB, open},
    process::Memory,
};

/// Crossing pairs at once: what a node holds for them is told by these.
const MOST_PAIRS: usize = 1_000;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let held = plan.scale.held;
    let mut cases = Vec::new();
    for variant in plan.variants.iter().copied() {
        let kind = Kind::Cluster(variant, 2);
        let task = format!("{held} legs wait, with a claim each");
        cases.push(Case::new(task, kind, move |subject| wait(subject.cluster()?, held)));
        let pairs = held.min(MOST_PAIRS);
        let task = format!("{pairs} idle relays that cross");
        cases.push(Case::new(task, kind, move |subject| cross(subject.cluster()?, pairs)));
    }
    Workload {
        name: "cluster-memory",
        title: "Memory of nodes".to_owned(),
        columns: vec![
            Column::new("holder_kib", "KiB each, at the first leg's node", 2),
            Column::new("carrier_kib", "KiB each, at the second's", 2),
            Column::new("redis_kib", "KiB each, in Redis", 2),
        ],
        yardsticks: vec![],
        rounds: 1,
        fresh: true,
        cases,
        notes: "In the processes' own memory (anonymous pages of smaps_rollup); socket buffers are \
                the kernel's.",
    }
}

fn wait(cluster: &Cluster, count: usize) -> anyhow::Result<Sample> {
    let [holder, _] = two(cluster)?;
    let before = (anonymous(holder)?, cluster.redis.memory()?.anonymous);
    let legs = open(count, &|| Leg::arrive(holder.addr, Tcp, &unique_uuid()))?;
    holder.until_stat("legs_waiting", count as u64)?;
    let now = (anonymous(holder)?, cluster.redis.memory()?.anonymous);
    drop(legs);
    let each = |now: f64, before: f64| (now - before) / KIB / count as f64;
    Ok(vec![("holder_kib", each(now.0, before.0)), ("redis_kib", each(now.1, before.1))])
}

fn cross(cluster: &Cluster, count: usize) -> anyhow::Result<Sample> {
    let [holder, carrier] = two(cluster)?;
    let before = (anonymous(holder)?, anonymous(carrier)?);
    // All first legs hold their names before the second ones come.
    let firsts = open(count, &|| {
        let uuid = unique_uuid();
        Ok((Leg::arrive(holder.addr, Tcp, &uuid)?, uuid))
    })?;
    holder.process().as_ref().context("it is dead")?.settle()?;
    let mut legs = Vec::with_capacity(count);
    for (first, uuid) in firsts {
        let mut pair = [first, Leg::arrive(carrier.addr, Tcp, &uuid)?];
        echo(&mut pair, b"a small message")?;
        legs.push(pair);
    }
    holder.until_stat("relays_active", count as u64)?;
    let now = (anonymous(holder)?, anonymous(carrier)?);
    drop(legs);
    let each = |now: f64, before: f64| (now - before) / KIB / count as f64;
    Ok(vec![("holder_kib", each(now.0, before.0)), ("carrier_kib", each(now.1, before.1))])
}

fn two(cluster: &Cluster) -> anyhow::Result<[&Node; 2]> {
    let mut nodes = cluster.nodes.iter();
    Ok([nodes.next().context("no node")?, nodes.next().context("no second node")?])
}

/// What it holds when it has nothing more to do.
fn anonymous(node: &Node) -> anyhow::Result<f64> {
    let process = node.process();
    let process = process.as_ref().context("it is dead")?;
    process.settle()?;
    let Memory { anonymous, .. } = process.memory()?;
    Ok(anonymous)
}
