//! The machine that the figures are of, and the programs beside the relay.

use std::{fs, process::Command, thread::available_parallelism};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// Above this the machine had other work, and the figures are of both.
const BUSY: f64 = 0.5;

/// What to say beside the figures.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    date: String,
    cpu: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    /// Of the minute before the start.
    load_average: f64,
    yardsticks: Vec<String>,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let kib = field("/proc/meminfo", "MemTotal").and_then(|total| {
            total.split_ascii_whitespace().next().and_then(|kib| kib.parse::<u64>().ok())
        });
        let load = read("/proc/loadavg");
        Self {
            date: jiff::Zoned::now().date().to_string(),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".to_owned()),
            cores: cores(),
            memory_gib: kib.unwrap_or(0).div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load.split(' ').next().and_then(|one| one.parse().ok()).unwrap_or(0.0),
            yardsticks: yardsticks(),
        }
    }

    /// A line below a picture.
    pub(crate) fn short(&self) -> String {
        let Self { date, cpu, cores, kernel, .. } = self;
        format!(
            "{date}, {cpu}, {cores} cores shared with the load generator, Linux {kernel}, loopback; \
             medians, least and most"
        )
    }

    pub(crate) fn markdown(&self) -> String {
        let Self { date, cpu, cores, memory_gib, kernel, load_average, yardsticks } = self;
        let beside = if yardsticks.is_empty() { "none".to_owned() } else { yardsticks.join("; ") };
        let mut text = format!(
            "{date}, {cpu}, {cores} cores, {memory_gib} GiB, Linux {kernel}. The load generator \
             shares the cores with what it measures, over loopback. The relay logs at info to a \
             file. Medians (least–most) of alternating rounds. Beside it: {beside}."
        );
        if *load_average > BUSY {
            text.push_str(&format!(
                "\n\nNOISY: other programs were at work (load average {load_average} at the start)."
            ));
        }
        text
    }
}

pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// As many sockets as the system allows; what is started inherits it. Returns the limit.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it fails, the lower limit is what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    descriptor_limit()
}

pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn yardsticks() -> Vec<String> {
    let mut all: Vec<_> =
        ["haproxy", "nginx"].iter().filter_map(|name| version(name, "-v")).collect();
    if crate::peers::find("socat").is_some() {
        all.push("socat -b65536".to_owned());
    }
    if crate::peers::wormhole_is_here() {
        all.push("magic-wormhole-transit-relay (Python)".to_owned());
    }
    all
}

fn version(program: &str, flag: &str) -> Option<String> {
    let path = crate::peers::find(program)?;
    let output = Command::new(path).arg(flag).env_clear().output().ok()?;
    let bytes = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next()?.trim_start_matches("nginx version: ");
    Some(line.split(" - ").next().unwrap_or(line).to_owned())
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = read(file);
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}
