//! The buffers that ciphertext passes through: a pair for each thread that has TLS to do, shared
//! by all its sessions.

use std::cell::RefCell;

/// How much one read takes, or one write seals, at most: eight records.
pub(super) const READ: usize = 128 << 10;

/// The longest record: header, text, and what a cipher may add (RFC 5246, section 6.2.3).
pub(super) const RECORD: usize = 5 + (16 << 10) + 2048;

/// What sealing may add: less than 64 bytes a record, and messages of TLS' own before them.
const OVERHEAD: usize = 4 << 10;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; RECORD + READ].into_boxed_slice(),
        outgoing: vec![0; READ + OVERHEAD].into_boxed_slice(),
    });
}

/// The buffers that the sessions of a thread share, one at a time.
pub(super) struct Scratch {
    /// What was read, behind what was left of the read before; or what is to be sealed.
    pub(super) incoming: Box<[u8]>,
    /// What was sealed.
    pub(super) outgoing: Box<[u8]>,
}

/// Lends this thread's buffers. Not to be nested.
pub(super) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(work)
}
