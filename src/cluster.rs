//! More than one node: the directory of legs that wait, shared by all, and how a leg gets from the
//! node where it landed to the one where its peer waits.
//!
//! The relay knows nothing of this but the trait that `relay/route.rs` declares.

pub mod blocks;
pub mod directory;
pub mod host;
pub mod link;
pub mod members;
pub mod peers;
pub mod redis;
pub mod router;
