//! A program that is measured: started, watched through `/proc`, and ended. Only what was started
//! here is ever ended.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a program may take to listen, and to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);

const PORTS: Range<u16> = 22_000..32_000;

const POLL: Duration = Duration::from_millis(5);

/// A program that runs in a directory of its own.
pub(crate) struct Process {
    child: Child,
    dir: TempDir,
    ending: Ending,
}

/// How a program is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Kill,
    /// It ends workers of its own first.
    Terminate,
}

/// What a program holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident, shared pages by their share.
    pub(crate) proportional: f64,
    /// What only a process can have asked for: heap and stacks.
    pub(crate) anonymous: f64,
}

impl Process {
    /// Starts `command` with nothing but `PATH` in its environment beside what is set on it, and
    /// waits until it listens on `addr`.
    pub(crate) fn start(
        mut command: Command,
        dir: TempDir,
        addr: SocketAddr,
        ending: Ending,
    ) -> anyhow::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let log = File::create(dir.path().join("log")).context("no file for a log")?;
        command.current_dir(dir.path()).stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{program} does not start"))?;
        let mut process = Self { child, dir, ending };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).is_err() {
            if process.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{program} does not listen on {addr}; it says: {}", process.log());
            }
            thread::sleep(POLL);
        }
        Ok(process)
    }

    /// Processor time, of the system and of its own, since the start.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.pids().iter().map(|pid| cpu_of(&pid.to_string())).sum()
    }

    /// The same by the scheduler's own count, which is finer. Loses what threads that ended used.
    pub(crate) fn fine_cpu(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for pid in self.pids() {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(task?.path().join("schedstat"))?;
                let on_cpu = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
                nanos += on_cpu.context("a schedstat without a number")?;
            }
        }
        Ok(Duration::from_nanos(nanos))
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let mut sum = Memory { proportional: 0.0, anonymous: 0.0 };
        for pid in self.pids() {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let kib = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                let number = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
                number.map(|kib: f64| kib * 1024.0).context("smaps_rollup has changed")
            };
            sum.proportional += kib("Pss:")?;
            sum.anonymous += kib("Anonymous:")?;
        }
        Ok(sum)
    }

    /// Waits until it has nothing more to do, or for 5 s.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        const LOOK: Duration = Duration::from_millis(250);
        let deadline = Instant::now() + PATIENCE;
        let mut quiet = 0;
        let mut before = self.fine_cpu()?;
        while quiet < 3 && Instant::now() < deadline {
            thread::sleep(LOOK);
            let now = self.fine_cpu()?;
            quiet = if now.saturating_sub(before) < LOOK / 20 { quiet + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }

    /// It, and its workers if it is of the kind that has some.
    fn pids(&self) -> Vec<u32> {
        match self.ending {
            Ending::Kill => vec![self.child.id()],
            Ending::Terminate => with_children(self.child.id()),
        }
    }

    /// The end of what it has logged.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ending == Ending::Terminate {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let deadline = Instant::now() + PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(POLL);
            }
        }
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback's that nobody listens on. Below those that the system gives to outgoing
/// connections: a look whether somebody listens there yet could connect to itself.
pub(crate) fn free_port() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..PORTS.len() {
        let at = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + at % PORTS.len() as u16));
        if TcpListener::bind(addr).is_ok() {
            return Ok(addr);
        }
    }
    bail!("no free port in {PORTS:?}")
}

/// Processor time of this process: the load generator's.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    cpu_of("self")
}

fn cpu_of(pid: &str) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in brackets, which may hold anything.
    let rest = stat.rsplit_once(") ").context("a stat without a name")?.1;
    let mut ticks = rest.split(' ').skip(11).map_while(|field| field.parse::<u64>().ok());
    let (Some(user), Some(system)) = (ticks.next(), ticks.next()) else {
        bail!("a stat without times");
    };
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
}

fn with_children(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if parent_of(&entry.path()) == Some(pid) {
            all.push(child);
        }
    }
    all
}

fn parent_of(proc: &Path) -> Option<u32> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
