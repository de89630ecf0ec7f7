//! What anybody may say to a node's cluster listener, or as one that was dialed: nobody is believed
//! who proves nothing, and what is read is bounded.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::cluster::link::fuzzing::Nodes;

static NODES: LazyLock<Nodes> = LazyLock::new(Nodes::new);

fuzz_target!(|data: &[u8]| {
    NODES.hear(data);
    NODES.open(data);
});
