//! Remote desktops: many pairs, each with frames one way and input the other at a steady pace.

use std::time::Duration;

use anyhow::ensure;
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    delays::micros,
    desk::{Content, Desks, Load},
    kind::Kind,
    machine::cores,
    options::Scale,
    process::own_cpu,
    subject::Subject,
};

const PAIRS: usize = 100;

const LOAD: Load = Load { frame: 20 << 10, frames_s: 30.0, input: 32, inputs_s: 60.0 };

/// Of what is due, this much must arrive: with less there is nothing to compare.
const ENOUGH: f64 = 0.5;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let mut cases = Vec::new();
    for transports in [[Tcp, Tcp], [WebSocket, WebSocket], [Tcp, WebSocket]] {
        let yardsticks = match transports {
            [Tcp, Tcp] => vec![Kind::Nginx, Kind::HaProxy, Kind::Floor(cores()), Kind::Direct],
            _ => Vec::new(),
        };
        for kind in plan.relay_kinds().chain(yardsticks) {
            let task = format!("{}-{}", transports[0].label(), transports[1].label());
            let measure = move |subject: &Subject| measure(subject, transports, &scale);
            cases.push(Case::new(task, kind, measure).compared_with("tcp-tcp"));
        }
    }
    Workload {
        name: "desktops",
        title: format!(
            "{PAIRS} remote desktops: {} frames/s of {} KiB one way, input of {} B {} times a \
             second the other",
            LOAD.frames_s,
            LOAD.frame >> 10,
            LOAD.input,
            LOAD.inputs_s
        ),
        columns: vec![
            Column::new("cpu_percent", "its CPU, % of a core", 1).with_ratio(),
            Column::new("input_p50_us", "input µs p50", 0).with_ratio(),
            Column::new("input_p99_us", "input µs p99", 0).with_ratio(),
            Column::new("frame_p50_us", "frames µs p50", 0),
            Column::new("frame_p99_us", "frames µs p99", 0),
            Column::new("generator_percent", "generator's CPU %", 1),
            Column::new("arrived_percent", "arrived, % of what is due", 1),
        ],
        yardsticks: vec![Kind::Nginx, Kind::HaProxy, Kind::Floor(cores())],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "From just before a message is written until all of it is read, on the generator's \
                one thread: its own part is in every row, and `direct` is that part alone. Ratios \
                of WebSocket rows are to the yardstick's TCP row.",
    }
}

fn measure(subject: &Subject, transports: [Transport; 2], scale: &Scale) -> anyhow::Result<Sample> {
    let content = Content::new(LOAD, transports)?;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push(subject.pair(transports)?);
    }
    let mut desks = Desks::new(&content, pairs)?;
    desks.run(scale.desktop_warm_up)?;
    watch(subject, &mut desks, scale.desktop_window)
}

/// What it costs and how late it is, for a while.
pub(crate) fn watch(
    subject: &Subject,
    desks: &mut Desks<'_>,
    window: Duration,
) -> anyhow::Result<Sample> {
    let (before, own_before) = (subject.fine_cpu()?, own_cpu()?);
    let mut delays = desks.run(window)?;
    let (cpu, own) = (subject.fine_cpu()?, own_cpu()?.saturating_sub(own_before));
    desks.checked()?;
    let arrived = delays.of.iter().map(Vec::len).sum::<usize>() as f64 / desks.due_in(window);
    ensure!(arrived > ENOUGH, "only {:.0} % of what was due arrived", arrived * 100.0);
    let [frame_p50, frame_p99] = micros(&mut delays.of[0], [0.50, 0.99]);
    let [input_p50, input_p99] = micros(&mut delays.of[1], [0.50, 0.99]);
    let percent = |time: Duration| time.as_secs_f64() / window.as_secs_f64() * 100.0;
    let mut sample = vec![
        ("frame_p50_us", frame_p50),
        ("frame_p99_us", frame_p99),
        ("input_p50_us", input_p50),
        ("input_p99_us", input_p99),
        ("generator_percent", percent(own)),
        ("arrived_percent", arrived * 100.0),
    ];
    if let Some((cpu, before)) = cpu.zip(before) {
        sample.push(("cpu_percent", percent(cpu.saturating_sub(before))));
    }
    Ok(sample)
}
