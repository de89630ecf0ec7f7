//! The `mini_rust_desk_relay_server` program.
#![forbid(unsafe_code)]

fn main() {}
