//! The Autobahn suite against a WebSocket leg. `.ci/autobahn` fetches the suite and runs this.
//!
//! A relay echoes nothing, so each connection of the suite's gets a leg, and a peer that does. In
//! between stands an adapter that names the relay's uuid in the first message, as a client would,
//! and then passes bytes on. It changes one thing: a relay sends Text as Binary, so it turns the
//! operation of what comes back into the one that was sent. Framing, order, control frames and
//! payloads are the relay's own.

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
};

use futures_util::{SinkExt as _, StreamExt as _};
use mini_rust_desk_relay_server::wire::Transport::{self, Tcp, WebSocket};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    raw_websocket::hello,
    support::{Client, TestGateway, unique},
};

/// Ten Pings at once may be answered by the last one's Pong (RFC 6455, section 5.5.3).
const PINGS_AT_ONCE: &[&str] = &["2.10", "2.11"];

/// Text that is no UTF-8 is passed on: a relay takes text as bytes.
const NO_UTF8: &[&str] = &[
    "6.3.*", "6.4.*", "6.6.1", "6.6.3", "6.6.4", "6.6.6", "6.6.8", "6.6.10", "6.8.*", "6.10.*",
    "6.11.5", "6.12.*", "6.13.*", "6.14.*", "6.15.*", "6.16.*", "6.17.*", "6.18.*", "6.19.*",
    "6.20.*", "6.21.*",
];

/// No compression is agreed on.
const COMPRESSION: &[&str] = &["12.*", "13.*"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and needs the Autobahn suite: .ci/autobahn"]
async fn the_autobahn_suite_finds_no_fault() {
    let suite = env::var("AUTOBAHN").expect("AUTOBAHN is the command that .ci/autobahn sets");
    let gateway = Arc::new(TestGateway::start().await);
    let servers = [
        serde_json::json!({ "agent": "tcp", "url": adapter(&gateway, Tcp).await }),
        serde_json::json!({ "agent": "websocket", "url": adapter(&gateway, WebSocket).await }),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let excluded: Vec<_> = [PINGS_AT_ONCE, NO_UTF8, COMPRESSION].concat();
    let spec = serde_json::json!({
        "outdir": dir.path(),
        "servers": servers,
        "cases": ["*"],
        "exclude-cases": excluded,
        "exclude-agent-cases": {},
    });
    let file = dir.path().join("spec.json");
    std::fs::write(&file, spec.to_string()).expect("a file");
    let run =
        move || Command::new(suite).args(["--mode", "fuzzingclient", "--spec"]).arg(file).status();
    let ended = tokio::task::spawn_blocking(run).await.expect("no panic");
    assert!(ended.expect("the suite starts").success());
    let report = std::fs::read(dir.path().join("index.json")).expect("a report");
    judge(&serde_json::from_slice(&report).expect("JSON"));
}

type Report = BTreeMap<String, BTreeMap<String, Case>>;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    behavior: String,
    behavior_close: String,
}

fn judge(report: &Report) {
    let mut failed = Vec::new();
    for (agent, cases) in report {
        let mut counts = BTreeMap::<&str, usize>::new();
        for (name, Case { behavior, behavior_close }) in cases {
            *counts.entry(behavior).or_default() += 1;
            let fine = ["OK", "NON-STRICT", "INFORMATIONAL"];
            if ![behavior, behavior_close].iter().all(|seen| fine.contains(&seen.as_str())) {
                failed.push(format!("{agent} {name}: {behavior}, close {behavior_close}"));
            }
            if behavior == "NON-STRICT" {
                println!("{agent} {name}: NON-STRICT");
            }
        }
        println!("{agent}: {} cases, {counts:?}", cases.len());
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Listens for the suite, whose every connection becomes a leg with a peer of the transport asked
/// for.
async fn adapter(gateway: &Arc<TestGateway>, peer: Transport) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let gateway = Arc::clone(gateway);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let uuid = unique("autobahn");
            tokio::spawn(echo(gateway.leg(peer, &uuid).await));
            tokio::spawn(adapt(client, gateway.addr, uuid));
        }
    });
    url
}

/// Sends back every message.
async fn echo(peer: Client) {
    match peer {
        Client::Tcp(mut socket) => {
            // Frames go back as they came.
            let (mut from, mut to) = socket.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
        Client::WebSocket(mut socket) => {
            while let Some(Ok(message)) = socket.next().await {
                if message.is_binary() && socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    }
}

async fn adapt(client: TcpStream, relay: SocketAddr, uuid: String) -> std::io::Result<()> {
    let relay = TcpStream::connect(relay).await?;
    client.set_nodelay(true)?;
    relay.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_relay, mut to_relay)) =
        (client.into_split(), relay.into_split());
    to_relay.write_all(&head(&mut from_client).await?).await?;
    let answer = head(&mut from_relay).await?;
    to_relay.write_all(&hello(&uuid)).await?;
    to_client.write_all(&answer).await?;
    // The operations of the messages that were sent and have not come back.
    let sent = Arc::new(Mutex::new(VecDeque::new()));
    let back = Arc::clone(&sent);
    let there = pass(from_client, to_relay, move |first| {
        if matches!(*first & 0x0F, 1 | 2) {
            sent.lock().expect("no panic").push_back(*first & 0x0F);
        }
    });
    let back = pass(from_relay, to_client, move |first| {
        if *first & 0x0F == 2 {
            let operation = back.lock().expect("no panic").pop_front();
            *first = *first & 0xF0 | operation.expect("nothing comes that was not sent");
        }
    });
    let _ = tokio::join!(there, back);
    Ok(())
}

/// The head of a request or of an answer, and no byte more.
async fn head(socket: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    Ok(head)
}

/// Passes on what comes, as it comes; `look` sees the first byte of every frame.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut look: impl FnMut(&mut u8),
) {
    let mut frames = Frames::default();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        frames.walk(&mut buffer[..len], &mut look);
        if to.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Where the frames begin in a stream of bytes.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    remaining: u64,
}

impl Frames {
    fn walk(&mut self, mut bytes: &mut [u8], look: &mut impl FnMut(&mut u8)) {
        while !bytes.is_empty() {
            if self.remaining > 0 {
                let taken = self.remaining.min(bytes.len() as u64);
                self.remaining -= taken;
                bytes = &mut bytes[taken as usize..];
                continue;
            }
            if self.header.is_empty() {
                look(&mut bytes[0]);
            }
            self.header.push(bytes[0]);
            bytes = &mut bytes[1..];
            let Some(&second) = self.header.get(1) else { continue };
            let wide = match second & 0x7F {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if self.header.len() == 2 + wide + usize::from(second >> 7) * 4 {
                let number = self.header[2..2 + wide].iter();
                let long = number.fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                self.remaining = if wide == 0 { u64::from(second & 0x7F) } else { long };
                self.header.clear();
            }
        }
    }
}
