//! A program that is measured: started, watched through `/proc`, and ended. Only what was started
//! here is ever ended.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
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

/// How a program is started and ended.
pub(crate) struct Launch {
    command: Command,
    ending: Ending,
    /// Whether what it prints goes through a pipe that is read, not into a file.
    is_read: bool,
}

/// How a program is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Kill,
    /// It ends workers of its own first.
    Terminate,
    /// With the processes that it has started, a group of their own.
    Group,
}

/// What a program holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident, shared pages by their share.
    pub(crate) proportional: f64,
    /// What only a process can have asked for: heap and stacks.
    pub(crate) anonymous: f64,
}

impl Launch {
    pub(crate) const fn new(command: Command, ending: Ending) -> Self {
        Self { command, ending, is_read: false }
    }

    pub(crate) fn with_output_read(self, is_read: bool) -> Self {
        Self { is_read, ..self }
    }
}

impl Process {
    /// Starts it in `dir` and waits until it listens on `addr`.
    pub(crate) fn start(launch: Launch, dir: TempDir, addr: SocketAddr) -> anyhow::Result<Self> {
        let Launch { mut command, ending, is_read } = launch;
        let program = command.get_program().to_string_lossy().into_owned();
        let log = File::create(dir.path().join("log")).context("no file for a log")?;
        command.current_dir(dir.path()).stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log);
        if is_read {
            command.stdout(Stdio::piped());
        }
        if ending == Ending::Group {
            command.process_group(0);
        }
        let mut child = command.spawn().with_context(|| format!("{program} does not start"))?;
        if let Some(mut output) = child.stdout.take() {
            // Ends with the program.
            thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        }
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

    /// Processor time, of the system and of its own, since the start; of processes that it has
    /// started too, whether they still run or not.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut sum = cpu_of(&self.child.id().to_string())?;
        // One that has just ended is in its parent's time, now or soon.
        sum += self
            .children()
            .iter()
            .filter_map(|pid| cpu_of(&pid.to_string()).ok())
            .sum::<Duration>();
        Ok(sum)
    }

    /// The same by the scheduler's own count, which is finer. Loses what threads that ended used.
    pub(crate) fn fine_cpu(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for pid in self.pids() {
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
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

    /// Where it was started.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How many lines of its log contain this.
    pub(crate) fn said(&self, text: &str) -> usize {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Signals it, or the process that has taken over from it.
    pub(crate) fn signal_newest(&self, signal: Signal) -> anyhow::Result<()> {
        let newest = self.heirs().into_iter().max_by_key(|pid| started(*pid));
        let pid = newest.and_then(|pid| Pid::from_raw(pid as i32)).context("it has gone")?;
        Ok(kill_process(pid, signal)?)
    }

    /// It, and those that have taken over from it: nobody else is in its directory.
    fn heirs(&self) -> Vec<u32> {
        let Ok(here) = self.dir.path().canonicalize() else { return Vec::new() };
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        pids.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == here))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// It, and its workers if it is of the kind that has some.
    fn pids(&self) -> Vec<u32> {
        let mut all = self.children();
        all.insert(0, self.child.id());
        all
    }

    fn children(&self) -> Vec<u32> {
        match self.ending {
            Ending::Kill => Vec::new(),
            Ending::Terminate | Ending::Group => children_of(self.child.id()),
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
        if self.ending == Ending::Group {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for heir in self.heirs().into_iter().filter_map(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(heir, Signal::KILL);
        }
    }
}

/// When a process was started, in clock ticks since the machine was.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
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
    // User and system time, its own and of children that have ended and were waited for.
    let times = rest.split(' ').skip(11).take(4).map_while(|field| field.parse::<u64>().ok());
    let times: Vec<_> = times.collect();
    ensure!(times.len() == 4, "a stat without times");
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(times.iter().sum::<u64>() as f64 / per_second as f64))
}

fn children_of(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
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
