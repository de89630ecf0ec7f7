//! TLS handshakes: a request over HTTPS on a connection of its own, answered and closed; beside
//! the same without TLS, and beside HAProxy with the same certificate.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};

use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    kind::{Kind, Logs},
    machine::cores,
    subject::Subject,
    tls::{Certificate, Socket, Ticket},
};

/// So that the accounts of a connection that has just ended are on the same side of the clock.
const AFTERMATH: Duration = Duration::from_millis(100);

/// How many clients there are for each core.
const CLIENTS: usize = 4;

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: relay.bench\r\nConnection: close\r\n\r\n";

pub(crate) fn workload(plan: &Plan) -> Workload {
    let window = plan.scale.handshake_window;
    let relays = plan.variants.iter().map(|variant| Kind::TlsRelay(variant, Logs::File));
    let kinds: Vec<_> = relays.chain([Kind::TlsHaProxy]).collect();
    let mut cases = Vec::new();
    for (task, ticket) in
        [("plain", None), ("full", Some(Ticket::Never)), ("resumed", Some(Ticket::Always))]
    {
        for kind in kinds.iter().copied() {
            cases.push(Case::new(task, kind, move |subject| measure(subject, ticket, window)));
        }
    }
    Workload {
        name: "handshakes",
        title: "A request on a connection of its own: plain, and with TLS 1.3, full and resumed"
            .to_owned(),
        columns: vec![
            Column::new("each_s", "a second", 0).with_ratio(),
            Column::new("cpu_us", "its CPU µs each", 0).with_ratio(),
        ],
        yardsticks: vec![Kind::TlsHaProxy],
        rounds: plan.scale.rounds,
        fresh: false,
        cases,
        notes: "ECDSA P-256, X25519. The generator's own handshakes take about as much of the two \
                cores as the program's.",
    }
}

fn measure(subject: &Subject, ticket: Option<Ticket>, window: Duration) -> anyhow::Result<Sample> {
    let before = subject.process()?.fine_cpu()?;
    let since = Instant::now();
    let counts: anyhow::Result<Vec<usize>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS * cores())
            .map(|_| scope.spawn(move || ask(subject, ticket, since + window)))
            .collect();
        let join = |client: thread::ScopedJoinHandle<'_, _>| {
            client.join().map_err(|_| anyhow!("a client panicked"))?
        };
        clients.into_iter().map(join).collect()
    });
    let (count, took) = (counts?.into_iter().sum::<usize>() as f64, since.elapsed());
    thread::sleep(AFTERMATH);
    let cpu = subject.process()?.fine_cpu()?.saturating_sub(before);
    Ok(vec![("each_s", count / took.as_secs_f64()), ("cpu_us", cpu.as_secs_f64() * 1e6 / count)])
}

/// Asks until the time is over; how often.
fn ask(subject: &Subject, ticket: Option<Ticket>, until: Instant) -> anyhow::Result<usize> {
    let certificate = Certificate::get()?;
    let config = ticket.map(|ticket| certificate.client(ticket)).transpose()?;
    let addr = if ticket.is_some() { subject.tls_addr() } else { subject.addr() };
    let mut count = 0;
    while Instant::now() < until {
        let mut socket = Socket::connect(addr, config.as_ref())?;
        let is_resumed = ticket == Some(Ticket::Always) && count > 0;
        socket.ensure_resumed(is_resumed)?;
        socket.write_all(REQUEST)?;
        let mut answer = Vec::new();
        // HAProxy does not say in TLS that it closes.
        let _ = socket.read_to_end(&mut answer);
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "an answer is {answer:?}");
        count += 1;
    }
    Ok(count)
}
