//! What the README has people paste works.

use std::{
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use mini_rust_desk_relay_server::wire::{
    Transport::Tcp,
    rendezvous::{ConnType, request_relay},
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::redis::Redis;
use crate::{
    by_hand::opening,
    process::PROGRAM,
    requirement::program,
    servers::free_addr,
    support::{PATIENCE, eventually, unique},
};

const README: &str = include_str!("../../../README.md");

/// A shell, and what it has started.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        // A group of its own; it may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Two terminals talk, each with a node of its own.
#[tokio::test]
async fn two_nodes_on_one_machine_as_the_readme_has_them() {
    let Some(redis) = Redis::start().await else { return };
    if program("openssl", "Debian: openssl").is_none() {
        return;
    }
    let (_, chapter) = README.split_once("\n## More than one node\n").expect("the chapter");
    let (_, script) = chapter.split_once("```sh\n").expect("commands");
    let mut script = script.split("```").next().expect("their end").to_owned();
    let doors = [free_addr(), free_addr()];
    // Ports of this test's own, and the program as it was just built.
    for (theirs, ours) in [
        ("redis://127.0.0.1:6379/0", redis.url()),
        ("mini_rust_desk_relay_server", PROGRAM.to_owned()),
        ("-p 21117", format!("--listen {}", doors[0])),
        ("-p 31117", format!("--listen {}", doors[1])),
        ("127.0.0.1:21127", free_addr().to_string()),
        ("127.0.0.1:31127", free_addr().to_string()),
    ] {
        assert!(script.contains(theirs), "{theirs} in {script}");
        script = script.replace(theirs, &ours);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{script}\nwait")).current_dir(dir.path()).process_group(0);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _shell = Shell(shell.spawn().expect("a shell"));
    for door in doors {
        eventually("the node listens", async || TcpStream::connect(door).await.is_ok()).await;
    }

    let uuid = unique("hello");
    let [mut one, mut other] = [terminal(doors[0], &uuid).await, terminal(doors[1], &uuid).await];
    for (from, to) in [(&mut one, 1), (&mut other, 0)] {
        from.write_all(&[to; 5]).await.expect("it is read");
    }
    for (socket, byte) in [(&mut one, 0), (&mut other, 1)] {
        let mut heard = [9; 5];
        let read = timeout(PATIENCE, socket.read_exact(&mut heard)).await;
        read.expect("they meet").expect("the relay goes on");
        assert_eq!(heard, [byte; 5]);
    }
}

async fn terminal(door: SocketAddr, uuid: &str) -> TcpStream {
    let mut socket = TcpStream::connect(door).await.expect("it listens");
    let hello = request_relay(uuid, "", "", ConnType::Default);
    socket.write_all(&opening(Tcp, &hello)).await.expect("it reads");
    socket
}
