//! Compiles the protocol with a compiler written in Rust, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/rendezvous.proto");
    let descriptors = protox::compile(["proto/rendezvous.proto"], ["proto"])?;
    prost_build::Config::new()
        // prost's own `Debug` would print the licence key.
        .skip_debug(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
