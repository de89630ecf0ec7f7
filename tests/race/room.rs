//! The relay's own waiting room, `src/relay/pairing.rs` as it is, with shuttle's locks and atomics
//! and a clock of ours under it: in this crate `std` is this crate.
//!
//! Whatever the room asks of the rest of the relay is the real thing, sockets too.

extern crate self as std;
extern crate std as real;

pub use mini_rust_desk_relay_server::{
    config, key_ring, metrics,
    relay::{capacity, passage, request, route},
    wire,
};
pub use real::*;

#[path = "../../src/relay/pairing.rs"]
pub mod pairing;

/// The system's, and the relay's.
pub mod net {
    pub use mini_rust_desk_relay_server::net::*;
    pub use real::net::*;
}

/// Every step on these is one that shuttle may put another thread's steps before.
pub mod sync {
    pub use real::sync::{OnceLock, PoisonError};
    pub use shuttle::sync::{Arc, Mutex, MutexGuard, atomic};
}

/// Hashes the same in every run, so that a schedule that failed fails again.
pub mod collections {
    pub use real::collections::*;

    #[doc(hidden)]
    pub mod hash_map {
        pub use real::collections::hash_map::*;

        /// Not random.
        pub type RandomState = real::hash::BuildHasherDefault<DefaultHasher>;
    }
}

/// Time passes when a test says so.
pub mod time {
    use real::sync::atomic::{AtomicU64, Ordering};
    pub use real::time::Duration;

    // A schedule's threads are one thread of the system's, and so is a test's clock.
    real::thread_local!(static NOW: AtomicU64 = const { AtomicU64::new(0) });

    /// A point in a test's time.
    #[derive(Debug, Clone, Copy)]
    pub struct Instant(Duration);

    impl Instant {
        /// The present one.
        pub fn now() -> Self {
            Self(NOW.with(|now| Duration::from_nanos(now.load(Ordering::Relaxed))))
        }

        /// How long ago it was.
        pub fn elapsed(&self) -> Duration {
            Self::now().0.saturating_sub(self.0)
        }
    }

    /// Lets time pass.
    pub fn advance(by: Duration) {
        NOW.with(|now| now.fetch_add(by.as_nanos() as u64, Ordering::Relaxed));
    }
}
