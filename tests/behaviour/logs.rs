//! The program's log: the phrases that people's scripts read, and what is never in it.

use std::net::SocketAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::SigningKey;
use mini_rust_desk_relay_server::wire::{
    Transport::{Tcp, WebSocket},
    rendezvous::{ConnType, request_relay},
};
use serde_json::Value;

use crate::{
    by_hand::{Wire, is_refused, opening},
    process::Process,
    support::{TOKEN, eventually, http},
};

const FORMATS: [&str; 2] = ["pretty", "json"];
const UUID: &str = "42909830f-3e62-43d9-8d3a-ca3c3e9513b4";

/// Our public half, our secret, and what somebody else sent.
struct Keys {
    ours: String,
    secret: String,
    wrong: String,
}

impl Keys {
    fn new() -> Self {
        let key = SigningKey::from_bytes(&[42; 32]);
        Self {
            ours: BASE64_STANDARD.encode(key.verifying_key().as_bytes()),
            secret: BASE64_STANDARD.encode(key.to_keypair_bytes()),
            wrong: "a-key-that-somebody-else-chose".to_owned(),
        }
    }
}

/// A relay from its first leg to its end, in a program that was started with `args`: both legs'
/// addresses.
async fn session(process: &Process, key: &str) -> [SocketAddr; 2] {
    let hello = request_relay(UUID, "417866831", key, ConnType::FileTransfer);
    let mut first = process.gateway.leg_with(Tcp, &hello).await;
    process.gateway.until_waiting(UUID).await;
    let mut second = process.gateway.leg_with(WebSocket, &hello).await;
    first.send(&[1; 100]).await;
    second.receive().await;
    second.send(&[2; 10]).await;
    first.receive().await;
    first.finish().await;
    assert_eq!(second.receive().await, None);
    second.finish().await;
    process.line("closed").await;
    [first.tcp().local_addr(), second.websocket().get_ref().local_addr()]
        .map(|addr| addr.expect("an address"))
}

/// The message of a line, in either format.
fn message(line: &str, format: &str) -> String {
    match format {
        "json" => {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["message"].as_str().expect("a message").to_owned()
        }
        // `TIME LEVEL span{fields}: message fields`, or without the span.
        _ => match line.split_once("}: ") {
            Some((_, message)) => message.to_owned(),
            None => {
                let (_, said) = line.split_once(' ').expect("a time");
                let (_, message) = said.trim_start().split_once(' ').expect("a level");
                message.to_owned()
            }
        },
    }
}

#[tokio::test]
async fn the_phrases_that_scripts_read_are_kept_in_both_formats() {
    for format in FORMATS {
        let process = Process::start(&["--log-format", format, "-k", "right"]).await;
        let [first, second] = session(&process, "right").await;
        let mut wrong = Wire::connect(process.gateway.addr).await;
        let refused = wrong.socket.local_addr().unwrap();
        wrong.send(opening(Tcp, &request_relay(UUID, "", "RIGHT", ConnType::Default))).await;
        assert_eq!(wrong.rest().await, b"");
        for (phrase, reads_on) in [
            (format!("New relay request {UUID} from {first}"), ""),
            (format!("Relayrequest {UUID} from {second} got paired"), ""),
            (format!("Relay of {second} closed"), " "),
            (format!("Relay authentication failed from {refused} - invalid key"), " "),
        ] {
            let said = message(&process.line(&phrase).await, format);
            let rest = said.strip_prefix(&phrase).unwrap_or_else(|| panic!("{phrase} in {said}"));
            let rest_is_fields =
                rest.is_empty() || (format == "pretty" && rest.starts_with(reads_on));
            assert!(rest_is_fields, "{said}");
        }
        assert!(process.line("invalid key").await.contains("upper and lower case"), "the reason");
    }
}

