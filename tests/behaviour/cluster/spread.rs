//! What crosses nodes is the work of all light threads, not of the one that the others are met on.

use std::{collections::BTreeMap, fs};

use mini_rust_desk_relay_server::wire::Transport::Tcp;
use tokio::task::JoinSet;

use super::support::{Pair, Processes};
use crate::{process::Process, support::Client};

/// Light threads of each node, and pairs for each of them.
const THREADS: usize = 3;
const EACH: usize = 4;

const ROUNDS: usize = 150;

/// How long each thread has had the CPU for, in nanoseconds, by its number and name.
fn busy(process: &Process) -> BTreeMap<(u64, String), u64> {
    let tasks = fs::read_dir(process.proc("task")).expect("it runs");
    // One may end meanwhile.
    let of = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file)).ok();
        let number = task.file_name().to_string_lossy().parse().ok()?;
        let time = read("schedstat")?.split(' ').next()?.parse().ok()?;
        Some(((number, read("comm")?.trim().to_owned()), time))
    };
    tasks.filter_map(|task| of(task.ok()?)).collect()
}

async fn talk(mut pair: Pair<Client>) -> Pair<Client> {
    let message = vec![7; 16 << 10];
    for _ in 0..ROUNDS {
        pair.first.send(&message).await;
        assert!(pair.second.receive().await.as_ref() == Some(&message));
        pair.second.send(&message).await;
        assert!(pair.first.receive().await.as_ref() == Some(&message));
    }
    pair
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_across_nodes_and_legs_that_are_carried_are_on_all_light_threads() {
    let more = format!("[threads]\nlight = {THREADS}\nbulk = 0\n");
    let Some(nodes) = Processes::start_with(2, &more).await else { return };
    let mut pairs = Vec::new();
    for _ in 0..THREADS * EACH {
        pairs.push(nodes.clients((0, Tcp), (1, Tcp)).await);
    }
    let before = [busy(&nodes.nodes[0]), busy(&nodes.nodes[1])];
    let mut talks = JoinSet::new();
    for pair in pairs {
        talks.spawn(talk(pair));
    }
    let _pairs = talks.join_all().await;
    for (node, before) in before.iter().enumerate() {
        let mut spent = busy(&nodes.nodes[node]);
        for (thread, time) in &mut spent {
            *time -= before.get(thread).unwrap_or(&0);
        }
        let all: u64 = spent.values().sum();
        // A thread's share is a third, give or take what the machine does besides.
        let least = all / (2 * THREADS as u64);
        let busy = spent.values().filter(|time| **time > least).count();
        assert_eq!(busy, THREADS, "node {node}: {spent:?}");
    }
}
