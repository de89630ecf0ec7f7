//! What a pair and a MiB cost, counted and not timed: system calls by strace, instructions and
//! allocations by callgrind. A bound that is broken is a regression, whatever the machine does
//! meanwhile.
//!
//! Every figure is the difference between a small and a large run, so that starting and ending
//! the relay is in none, and a third to a half above what it was when it was last set, so that only
//! something new breaks it. Debug builds count other instructions and are not held to them; `.ci/run`
//! names the program as it is shipped (`COST_SUBJECT=$(.ci/static) cargo test --test cost`).

mod count;
mod load;
mod relay;
#[path = "../support/requirement.rs"]
mod requirement;

use std::collections::BTreeMap;

use self::{
    count::{callgrind, strace},
    load::Load,
};

/// Names with how often each was called.
type Counts = BTreeMap<String, u64>;

/// How much more of each was counted in the large run, for each of its `more` units.
fn each(small: &Counts, large: &Counts, more: u64) -> BTreeMap<String, f64> {
    large
        .iter()
        .map(|(name, calls)| {
            let before = small.get(name).copied().unwrap_or(0);
            (name.clone(), calls.saturating_sub(before) as f64 / more as f64)
        })
        .filter(|(_, calls)| *calls >= 0.005)
        .collect()
}

fn told(each: &BTreeMap<String, f64>) -> String {
    let mut rows: Vec<_> = each.iter().collect();
    rows.sort_by(|a, b| b.1.total_cmp(a.1));
    rows.iter().take(12).map(|(name, calls)| format!("{name} {calls:.2}, ")).collect()
}

/// System calls for each unit of a load, at most `bound`.
fn system_calls(what: &str, load: impl Fn(u64) -> Load, [few, many]: [u64; 2], bound: f64) {
    let Some(small) = strace(&load(few)) else { return };
    let Some(large) = strace(&load(many)) else { return };
    let each = each(&small, &large, many - few);
    let sum: f64 = each.values().sum();
    println!("{what}: {sum:.1} system calls, at most {bound}: {}", told(&each));
    assert!(sum <= bound, "{what}: {sum:.1} system calls, at most {bound}: {}", told(&each));
}

/// Instructions and allocations for each unit of a load, at most these.
fn instructions(
    what: &str,
    load: impl Fn(u64) -> Load,
    [few, many]: [u64; 2],
    [most_instructions, most_allocations]: [f64; 2],
) {
    if !relay::is_release() {
        println!("SKIPPED: not a release build (COST_SUBJECT=$(.ci/static) names one)");
        return;
    }
    // The first of three that is within the bounds: what runs by the clock, and whom it wakes, only adds.
    for tries_left in (0..3).rev() {
        let Some((small, before)) = callgrind(&load(few)) else { return };
        let Some((large, after)) = callgrind(&load(many)) else { return };
        let spent = large.saturating_sub(small) as f64 / (many - few) as f64;
        let each = each(&before, &after, many - few);
        let allocations: f64 = each.values().sum();
        let said = format!(
            "{what}: {spent:.0} instructions, at most {most_instructions}; {allocations:.2} \
             allocations, at most {most_allocations}: {}",
            told(&each)
        );
        println!("{said}");
        if spent <= most_instructions && allocations <= most_allocations {
            return;
        }
        assert!(tries_left > 0, "{said}");
    }
}

#[test]
fn system_calls_of_a_pair() {
    system_calls("a pair", Load::Pairs, [100, 300], 34.0);
}

#[test]
fn system_calls_of_a_mebibyte_between_tcp_legs() {
    system_calls("a MiB, TCP to TCP", Load::TcpToTcp, [64, 320], 20.0);
}

#[test]
fn system_calls_of_a_mebibyte_between_websockets() {
    system_calls("a MiB, WebSocket to WebSocket", Load::WebSocketToWebSocket, [64, 192], 26.0);
}

#[test]
fn instructions_of_a_pair() {
    instructions("a pair", Load::Pairs, [100, 1_100], [80_000.0, 26.0]);
}

#[test]
fn instructions_of_a_mebibyte_between_tcp_legs() {
    instructions("a MiB, TCP to TCP", Load::TcpToTcp, [16, 528], [20_000.0, 0.5]);
}

#[test]
fn instructions_of_a_mebibyte_between_websockets() {
    let load = Load::WebSocketToWebSocket;
    instructions("a MiB, WebSocket to WebSocket", load, [16, 80], [80_000.0, 0.5]);
}

/// A peer that sends one byte at a time costs a read and a write for each, and keeps nothing.
#[test]
fn a_byte_at_a_time_costs_what_its_bytes_cost() {
    let load = Load::SingleBytes;
    system_calls("a byte alone, WebSocket to WebSocket", load, [500, 4_500], 3.5);
    instructions("a byte alone, WebSocket to WebSocket", load, [500, 4_500], [6_000.0, 0.1]);
}
