//! Tables in Markdown, ready for the README, and all single measurements in JSON.

use serde_json::{Value, json};

use crate::{
    case::{Case, Column, Workload, value},
    machine::Machine,
    options::Options,
};

pub(crate) fn markdown(workload: &Workload) -> String {
    let yardstick = workload.yardsticks.iter().find(|kind| {
        workload.cases.iter().any(|case| case.kind == **kind && !case.samples.is_empty())
    });
    let mut head = vec!["".to_owned(), "".to_owned()];
    for column in &workload.columns {
        head.push(column.title.to_owned());
        if let Some(kind) = yardstick.filter(|_| column.ratio) {
            head.push(format!("× {kind}"));
        }
    }
    let mut text = format!("### {}\n\n", workload.title);
    text.push_str(&row(&head));
    text.push_str(&row(&vec!["---".to_owned(); head.len()]));
    for case in &workload.cases {
        let base = yardstick.and_then(|kind| {
            workload.cases.iter().find(|base| base.kind == *kind && base.task == case.compared)
        });
        let mut cells = vec![case.task.clone(), case.kind.to_string()];
        for column in &workload.columns {
            cells.push(cell(&case.values(column.key), column.decimals));
            if yardstick.is_some() && column.ratio {
                cells.push(base.map_or_else(String::new, |base| ratio(case, base, column)));
            }
        }
        text.push_str(&row(&cells));
    }
    text.push('\n');
    text.push_str(workload.notes);
    text.push('\n');
    text
}

pub(crate) fn json(machine: &Machine, options: &Options, workloads: &[Workload]) -> Value {
    let cases = workloads.iter().flat_map(|workload| {
        workload.cases.iter().map(|case| {
            json!({
                "workload": workload.name,
                "task": case.task,
                "program": case.kind.to_string(),
                "rounds": case.samples.iter().map(|sample| {
                    sample.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
                }).collect::<Vec<serde_json::Map<_, _>>>(),
            })
        })
    });
    json!({ "machine": machine, "quick": options.quick, "cases": cases.collect::<Vec<_>>() })
}

/// The value in the middle; between the two in the middle for an even count.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(*upper) } else { Some((sorted[middle - 1] + upper) / 2.0) }
}

fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn cell(values: &[f64], decimals: usize) -> String {
    let Some(median) = median(values) else { return "–".to_owned() };
    let shown = |value: f64| format!("{value:.decimals$}");
    let least = shown(values.iter().copied().fold(f64::INFINITY, f64::min));
    let most = shown(values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    if least == most { shown(median) } else { format!("{} ({least}–{most})", shown(median)) }
}

/// Round by round, so that both have met the same disturbances.
fn ratio(case: &Case, base: &Case, column: &Column) -> String {
    let rounds = case.samples.iter().zip(&base.samples);
    let ratios = rounds
        .filter_map(|(sample, base)| Some(value(sample, column.key)? / value(base, column.key)?));
    match median(&ratios.collect::<Vec<_>>()) {
        Some(ratio) if ratio.is_finite() && case.kind != base.kind => format!("{ratio:.2}"),
        _ => String::new(),
    }
}
