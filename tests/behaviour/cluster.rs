//! More than one node: legs land anywhere, and meet all the same.

mod pairs;
pub(crate) mod redis;
pub(crate) mod support;
mod view;
