//! Bulk through TLS: what the relay's part of it costs. The generator seals and opens as much, on
//! the same cores.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use anyhow::{anyhow, ensure};
use mini_rust_desk_relay_server::wire::{
    Transport,
    rendezvous::{ConnType, request_relay},
};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{UPGRADE, outgoing, unique_uuid},
    kind::{Kind, Logs},
    options::Scale,
    process::own_cpu,
    subject::Subject,
    tls::{Certificate, Socket, Ticket},
};

const PAIRS: usize = 4;
const LEN: usize = 16 << 10;
const BUFFER: usize = 256 << 10;
const GIGA: f64 = 1e9;

/// How a leg comes.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    transport: Transport,
    has_tls: bool,
}

const TCP: Way = Way { name: "tcp", transport: Transport::Tcp, has_tls: false };
const TLS: Way = Way { name: "tls", transport: Transport::Tcp, has_tls: true };
const WS: Way = Way { name: "ws", transport: Transport::WebSocket, has_tls: false };
const WSS: Way = Way { name: "wss", transport: Transport::WebSocket, has_tls: true };

pub(crate) fn workload(plan: &Plan) -> Workload {
    let scale = plan.scale;
    let mut cases = Vec::new();
    for ways in [[TCP, TCP], [TLS, TLS], [WS, WS], [WSS, WSS], [WSS, TCP], [TCP, WSS]] {
        for variant in plan.variants.iter().copied() {
            let kind = Kind::TlsRelay(variant, Logs::File);
            let task = format!("{} → {}", ways[0].name, ways[1].name);
            cases.push(Case::new(task, kind, move |subject| measure(subject, ways, &scale)));
        }
    }
    Workload {
        name: "sealed",
        title: format!("Bulk through TLS 1.3, {PAIRS} pairs, messages of {} KiB", LEN >> 10),
        columns: vec![
            Column::new("gbit_s", "Gbit/s", 2),
            Column::new("cpu_s_gb", "its CPU s/GB", 3),
            Column::new("generator_s_gb", "generator's CPU s/GB", 3),
        ],
        yardsticks: vec![],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "AES-256-GCM, in the relay once for each leg with TLS. Framing is counted as payload.",
    }
}

fn measure(subject: &Subject, ways: [Way; 2], scale: &Scale) -> anyhow::Result<Sample> {
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push(pair(subject, ways)?);
    }
    let message = outgoing(ways[0].transport, &vec![0x5a; LEN])?;
    let (stop, received, message) = (&stop, &received, &message[..]);
    thread::scope(|scope| {
        let mut ends = Vec::new();
        let mut threads = Vec::new();
        for [from, to] in pairs {
            ends.extend([from.tcp().try_clone()?, to.tcp().try_clone()?]);
            threads.push(scope.spawn(move || send(from, message, stop)));
            threads.push(scope.spawn(move || receive(to, received, stop)));
        }
        thread::sleep(scale.bulk_warm_up);
        let cpu = || subject.process()?.fine_cpu();
        let (cpu_before, own_before) = (cpu()?, own_cpu()?);
        let (before, since) = (received.load(Ordering::Relaxed), Instant::now());
        thread::sleep(scale.bulk_window);
        let took = since.elapsed().as_secs_f64();
        let bytes = (received.load(Ordering::Relaxed) - before) as f64;
        let (cpu, own) = (cpu()?.saturating_sub(cpu_before), own_cpu()?.saturating_sub(own_before));
        stop.store(true, Ordering::Relaxed);
        // Wakes whoever still waits for the other side.
        ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        ensure!(bytes > 0.0, "nothing arrives");
        Ok(vec![
            ("gbit_s", bytes * 8.0 / took / GIGA),
            ("cpu_s_gb", cpu.as_secs_f64() * GIGA / bytes),
            ("generator_s_gb", own.as_secs_f64() * GIGA / bytes),
        ])
    })
}

fn send(mut socket: Socket, message: &[u8], stop: &AtomicBool) -> anyhow::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match socket.write_all(message) {
            Err(_) if stop.load(Ordering::Relaxed) => break,
            sent => sent?,
        }
    }
    Ok(())
}

fn receive(mut socket: Socket, received: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(len) => {
                ensure!(len > 0 || stop.load(Ordering::Relaxed), "the end comes early");
                received.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Two legs that have heard each other.
fn pair(subject: &Subject, ways: [Way; 2]) -> anyhow::Result<[Socket; 2]> {
    let uuid = unique_uuid();
    let [mut first, mut second] =
        [arrive(subject, ways[0], &uuid)?, arrive(subject, ways[1], &uuid)?];
    second.write_all(&outgoing(ways[1].transport, b"ready")?)?;
    let mut byte = [0];
    ensure!(first.read(&mut byte)? == 1, "the pair is not made");
    Ok([first, second])
}

fn arrive(subject: &Subject, way: Way, uuid: &str) -> anyhow::Result<Socket> {
    let config = way.has_tls.then(|| Certificate::get()?.client(Ticket::Never)).transpose()?;
    let mut socket = Socket::connect(subject.addr(), config.as_ref())?;
    if way.transport == Transport::WebSocket {
        socket.write_all(UPGRADE)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            ensure!(socket.read(&mut byte)? == 1, "an upgrade is not answered");
            answer.extend(byte);
        }
        ensure!(answer.starts_with(b"HTTP/1.1 101"), "an upgrade is refused");
    }
    let hello = request_relay(uuid, "", "", ConnType::Default);
    socket.write_all(&outgoing(way.transport, &hello)?)?;
    Ok(socket)
}
