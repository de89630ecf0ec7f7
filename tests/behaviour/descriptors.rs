//! A process whose descriptors run out goes on, quietly, and is well once some are free.

use std::{process::Command, time::Duration};

use mini_rust_desk_relay_server::wire::Transport::{Tcp, WebSocket};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    process::{PROGRAM, Process},
    support::{eventually, unique},
};

/// Beyond those that it has open already.
const FEW: u64 = 24;

/// A process that may open few more, with an admin listener.
async fn short_of_descriptors() -> Process {
    let process = Process::start(&["--admin-listen", "127.0.0.1:0"]).await;
    // Whatever is opened once is open then.
    let (_first, _second) = process.gateway.pair(Tcp, WebSocket).await;
    process.limit_descriptors(process.descriptors() + FEW);
    process
}

async fn accept_errors(process: &Process) -> f64 {
    process.gateway.metric("relay_accept_errors_total").await
}

/// Whether two legs meet and an operator hears an answer. While every descriptor is a leg's, whoever
/// asks is the only one that can give way, and may be closed in the middle of it.
async fn pairs_and_answers(process: &Process) -> bool {
    let uuid = unique("after");
    let mut first = process.gateway.leg(Tcp, &uuid).await.tcp();
    let mut second = process.gateway.leg(Tcp, &uuid).await.tcp();
    let paired = async {
        second.write_all(b"x").await?;
        first.read_u8().await
    };
    if !matches!(timeout(Duration::from_secs(2), paired).await, Ok(Ok(b'x'))) {
        return false;
    }
    let asked = async {
        let mut socket = TcpStream::connect(process.gateway.admin_addr).await?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await?;
        socket.read_u8().await
    };
    matches!(timeout(Duration::from_secs(2), asked).await, Ok(Ok(b'H')))
}

/// Connections that say nothing hold every descriptor: they give way, to clients and operators.
#[tokio::test]
async fn silent_connections_that_hold_every_descriptor_give_way() {
    let process = short_of_descriptors().await;
    let mut flood = Vec::new();
    for _ in 0..5 * FEW {
        flood.push(process.gateway.connect().await);
    }
    process.line("cannot accept connections").await;
    for transport in [Tcp, WebSocket, Tcp] {
        let uuid = unique("short");
        let mut first = process.gateway.leg(transport, &uuid).await;
        let mut second = process.gateway.leg(Tcp, &uuid).await;
        first.send(b"through").await;
        assert_eq!(second.receive().await.as_deref(), Some(&b"through"[..]));
    }
    let gone = process.gateway.refusals("displaced").await;
    assert!(gone >= (3 * FEW) as f64, "{gone} gave way");
    drop(flood);
    let said = process.log().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(said, 1, "rate-limited");
}

/// Where nobody gives way, accepting rests instead of trying again and again.
#[tokio::test]
async fn legs_that_hold_every_descriptor_do_not_make_it_spin() {
    const SECONDS: u64 = 2;
    let mut process = short_of_descriptors().await;
    let mut legs = Vec::new();
    for _ in 0..2 * FEW {
        legs.push(process.gateway.leg(Tcp, &unique("leg")).await);
    }
    process.line("cannot accept connections").await;
    let busy = process.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let spent = process.cpu_ticks() - busy;
    // An accept loop that spins takes 100 a second.
    assert!(spent < 20 * SECONDS, "{spent} ticks of CPU while it waits for descriptors");
    assert!(process.is_running());
    drop(legs);
    eventually("it accepts again", async || pairs_and_answers(&process).await).await;
    // Ten tries a second and listener, for as long as it lasted.
    let errors = accept_errors(&process).await;
    assert!(errors < 40.0 * SECONDS as f64, "{errors} failed accepts");
}

/// Who gives way does so before descriptors run out, however few there are.
#[tokio::test]
async fn a_flood_within_a_low_limit_fails_no_accept() {
    const FLOOD: usize = 800;
    let process = started_under("ulimit -n 400").await;
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.push(process.gateway.connect().await);
    }
    let uuid = unique("low");
    let mut first = process.gateway.leg(WebSocket, &uuid).await;
    let mut second = process.gateway.leg(Tcp, &uuid).await;
    second.send(b"through").await;
    assert_eq!(first.receive().await.as_deref(), Some(&b"through"[..]));
    assert!(process.gateway.refusals("displaced").await >= (FLOOD - 400) as f64);
    assert_eq!(accept_errors(&process).await, 0.0);
}

/// The program, after the shell has set its limits.
async fn started_under(limits: &str) -> Process {
    let mut shell = Command::new("sh");
    shell.env("PATH", "/usr/bin:/bin");
    shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\""), PROGRAM]);
    let dir = tempfile::tempdir().expect("a directory");
    Process::start_by(shell, dir, &["--admin-listen", "127.0.0.1:0"]).await
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_as_far_as_is_allowed() {
    let process = started_under("ulimit -Sn 256").await;
    let limits = std::fs::read_to_string(process.proc("limits")).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let fields: Vec<_> = line.split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "{line}");
    let mut many = Vec::new();
    for _ in 0..300 {
        many.push(process.gateway.connect().await);
    }
    process.gateway.until_metric("relay_connections_open", 301.0).await;
}
