//! Random schedules of legs of every kind that land on any of three nodes, speak, end and hang up:
//! what each leg hears is worked out by rules that know no nodes, and must be so on one node too.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    redis::Redis,
    support::{Cluster, name},
};
use crate::{
    support::unique,
    tls::{Kind, Peer, TlsGateway},
};

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Somebody comes with one of a few names.
    Come { name: usize, node: usize, kind: Kind },
    /// One of those who are there says something, of this length.
    Say { who: usize, len: usize },
    /// It has nothing more to say.
    Finish { who: usize },
    /// It is gone.
    HangUp { who: usize },
    /// It hears what there is for it.
    Hear { who: usize },
}

const NAMES: usize = 3;
const NODES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let who = 0..100_usize;
    let len = prop_oneof![Just(0), 1..200_usize, Just(16_384), Just(40_000)];
    let kind = prop::sample::select(Kind::ALL.to_vec());
    prop_oneof![
        4 => (0..NAMES, 0..NODES, kind).prop_map(|(name, node, kind)| Step::Come { name, node, kind }),
        6 => (who.clone(), len).prop_map(|(who, len)| Step::Say { who, len }),
        1 => who.clone().prop_map(|who| Step::Finish { who }),
        1 => who.clone().prop_map(|who| Step::HangUp { who }),
        3 => who.prop_map(|who| Step::Hear { who }),
    ]
}

/// Where the legs land.
struct Stage<'s> {
    nodes: &'s [TlsGateway],
    redis: Option<&'s Redis>,
}

/// A leg, and what the rules say of it.
struct Leg {
    client: Option<Peer>,
    kind: Kind,
    name: usize,
    peer: Option<usize>,
    /// Said by its peer, or for its peer to come, and not heard yet.
    for_it: Vec<Vec<u8>>,
    /// Said while it had no peer.
    ahead: Vec<Vec<u8>>,
    may_speak: bool,
    /// Its peer has ended, or the relay has.
    is_told: bool,
    /// It has heard its end.
    has_heard_all: bool,
}

struct Play<'s> {
    stage: Stage<'s>,
    uuids: [String; NAMES],
    legs: Vec<Leg>,
    waits: [Option<usize>; NAMES],
    said: u8,
}

