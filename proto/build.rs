//! Compiles the protocols with a compiler written in Rust, so that building needs no `protoc`.

const PROTOCOLS: [&str; 2] = ["proto/rendezvous.proto", "proto/cluster.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for protocol in PROTOCOLS {
        println!("cargo:rerun-if-changed={protocol}");
    }
    let descriptors = protox::compile(PROTOCOLS, ["proto"])?;
    prost_build::Config::new()
        // prost's own `Debug` would print the licence key, and what clients chose unescaped.
        .skip_debug(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
