//! The buffers that bytes pass through: a pair for each thread, shared by all its relays.

use std::cell::RefCell;

use super::batch::Batch;

/// How much one read takes at most, and so the most that a slow sink makes a direction keep
/// (twice that, should every frame be empty and its header grow).
const READ: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; READ].into_boxed_slice(),
        output: Batch::default(),
    });
}

/// The buffers that the relays of a thread share, one at a time.
pub(super) struct Scratch {
    /// What was read.
    pub(super) input: Box<[u8]>,
    /// What became of it.
    pub(super) output: Batch,
}

/// Lends this thread's buffers. Not to be nested.
pub(super) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let done = work(scratch);
        scratch.output.give_back(READ);
        done
    })
}
