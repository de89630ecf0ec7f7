//! The program itself, started as a process.

use std::{
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::support::{TOKEN, TestGateway, eventually};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_mini_rust_desk_relay_server");

/// A running relay, killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// To talk to.
    pub(crate) gateway: TestGateway,
    stdout: Lines,
    stderr: Lines,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>, Arc<Pause>);

/// Whether lines are left in the pipe.
#[derive(Default)]
struct Pause(Mutex<bool>, Condvar);

impl Process {
    /// Starts it on ports of its own in an empty directory, and waits until it listens.
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), args).await
    }

    pub(crate) async fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let program = Command::new(PROGRAM);
        Self::start_by(program, dir, args).await
    }

    /// The same by another command, which ends in the program's name, and may have an environment.
    pub(crate) async fn start_by(
        mut command: Command,
        dir: tempfile::TempDir,
        args: &[&str],
    ) -> Self {
        let extra: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        let mut child = command
            .env_clear()
            .env("RELAY__ADMIN__TOKEN", TOKEN)
            .envs(extra)
            .current_dir(dir.path())
            .args(args)
            .args(
                (!args.contains(&"--listen"))
                    .then_some(["--listen", "127.0.0.1:0"])
                    .iter()
                    .flatten(),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = Lines::of(child.stdout.take().expect("a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("a pipe"));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let gateway = TestGateway::elsewhere(nowhere, nowhere, dir);
        let mut process = Self { child, gateway, stdout, stderr };
        let addr = process.listener("listening for relay").await;
        process.gateway.addr = addr;
        process.gateway.admin_addr = match args.contains(&"--admin-listen") {
            true => process.listener("listening for the admin API").await,
            false => addr,
        };
        process
    }

    /// The address in the line that says where it listens.
    async fn listener(&self, said: &str) -> SocketAddr {
        let line = self.line(said).await;
        let (_, after) = line.split_once("address").expect("an address");
        let after = after.trim_start_matches(['=', '"', ':']);
        let end = after.find([' ', '"', ',']).unwrap_or(after.len());
        after[..end].parse().unwrap_or_else(|_| panic!("no address in {line}"))
    }

    /// The first line of the log that contains `text`, once it is there.
    pub(crate) async fn line(&self, text: &str) -> String {
        let mut found = None;
        eventually(&format!("a line with {text:?} in\n{}", self.log().join("\n")), async || {
            found = self.log().into_iter().find(|line| line.contains(text));
            found.is_some()
        })
        .await;
        found.expect("just seen")
    }

    /// The lines so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.stdout.0.lock().expect("no panic").clone()
    }

    /// Leaves what it logs in the pipe from here on.
    pub(crate) fn stop_reading(&self) {
        *self.stdout.1.0.lock().expect("no panic") = true;
    }

    /// Reads what it logs again.
    pub(crate) fn read_on(&self) {
        *self.stdout.1.0.lock().expect("no panic") = false;
        self.stdout.1.1.notify_all();
    }

    /// What it said on standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.0.lock().expect("no panic").clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Bytes that it has asked for and touched: heap and stacks.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// Clock ticks of 10 ms that it has had the CPU for, in user and kernel mode.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(self.proc("stat")).expect("it runs");
        let (_, after) = stat.rsplit_once(')').expect("a name in brackets");
        let fields: Vec<_> = after.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        ticks(11) + ticks(12)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> u64 {
        std::fs::read_dir(self.proc("fd")).expect("it runs").count() as u64
    }

    /// Lowers, or raises, how many it may have open.
    pub(crate) fn limit_descriptors(&self, most: u64) {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(most), maximum };
        prlimit(Some(self.pid()), Resource::Nofile, few).expect("our own child");
    }

    pub(crate) fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid().as_raw_nonzero())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// The code that it ended with, once it has; a signal's number, negative, if that ended it.
    pub(crate) async fn ended(&mut self) -> i32 {
        eventually("the program ends", async || !self.is_running()).await;
        let status = self.child.wait().expect("our child");
        status.code().unwrap_or_else(|| -status.signal().expect("a code or a signal"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let seen = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                seen.0.lock().expect("no panic").push(line);
                let paused = seen.1.0.lock().expect("no panic");
                drop(seen.1.1.wait_while(paused, |paused| *paused).expect("no panic"));
            }
        });
        lines
    }
}
