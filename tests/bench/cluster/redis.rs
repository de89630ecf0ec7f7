//! The Redis of a benchmark: started, killed and started anew, and asked what it was asked.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;

use crate::process::{Ending, Launch, Memory, Process, free_port};

const PATIENCE: Duration = Duration::from_secs(5);

/// A server without a disk: what it knew is gone with it.
pub(crate) struct Redis {
    addr: SocketAddr,
    process: Mutex<Option<Process>>,
}

/// How often each command was called.
pub(crate) type Calls = BTreeMap<String, u64>;

impl Redis {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let redis = Self { addr: free_port()?, process: Mutex::new(None) };
        redis.revive()?;
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    pub(crate) fn kill(&self) {
        *self.process() = None;
    }

    pub(crate) fn revive(&self) -> anyhow::Result<()> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--port").arg(self.addr.port().to_string());
        let dir = tempfile::tempdir().context("no directory")?;
        let process = Process::start(Launch::new(command, Ending::Kill), dir, self.addr)?;
        *self.process() = Some(process);
        Ok(())
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.process().as_ref().context("redis is dead")?.fine_cpu()
    }

    /// What it holds.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        self.process().as_ref().context("redis is dead")?.memory()
    }

    /// Since it was started; what scripts call is counted too.
    pub(crate) fn calls(&self) -> anyhow::Result<Calls> {
        let text = self.ask("INFO commandstats")?;
        let call = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        Ok(text.lines().filter_map(call).collect())
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command that answers with a string.
    fn ask(&self, command: &str) -> anyhow::Result<String> {
        let mut socket = TcpStream::connect(self.addr)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(format!("{command}\r\n").as_bytes())?;
        let mut answer = BufReader::new(socket);
        let mut head = String::new();
        answer.read_line(&mut head)?;
        let len = head.trim_end().strip_prefix('$').and_then(|len| len.parse().ok());
        let mut text = vec![0; len.with_context(|| format!("redis answers {head}"))?];
        answer.read_exact(&mut text)?;
        Ok(String::from_utf8(text)?)
    }
}

/// How often more than before this command was called.
pub(crate) fn more(before: &Calls, now: &Calls, name: &str) -> f64 {
    let of = |calls: &Calls| calls.get(name).copied().unwrap_or(0);
    of(now).saturating_sub(of(before)) as f64
}
