//! Honest pairs beside thousands of connections that say nothing or a byte a second, and what
//! those cost.

mod generator;

use std::{
    thread,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::wire::Transport;

pub(crate) use self::generator::{Flood, run};
use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    cluster::Crossing,
    crowd::{Arrival, Crowd},
    delays::micros,
    kind::{Kind, Logs, Variant},
    memory::{KIB, MIB},
    subject::Subject,
};

const MOST: usize = 9_000;

/// So few that they do not wait for each other.
const AT_ONCE: usize = 4;

/// How many pairs come in a row; as many rows as the time has room for.
const ROW: usize = 500;

/// A pair that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fewer places than the flood has connections.
const FEW: usize = 6_000;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let each = MOST.min(scale.flood / 2);
    let nobody = Flood { silent: 0, slow: 0 };
    let silent = Flood { silent: each, slow: 0 };
    let both = Flood { silent: each, slow: each };
    let mut cases = Vec::new();
    for variant in plan.variants.iter().copied() {
        let few = with(variant, ("FRONT_DOOR__MAX_CONNECTIONS", &(each * FEW / MOST).to_string()));
        for (task, flood, variant) in [
            ("alone".to_owned(), nobody, variant),
            (format!("beside {each} silent"), silent, variant),
            (format!("beside {each} silent, {each} slow"), both, variant),
            (format!("the same, and {} places", each * FEW / MOST), both, few),
        ] {
            let measure = move |subject: &Subject| pair_beside(subject, flood, scale.flood_window);
            cases.push(Case::new(task, Kind::Relay(variant, Logs::File), measure));
        }
    }
    Workload {
        name: "flood",
        title: "Honest pairs beside a flood: connect both legs, pair, 16 B echo, close".to_owned(),
        columns: vec![
            Column::new("p50_ms", "ms p50", 2),
            Column::new("p99_ms", "p99", 2),
            Column::new("most_ms", "the slowest", 1),
            Column::new("lost", "lost", 0),
            Column::new("pairs_s", "pairs/s", 0),
            Column::new("open", "open", 0),
            Column::new("cpu_percent", "its CPU, % of a core", 0),
        ],
        yardsticks: vec![],
        rounds: scale.rounds,
        fresh: true,
        cases,
        notes: "Who is silent or slow (a byte a second: half of them an HTTP head, half a frame) is \
                closed after 10 s, or gives way where places run out, and comes again 2 s later. \
                Four pairs at a time; a pair is lost after 5 s.",
    }
}

/// What those that are slow cost.
pub(crate) fn strangers(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let each = MOST.min(scale.flood / 2);
    let mut cases = Vec::new();
    for variant in plan.variants.iter().copied() {
        // So long that none of them is closed.
        let patient = with(variant, ("FRONT_DOOR__FIRST_FRAME_TIMEOUT", "1h"));
        for (task, flood) in [
            ("silent", Flood { silent: 2 * each, slow: 0 }),
            ("a byte a second", Flood { silent: 0, slow: 2 * each }),
        ] {
            let measure = move |subject: &Subject| hold(subject, flood, scale.flood_window);
            cases.push(Case::new(task, Kind::Relay(patient, Logs::File), measure));
        }
    }
    Workload {
        name: "strangers",
        title: format!("{} connections that do not say who they are", 2 * each),
        columns: vec![
            Column::new("kib", "KiB each", 2),
            Column::new("held_mib", "MiB held (Pss)", 1),
            Column::new("cpu_percent", "CPU while held, % of a core", 1),
            Column::new("kept_mib", "MiB more than at start when all are closed", 1),
        ],
        yardsticks: vec![],
        rounds: 1,
        fresh: true,
        cases,
        notes: "In the process' own memory (anonymous pages of smaps_rollup); socket buffers are \
                the kernel's.",
    }
}

/// The same build with one more setting. There are a few, and they last as long as the benchmark.
fn with(variant: &'static Variant, (name, value): (&str, &str)) -> &'static Variant {
    let Variant { name: label, binary, settings } = variant;
    let mut settings = settings.clone();
    settings.push((format!("RELAY__{name}"), value.to_owned()));
    Box::leak(Box::new(Variant { name: label.clone(), binary: binary.clone(), settings }))
}

fn pair_beside(subject: &Subject, flood: Flood, window: Duration) -> anyhow::Result<Sample> {
    let _flood = (flood.count() > 0).then(|| flood.start(subject.addr())).transpose()?;
    let crowd = Crowd {
        transport: Transport::Tcp,
        arrival: Arrival::OneByOne,
        crossing: Crossing::None,
        at_once: AT_ONCE,
        pairs: ROW,
        patience: PATIENCE,
        most_lost: ROW,
    };
    let (mut done, mut lost, mut rows) = (Vec::new(), 0, 0);
    let before = subject.process()?.fine_cpu()?;
    let since = Instant::now();
    while since.elapsed() < window {
        let tally = crowd.run(subject)?;
        done.extend(tally.done);
        lost += tally.lost;
        rows += 1;
    }
    let took = since.elapsed().as_secs_f64();
    let cpu = subject.process()?.fine_cpu()?.saturating_sub(before);
    let open = subject.stat("connections_open")?;
    let [p50, p99, most] = micros(&mut done, [0.5, 0.99, 0.999_999]);
    Ok(vec![
        ("p50_ms", p50 / 1e3),
        ("p99_ms", p99 / 1e3),
        ("most_ms", most / 1e3),
        ("lost", lost as f64),
        ("pairs_s", (rows * ROW) as f64 / took),
        ("open", open as f64),
        ("cpu_percent", cpu.as_secs_f64() / took * 100.0),
    ])
}

fn hold(subject: &Subject, flood: Flood, window: Duration) -> anyhow::Result<Sample> {
    let process = subject.process()?;
    // The admin API has its own first time.
    subject.until_stat("connections_open", 1)?;
    process.settle()?;
    let start = process.memory()?.anonymous;
    let running = flood.start(subject.addr())?;
    subject.until_stat("connections_open", flood.count() as u64 + 1)?;
    let before = process.fine_cpu()?;
    thread::sleep(window);
    let used = process.fine_cpu()?.saturating_sub(before);
    let held = process.memory()?;
    drop(running);
    subject.until_stat("connections_open", 1)?;
    process.settle()?;
    Ok(vec![
        ("kib", (held.anonymous - start) / KIB / flood.count() as f64),
        ("held_mib", held.proportional / MIB),
        ("cpu_percent", used.as_secs_f64() / window.as_secs_f64() * 100.0),
        ("kept_mib", (process.memory()?.anonymous - start) / MIB),
    ])
}
