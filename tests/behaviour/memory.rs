//! What those cost that have not said who they are: a real process is watched.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::{
    by_hand::{Wire, upgrade_request},
    process::Process,
    support::eventually,
    tls::{Identity, shake_hands},
};

const MANY: usize = 1_500;

/// The README's bound.
const EACH: u64 = 4 << 10;

/// A process whose strangers have an hour, and the rest of the line.
async fn start(more: &str) -> Process {
    let dir = tempfile::tempdir().expect("a directory");
    let config = format!("[front_door]\nfirst_frame_timeout = \"1h\"\n{more}");
    std::fs::write(dir.path().join("config.toml"), config).expect("a file");
    Process::start_in(dir, &["--admin-listen", "127.0.0.1:0"]).await
}

/// Bytes for each of so many connections that have said `said` and are held open.
async fn each_costs(more: &str, said: &[&[u8]]) -> u64 {
    // A new one each time: pages that it was given back would hide what is asked for.
    let process = start(more).await;
    // What is made once is made by then.
    let _before = hold(&process, said, MANY / 10).await;
    let start = process.memory();
    let _held = hold(&process, said, MANY).await;
    process.memory().saturating_sub(start) / MANY as u64
}

/// Each piece of what is said is read before the next is sent.
async fn hold(process: &Process, said: &[&[u8]], count: usize) -> Vec<Wire> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(Wire::connect(process.gateway.addr).await);
    }
    eventually("all are accepted", async || {
        process.gateway.metric("relay_connections_open").await > count as f64
    })
    .await;
    for piece in said {
        for wire in &mut held {
            wire.socket.write_all(piece).await.expect("the gateway reads");
        }
        process.gateway.round_trip().await;
        // Other threads than the one that answered have read it too.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    held
}

#[tokio::test]
async fn a_stranger_costs_a_bounded_little() {
    let request = upgrade_request("/");
    let slow: Vec<&[u8]> = request.as_bytes()[..60].chunks(6).collect();
    for (what, said) in [
        ("silent", &[][..]),
        ("an undecided byte", &[&b"\x16"[..]]),
        ("half a head, slowly", &slow),
        ("half a relay frame", &[&b"\x01\x20\x92"[..], b"\x01", b"\xff\x3f"]),
    ] {
        let each = each_costs("", said).await;
        println!("{what}: {each} bytes each");
        assert!(each < EACH, "{what}: {each} bytes each");
    }
}

/// Lengths that are claimed and not sent: of a frame, a WebSocket's message, a body.
#[tokio::test]
async fn nothing_is_allocated_by_a_claimed_length() {
    // The most that may be allowed, so that it would show.
    let most = "max_first_frame = \"64KiB\"\n";
    let upgrade = upgrade_request("/");
    let websocket = [upgrade.as_bytes(), b"\x82\xff\0\0\0\0\0\0\xff\xf0mask"].concat();
    let body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\nx";
    for (what, said) in [
        ("a frame", &b"\xc2\xff\x03\x92\x01"[..]),
        ("a message on a WebSocket", &websocket),
        ("a body", body),
    ] {
        let each = each_costs(most, &[said]).await;
        println!("{what}: {each} bytes each");
        // HTTP has its buffers by then.
        assert!(each < 5 * EACH, "{what}: {each} bytes each");
    }
}

/// TLS takes the peer to do its part of the work, and is worth a session; no more than that.
#[tokio::test]
async fn who_has_shaken_hands_and_is_silent_costs_its_session() {
    const SESSIONS: u64 = 300;
    let (identity, dir) = (Identity::new(), tempfile::tempdir().expect("a directory"));
    identity.write(dir.path());
    let config = "[front_door]\nfirst_frame_timeout = \"1h\"\n\
                  [tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";
    std::fs::write(dir.path().join("config.toml"), config).expect("a file");
    let process = Process::start_in(dir, &["--admin-listen", "127.0.0.1:0"]).await;
    let client = identity.client();
    let shaken = async || {
        let mut held = Vec::new();
        for _ in 0..SESSIONS {
            let socket = process.gateway.connect().await;
            held.push(shake_hands(socket, client.clone()).await.expect("a handshake"));
        }
        process.gateway.round_trip().await;
        held
    };
    // What is made once is made by then.
    let _before = shaken().await;
    let start = process.memory();
    let _held = shaken().await;
    let each = process.memory().saturating_sub(start) / SESSIONS;
    println!("a session: {each} bytes");
    assert!(each < 4 * EACH, "{each} bytes each");
}
