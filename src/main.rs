//! The `mini_rust_desk_relay_server` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    mini_rust_desk_relay_server::cli::main()
}
