//! What was measured as one picture: which figures there are, and what they are drawn from.

mod bars;
mod canvas;
mod curves;
mod scatter;

use self::{
    bars::{Bar, Bars},
    canvas::{Area, Canvas, INK, PALE},
    curves::{Curve, Curves},
    scatter::{Point, Scatter},
};
use crate::{
    case::{Case, Workload},
    kind::Kind,
    report::median,
};

const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 330.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 40.0;
const MARGIN: f64 = 24.0;
const COLUMNS: usize = 2;

/// The task that the bars of bulk are of, and of the others' what it is called there.
const BULK: &str = "x8 16 KiB";

/// For the relay, a variant of it each.
const OURS: [&str; 5] = ["#d9480f", "#0b7285", "#6741d9", "#2b8a3e", "#c2255c"];
const THEIRS: &str = "#adb5bd";
const BARE: &str = "#dee2e6";

enum Figure {
    Bars(Bars),
    Scatter(Scatter),
    Curves(Curves),
}

/// The picture of what is there; `None` if nothing of it was measured.
pub(crate) fn svg(workloads: &[Workload], about: &str) -> Option<String> {
    let figures: Vec<_> = [
        bulk(workloads, "gbit_s", "Bulk: throughput", "Gbit/s, more is better", 1),
        bulk(workloads, "cpu_s_gb", "Bulk: what it costs", "CPU seconds a GB, less is better", 2),
        beside(workloads),
        desktops(workloads),
        growth(workloads, "kib_loaded", "Growth: memory", "KiB a relay that moves a slow desktop"),
        growth(
            workloads,
            "loaded_us",
            "Growth: CPU",
            "CPU µs a second a relay that moves a slow desktop",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if figures.is_empty() {
        return None;
    }
    let rows = figures.len().div_ceil(COLUMNS) as f64;
    let mut canvas = Canvas::new(WIDTH, TOP + rows * HEIGHT + BOTTOM);
    for (index, figure) in figures.iter().enumerate() {
        let width = WIDTH / COLUMNS as f64;
        let (column, row) = ((index % COLUMNS) as f64, (index / COLUMNS) as f64);
        let area = Area {
            left: column * width + MARGIN,
            top: TOP + row * HEIGHT,
            width: width - 2.0 * MARGIN,
            height: HEIGHT - MARGIN,
        };
        match figure {
            Figure::Bars(bars) => bars.draw(&mut canvas, area),
            Figure::Scatter(scatter) => scatter.draw(&mut canvas, area),
            Figure::Curves(curves) => curves.draw(&mut canvas, area),
        }
    }
    canvas.text((MARGIN, TOP + rows * HEIGHT + BOTTOM / 2.0), "start", 11.0, PALE, about);
    Some(canvas.finish())
}

fn find<'a>(workloads: &'a [Workload], name: &str) -> impl Iterator<Item = &'a Case> {
    let found = workloads.iter().find(|workload| workload.name == name);
    found.into_iter().flat_map(|workload| &workload.cases)
}

/// Median, least, most.
fn spread(case: &Case, key: &str) -> Option<[f64; 3]> {
    let values = case.values(key);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some([median(&values)?, least, most])
}

fn colour(kind: Kind, variants: &mut Vec<String>) -> &'static str {
    match kind {
        Kind::Relay(variant, _) => {
            let known = variants.iter().position(|name| *name == variant.name);
            let index = known.unwrap_or_else(|| {
                variants.push(variant.name.clone());
                variants.len() - 1
            });
            OURS[index % OURS.len()]
        }
        Kind::Floor(_) | Kind::Direct => BARE,
        _ => THEIRS,
    }
}

/// What the task is but for the part that every bar has, for a label.
fn label(case: &Case) -> String {
    let transports = case.task.split(' ').next().unwrap_or_default();
    let way = match transports {
        "tcp-tcp" if case.kind.is_relay() => " TCP",
        "websocket-websocket" => " WS → WS",
        "tcp-websocket" => " TCP → WS",
        "websocket-tcp" => " WS → TCP",
        _ => "",
    };
    match case.kind {
        Kind::Direct => "no relay".to_owned(),
        Kind::Floor(_) => "bare epoll loop".to_owned(),
        kind => format!("{kind}{way}"),
    }
}

fn bars<'a>(
    cases: impl Iterator<Item = &'a Case>,
    key: &str,
    [title, unit]: [&str; 2],
    decimals: usize,
) -> Option<Figure> {
    let mut variants = Vec::new();
    let mut bars: Vec<_> = cases
        .filter_map(|case| {
            let fill = colour(case.kind, &mut variants);
            let ours = case.kind.is_relay();
            Some(Bar { label: label(case), spread: spread(case, key)?, fill, ours })
        })
        .collect();
    // Ours together; the order stays otherwise.
    bars.sort_by_key(|bar| !bar.ours);
    let (title, unit) = (title.to_owned(), unit.to_owned());
    (!bars.is_empty()).then_some(Figure::Bars(Bars { title, unit, bars, decimals }))
}

fn bulk(
    workloads: &[Workload],
    key: &str,
    title: &str,
    unit: &str,
    decimals: usize,
) -> Option<Figure> {
    let cases = find(workloads, "bulk").filter(|case| case.task.ends_with(BULK));
    bars(cases, key, [title, &format!("8 pairs, one way, 16 KiB writes: {unit}")], decimals)
}

fn desktops(workloads: &[Workload]) -> Option<Figure> {
    let unit = "30 frames/s of 20 KiB, 60 inputs/s each: CPU, % of a core, less is better";
    bars(find(workloads, "desktops"), "cpu_percent", ["100 remote desktops", unit], 1)
}

/// What a curve of a setting is: every variant is a point.
fn beside(workloads: &[Workload]) -> Option<Figure> {
    let mut variants = Vec::new();
    let mut points: Vec<_> = find(workloads, "beside")
        .filter_map(|case| {
            let fill = colour(case.kind, &mut variants);
            let (x, y) = (spread(case, "gbit_s")?[0], spread(case, "p99_us")?);
            Some(Point { label: label(case), x, y, fill, ours: case.kind.is_relay() })
        })
        .collect();
    // Ours on top.
    points.sort_by_key(|point| point.ours);
    (!points.is_empty()).then(|| {
        Figure::Scatter(Scatter {
            title: "A ping beside bulk".to_owned(),
            unit: "slowest 1 % of 64 B round trips, beside 4 pairs with all that goes through"
                .to_owned(),
            x: "bulk Gbit/s".to_owned(),
            points,
        })
    })
}

fn growth(workloads: &[Workload], key: &str, title: &str, unit: &str) -> Option<Figure> {
    let (mut variants, mut curves) = (Vec::new(), Vec::<Curve>::new());
    for case in find(workloads, "growth") {
        let Some(([x, ..], [y, ..])) = spread(case, "relays").zip(spread(case, key)) else {
            continue;
        };
        let name = label(case);
        match curves.iter_mut().find(|curve| curve.label == name) {
            Some(curve) => curve.points.push((x, y)),
            None => curves.push(Curve {
                label: name,
                points: vec![(x, y)],
                stroke: match colour(case.kind, &mut variants) {
                    THEIRS => INK,
                    ours => ours,
                },
                dashed: case.task.starts_with("websocket"),
            }),
        }
    }
    let (title, unit) = (title.to_owned(), unit.to_owned());
    (!curves.is_empty()).then_some(Figure::Curves(Curves { title, unit, curves }))
}