/// fail2ban: `Relay authentication failed from \[?(::ffff:)?<HOST>\]?:\d+ - invalid key`.
#[tokio::test]
async fn a_filter_finds_the_address_of_who_has_the_wrong_key() {
    for format in FORMATS {
        let args = ["--log-format", format, "-k", "right", "--listen", "[::]:0"];
        let mut process = Process::start(&args).await;
        process.gateway.addr = SocketAddr::from(([127, 0, 0, 1], process.gateway.addr.port()));
        process.gateway.admin_addr = process.gateway.addr;
        // A uuid that wants somebody else banned.
        let forged = "Relay authentication failed from 192.0.2.1:5 - invalid key";
        for uuid in [UUID, forged, &format!("x\n{forged}")] {
            let hello = request_relay(uuid, uuid, "wrong", ConnType::Default);
            is_refused(&process.gateway, Tcp, &opening(Tcp, &hello)).await;
            is_refused(&process.gateway, WebSocket, &opening(WebSocket, &hello)).await;
        }
        let hosts = || process.log().iter().filter_map(|line| banned(line)).collect::<Vec<_>>();
        eventually("all are in the log", async || hosts().len() == 6).await;
        assert_eq!(hosts(), ["127.0.0.1"; 6]);
    }
}

/// As a filter searches: anywhere in the line, the first that fits.
fn banned(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("Relay authentication failed from ")?;
    let (address, _) = rest.split_once(" - invalid key")?;
    let (host, port) = address.rsplit_once(':')?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let host = host.trim_matches(['[', ']']).trim_start_matches("::ffff:");
    digits.then(|| host.to_owned())
}

/// `New relay request (.+?) from (\S+)`: what a name says must not be taken for an address.
#[tokio::test]
async fn a_name_with_spaces_cannot_pass_for_an_address() {
    let process = Process::start(&[]).await;
    let forged = "x from 192.0.2.1:1";
    let hello = request_relay(forged, "", "", ConnType::Default);
    let _first = process.gateway.leg_with(Tcp, &hello).await;
    let line = process.line("New relay request").await;
    let (_, said) = line.split_once("New relay request ").unwrap();
    let (_, address) = said.split_once(" from ").unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{line}");
}

#[tokio::test]
async fn json_lines_say_whole_what_a_relay_was() {
    let process = Process::start(&["--log-format", "json"]).await;
    let [first, second] = session(&process, "").await;
    let lines: Vec<Value> =
        process.log().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string());
        assert!(line["message"].is_string());
    }
    let with = |phrase: &str| {
        let found = lines.iter().filter(|line| line["message"].as_str().unwrap().contains(phrase));
        found.collect::<Vec<_>>()
    };
    for phrase in ["New relay request", "got paired", "closed"] {
        let [line] = with(phrase)[..] else { panic!("one line with {phrase}: {lines:#?}") };
        assert_eq!(line["span"]["uuid"], UUID, "{phrase}");
    }
    let closing = with("closed")[0];
    for (field, value) in [
        ("level", Value::from("INFO")),
        ("uuid", UUID.into()),
        ("target_id", "417866831".into()),
        ("conn_type", "file_transfer".into()),
        ("first", first.to_string().into()),
        ("first_transport", "tcp".into()),
        ("first_bytes", 102.into()),
        ("second", second.to_string().into()),
        ("second_transport", "websocket".into()),
        ("second_bytes", (16 + 8).into()),
        ("end", "closed by the first leg".into()),
    ] {
        assert_eq!(closing[field], value, "{field} in {closing}");
    }
    assert!(closing["duration_ms"].is_u64() && closing["waited_ms"].is_u64());
}

#[tokio::test]
async fn a_name_that_a_peer_chose_cannot_forge_a_line() {
    for format in FORMATS {
        let process = Process::start(&["--log-format", format]).await;
        let forged = "x\nNew relay request forged from 192.0.2.1:1\r\u{1b}[2J\"} ";
        let hello = request_relay(forged, forged, "", ConnType::Default);
        let first = process.gateway.leg_with(Tcp, &hello).await;
        process.line("New relay request").await;
        let second = process.gateway.leg_with(Tcp, &hello).await;
        process.line("got paired").await;
        drop((first, second));
        process.line("closed").await;
        for line in process.log() {
            assert!(!line.starts_with("New relay request"), "{line}");
            assert!(!line.bytes().any(|byte| byte.is_ascii_control()), "{line:?}");
            if format == "json" {
                let _: Value = serde_json::from_str(&line).unwrap();
            }
        }
    }
}

