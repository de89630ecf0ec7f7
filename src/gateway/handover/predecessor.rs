//! The new process' side, until it is ready.

use std::{
    env,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use tokio::time::timeout;

use super::{Offered, VARIABLE, VERSION, Word};
use crate::net::{
    handover::{Channel, try_send},
    inherited::{Inherited, Purpose},
};

/// How long the old process may take to offer its listeners: it has them at hand.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest reason that the old process is told, in bytes.
const MOST_WORDS: usize = 4096;

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Standard input is no channel, or it failed.
    #[error("{VARIABLE} is set, and standard input is no channel to take over by")]
    Channel(#[from] io::Error),
    /// The old process said nothing, or nothing that makes sense.
    #[error("the old process did not offer its listeners")]
    NoOffer,
    /// The old process speaks another version.
    #[error("the old process hands over by version {0}, and this one knows {VERSION}: restart it")]
    Version(u64),
}

/// The process from which this one takes over.
pub struct Predecessor(OwnedFd);

impl Predecessor {
    /// The one that started this process to be taken over from; `None` when it was started
    /// otherwise.
    ///
    /// # Errors
    /// When it was, and there is no channel.
    pub fn find() -> Result<Option<Self>, TakeoverError> {
        if env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        // Or it would not close with this end.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?).map_err(io::Error::from)?;
        Ok(Some(Self(channel)))
    }

    /// Tells it that this process ends, and why: it goes on then.
    pub fn refuse(&self, why: &str) {
        let mut end = why.len().min(MOST_WORDS);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        let why = why[..end].to_owned();
        // If it does not hear, it sees this process end.
        let _ = try_send(self.0.as_fd(), &Word::Failed { why }.pack(), &[]);
    }

    /// The listeners that it offers, and the way by which legs will come.
    ///
    /// # Errors
    /// When it offers none, or in words that this process does not know.
    pub async fn offer(&self) -> Result<(Inherited, Following), TakeoverError> {
        let channel = Channel::of(self.0.try_clone()?)?;
        let received = timeout(PATIENCE, channel.receive()).await;
        let received = received.map_err(|_| TakeoverError::NoOffer)??;
        let (bytes, sockets) = received.ok_or(TakeoverError::NoOffer)?;
        // Whatever else a later version says, it says which it is.
        let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let version = said["offer"]["version"].as_u64().ok_or(TakeoverError::NoOffer)?;
        if version != u64::from(VERSION) {
            return Err(TakeoverError::Version(version));
        }
        let Some(Word::Offer { listeners, .. }) = Word::unpack(&bytes) else {
            return Err(TakeoverError::NoOffer);
        };
        let mut inherited = Inherited::default();
        for (Offered { addr, named }, socket) in listeners.into_iter().zip(sockets) {
            let purpose = named.as_deref().and_then(Purpose::named);
            inherited.add(socket.into(), addr, purpose);
        }
        Ok((inherited, Following(channel)))
    }
}

/// The way by which legs come from the old process.
pub struct Following(pub(in crate::gateway) Channel);

impl Following {
    /// Tells the old process that this one accepts.
    pub(in crate::gateway) async fn is_ready(&self) -> io::Result<()> {
        self.0.send(&Word::Ready { version: VERSION }.pack(), &[]).await
    }
}
