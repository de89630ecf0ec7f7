//! What is said of many delays.

use std::time::Duration;

/// The delays, in µs, that these shares of all do not exceed; zeroes if there are none.
pub(crate) fn micros<const N: usize>(delays: &mut [Duration], shares: [f64; N]) -> [f64; N] {
    delays.sort_unstable();
    shares.map(|share| {
        let at = (delays.len() as f64 * share) as usize;
        delays.get(at).map_or(0.0, |delay| delay.as_secs_f64() * 1e6)
    })
}
