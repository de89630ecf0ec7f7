//! What crosses a pair: the bytes that show that it is one, and those that measure it.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::{sync::Semaphore, time::Instant};

use super::leg::{Fault, Leg, MAX_MESSAGE};

/// The length of a message that measures time.
pub(super) const SMALL: usize = 64;

/// How often the round trip is measured, and how long at most.
const ROUNDS: usize = 20;
const ROUNDS_LIMIT: Duration = Duration::from_secs(1);

/// How much is sent to measure throughput, and for how long at most.
const VOLUME: usize = 64 << 20;
const VOLUME_LIMIT: Duration = Duration::from_secs(2);

/// How much may be on its way: all of it has to arrive when the time is up.
const IN_FLIGHT: usize = 16;

/// Each message of the volume begins with its number; this one ends it.
const END: u64 = u64::MAX;

/// How long messages took there and back.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct RoundTrip {
    pub(super) median_ms: f64,
    pub(super) min_ms: f64,
    pub(super) rounds: usize,
}

/// How much came through one way, and in what time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Throughput {
    pub(super) bytes: usize,
    pub(super) seconds: f64,
    pub(super) megabytes_per_second: f64,
}

/// Bytes that nobody else sends, and that do not compress.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Fault::Io(std::io::Error::other(error)))?;
    Ok(bytes)
}

/// What comes next at `leg` must be `sent`.
pub(super) async fn expect(leg: &mut Leg, sent: &[u8]) -> Result<(), Fault> {
    match leg.receive().await? {
        Some(message) if message == sent => Ok(()),
        Some(_) => Err(Fault::NotOurs),
        None => Err(Fault::Closed),
    }
}

/// Sends messages there and back, one at a time.
pub(super) async fn round_trip(first: &mut Leg, second: &mut Leg) -> Result<RoundTrip, Fault> {
    let message: [u8; SMALL] = random()?;
    let begun = Instant::now();
    let mut times = Vec::with_capacity(ROUNDS);
    while times.len() < ROUNDS && (times.is_empty() || begun.elapsed() < ROUNDS_LIMIT) {
        let sent = Instant::now();
        first.send(&message).await?;
        expect(second, &message).await?;
        second.send(&message).await?;
        expect(first, &message).await?;
        times.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let rounds = times.len();
    Ok(RoundTrip { median_ms: times[rounds / 2], min_ms: times[0], rounds })
}

/// Sends as much as goes one way, and verifies every byte of it.
pub(super) async fn throughput(first: &mut Leg, second: &mut Leg) -> Result<Throughput, Fault> {
    let mut message = vec![0; MAX_MESSAGE];
    getrandom::fill(&mut message).map_err(|error| Fault::Io(std::io::Error::other(error)))?;
    let pattern = Bytes::copy_from_slice(&message[size_of::<u64>()..]);
    let window = Semaphore::new(IN_FLIGHT);
    let begun = Instant::now();
    let ((), bytes) =
        tokio::try_join!(pour(first, message, &window), drain(second, &pattern, &window))?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Throughput { bytes, seconds, megabytes_per_second: bytes as f64 / 1e6 / seconds })
}

async fn pour(leg: &mut Leg, mut message: Vec<u8>, window: &Semaphore) -> Result<(), Fault> {
    let begun = Instant::now();
    for number in 0..(VOLUME / MAX_MESSAGE) as u64 {
        if begun.elapsed() >= VOLUME_LIMIT {
            break;
        }
        // Given back by the side that receives; the semaphore is never closed.
        if let Ok(permit) = window.acquire().await {
            permit.forget();
        }
        message[..size_of::<u64>()].copy_from_slice(&number.to_le_bytes());
        leg.send(&message).await?;
    }
    leg.send(&END.to_le_bytes()).await
}

async fn drain(leg: &mut Leg, pattern: &[u8], window: &Semaphore) -> Result<usize, Fault> {
    let mut bytes = 0;
    for number in 0_u64.. {
        let message = leg.receive().await?.ok_or(Fault::Closed)?;
        if *message == END.to_le_bytes() {
            break;
        }
        let (head, rest) = message.split_first_chunk().ok_or(Fault::NotOurs)?;
        if u64::from_le_bytes(*head) != number || rest != pattern {
            return Err(Fault::NotOurs);
        }
        bytes += message.len();
        window.add_permits(1);
    }
    Ok(bytes)
}
