//! The `mini_rust_desk_relay_server` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Gives back what closed relays held, and packs idle ones closer than the system's own does.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    mini_rust_desk_relay_server::cli::main()
}
