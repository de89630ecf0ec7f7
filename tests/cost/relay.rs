//! The relay, started by a program that watches it.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use rustix::process::{Pid, Signal, kill_process};

/// The program that is counted: `COST_SUBJECT`, a release build, or Cargo's own of this profile.
fn subject() -> PathBuf {
    let named = env::var_os("COST_SUBJECT").map(PathBuf::from);
    let named = named.map(|named| named.canonicalize().expect("COST_SUBJECT is a program"));
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_mini_rust_desk_relay_server").into())
}

/// Whether it is a release build, as the bounds are for.
pub(crate) fn is_release() -> bool {
    env::var_os("COST_SUBJECT").is_some() || !cfg!(debug_assertions)
}

/// A relay under watch, killed when dropped before its end.
pub(crate) struct Relay {
    child: Child,
    pub(crate) addr: SocketAddr,
    /// Reads what else it says: a full pipe would be somebody waiting.
    reading: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts it by `watcher`, which takes the program and its arguments behind its own, in an
    /// empty directory.
    pub(crate) fn start(mut watcher: Command, dir: &Path) -> Self {
        let mut child = watcher
            .arg(subject())
            .args(["--listen", "127.0.0.1:0"])
            .env("RELAY__ADMIN__TOKEN", "a-token-for-tests-only")
            .env("RELAY__SHUTDOWN__DRAIN_TIMEOUT", "0s")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the watcher starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let addr = loop {
            let line = lines.next().expect("it says where it listens").expect("text");
            if let Some((_, address)) = line.split_once(" address=") {
                break address.trim().parse().expect("an address");
            }
        };
        let reading = Some(thread::spawn(move || lines.for_each(drop)));
        Self { child, addr, reading }
    }

    /// Ends it in good order, so that its watcher writes down what it saw.
    pub(crate) fn end(mut self) {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        self.child.wait().expect("our child");
        if let Some(reading) = self.reading.take() {
            reading.join().expect("no panic");
        }
    }

    /// The relay itself: the watcher's child, or the watcher where both are one process.
    fn pid(&self) -> Pid {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let child = children.ok().and_then(|ids| ids.split_whitespace().next()?.parse().ok());
        child.and_then(Pid::from_raw).unwrap_or_else(|| Pid::from_child(&self.child))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill_process(self.pid(), Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
