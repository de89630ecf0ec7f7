//! The same for hours: rounds of failing clients beside honest pairs and reloads, with a report.
//! `.ci/soak 8h` runs it.

use std::{
    env,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::{
    config,
    wire::Transport::{self, Tcp, WebSocket},
};
use rustix::process::Signal;

use super::{CONNECTIONS, House, MEMORY};

/// Honest pairs of a round, by their transports.
const PAIRS: [[Transport; 2]; 4] =
    [[Tcp, Tcp], [Tcp, WebSocket], [WebSocket, Tcp], [WebSocket, WebSocket]];

/// How long the messages are that each of them sends.
const SIZES: [usize; 5] = [0, 1, 1_400, 70_000, 2 << 20];

/// What has been done, and what is left of it.
#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    rounds: u64,
    failures: u64,
    pairs: u64,
    bytes: u64,
    memory: u64,
    sockets: usize,
}

impl Sample {
    fn tell(&self) {
        println!(
            "{:>7} s: {} rounds, {} clients failed, {} pairs, {} MiB, memory {} KiB, {} sockets",
            self.at.as_secs(),
            self.rounds,
            self.failures,
            self.pairs,
            self.bytes >> 20,
            self.memory >> 10,
            self.sockets
        );
    }

    async fn grow(&mut self, house: &House, since: Instant) {
        self.failures += house.round().await as u64;
        for [first, second] in PAIRS {
            let mut legs = house.gateway().pair(first, second).await;
            for len in SIZES {
                let message = vec![len as u8 ^ 0x5A; len];
                let (sent, received) = tokio::join!(legs.0.send(&message), legs.1.receive());
                let () = sent;
                assert!(received.as_deref() == Some(&message[..]), "{len} bytes were changed");
                let (sent, received) = tokio::join!(legs.1.send(&message), legs.0.receive());
                let () = sent;
                assert!(received.as_deref() == Some(&message[..]), "{len} bytes were changed");
                self.bytes += 2 * len as u64;
            }
            self.pairs += 1;
        }
        house.process.signal(Signal::HUP);
        house.gateway().until_quiet().await;
        self.rounds += 1;
        self.at = since.elapsed();
        self.memory = house.process.memory();
        self.sockets = house.sockets_and_others().0;
        self.tell();
    }
}

/// Until the time is over, or Ctrl-C.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for as long as SOAK says: .ci/soak 8h"]
async fn soak() {
    let wanted = env::var("SOAK").expect("SOAK=8h, for instance");
    let wanted: config::Duration = wanted.parse().expect("SOAK is a duration, such as 8h");
    let mut house = House::start(CONNECTIONS).await;
    let since = Instant::now();
    let (at, memory) = (Duration::ZERO, house.process.memory());
    let sockets = house.sockets_and_others().0;
    let mut now = Sample { at, rounds: 0, failures: 0, pairs: 0, bytes: 0, memory, sockets };
    // What is made once and kept is made in the first rounds.
    let mut settled = now;
    while since.elapsed() < wanted.get() {
        tokio::select! {
            () = now.grow(&house, since) => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.expect("a signal");
                break;
            }
        }
        if now.rounds <= 3 {
            settled = now;
        }
    }
    let grown = now.memory as f64 - settled.memory as f64;
    let hours = (now.at - settled.at).as_secs_f64() / 3600.0;
    println!("settled:");
    settled.tell();
    println!("at the end:");
    now.tell();
    println!("memory grew by {:.0} KiB in {hours:.2} h", grown / 1024.0);
    assert!(house.process.is_running(), "the relay has ended");
    // Those who ask have connections of their own, just closed or not quite.
    assert!(now.sockets <= settled.sockets + 2, "sockets are left");
    assert!(now.memory <= settled.memory + MEMORY, "memory grows");
}
