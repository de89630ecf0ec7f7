//! More than one node: legs land anywhere, and meet all the same.

mod at_once;
mod blocks;
mod churn;
mod directory;
mod ends;
mod full;
mod kernel;
mod leaving;
mod limits;
mod link;
mod lost_nodes;
mod members;
mod misconfigured;
mod model;
mod pairs;
mod partition;
mod quick_start;
pub(crate) mod redis;
mod redis_faults;
mod rolling;
mod simulated;
mod spread;
pub(crate) mod support;
mod told;
mod view;
