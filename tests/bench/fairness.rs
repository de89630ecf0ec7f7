//! Fairness: remote desktops at a total bandwidth that they do not use up, alone and beside a file
//! transfer that takes all it can get. What the desktops see of it should be next to nothing.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    delays::micros,
    desk::{Content, Delays, Desks, Load},
    flow::{Flow, Shared, Ways},
    kind::{Kind, Logs, Variant},
    options::Scale,
    subject::Subject,
};

const PAIRS: usize = 50;

/// 4.9 Mbit/s each, and so less than the even part of what there is for one more than there are.
const LOAD: Load = Load { frame: 20 << 10, frames_s: 30.0, input: 32, inputs_s: 60.0 };

/// What all relays may move together.
const TOTAL: (&str, &str) = ("RELAY__BANDWIDTH__TOTAL", "400Mbit/s");
const TOTAL_MBIT_S: f64 = 400.0;

/// What the file is sent in.
const MESSAGE: usize = 64 << 10;

/// Less than this of the total, and nobody had to share.
const SATURATED: f64 = 0.9;

/// How often in one measurement the file comes and goes.
const TURNS: u32 = 2;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let mut cases = Vec::new();
    for transports in [[Tcp, Tcp], [WebSocket, WebSocket]] {
        for variant in plan.variants.iter().copied() {
            let task = format!("{}-{}", transports[0].label(), transports[1].label());
            let measure = move |subject: &Subject| measure(subject, transports, &scale);
            cases.push(Case::new(task, Kind::Relay(limited(variant), Logs::File), measure));
        }
    }
    Workload {
        name: "fairness",
        title: format!(
            "{PAIRS} remote desktops ({} frames/s of {} KiB) and one file transfer share {}",
            LOAD.frames_s,
            LOAD.frame >> 10,
            TOTAL.1
        ),
        columns: vec![
            Column::new("alone_p50_us", "frames alone, µs p50", 0),
            Column::new("alone_p99_us", "p99", 0),
            Column::new("beside_p50_us", "beside the file, µs p50", 0),
            Column::new("beside_p99_us", "p99", 0),
            Column::new("ratio", "p99 ÷ p99 alone", 2),
            Column::new("input_ratio", "the same of input", 2),
            Column::new("file_mbit_s", "the file, Mbit/s", 0),
            Column::new("all_mbit_s", "all, Mbit/s", 0),
            Column::new("arrived_percent", "arrived, % of what is due", 1),
        ],
        yardsticks: vec![],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "The file comes and goes while the desktops go on, so that both meet the same \
                machine. `all` is payload, and the limit is for framing too.",
    }
}

/// The same build with a limit, unless it has one.
fn limited(variant: &Variant) -> &'static Variant {
    let Variant { name, binary, mut settings } = variant.clone();
    if settings.iter().all(|(name, _)| name != TOTAL.0) {
        settings.push((TOTAL.0.to_owned(), TOTAL.1.to_owned()));
    }
    Box::leak(Box::new(Variant { name, binary, settings }))
}

fn measure(subject: &Subject, transports: [Transport; 2], scale: &Scale) -> anyhow::Result<Sample> {
    let content = Content::new(LOAD, transports)?;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push(subject.pair(transports)?);
    }
    let mut desks = Desks::new(&content, pairs)?;
    desks.run(scale.desktop_warm_up)?;
    let window = scale.desktop_window / TURNS;
    let (mut alone, mut beside, mut file) = (Delays::default(), Delays::default(), 0.0);
    for _ in 0..TURNS {
        alone.add(desks.run(window)?);
        let (delays, mbit_s) = beside_a_file(subject, transports, &mut desks, window, scale)?;
        beside.add(delays);
        file += mbit_s / f64::from(TURNS);
    }
    desks.checked()?;
    let due = desks.due_in(window * TURNS);
    let arrived = beside.of.iter().map(Vec::len).sum::<usize>() as f64 / due;
    let frames = beside.of[0].len() as f64 / (window * TURNS).as_secs_f64();
    let all = file + frames * LOAD.frame as f64 * 8.0 / 1e6;
    ensure!(all > SATURATED * TOTAL_MBIT_S, "only {all:.0} Mbit/s: the total is not used up");
    let [frames_alone, frames] = [&mut alone, &mut beside].map(|delays| {
        let [p50, p99] = micros(&mut delays.of[0], [0.50, 0.99]);
        (p50, p99)
    });
    let [input_alone, input] =
        [&mut alone, &mut beside].map(|delays| micros(&mut delays.of[1], [0.99])[0]);
    Ok(vec![
        ("alone_p50_us", frames_alone.0),
        ("alone_p99_us", frames_alone.1),
        ("beside_p50_us", frames.0),
        ("beside_p99_us", frames.1),
        ("ratio", frames.1 / frames_alone.1),
        ("input_ratio", input / input_alone),
        ("file_mbit_s", file),
        ("all_mbit_s", all),
        ("arrived_percent", arrived * 100.0),
    ])
}

/// The desktops' delays while a file goes through, and how fast it does.
fn beside_a_file(
    subject: &Subject,
    transports: [Transport; 2],
    desks: &mut Desks<'_>,
    window: Duration,
    scale: &Scale,
) -> anyhow::Result<(Delays, f64)> {
    let shared = Shared::new(transports[0], MESSAGE)?;
    let pair = subject.pair(transports)?;
    thread::scope(|scope| {
        let flow = Flow::start(scope, pair, Ways::One, &shared).context("a pair")?;
        // Until the file has used up what it may be ahead.
        let watched = desks
            .run(scale.desktop_warm_up)
            .and_then(|_| shared.watch(subject, || desks.run(window)));
        shared.stop();
        flow.finish()?;
        watched.map(|(watched, delays)| (delays, watched.gbit_s * 1e3))
    })
}
