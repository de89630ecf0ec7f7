//! As many bytes as will go through a pair: a blocking thread fills it, another one drains it.

use std::{
    io::{ErrorKind, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use mini_rust_desk_relay_server::wire::Transport;

use crate::{
    client::{self, Leg},
    machine::cores,
    process::own_cpu,
    stream::{Reader, Ring},
    subject::Subject,
};

const BUFFER: usize = 256 << 10;

/// How often a receiver that has nothing to read looks whether everything has arrived.
const LOOK: Duration = Duration::from_millis(50);

/// A receiver that has nothing to read for so many looks fails.
const LOOKS: u32 = 100;

const GIGA: f64 = 1e9;

/// What all threads of a measurement share.
pub(crate) struct Shared {
    ring: Ring,
    stop: AtomicBool,
    /// Bytes of payload.
    received: AtomicU64,
}

/// Which way the bytes of a pair go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// From the first leg to the second.
    One,
    /// Both at once; the legs must be of one transport, for they send the same.
    Both,
}

/// What went through in a while.
pub(crate) struct Watched {
    pub(crate) gbit_s: f64,
    /// The program's, where there is one.
    pub(crate) cpu_s_gb: Option<f64>,
    pub(crate) generator_s_gb: f64,
    /// The share of all cores that the program and the generator used.
    pub(crate) busy: f64,
}

/// A pair that is being filled.
pub(crate) struct Flow<'scope> {
    directions: Vec<Direction<'scope>>,
}

struct Direction<'scope> {
    sender: ScopedJoinHandle<'scope, anyhow::Result<u64>>,
    receiver: ScopedJoinHandle<'scope, anyhow::Result<u64>>,
}

impl Shared {
    /// For messages of `len` bytes, framed as legs of this transport send them.
    pub(crate) fn new(transport: Transport, len: usize) -> anyhow::Result<Self> {
        let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { ring: Ring::new(transport, len)?, stop, received })
    }

    /// Ends every flow.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn take(&self, reader: &mut Reader<'_>, bytes: &[u8]) -> anyhow::Result<()> {
        let before = reader.received;
        reader.take(bytes)?;
        ensure!(reader.checked > 0 || reader.received == 0, "nothing was compared");
        self.received.fetch_add(reader.received - before, Ordering::Relaxed);
        Ok(())
    }

    /// Looks at what goes through while `meanwhile` lasts.
    pub(crate) fn watch<T>(
        &self,
        subject: &Subject,
        meanwhile: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(Watched, T)> {
        let (cpu_before, own_before) = (subject.cpu()?, own_cpu()?);
        let (before, since) = (self.received.load(Ordering::Relaxed), Instant::now());
        let done = meanwhile()?;
        let (cpu, own) = (subject.cpu()?, own_cpu()?.saturating_sub(own_before).as_secs_f64());
        let took = since.elapsed();
        let bytes = (self.received.load(Ordering::Relaxed) - before) as f64;
        ensure!(bytes > 0.0, "nothing arrived for {took:?}");
        let cpu = cpu.zip(cpu_before).map(|(now, before)| seconds(now.saturating_sub(before)));
        let took = took.as_secs_f64();
        let watched = Watched {
            gbit_s: bytes * 8.0 / took / GIGA,
            cpu_s_gb: cpu.map(|cpu| cpu * GIGA / bytes),
            generator_s_gb: own * GIGA / bytes,
            busy: (own + cpu.unwrap_or(0.0)) / took / cores() as f64,
        };
        Ok((watched, done))
    }
}

const fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

impl<'scope> Flow<'scope> {
    pub(crate) fn start(
        scope: &'scope Scope<'scope, '_>,
        mut pair: [Leg; 2],
        ways: Ways,
        shared: &'scope Shared,
    ) -> anyhow::Result<Self> {
        // Paired for certain, before anything is counted.
        client::echo(&mut pair, b"ready")?;
        let [first, second] = pair;
        let directions = match ways {
            Ways::One => vec![Direction::start(scope, first, second, ways, shared)],
            Ways::Both => {
                let there = Direction::start(scope, first.again()?, second.again()?, ways, shared);
                vec![there, Direction::start(scope, second, first, ways, shared)]
            }
        };
        Ok(Self { directions })
    }

    /// After [`Shared::stop`]: whether everything arrived.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        for Direction { sender, receiver } in self.directions {
            let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
            let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
            // A failing receiver makes the sender fail too, later: its reason is the one to tell.
            let (received, sent) = (received?, sent?);
            ensure!(sent == received, "{sent} bytes were sent and {received} arrived");
        }
        Ok(())
    }
}

impl<'scope> Direction<'scope> {
    fn start(
        scope: &'scope Scope<'scope, '_>,
        mut from: Leg,
        to: Leg,
        ways: Ways,
        shared: &'scope Shared,
    ) -> Self {
        let goal = Arc::new(AtomicU64::new(u64::MAX));
        let told = Arc::clone(&goal);
        Self {
            sender: scope.spawn(move || match ways {
                Ways::One => send_to_the_end(from, shared),
                Ways::Both => {
                    let sent = send(&mut from, shared)?;
                    told.store(sent, Ordering::Relaxed);
                    Ok(sent)
                }
            }),
            receiver: scope.spawn(move || match ways {
                Ways::One => receive_to_the_end(to, shared),
                Ways::Both => receive_until(&goal, to, shared),
            }),
        }
    }
}

/// Returns how many bytes of payload were sent.
fn send_to_the_end(mut leg: Leg, shared: &Shared) -> anyhow::Result<u64> {
    let sent = send(&mut leg, shared)?;
    leg.finish()?;
    // What it was sent would be lost, were it closed before the relay has read everything.
    let _ = leg.socket.read(&mut [0; 64]);
    Ok(sent)
}

fn send(leg: &mut Leg, shared: &Shared) -> anyhow::Result<u64> {
    let mut sent = 0;
    for message in shared.ring.cycle() {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        leg.send_raw(message)?;
        sent += shared.ring.message_len() as u64;
    }
    Ok(sent)
}

/// Returns how many bytes of payload arrived.
fn receive_to_the_end(mut leg: Leg, shared: &Shared) -> anyhow::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut reader = Reader::new(leg.transport, &shared.ring);
    while !reader.has_ended() {
        let len = leg.socket.read(&mut buffer).context("the bytes stop coming")?;
        if len == 0 {
            break;
        }
        shared.take(&mut reader, &buffer[..len])?;
    }
    let _ = leg.finish();
    Ok(reader.received)
}

/// The same without an end, which some forwarders cannot pass on while bytes go the other way.
fn receive_until(goal: &AtomicU64, mut leg: Leg, shared: &Shared) -> anyhow::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut reader = Reader::new(leg.transport, &shared.ring);
    leg.socket.set_read_timeout(Some(LOOK))?;
    let mut looks = 0;
    while reader.received < goal.load(Ordering::Relaxed) {
        match leg.socket.read(&mut buffer) {
            // Whoever has sent and heard everything closes; how much came is compared later.
            Ok(0) => break,
            Ok(len) => {
                looks = 0;
                shared.take(&mut reader, &buffer[..len])?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && looks < LOOKS => looks += 1,
            Err(error) => return Err(error).context("the bytes stop coming"),
        }
    }
    Ok(reader.received)
}
