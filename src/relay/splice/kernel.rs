//! One direction's way through the kernel: splice(2) from the source into a pipe and on into the
//! sink. The bytes are never in this process.
//!
//! It pays for a direction that has much to move at a time. Whether one has is seen from what it
//! moves: `Flow` engages this path after a large read, and gives it up after a few small splices.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::Interest, net::TcpStream, time::Instant};

use super::{
    outbox::Gone,
    pipes::{Lease, Pipes},
};

/// A read of this much, and the kernel is cheaper.
pub(super) const MUCH: usize = 128 << 10;

/// How much a direction moves before others have their turn. Of 128 KiB to 1 MiB this was the least
/// processor time before throughput over many pairs fell off.
pub(super) const BUDGET: usize = 384 << 10;

/// A splice of less than this is a small one.
const SMALL: usize = 16 << 10;

/// This many small ones in a row, and copying is cheaper.
const CALM: u8 = 4;

/// How long a sink that takes nothing may keep a pipe from others.
const PATIENCE: Duration = Duration::from_secs(1);

/// The path of one direction.
pub(super) struct Kernel {
    pipes: Arc<Pipes>,
    /// Only while bytes are in it.
    lease: Option<Lease>,
    /// Since when the sink has taken nothing of it.
    stalled_since: Option<Instant>,
    /// Small splices in a row.
    small: u8,
}

impl Kernel {
    /// The path, if the system has it.
    pub(super) fn engage(pipes: &Arc<Pipes>) -> Option<Box<Self>> {
        pipes.is_there().then(|| {
            let pipes = Arc::clone(pipes);
            Box::new(Self { pipes, lease: None, stalled_since: None, small: 0 })
        })
    }

    /// Whether nothing waits for the sink.
    pub(super) const fn is_empty(&self) -> bool {
        self.lease.is_none()
    }

    /// Whether its source no longer has much at a time.
    pub(super) const fn is_calm(&self) -> bool {
        self.small >= CALM && self.is_empty()
    }

    /// Since when the sink has taken nothing of what waits.
    pub(super) const fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// When what waits must be unloaded.
    pub(super) fn patience(&self) -> Option<Instant> {
        self.stalled_since.map(|since| since + PATIENCE)
    }

    /// Takes up to `max` bytes from the source; 0 is its end. `None` when no pipe is left.
    /// Nothing may wait.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        max: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        debug_assert!(self.is_empty(), "an error could mean a full pipe or an empty socket");
        loop {
            ready!(source.poll_read_ready(cx))?;
            let Some(mut lease) = self.pipes.take() else { return Poll::Ready(Ok(None)) };
            match source.try_io(Interest::READABLE, || lease.fill(source, max)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(len) => {
                    self.small = if len < SMALL { self.small.saturating_add(1) } else { 0 };
                    self.lease = (len > 0).then_some(lease);
                    return Poll::Ready(Ok(Some(len)));
                }
            }
        }
    }

    /// Passes on what waits, as much as the sink takes now. How many bytes that was.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, sink: &TcpStream) -> Result<usize, Gone> {
        let mut taken = 0;
        while self.lease.is_some() {
            match sink.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Err(Gone),
                Poll::Ready(Ok(())) => {}
            }
            match sink.try_io(Interest::WRITABLE, || self.drain(sink)) {
                Ok(len) => taken += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Gone),
            }
        }
        self.note(taken);
        Ok(taken)
    }

    /// Tries a sink that is stalled, as [`Outbox::nudge`](super::outbox::Outbox::nudge) does.
    pub(super) fn nudge(&mut self, sink: &TcpStream) -> usize {
        if self.stalled_since.is_none() {
            return 0;
        }
        // An error is found by whoever waits for the socket.
        let taken = self.drain(sink).unwrap_or(0);
        if taken > 0 {
            self.note(taken);
        }
        taken
    }

    /// Moves what waits to `out` and gives the pipe back. Since when the sink has taken nothing.
    pub(super) fn unload(&mut self, out: &mut Vec<u8>) -> Result<Option<Instant>, Gone> {
        if let Some(mut lease) = self.lease.take() {
            lease.unload(out).map_err(|_| Gone)?;
        }
        Ok(self.stalled_since.take())
    }

    fn drain(&mut self, sink: &TcpStream) -> io::Result<usize> {
        let Some(lease) = &mut self.lease else { return Ok(0) };
        let len = lease.drain(sink)?;
        if lease.held() == 0 {
            self.lease = None;
        }
        Ok(len)
    }

    fn note(&mut self, taken: usize) {
        if self.is_empty() {
            self.stalled_since = None;
        } else if taken > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(Instant::now());
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{future::poll_fn, net::Ipv4Addr};

    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    async fn fill(kernel: &mut Kernel, source: &TcpStream, max: usize) -> Option<usize> {
        poll_fn(|cx| kernel.poll_fill(cx, source, max)).await.unwrap()
    }

    #[tokio::test]
    async fn what_a_stalled_sink_keeps_waiting_is_unloaded_and_others_get_the_pipe() {
        let pipes = Pipes::new(1);
        let (mut client, source) = sockets().await;
        let (sink, _reads_nothing) = sockets().await;
        let mut kernel = Kernel::engage(&pipes).unwrap();
        let sending = tokio::spawn(async move { client.write_all(&vec![7; 64 << 20]).await });
        let (mut taken, mut passed) = (0, 0);
        while kernel.stalled_since().is_none() {
            taken += fill(&mut kernel, &source, 256 << 10).await.unwrap();
            passed += poll_fn(|cx| Poll::Ready(kernel.flush(cx, &sink))).await.unwrap();
        }
        let mut other = Kernel::engage(&pipes).unwrap();
        assert_eq!(fill(&mut other, &source, 1).await, None, "the only pipe is lent");
        assert!(kernel.patience().is_some());
        let mut out = Vec::new();
        assert!(kernel.unload(&mut out).unwrap().is_some());
        assert!(!out.is_empty() && out.iter().all(|byte| *byte == 7));
        assert_eq!(passed + out.len(), taken);
        assert!(kernel.is_empty() && kernel.patience().is_none());
        assert_eq!(fill(&mut other, &source, 1).await, Some(1));
        sending.abort();
    }

    #[tokio::test]
    async fn a_few_small_splices_and_it_is_calm() {
        let pipes = Pipes::new(1);
        let (mut client, source) = sockets().await;
        let (sink, _reads) = sockets().await;
        let mut kernel = Kernel::engage(&pipes).unwrap();
        for _ in 0..CALM {
            assert!(!kernel.is_calm());
            client.write_all(b"a little").await.unwrap();
            fill(&mut kernel, &source, 256 << 10).await.unwrap();
            while !kernel.is_empty() {
                poll_fn(|cx| Poll::Ready(kernel.flush(cx, &sink))).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        assert!(kernel.is_calm());
    }
}