/// At trace level, with every way to go wrong: neither our key, nor theirs, nor the token.
#[tokio::test]
async fn no_key_and_no_token_is_ever_in_a_log() {
    let keys = Keys::new();
    for format in FORMATS {
        let process =
            Process::start(&["--log-format", format, "--log-level", "trace", "-k", &keys.secret])
                .await;
        for wrong in [&keys.wrong, &keys.secret, &keys.ours.to_lowercase()] {
            let hello = request_relay("wrong", "", wrong, ConnType::Default);
            for transport in [Tcp, WebSocket] {
                is_refused(&process.gateway, transport, &opening(transport, &hello)).await;
            }
        }
        // Cut short, so that it is malformed with a key inside.
        let hello = request_relay("", "", &keys.wrong, ConnType::Default);
        is_refused(&process.gateway, Tcp, &opening(Tcp, &hello)).await;
        let admin = format!("Authorization: Bearer {}\r\n", keys.wrong);
        assert_eq!(http(process.gateway.addr, "GET", "/api/v1/stats", &admin).await.status, 401);
        // The key in the place of its label.
        let encoded = keys.ours.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let admin = format!("Authorization: Bearer {TOKEN}\r\n");
        let path = format!("/api/v1/relays?key={encoded}");
        let closed = http(process.gateway.addr, "DELETE", &path, &admin).await;
        assert_eq!((closed.status, &closed.json()["closed"]), (200, &serde_json::json!(0)));
        session(&process, &keys.ours).await;
        process.signal(rustix::process::Signal::TERM);
        process.line("stopped").await;
        let mut said = process.log();
        assert!(said.iter().any(|line| line.contains("DEBUG")), "more was asked for: {said:#?}");
        said.extend(process.stderr());
        let secrets = [&keys.wrong, &keys.ours, &keys.secret, TOKEN, &keys.ours.to_lowercase()];
        for secret in secrets {
            // Nor a piece of one.
            for piece in [secret, &secret[..12], &secret[secret.len() - 12..]] {
                let found = said.iter().find(|line| line.contains(piece));
                assert_eq!(found, None, "{piece}");
            }
        }
    }
}

#[tokio::test]
async fn a_probe_is_not_worth_a_line() {
    let process = Process::start(&["--log-level", "debug", "-k", "a key"]).await;
    let before = process.log().len();
    for _ in 0..5 {
        drop(process.gateway.connect().await);
    }
    process.gateway.until_metric("relay_connections_total{protocol=\"none\"}", 5.0).await;
    assert_eq!(process.log()[before..], [""; 0]);
}

/// What there is to be said at the start is said once: where, an open relay, the token's place.
#[tokio::test]
async fn an_open_relay_says_so_once_and_loudly() {
    let process = Process::start(&[]).await;
    assert!(process.line("OPEN RELAY").await.contains("WARN"));
    session(&process, "").await;
    let said = process.log().iter().filter(|line| line.contains("OPEN RELAY")).count();
    assert_eq!(said, 1);
    let process = Process::start(&["-k", "a key"]).await;
    assert!(!process.log().iter().any(|line| line.contains("OPEN RELAY")));
}

/// A pipe that is full, as a container's or a service's log may be: the relays do not wait.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let mut process = Process::start(&[]).await;
    process.stop_reading();
    // Escaped, so that each pair says some KiB about itself.
    let name = " ".repeat(100);
    let lost = "relay_log_lines_lost_total";
    let mut pairs = 0;
    while pairs < 100 || process.gateway.metric(lost).await == 0.0 {
        for _ in 0..20 {
            pairs += 1;
            let uuid = format!("{name}{pairs}");
            let hello = request_relay(&uuid, &name, "", ConnType::Default);
            let mut first = process.gateway.leg_with(Tcp, &hello).await;
            let mut second = process.gateway.leg_with(Tcp, &hello).await;
            first.send(b"held up?").await;
            assert_eq!(second.receive().await.as_deref(), Some(&b"held up?"[..]));
        }
        assert!(pairs < 5_000, "nothing is dropped, or nothing is bounded");
    }
    process.read_on();
    assert!(process.line("log lines were dropped").await.contains("lost="));
    let after = request_relay("after", "", "", ConnType::Default);
    let _leg = process.gateway.leg_with(Tcp, &after).await;
    process.line("New relay request after from").await;
    process.stop_reading();
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await, 0);
}