impl Play<'_> {
    async fn step(&mut self, step: Step) {
        let pick = |who: usize, legs: &[Leg]| (!legs.is_empty()).then(|| who % legs.len());
        match step {
            Step::Come { name, node, kind } => self.come(name, node, kind).await,
            Step::Say { who, len } => {
                if let Some(who) = pick(who, &self.legs) {
                    self.say(who, len).await;
                }
            }
            Step::Finish { who } => {
                if let Some(who) = pick(who, &self.legs) {
                    self.finish(who).await;
                }
            }
            Step::HangUp { who } => {
                if let Some(who) = pick(who, &self.legs) {
                    self.hang_up(who).await;
                }
            }
            Step::Hear { who } => {
                if let Some(who) = pick(who, &self.legs) {
                    self.hear(who).await;
                }
            }
        }
    }

    async fn come(&mut self, at: usize, node: usize, kind: Kind) {
        let node = node % self.stage.nodes.len();
        let (uuid, who) = (&self.uuids[at], self.legs.len());
        let client = Some(self.stage.nodes[node].leg(kind, uuid).await);
        self.legs.push(Leg {
            client,
            kind,
            name: at,
            peer: None,
            for_it: Vec::new(),
            ahead: Vec::new(),
            may_speak: true,
            is_told: false,
            has_heard_all: false,
        });
        if let Some(first) = self.waits[at].take() {
            self.legs[who].peer = Some(first);
            self.legs[first].peer = Some(who);
            self.legs[who].for_it = std::mem::take(&mut self.legs[first].ahead);
            // Both know of each other before anything else happens to either.
            self.legs[who].client.as_mut().expect("it came").send(b"met").await;
            self.legs[first].for_it.push(b"met".to_vec());
            self.hear(first).await;
        } else {
            self.waits[at] = Some(who);
            self.stage.nodes[node].gateway.until_waiting(uuid).await;
            if let Some(redis) = self.stage.redis {
                redis.until_claimed(&name(node), uuid).await;
            }
        }
    }

    async fn say(&mut self, who: usize, len: usize) {
        if !self.legs[who].may_speak || self.legs[who].client.is_none() {
            return;
        }
        self.said = self.said.wrapping_add(1);
        let message = vec![self.said; len];
        self.legs[who].client.as_mut().expect("it is there").send(&message).await;
        match self.legs[who].peer {
            Some(peer) => self.legs[peer].for_it.push(message),
            None => self.legs[who].ahead.push(message),
        }
    }

    async fn finish(&mut self, who: usize) {
        if !self.legs[who].may_speak || self.legs[who].client.is_none() {
            return;
        }
        let Some(peer) = self.legs[who].peer else { return self.hang_up(who).await };
        // So that a WebSocket that is told has nothing to drop.
        self.hear(who).await;
        self.legs[who].client.as_mut().expect("it is there").finish().await;
        self.legs[who].may_speak = false;
        self.legs[peer].is_told = true;
        self.hear(peer).await;
        let half = !self.legs[who].kind.is_websocket() && !self.legs[peer].kind.is_websocket();
        if !half && self.legs[peer].may_speak && self.legs[peer].client.is_some() {
            // There is no half-closed WebSocket.
            self.legs[peer].may_speak = false;
            self.legs[peer].client.as_mut().expect("it is there").finish().await;
            self.legs[who].is_told = true;
            self.hear(who).await;
        }
    }

    async fn hang_up(&mut self, who: usize) {
        if self.legs[who].client.is_none() {
            return;
        }
        // What came and was not read would make a reset of it, which may overtake what it said.
        self.hear(who).await;
        self.legs[who].client = None;
        self.legs[who].may_speak = false;
        let at = self.legs[who].name;
        if self.waits[at] == Some(who) {
            self.waits[at] = None;
        }
        if let Some(peer) = self.legs[who].peer {
            self.legs[peer].may_speak = false;
            self.legs[peer].is_told = true;
            self.hear(peer).await;
        }
    }

    /// Hears all that the rules say is there for it, and its end.
    async fn hear(&mut self, who: usize) {
        let leg = &mut self.legs[who];
        let Some(client) = &mut leg.client else { return };
        for message in leg.for_it.drain(..) {
            let heard = client.receive().await;
            assert!(heard.as_ref() == Some(&message), "{} bytes for {who}", message.len());
        }
        if leg.is_told && !leg.has_heard_all {
            leg.has_heard_all = true;
            assert_eq!(client.receive().await, None, "the end of {who}");
        }
    }
}

async fn play(stage: Stage<'_>, steps: &[Step]) {
    let mut play = Play {
        stage,
        uuids: std::array::from_fn(|_| unique("model")),
        legs: Vec::new(),
        waits: [None; NAMES],
        said: 0,
    };
    for step in steps {
        play.step(*step).await;
    }
    for who in 0..play.legs.len() {
        play.hear(who).await;
    }
}

#[test]
#[ignore = "once in some ten runs something is left after 20 s: not yet known what"]
fn whatever_happens_on_three_nodes_is_as_on_one() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let Some(cluster) = runtime.block_on(Cluster::start(NODES)) else { return };
    let single = [runtime.block_on(TlsGateway::start())];
    let mut runner =
        TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec(step(), 1..60);
    let checked = runner.run(&steps, |steps| {
        runtime.block_on(async {
            play(Stage { nodes: &single, redis: None }, &steps).await;
            play(Stage { nodes: &cluster.nodes, redis: Some(&cluster.redis) }, &steps).await;
        });
        Ok(())
    });
    checked.expect("as on one");
    runtime.block_on(async {
        single[0].gateway.until_quiet().await;
        cluster.until_quiet().await;
    });
}
