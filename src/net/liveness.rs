//! How soon a peer is missed that vanished without a word: its machine lost power, its network, or
//! the entry in a NAT that led to it.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};

use crate::config::RelayConfig;

/// How often a quiet peer is asked before it is given up.
const PROBES: u32 = 3;

/// How long each answer may take, if keepalive itself is not more frequent.
const INTERVAL: Duration = Duration::from_secs(10);

/// What the kernel takes at most, in ms.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MOST: Duration = Duration::from_millis(i32::MAX as u64);

/// The timers of a socket, which the kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    keepalive: Duration,
    interval: Duration,
    given_up: Duration,
}

impl Liveness {
    /// The timers that `config` asks for.
    pub fn of(config: &RelayConfig) -> Self {
        Self::new(config.keepalive.get(), config.write_timeout.get())
    }

    /// Asks a peer that has been quiet for `keepalive`. Whoever takes nothing for `write_timeout`
    /// is the relay's own to close, which knows more about why: the kernel waits longer.
    pub fn new(keepalive: Duration, write_timeout: Duration) -> Self {
        let interval = INTERVAL.min(keepalive);
        let given_up = (keepalive + interval * PROBES).max(write_timeout + interval);
        Self { keepalive, interval, given_up }
    }

    /// How long a peer may have said nothing, not even that bytes arrived, before its connection
    /// is reset: with data on its way to it, and without.
    pub const fn given_up(self) -> Duration {
        self.given_up
    }

    /// Sets the timers. Linux hands a listener's on to the connections that it accepts.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn apply<'s, S>(self, socket: &'s S) -> io::Result<()>
    where
        SockRef<'s>: From<&'s S>,
    {
        let keepalive = TcpKeepalive::new()
            .with_time(self.keepalive)
            .with_interval(self.interval)
            .with_retries(PROBES);
        let socket = SockRef::from(socket);
        socket.set_tcp_keepalive(&keepalive)?;
        // Without it data on its way to nobody is sent again for a quarter of an hour.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(Some(self.given_up.min(MOST)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gives_up_after_three_questions_and_never_before_the_relay() {
        let secs = Duration::from_secs;
        for (keepalive, write_timeout, given_up) in
            [(60, 30, 90), (1, 1, 4), (5, 30, 35), (60, 600, 610), (32_767, 30, 32_797)]
        {
            let liveness = Liveness::new(secs(keepalive), secs(write_timeout));
            assert_eq!(liveness.given_up(), secs(given_up), "{keepalive}, {write_timeout}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_listener_has_its_connections_have() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let liveness = Liveness::new(Duration::from_secs(7), Duration::from_secs(2));
        liveness.apply(&listener).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), PROBES);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(liveness.given_up()));
    }
}
