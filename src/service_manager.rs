//! What the service manager is told, where there is one that understands sd_notify(3), as systemd
//! does. Without `NOTIFY_SOCKET` nothing is said, nor once another process is the service.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sd_notify::NotifyState;

/// Whether another process is the service. What the manager hears is this whole process', as its
/// id and its environment are. Held while something is said: nothing comes behind the last word.
static SUCCEEDED: Mutex<bool> = Mutex::new(false);

/// It serves, again or for the first time.
pub fn ready() {
    // Its own id too: after an upgrade it is another than the one that was started.
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// It reads its configuration; [`ready`] says that it has.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// It goes down.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process serves from here on, and this one has nothing more to say: `MAINPID` would take
/// the service back, and the rest would be refused with a warning each time.
pub fn succeeded_by(pid: u32) {
    tell_and(&[NotifyState::MainPid(pid)], true);
}

/// What it does, in a line.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// It lives.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// It needs at least this long from now on.
pub fn needs(time: Duration) {
    let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(time)]);
}

/// How often it must be told that the process lives; `None` when nobody watches.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

fn tell(states: &[NotifyState<'_>]) {
    tell_and(states, false);
}

fn tell_and(states: &[NotifyState<'_>], is_last: bool) {
    let mut succeeded = SUCCEEDED.lock().unwrap_or_else(PoisonError::into_inner);
    if *succeeded {
        return;
    }
    *succeeded = is_last;
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}
