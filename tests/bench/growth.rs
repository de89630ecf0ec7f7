//! What one relay costs as their number grows, idle and at the load of slow desktops: it should
//! stay the same.

use std::thread;

use anyhow::Context as _;
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    desk::{Content, Desks, Load},
    desktops,
    kind::Kind,
    memory::{KIB, MIB, open, open_pair},
    options::Scale,
    subject::Subject,
};

/// The machine's most come after them.
const COUNTS: [usize; 3] = [100, 1_000, 5_000];

/// So slow that the machine's most relays are within what two cores can do.
const LOAD: Load = Load { frame: 2 << 10, frames_s: 1.0, input: 32, inputs_s: 2.0 };

/// Pairs that are there before anything is measured: what a program makes once, when the first
/// bytes pass, is no part of what one more relay costs.
const BEFORE: usize = 8;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let mut counts: Vec<_> = COUNTS.into_iter().filter(|count| *count < scale.held).collect();
    counts.push(scale.held);
    let mut cases = Vec::new();
    for transports in [[Tcp, Tcp], [WebSocket, WebSocket]] {
        let yardsticks = if transports == [Tcp, Tcp] { vec![Kind::HaProxy] } else { Vec::new() };
        for kind in plan.relay_kinds().chain(yardsticks) {
            for count in counts.iter().copied() {
                let [from, to] = transports.map(Transport::label);
                let measure = move |subject: &Subject| measure(subject, transports, count, &scale);
                cases.push(Case::new(format!("{from}-{to} x{count}"), kind, measure));
            }
        }
    }
    Workload {
        name: "growth",
        title: format!(
            "Growth: idle relays, then slow desktops: {} frame/s of {} KiB, {} inputs/s of {} B",
            LOAD.frames_s,
            LOAD.frame >> 10,
            LOAD.inputs_s,
            LOAD.input
        ),
        columns: vec![
            Column::new("relays", "relays", 0),
            Column::new("kib", "KiB each, idle", 2),
            Column::new("kib_loaded", "KiB each, loaded", 2),
            Column::new("idle_us", "CPU µs/s each, idle", 2),
            Column::new("loaded_us", "CPU µs/s each, loaded", 1),
            Column::new("cpu_percent", "CPU, % of a core, loaded", 1),
            Column::new("input_p50_us", "input µs p50", 0),
            Column::new("input_p99_us", "input µs p99", 0),
            Column::new("generator_percent", "generator's CPU %", 1),
            Column::new("arrived_percent", "arrived, % of what is due", 1),
            Column::new("held_mib", "MiB in all (Pss), loaded", 1),
        ],
        yardsticks: vec![],
        rounds: 1,
        fresh: true,
        cases,
        notes: "The pace of a pair is scaled down so that the most are within what the machine can \
                do. In the process' own memory (anonymous pages of smaps_rollup), beyond what it \
                had with a few loaded relays. Busier processes wake up less often than they have \
                messages: the cost of each falls.",
    }
}

fn measure(
    subject: &Subject,
    transports: [Transport; 2],
    count: usize,
    scale: &Scale,
) -> anyhow::Result<Sample> {
    let content = Content::new(LOAD, transports)?;
    let process = subject.process()?;
    // The admin API has its own first time.
    subject.until_stat("relays_active", 0)?;
    let before = open(BEFORE, &|| open_pair(subject, transports))?;
    // Held to the end, and quiet from here on.
    let mut few = Desks::new(&content, before)?;
    few.run(scale.desktop_warm_up)?;
    process.settle()?;
    let start = process.memory()?.anonymous;
    let pairs = open(count, &|| open_pair(subject, transports))
        .with_context(|| format!("{count} pairs"))?;
    process.settle()?;
    let each = |anonymous: f64| (anonymous - start) / KIB / count as f64;
    let mut sample = vec![("relays", count as f64), ("kib", each(process.memory()?.anonymous))];
    let before = process.fine_cpu()?;
    thread::sleep(scale.idle_window);
    let idle = process.fine_cpu()?.saturating_sub(before).as_secs_f64();
    sample.push(("idle_us", idle / scale.idle_window.as_secs_f64() / count as f64 * 1e6));
    let mut desks = Desks::new(&content, pairs)?;
    desks.run(scale.desktop_warm_up)?;
    let loaded = desktops::watch(subject, &mut desks, scale.desktop_window)?;
    let memory = process.memory()?;
    sample.push(("kib_loaded", each(memory.anonymous)));
    sample.push(("held_mib", memory.proportional / MIB));
    if let Some(percent) = crate::case::value(&loaded, "cpu_percent") {
        sample.push(("loaded_us", percent / 100.0 / count as f64 * 1e6));
    }
    sample.extend(loaded);
    Ok(sample)
}
