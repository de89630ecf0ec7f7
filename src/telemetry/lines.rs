//! Log lines on their way out: a bounded buffer, and the one thread that writes it.
//!
//! Nobody who logs ever waits for who reads: a line is copied under a short lock, and when the
//! buffer is full it is dropped and counted. The thread is woken only when it sleeps; under load
//! it takes what has gathered a hundred times a second.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// How much may wait to be written: a second or two of lines at the fastest that pairs come, for a
/// reader that pauses.
const CAPACITY: usize = 4 << 20;

/// How much room is kept between two writes; what a burst needed beyond it is given back.
const KEPT: usize = 64 << 10;

/// The shortest time between two writes. A line after a pause is written at once.
const PACE: Duration = Duration::from_millis(10);

/// Enough for a thread that copies and calls the kernel.
const STACK: usize = 256 << 10;

/// Lines that the process has dropped.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were dropped since the start because nobody took them.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// The buffer; every copy is the same one.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    // Held to copy a line, never while writing.
    state: Mutex<State>,
    /// The thread sleeps on it.
    filled: Condvar,
    /// Who flushes waits on it.
    written: Condvar,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Lines dropped and not told of yet.
    lost: u64,
    asleep: bool,
    writing: bool,
    /// Somebody waits for the lines to be out.
    hurry: bool,
}

impl Lines {
    /// Writes to `out` by a thread of its own, for as long as the process lives.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared =
            Shared { state: Mutex::default(), filled: Condvar::new(), written: Condvar::new() };
        let lines = Self(Arc::new(shared));
        let writer = lines.clone();
        let thread = thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        thread.spawn(move || writer.write_to(out))?;
        Ok(lines)
    }

    fn append(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.pending.len() + line.len() > CAPACITY {
            state.lost += 1;
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.pending.extend_from_slice(line);
        if mem::take(&mut state.asleep) {
            self.0.filled.notify_one();
        }
    }

    /// Waits until all lines so far are out, or until `patience` is over.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.writing || !state.pending.is_empty() {
            state.hurry = true;
            self.0.filled.notify_one();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_to(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let lost = self.take(&mut lines);
            // Where nobody can be told, nobody is.
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            lines.clear();
            lines.shrink_to(KEPT);
            self.rest();
            if lost > 0 {
                tracing::warn!(
                    lost,
                    "log lines were dropped: whoever reads standard output is too slow"
                );
            }
        }
    }

    /// Sleeps until there are lines, and takes them. How many were dropped before.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        while state.pending.is_empty() {
            state.asleep = true;
            state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asleep = false;
        state.writing = true;
        mem::swap(&mut state.pending, lines);
        mem::take(&mut state.lost)
    }

    /// Lets lines gather, unless somebody waits for them.
    fn rest(&self) {
        let mut state = self.lock();
        state.writing = false;
        if state.pending.is_empty() {
            state.hurry = false;
            self.0.written.notify_all();
        }
        let rested = self.0.filled.wait_timeout_while(state, PACE, |state| !state.hurry);
        drop(rested.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic left is still lines.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// A whole line each time: that is how `tracing_subscriber` writes.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Passes on what is written, and only as fast as it is taken.
    struct Reader(mpsc::SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_out_in_order_and_a_flush_waits_for_them() {
        let (sender, receiver) = mpsc::sync_channel(1_000);
        let lines = Lines::start(Reader(sender)).unwrap();
        for round in 0..100 {
            for line in 0..100 {
                lines.append(format!("{round} {line}\n").as_bytes());
            }
            lines.flush(PATIENCE);
        }
        let out: Vec<u8> = receiver.try_iter().flatten().collect();
        let expected: String =
            (0..100).flat_map(|a| (0..100).map(move |b| format!("{a} {b}\n"))).collect();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn who_logs_never_waits_for_who_reads_and_what_is_dropped_is_counted() {
        let (sender, receiver) = mpsc::sync_channel(0);
        let lines = Lines::start(Reader(sender)).unwrap();
        let before = lost();
        let line = [b'x'; 1_000];
        // The first goes to the thread, which is held up by it.
        for _ in 0..3 * CAPACITY / line.len() {
            lines.append(&line);
        }
        lines.flush(Duration::from_millis(1));
        assert!(lost() - before >= (CAPACITY / line.len()) as u64);
        assert!(lines.lock().pending.len() <= CAPACITY);
        let mut came = 0;
        while !lines.lock().pending.is_empty() || lines.lock().writing {
            came += receiver.recv_timeout(Duration::from_millis(1)).map_or(0, |bytes| bytes.len());
        }
        assert!(came.is_multiple_of(line.len()), "whole lines only");
    }

    #[test]
    fn a_reader_that_is_gone_does_not_matter() {
        let (sender, receiver) = mpsc::sync_channel(0);
        drop(receiver);
        let lines = Lines::start(Reader(sender)).unwrap();
        lines.append(b"a line\n");
        lines.flush(PATIENCE);
        assert!(lines.lock().pending.is_empty());
    }
}
