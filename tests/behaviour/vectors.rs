//! First messages as clients send them, whole and cut at every byte, over both transports.

use mini_rust_desk_relay_server::{
    config::Duration,
    wire::{
        Transport::{self, Tcp, WebSocket},
        rendezvous::Hello,
    },
};

use crate::{
    by_hand::{Wire, is_refused, opening, upgrade_request},
    support::{TestGateway, read_to_end},
};

const VECTORS: &str = include_str!("../vectors/first_messages.tsv");

struct Vector {
    name: &'static str,
    payload: Vec<u8>,
    frame: Vec<u8>,
}

impl Vector {
    fn all() -> Vec<Self> {
        let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
        lines.map(Self::of_line).collect()
    }

    fn of_line(line: &'static str) -> Self {
        let [name, payload, frame, _] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not four columns: {line}")
        };
        Self { name, payload: unhex(payload), frame: unhex(frame) }
    }

    /// Why the gateway refuses it; `None` when it does not.
    fn refusal(&self, transport: Transport) -> Option<&'static str> {
        Some(match (self.name, transport) {
            ("empty_uuid" | "truncated", _) => "malformed",
            // On TCP the sniffer sees that it is nobody's.
            ("other_message" | "empty_union", Tcp) => "unknown_protocol",
            ("other_message" | "empty_union", WebSocket) => "not_a_relay_request",
            _ => return None,
        })
    }

    fn opening(&self, transport: Transport) -> Vec<u8> {
        opening(transport, &self.payload)
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

#[test]
fn the_vectors_frames_are_their_payloads_framed() {
    let vectors = Vector::all();
    assert_eq!(vectors.len(), 13);
    for vector in vectors {
        assert_eq!(vector.opening(Tcp), vector.frame, "{}", vector.name);
    }
}

#[tokio::test]
async fn accepted_vectors_wait_and_pair_and_refused_ones_are_closed_with_a_reason() {
    let gateway = TestGateway::start().await;
    for vector in Vector::all() {
        for transport in [Tcp, WebSocket] {
            let Some(reason) = vector.refusal(transport) else {
                for peer in [Tcp, WebSocket] {
                    waits_and_pairs(&gateway, &vector, transport, peer).await;
                }
                continue;
            };
            let before = gateway.refusals(reason).await;
            is_refused(&gateway, transport, &vector.opening(transport)).await;
            gateway
                .until_metric(&format!("relay_rejected_total{{reason=\"{reason}\"}}"), before + 1.0)
                .await;
        }
    }
    gateway.until_metric("relay_ends_total{reason=\"closed\"}", 9.0 * 4.0).await;
}

async fn waits_and_pairs(
    gateway: &TestGateway,
    vector: &Vector,
    transport: Transport,
    peer: Transport,
) {
    let uuid = Hello::parse(&vector.payload).expect(vector.name).uuid;
    let mut first = gateway.leg_with(transport, &vector.payload).await;
    gateway.until_waiting(uuid.as_str()).await;
    let mut second = gateway.leg(peer, uuid.as_str()).await;
    second.send(b"from the second").await;
    assert_eq!(first.receive().await.as_deref(), Some(&b"from the second"[..]), "{}", vector.name);
    first.send(b"from the first").await;
    assert_eq!(second.receive().await.as_deref(), Some(&b"from the first"[..]), "{}", vector.name);
    first.finish().await;
    assert_eq!(second.receive().await, None);
    second.finish().await;
    assert_eq!(first.receive().await, None);
}

#[tokio::test]
async fn accepted_vectors_are_accepted_wherever_they_are_cut() {
    let gateway = TestGateway::start().await;
    let mut paired = 0;
    for transport in [Tcp, WebSocket] {
        for vector in Vector::all() {
            if vector.refusal(transport).is_some() {
                continue;
            }
            // All name one uuid, so that they pair among themselves, and one more with the last.
            let wires = cut_everywhere(&gateway, &vector, transport).await;
            let _odd = match wires.len() % 2 {
                0 => None,
                _ => Some(gateway.leg_with(transport, &vector.payload).await),
            };
            paired += wires.len().div_ceil(2);
            until_pairs(&gateway, paired).await;
        }
    }
    assert!(gateway.all_refusals().await < 0.5);
}

async fn until_pairs(gateway: &TestGateway, pairs: usize) {
    crate::support::eventually("all are paired", async || {
        let mut sum = 0.0;
        for transport in ["tcp", "websocket"] {
            let series = format!("relay_pairs_total{{transport=\"{transport}\"}}");
            sum += gateway.metric(&series).await;
        }
        sum as usize == pairs
    })
    .await;
}

#[tokio::test]
async fn refused_vectors_are_refused_wherever_they_are_cut() {
    let gateway = TestGateway::start().await;
    for transport in [Tcp, WebSocket] {
        for vector in Vector::all() {
            let Some(reason) = vector.refusal(transport) else { continue };
            let before = gateway.refusals(reason).await;
            let wires = cut_everywhere(&gateway, &vector, transport).await;
            let count = wires.len() as f64;
            for mut wire in wires {
                if transport == WebSocket {
                    wire.upgraded().await;
                }
                assert_eq!(wire.rest().await, b"", "{} over {transport:?}", vector.name);
            }
            assert_eq!(gateway.refusals(reason).await, before + count, "{}", vector.name);
        }
    }
}

/// As many connections as there are places to cut the opening at, each sent in two pieces. The
/// gateway has read the first before the second goes out. What is refused early fails to be sent.
/// Of the WebSocket handshake, which is always the same, the first vector's is cut.
async fn cut_everywhere(gateway: &TestGateway, vector: &Vector, transport: Transport) -> Vec<Wire> {
    let bytes = vector.opening(transport);
    let handshake = match transport {
        WebSocket if vector.name != "seed_controlling" => upgrade_request("/").len(),
        _ => 0,
    };
    let mut wires = Vec::new();
    let cuts = handshake + 1..bytes.len().max(2);
    for cut in cuts.clone() {
        let mut wire = Wire::connect(gateway.addr).await;
        wire.send(&bytes[..cut]).await;
        wires.push(wire);
    }
    gateway.round_trip().await;
    for (wire, cut) in wires.iter_mut().zip(cuts) {
        use tokio::io::AsyncWriteExt as _;
        let _ = wire.socket.write_all(&bytes[cut..]).await;
    }
    wires
}

#[tokio::test]
async fn a_first_message_that_comes_byte_by_byte_is_whole() {
    let gateway = TestGateway::start_with(|config| {
        config.front_door.first_frame_timeout = Duration::from_secs(3600);
        config.pairing.timeout = Duration::from_secs(3600);
    })
    .await;
    let vector = &Vector::all()[0];
    let mut wires = Vec::new();
    for transport in [Tcp, WebSocket] {
        let mut wire = Wire::connect(gateway.addr).await;
        for byte in vector.opening(transport) {
            wire.send([byte]).await;
            gateway.round_trip().await;
        }
        wires.push(wire);
    }
    gateway.until_metric("relay_pairs_total{transport=\"mixed\"}", 1.0).await;
    let mut second = wires.pop().expect("two");
    let mut first = wires.pop().expect("two");
    second.upgraded().await;
    drop(second);
    assert_eq!(read_to_end(&mut first.socket).await, b"");
}
