//! The programs that count.

use std::{collections::HashMap, fs, process::Command};

use crate::{Counts, load::Load, relay::Relay, requirement::program};

/// The system calls of a relay under a load, by name; `None` where strace is missing.
pub(crate) fn strace(load: &Load) -> Option<Counts> {
    let mut watcher = Command::new(program("strace", "apt-get install strace")?);
    let dir = tempfile::tempdir().expect("a directory");
    let table = dir.path().join("table");
    watcher.args(["-f", "-c", "-o"]).arg(&table).arg("--");
    put(load, watcher, dir.path());
    let text = fs::read_to_string(&table).expect("strace's table");
    let counts: Counts = text.lines().filter_map(row).collect();
    assert!(counts.contains_key("accept4"), "not a table of a relay: {text}");
    Some(counts)
}

/// `% time, seconds, usecs/call, calls, [errors,] syscall`.
fn row(line: &str) -> Option<(String, u64)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (name, calls) = (fields.last()?, fields.get(3)?.parse().ok()?);
    fields[0].parse::<f64>().ok().filter(|_| *name != "total")?;
    Some(((*name).to_owned(), calls))
}

/// The instructions of a relay under a load, and its allocations by function; `None` where
/// valgrind is missing.
pub(crate) fn callgrind(load: &Load) -> Option<(u64, Counts)> {
    let mut watcher = Command::new(program("valgrind", "apt-get install valgrind")?);
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("profile");
    watcher.args(["--tool=callgrind", "--quiet", "--fair-sched=yes"]);
    watcher.arg(format!("--callgrind-out-file={}", profile.display()));
    put(load, watcher, dir.path());
    let text = fs::read_to_string(&profile).expect("callgrind's profile");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: Option<u64> = total.and_then(|total| total.trim().parse().ok());
    let spun = inclusive(&text, "quanta::Calibration::calibrate");
    Some((total.expect("a total") - spun, allocations(&text)))
}

/// What a function spent, with what it called. For the one that compares two clocks at the start of
/// a process for as long as it takes: more turns of it on a busy machine are none of a relay's cost.
fn inclusive(profile: &str, function: &str) -> u64 {
    let mut id = None;
    let mut within = false;
    let mut spent = 0;
    for line in profile.lines() {
        if let Some((kind, named)) = line.split_once("fn=(") {
            let (number, name) = named.split_once(')').expect("a number");
            if name.trim() == function {
                id = Some(number);
            }
            within = if kind.is_empty() { id == Some(number) } else { within };
        } else if within && line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            // Where, and how much: of its own, or of what the call before this line led to.
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            spent += cost.expect("a cost");
        }
    }
    spent
}

/// How often each function that allocates was called. `cfn=(id) name` introduces a callee, by its
/// number alone the second time, and `calls=n …` follows.
fn allocations(profile: &str) -> Counts {
    let mut names = HashMap::new();
    let mut counts = Counts::new();
    let mut callee = "";
    for line in profile.lines() {
        if let Some((kind, rest)) = line.split_once("fn=(") {
            let Some((id, name)) = rest.split_once(')') else { continue };
            if !name.trim().is_empty() {
                names.insert(id, name.trim());
            }
            if kind == "c" {
                callee = names.get(id).copied().unwrap_or("");
            }
        } else if let Some(calls) = line.strip_prefix("calls=")
            && is_allocation(callee)
        {
            let calls = calls.split(' ').next().and_then(|calls| calls.parse().ok());
            *counts.entry(callee.to_owned()).or_default() += calls.unwrap_or(0_u64);
        }
    }
    assert!(!counts.is_empty(), "no allocation at all: the names have changed");
    counts
}

fn is_allocation(name: &str) -> bool {
    let name = name.trim_start_matches("_rjem_").split('\'').next().unwrap_or(name);
    [
        "malloc",
        "calloc",
        "realloc",
        "aligned_alloc",
        "posix_memalign",
        "memalign",
        "mallocx",
        "rallocx",
    ]
    .contains(&name)
}

fn put(load: &Load, watcher: Command, dir: &std::path::Path) {
    let relay = Relay::start(watcher, dir);
    load.put_on(relay.addr);
    relay.end();
}
