//! The buffers that bytes pass through: a pair for each thread, shared by all its relays.

use std::cell::RefCell;

/// How much one read takes at most, and so the most that a slow sink makes a direction keep
/// (twice that, should every frame be empty and its header grow).
const READ: usize = 128 << 10;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; READ].into_boxed_slice(),
        output: Vec::new(),
    });
}

/// The buffers that the relays of a thread share, one at a time.
pub(super) struct Scratch {
    /// What was read.
    pub(super) input: Box<[u8]>,
    /// The same, translated.
    pub(super) output: Vec<u8>,
}

/// Lends this thread's buffers. Not to be nested.
pub(super) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let done = work(scratch);
        // A message that was gathered from fragments may have been a large one.
        scratch.output.clear();
        scratch.output.shrink_to(2 * READ);
        done
    })
}
