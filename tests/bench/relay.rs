//! `cargo bench --bench relay`: what the relay costs and how fast it is, beside yardsticks.
//!
//! Every program that is measured runs in a process of its own, on the loopback, and is ended
//! here. A workload is a module that describes its cases ([`case::Workload`]); this file lists
//! the workloads and prints what comes of them.

mod bulk;
mod case;
mod changes;
mod client;
mod cluster;
mod crowd;
mod delays;
mod desk;
mod desktops;
mod dial;
mod fairness;
mod flood;
mod floor;
mod flow;
mod growth;
mod handshakes;
mod kind;
mod machine;
mod memory;
mod options;
mod pairs;
mod peers;
mod plot;
mod process;
mod report;
mod round_trip;
mod sealed;
#[path = "../support"]
mod shared {
    pub(crate) mod simulation;
}
mod simulation;
mod stream;
mod subject;
mod tls;

use std::{env, fs, process::ExitCode, time::Instant};

use anyhow::{Context as _, ensure};
use clap::Parser as _;

use self::{
    case::{Plan, Workload},
    machine::Machine,
    options::Options,
};

/// For the burst: two a pair in the program, and as many in the generator.
const DESCRIPTORS: u64 = 4_000;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let done = match &arguments[..] {
        [flag, addr, threads] if flag == "--floor" => floor(addr, threads),
        [flag, addr, silent, slow] if flag == "--flood" => flood(addr, silent, slow),
        _ if !is_benchmark(&arguments) => {
            // `cargo test --all-targets` runs this too.
            eprintln!("SKIPPED: a benchmark is no test (cargo bench --bench relay)");
            Ok(ExitCode::SUCCESS)
        }
        _ => run(&Options::parse()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Whether `cargo bench` calls, which says so, and the relay is built to be measured.
fn is_benchmark(arguments: &[String]) -> bool {
    !cfg!(debug_assertions) && arguments.iter().any(|argument| argument == "--bench")
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let descriptors = machine::raise_descriptor_limit();
    let plan = Plan {
        scale: options.scale(descriptors),
        variants: options.variants()?,
        is_quick: options.quick,
    };
    let mut workloads = workloads(&plan);
    let mut missing: Vec<_> =
        workloads.iter_mut().flat_map(|workload| workload.narrow(options)).collect();
    workloads.retain(|workload| !workload.cases.is_empty());
    if options.list {
        for workload in &workloads {
            for case in &workload.cases {
                println!("{}", workload.name_of(case));
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!workloads.is_empty(), "no case has such a name: --list shows them");
    missing.sort();
    missing.dedup();
    missing.iter().for_each(|why| println!("{why}"));
    ensure!(descriptors >= DESCRIPTORS, "only {descriptors} open files: raise ulimit -n");
    let machine = Machine::look();
    println!("{}\n", machine.markdown());
    tell_variants(&plan);
    let failed = measure(&mut workloads);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report::json(&machine, options, &workloads))?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &options.svg {
        let drawn = plot::svg(&workloads, &machine.short()).context("nothing that is drawn")?;
        fs::write(file, drawn).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// In the order in which they are measured.
fn workloads(plan: &Plan) -> Vec<Workload> {
    vec![
        pairs::workload(plan),
        pairs::burst(plan),
        round_trip::idle(plan),
        round_trip::beside(plan),
        desktops::workload(plan),
        fairness::workload(plan),
        bulk::workload(plan),
        memory::idle(plan),
        memory::waiting(plan),
        flood::workload(plan),
        flood::strangers(plan),
        changes::workload(plan),
        handshakes::workload(plan),
        sealed::workload(plan),
        growth::workload(plan),
        cluster::pairs::workload(plan),
        cluster::latency::workload(plan),
        cluster::bulk::workload(plan),
        cluster::memory::workload(plan),
        cluster::faults::workload(plan),
        simulation::workload(plan),
    ]
}

/// Prints a table as soon as its workload is done; whether anything failed.
fn measure(workloads: &mut [Workload]) -> bool {
    let mut any = false;
    for workload in workloads {
        let since = Instant::now();
        let failed = workload.run();
        eprintln!("{}: {:.0} s", workload.name, since.elapsed().as_secs_f64());
        println!("{}", report::markdown(workload));
        failed.iter().for_each(|what| println!("{what}\n"));
        any |= !failed.is_empty();
    }
    any
}

fn tell_variants(plan: &Plan) {
    for variant in &plan.variants {
        let settings = variant.settings.iter().map(|(name, value)| format!(" {name}={value}"));
        let settings: String = settings.collect();
        println!("- `{}` is {}{settings}", variant.name, variant.binary.display());
    }
    println!();
}

fn flood(addr: &str, silent: &str, slow: &str) -> anyhow::Result<ExitCode> {
    let flood = flood::Flood { silent: silent.parse()?, slow: slow.parse()? };
    flood::run(addr.parse()?, flood)?;
    Ok(ExitCode::SUCCESS)
}

fn floor(addr: &str, threads: &str) -> anyhow::Result<ExitCode> {
    floor::run(addr.parse()?, threads.parse()?)?;
    Ok(ExitCode::SUCCESS)
}
