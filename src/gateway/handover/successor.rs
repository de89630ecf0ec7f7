//! The old process' side, until the new one is ready: everything up to there can fail, and changes
//! nothing.

use std::{
    env, io,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::timeout;

use super::{Offered, VARIABLE, VERSION, Word};
use crate::{
    http::UpgradeError,
    net::{handover::Channel, listener::Listener},
};

/// How long the new process may take to say that it accepts.
const PATIENCE: Duration = Duration::from_secs(15);

/// Variables that are about the process that they were given to.
const OWN: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// The process that takes over.
pub(in crate::gateway) struct Successor {
    pub(in crate::gateway) pid: u32,
    pub(in crate::gateway) channel: Channel,
}

/// One that has been started, and may come to nothing.
struct Candidate {
    /// Taken out when it is no candidate any more.
    child: Option<Child>,
    channel: Option<Channel>,
}

impl Successor {
    /// Starts the program anew, with the arguments and the environment of this process, and waits
    /// until it accepts from `listeners`.
    pub(in crate::gateway) async fn start(listeners: &[Listener]) -> Result<Self, UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::FirstProcess);
        }
        let (channel, theirs) = Channel::open().map_err(UpgradeError::Io)?;
        let child = spawn(theirs).map_err(UpgradeError::Start)?;
        let candidate = Candidate { child: Some(child), channel: Some(channel) };
        candidate.takes_over(listeners, PATIENCE).await
    }
}

impl Candidate {
    async fn takes_over(
        self,
        listeners: &[Listener],
        patience: Duration,
    ) -> Result<Successor, UpgradeError> {
        let ready = timeout(patience, self.becomes_ready(listeners)).await;
        match ready.unwrap_or(Err(UpgradeError::TooLate(patience))) {
            Ok(()) => self.accept().ok_or(UpgradeError::Ended(None)),
            Err(error) => Err(self.dismiss(error).await),
        }
    }

    async fn becomes_ready(&self, listeners: &[Listener]) -> Result<(), UpgradeError> {
        let Some(channel) = &self.channel else { return Err(UpgradeError::Ended(None)) };
        let offered = listeners.iter().map(|listener| Offered {
            addr: listener.asked(),
            named: listener.named().map(|purpose| purpose.to_string()),
        });
        let offer = Word::Offer { version: VERSION, listeners: offered.collect() };
        let sockets: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        channel.send(&offer.pack(), &sockets).await.map_err(|_| UpgradeError::Ended(None))?;
        match channel.receive().await {
            Ok(None) | Err(_) => Err(UpgradeError::Ended(None)),
            Ok(Some((bytes, _))) => match Word::unpack(&bytes) {
                Some(Word::Ready { version: VERSION }) => Ok(()),
                Some(Word::Failed { why }) => Err(UpgradeError::Refused(why)),
                _ => Err(UpgradeError::Stranger),
            },
        }
    }

    fn accept(mut self) -> Option<Successor> {
        let (child, channel) = (self.child.take()?, self.channel.take()?);
        let pid = child.id();
        watch(child);
        Some(Successor { pid, channel })
    }

    /// Sees to it that the new process ends, if it has not.
    async fn dismiss(mut self, error: UpgradeError) -> UpgradeError {
        drop(self.channel.take());
        let Some(mut child) = self.child.take() else { return error };
        if !matches!(error, UpgradeError::Ended(_) | UpgradeError::Refused(_)) {
            // It may have ended by itself.
            let _ = child.kill();
        }
        let ended = tokio::task::spawn_blocking(move || wait(&mut child)).await;
        match (error, ended) {
            (UpgradeError::Ended(_), Ok(Ok(status))) => UpgradeError::Ended(Some(status)),
            (error, _) => error,
        }
    }
}

/// Nobody waits for it any more: it must not take over after all.
impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for the end of the process that has taken over, however late. Nobody else can: it is this
/// one's child, and would be its zombie for as long as relays live here.
fn watch(mut child: Child) {
    let pid = child.id();
    let watching = move || match child.wait() {
        Ok(status) if status.success() => {
            tracing::info!(pid, "the process that took over has ended");
        }
        Ok(status) => tracing::warn!(pid, %status, "the process that took over has ended"),
        Err(error) => tracing::warn!(pid, %error, "the process that took over is not watched"),
    };
    // Not one of the runtime's, which would wait for it at the end.
    if let Err(error) = thread::Builder::new().name("successor".to_owned()).spawn(watching) {
        tracing::warn!(pid, %error, "the process that took over is not watched");
    }
}

/// Waits for its end; one that says that it ends, and does not, is killed.
fn wait(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    for _ in 0..100 {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()
}

fn spawn(channel: OwnedFd) -> io::Result<Child> {
    let mut args = env::args_os();
    // By the name that this one was called by: what lies there now may be another program.
    let name = args.next().filter(|name| !name.is_empty());
    let program = name.map_or_else(env::current_exe, |name| Ok(name.into()))?;
    let mut command = Command::new(program);
    // As standard input: nothing else is inherited without unsafe code, nor may be by mistake.
    command.args(args).env(VARIABLE, "1").stdin(Stdio::from(channel));
    for variable in OWN {
        command.env_remove(variable);
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, test_kill_process};

    use super::*;

    /// One that keeps its end of the channel, and never says a word.
    fn silent() -> (Candidate, Pid) {
        let (channel, theirs) = Channel::open().unwrap();
        let mut command = Command::new("sleep");
        let child = command.arg("600").stdin(Stdio::from(theirs)).spawn().unwrap();
        let pid = Pid::from_child(&child);
        (Candidate { child: Some(child), channel: Some(channel) }, pid)
    }

    #[tokio::test]
    async fn one_that_is_not_ready_in_time_is_ended() {
        let (candidate, pid) = silent();
        let patience = Duration::from_millis(20);
        let refused = candidate.takes_over(&[], patience).await.err();
        assert!(matches!(refused, Some(UpgradeError::TooLate(_))), "{refused:?}");
        assert!(test_kill_process(pid).is_err(), "neither running nor a zombie");
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_ended() {
        let (candidate, pid) = silent();
        let waiting = candidate.takes_over(&[], PATIENCE);
        timeout(Duration::from_millis(20), waiting).await.err().unwrap();
        assert!(test_kill_process(pid).is_err(), "neither running nor a zombie");
    }
}
