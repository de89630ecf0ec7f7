//! A flood of refusals: counted one by one, told of in a few lines.

use mini_rust_desk_relay_server::wire::{
    Transport::Tcp,
    rendezvous::{ConnType, request_relay},
};
use rustix::process::Signal;

use crate::{
    by_hand::{Wire, opening},
    process::Process,
};

/// How many of each kind.
const FLOOD: usize = 1500;

/// How many connections of the flood are open at a time.
const AT_ONCE: usize = 50;

/// Sends `bytes` from many connections, each of which is closed with nothing sent.
async fn flood(process: &Process, bytes: &[u8]) {
    for _ in 0..FLOOD / AT_ONCE {
        let mut open = Vec::new();
        for _ in 0..AT_ONCE {
            let mut wire = Wire::connect(process.gateway.addr).await;
            wire.send(bytes).await;
            open.push(wire);
        }
        for wire in open {
            assert_eq!(wire.rest().await, b"");
        }
    }
}

/// What the lines with `reason` say was left out.
fn left_out(log: &[String], reason: &str) -> usize {
    let reason = format!("reason=\"{reason}\"");
    let told = log.iter().filter(|line| line.contains(&reason));
    let told = told.filter_map(|line| line.split_once("suppressed=")?.1.split(' ').next());
    told.map(|count| count.parse::<usize>().expect("a number")).sum()
}

#[tokio::test]
async fn a_flood_is_a_few_lines_and_what_is_left_out_adds_up() {
    for level in ["debug", "info"] {
        let process = Process::start(&["--log-level", level, "-k", "right"]).await;
        let wrong = opening(Tcp, &request_relay("wrong", "", "left", ConnType::Default));
        flood(&process, b"\x01\x02\x03\x04\x05").await;
        flood(&process, &wrong).await;
        for reason in ["unknown_protocol", "key_unknown"] {
            assert_eq!(process.gateway.refusals(reason).await, FLOOD as f64, "{reason}");
        }
        let stats = process.gateway.get("/api/v1/stats").await.json();
        assert_eq!(stats["refused"]["unknown_protocol"].as_u64(), Some(FLOOD as u64));
        process.signal(Signal::TERM);
        process.line("stopped").await;
        let log = process.log();
        let logged = |said: &str| log.iter().filter(|line| line.contains(said)).count();
        let wrong_keys = logged("invalid key");
        assert!(wrong_keys >= 500, "of each the address is wanted: {wrong_keys}");
        assert_eq!(wrong_keys + left_out(&log, "key_unknown"), FLOOD);
        let strange = logged("its first bytes are");
        if level == "debug" {
            assert!(strange >= 10, "{strange}");
            assert_eq!(strange + left_out(&log, "unknown_protocol"), FLOOD);
        } else {
            assert_eq!(strange + left_out(&log, "unknown_protocol"), 0);
        }
        // A new window, and so a few lines more, every ten seconds that this takes.
        assert!(strange < FLOOD / 10, "{strange}");
    }
}
