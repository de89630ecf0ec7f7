//! The framing between two legs of which one at least is a WebSocket: cut anywhere, taken in any
//! portions and with control frames of ours in between, what comes out is what a translator of
//! single bytes makes of it, and memory is bounded by a message's limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::{
    relay::splice::fuzzing::{Direction, Ended},
    wire::Transport::{self, Tcp, WebSocket},
};

use self::model::Model;

#[path = "../model.rs"]
mod model;

const PAIRS: [(Transport, Transport); 3] =
    [(Tcp, WebSocket), (WebSocket, Tcp), (WebSocket, WebSocket)];

fuzz_target!(|data: &[u8]| {
    let &[kind, max, count, ref rest @ ..] = data else { return };
    let (from, to) = PAIRS[usize::from(kind) % PAIRS.len()];
    // A short limit that is met, or one that is not.
    let max = if kind & 0x80 == 0 { usize::from(max) << 2 } else { 1 << 20 };
    // Of each piece its length, and what happens at its end.
    let Some((steps, mut stream)) = rest.split_at_checked(2 * usize::from(count % 17)) else {
        return;
    };
    let mut direction = Direction::new(from, to, max);
    let mut model = Model::new(from, to, max);
    for step in steps.chunks_exact(2).chain([&[255, 0][..]]) {
        let len = if step[0] == 255 { stream.len() } else { stream.len().min(step[0].into()) };
        let (piece, after) = stream.split_at(len);
        stream = after;
        // An empty read is the end of the source, and is never translated.
        if piece.is_empty() {
            continue;
        }
        let takes = usize::from(step[1] >> 2) * 7;
        let (real, modelled) = (direction.read(piece, takes), model.read(piece));
        assert_eq!(real, modelled, "{from:?} to {to:?}");
        same(&direction, &model);
        assert!(direction.held() <= 2 * max + 8, "{} bytes held", direction.held());
        if real.is_err() {
            return;
        }
        match step[1] & 3 {
            2 => (direction.pong(step[0].into()), model.pong(step[0].into())),
            3 => (direction.close(1000), model.close(1000)),
            _ => ((), ()),
        };
    }
});

fn same(direction: &Direction, model: &Model) {
    assert_eq!(direction.ping(), model.ping());
    let (out, expected) = (direction.out(), model.out());
    assert!(out == expected, "came out: {out:x?}\nexpected: {expected:x?}");
}
