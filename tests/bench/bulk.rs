//! As many bytes as will go, one way: from the first leg of every pair to the second.

use std::{
    io::Read as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use mini_rust_desk_relay_server::wire::Transport;

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{self, Leg},
    machine::cores,
    options::Scale,
    process::own_cpu,
    stream::{Reader, Ring},
    subject::{Kind, Subject},
};

const MESSAGE: usize = 16 << 10;

const BUFFER: usize = 256 << 10;

const GIGA: f64 = 1e9;

pub(crate) fn workload(plan: &Plan) -> Workload {
    use Transport::{Tcp, WebSocket};
    let scale = plan.scale;
    let mut cases = Vec::new();
    for transports in [[Tcp, Tcp], [WebSocket, WebSocket], [Tcp, WebSocket], [WebSocket, Tcp]] {
        let yardsticks = match transports {
            [Tcp, Tcp] => vec![Kind::HaProxy, Kind::Nginx, Kind::Floor(cores()), Kind::Direct],
            _ => Vec::new(),
        };
        for pairs in [1, 8] {
            for kind in plan.relay_kinds().chain(yardsticks.clone()) {
                let [from, to] = transports.map(Transport::label);
                let task = format!("{from}-{to} x{pairs}");
                cases.push(Case::new(task, kind, move |subject| {
                    measure(subject, transports, pairs, &scale)
                }));
            }
        }
    }
    Workload {
        name: "bulk",
        title: format!("Bulk, one way, {} KiB writes", MESSAGE >> 10),
        columns: vec![
            Column::new("gbit_s", "Gbit/s", 2).with_ratio(),
            Column::new("cpu_s_gb", "its CPU s/GB", 3).with_ratio(),
            Column::new("generator_s_gb", "generator's CPU s/GB", 3),
            Column::new("busy", "cores busy %", 0),
        ],
        yardsticks: vec![Kind::HaProxy, Kind::Nginx, Kind::Floor(cores())],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "Payload only, 1 GB = 10⁹ bytes. Every byte is counted and one MiB of every 16 is \
                compared. Near 100 % busy the figure is what the cores have left for the program \
                beside the generator; below, somebody waits for somebody.",
    }
}

/// What the threads of a measurement share.
struct Shared<'a> {
    ring: &'a Ring,
    stop: &'a AtomicBool,
    received: &'a AtomicU64,
}

fn measure(
    subject: &Subject,
    transports: [Transport; 2],
    pairs: usize,
    scale: &Scale,
) -> anyhow::Result<Sample> {
    let ring = Ring::new(transports[0], MESSAGE)?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut legs = Vec::new();
    for _ in 0..pairs {
        let mut pair = subject.pair(transports)?;
        // Paired for certain, before anything is counted.
        client::echo(&mut pair, b"ready")?;
        legs.push(pair);
    }
    thread::scope(|scope| {
        let shared = Shared { ring: &ring, stop: &stop, received: &received };
        let moving: Vec<_> =
            legs.into_iter().map(|pair| Moving::start(scope, pair, &shared)).collect();
        thread::sleep(scale.bulk_warm_up);
        let sample = watch(subject, &received, scale.bulk_window);
        stop.store(true, Ordering::Relaxed);
        for pair in moving {
            pair.finish()?;
        }
        sample
    })
}

fn watch(subject: &Subject, received: &AtomicU64, window: Duration) -> anyhow::Result<Sample> {
    let (cpu_before, own_before) = (subject.cpu()?, own_cpu()?);
    let (bytes_before, since) = (received.load(Ordering::Relaxed), Instant::now());
    thread::sleep(window);
    let (cpu, own) = (subject.cpu()?, own_cpu()?.saturating_sub(own_before).as_secs_f64());
    let took = since.elapsed().as_secs_f64();
    let bytes = (received.load(Ordering::Relaxed) - bytes_before) as f64;
    ensure!(bytes > 0.0, "nothing arrived for {window:?}");
    let mut sample =
        vec![("gbit_s", bytes * 8.0 / took / GIGA), ("generator_s_gb", own * GIGA / bytes)];
    let cpu = cpu.zip(cpu_before).map(|(now, before)| now.saturating_sub(before).as_secs_f64());
    if let Some(cpu) = cpu {
        sample.push(("cpu_s_gb", cpu * GIGA / bytes));
    }
    let busy = (own + cpu.unwrap_or(0.0)) / took / cores() as f64;
    sample.push(("busy", busy * 100.0));
    Ok(sample)
}

/// A pair that is being filled.
struct Moving<'scope> {
    sender: ScopedJoinHandle<'scope, anyhow::Result<u64>>,
    receiver: ScopedJoinHandle<'scope, anyhow::Result<u64>>,
}

impl<'scope> Moving<'scope> {
    fn start<'a: 'scope>(
        scope: &'scope Scope<'scope, '_>,
        [first, second]: [Leg; 2],
        shared: &Shared<'a>,
    ) -> Self {
        let &Shared { ring, stop, received } = shared;
        Self {
            sender: scope.spawn(move || send(first, ring, stop)),
            receiver: scope.spawn(move || receive(second, ring, received)),
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let received = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        // A failing receiver makes the sender fail too, later: its reason is the one to tell.
        let (received, sent) = (received?, sent?);
        ensure!(sent == received, "{sent} bytes were sent and {received} arrived");
        Ok(())
    }
}

/// Returns how many bytes of payload were sent.
fn send(mut leg: Leg, ring: &Ring, stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut sent = 0;
    for message in ring.cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        leg.send_raw(message)?;
        sent += MESSAGE as u64;
    }
    leg.finish()?;
    // What it was sent would be lost, were it closed before the relay has read everything.
    let _ = leg.socket.read(&mut [0; 64]);
    Ok(sent)
}

/// Returns how many bytes of payload arrived.
fn receive(mut leg: Leg, ring: &Ring, received: &AtomicU64) -> anyhow::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut reader = Reader::new(leg.transport, ring);
    while !reader.has_ended() {
        let len = leg.socket.read(&mut buffer).context("the bytes stop coming")?;
        if len == 0 {
            break;
        }
        let before = reader.received;
        reader.take(&buffer[..len])?;
        received.fetch_add(reader.received - before, Ordering::Relaxed);
    }
    ensure!(reader.checked > 0, "nothing was compared");
    let _ = leg.finish();
    Ok(reader.received)
}
