//! More than one node: legs land anywhere, and meet all the same.

mod blocks;
mod churn;
mod directory;
mod ends;
mod kernel;
mod limits;
mod link;
mod members;
mod model;
mod pairs;
mod quick_start;
pub(crate) mod redis;
mod redis_faults;
mod rolling;
mod simulated;
pub(crate) mod support;
mod told;
mod view;
