//! More than one node: legs land anywhere, and meet all the same.

mod directory;
mod link;
mod members;
mod pairs;
pub(crate) mod redis;
mod redis_faults;
mod simulated;
pub(crate) mod support;
mod view;
