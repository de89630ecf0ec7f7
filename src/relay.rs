//! The relay stack: what happens to a leg, as one [`tower`] stack read from top to bottom.

pub mod registry;
pub mod request;
pub mod splice;
