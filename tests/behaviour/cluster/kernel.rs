//! Two TCP legs on two nodes: their bytes are in neither process.

use std::{collections::HashMap, fs, path::Path, process::Command};

use mini_rust_desk_relay_server::wire::Transport::Tcp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    redis::Redis,
    support::{name, started_by},
};
use crate::{
    process::{PROGRAM, Process},
    requirement::program,
    support::unique,
};

const MUCH: usize = 128 << 20;

/// How often each system call was made, by strace's table.
fn calls(table: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(table).expect("strace's table");
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.first()?.parse::<f64>().ok()?;
        Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// Ends the program that strace watches, and so strace.
async fn end(mut watched: Process) {
    let pid = watched.pid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.expect("it runs").split_whitespace() {
        let child = Pid::from_raw(child.parse().expect("an id")).expect("not 0");
        kill_process(child, Signal::TERM).expect("it runs");
    }
    watched.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tcp_legs_go_through_the_kernel_on_both_nodes() {
    let Some(strace) = program("strace", "Debian: strace") else { return };
    let Some(redis) = Redis::start().await else { return };
    let tables = tempfile::tempdir().expect("a directory");
    let mut nodes = Vec::new();
    for n in 0..2 {
        let mut command = Command::new(&strace);
        command.args(["-f", "-c", "-e", "trace=splice,recvfrom,sendto,writev", "-o"]);
        command.arg(tables.path().join(name(n))).arg("--").arg(PROGRAM);
        nodes.push(started_by(command, &redis, n, "").await);
    }
    let uuid = unique("kernel");
    let mut first = nodes[0].gateway.leg(Tcp, &uuid).await.tcp();
    nodes[0].gateway.until_waiting(&uuid).await;
    redis.until_claimed(&name(0), &uuid).await;
    let mut second = nodes[1].gateway.leg(Tcp, &uuid).await.tcp();
    nodes[0].gateway.until_active(&uuid).await;
    let writing = tokio::spawn(async move {
        let block = vec![5; 1 << 20];
        for _ in 0..MUCH >> 20 {
            second.write_all(&block).await.expect("the relay reads");
        }
        second.shutdown().await.expect("a FIN");
        second
    });
    let (mut block, mut received) = (vec![0; 1 << 20], 0);
    loop {
        let read = first.read(&mut block).await.expect("the relay writes");
        if read == 0 {
            break;
        }
        assert!(block[..read].iter().all(|byte| *byte == 5));
        received += read;
    }
    assert_eq!(received, MUCH);
    drop((first, writing.await.expect("all was sent")));
    for node in nodes {
        end(node).await;
    }
    for n in 0..2 {
        let calls = calls(&tables.path().join(name(n)));
        let of = |call: &str| calls.get(call).copied().unwrap_or(0);
        println!("{}: {calls:?}", name(n));
        // A read into this process takes a quarter of a MiB at most.
        let copied = of("recvfrom");
        assert!(of("splice") > 200 && copied < 150, "{}: {calls:?}", name(n));
    }
}
