//! The bytes across two legs, from pairing to the end.
//!
//! One task owns a pair and turns both directions in it, each a `Flow`: neither can stop the
//! other. Here are the deadlines, and what the end of one direction means for the other. How bytes
//! are read, translated and written is `flow`'s and `translate`'s; the way from plane to plane is
//! `migration`'s.

mod batch;
mod close_wait;
mod ending;
mod flow;
#[cfg(fuzzing)]
pub mod fuzzing;
mod kernel;
mod migration;
mod outbox;
mod pace;
pub mod pipes;
mod scratch;
mod translate;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use self::{
    close_wait::CloseWait,
    flow::{Flow, Means, Step},
    pace::{Pace, Plane},
    pipes::Pipes,
    scratch::{Scratch, with_scratch},
    translate::Heard,
};
use super::{
    plane::BulkPlane,
    registry::{ActiveRelay, ActiveRelays},
    request::{End, LegIndex, Paired},
};
use crate::{
    config::{Live, RelayConfig},
    net::{
        listener::{Connection, ConnectionPermit},
        stream::Stream,
    },
    wire::{Transport, websocket::ControlPayload},
};

/// How long a relay that is cut short may take to say so, and be heard.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often it is looked whether another node, which has ended its sending, is still there.
const LOOK: Duration = Duration::from_secs(2);

/// How often in a turn the directions may give each other something to do.
const ROUNDS: usize = 8;

/// The status codes of Close frames (RFC 6455, section 7.4.1).
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const TOO_LONG: u16 = 1009;

/// Makes relays of pairs.
#[derive(Clone)]
pub struct Splicer {
    /// Where relays are entered.
    pub registry: Arc<ActiveRelays>,
    /// Their limits.
    pub limits: Live<RelayConfig>,
    /// What they borrow to move much.
    pub pipes: Arc<Pipes>,
    /// Where those go that move much.
    pub bulk: Arc<BulkPlane>,
}

impl Splicer {
    /// Moves bytes between the two legs until both have ended, or something ends them.
    pub fn splice(&self, mut paired: Paired) -> impl Future<Output = End> + Send + use<> {
        // Made before the future is, which then has room for the relay and not for the pair too.
        let guard = self.registry.enter(&mut paired);
        let mut splice = Box::new(Splice::new(paired, Arc::clone(guard.relay()), self));
        let bulk = Arc::clone(&self.bulk);
        async move {
            let end = loop {
                match splice.run().await {
                    Leave::Ended(end) => break end,
                    Leave::Moves => match Box::pin(splice.run_in_bulk(&bulk)).await {
                        Ok(calm) => splice = calm,
                        Err(end) => break end,
                    },
                }
            };
            guard.end(end);
            end
        }
    }
}

/// Why a relay leaves a plane.
enum Leave {
    /// It is over.
    Ended(End),
    /// It belongs to the other plane.
    Moves,
}

struct Splice {
    relay: Arc<ActiveRelay>,
    streams: [Stream; 2],
    _permits: [ConnectionPermit; 2],
    /// By the leg that each comes from.
    flows: [Flow; 2],
    /// The first thing that led to the end.
    end: Option<End>,
    /// As they were when it began.
    limits: Arc<RelayConfig>,
    close_wait: CloseWait,
    pipes: Arc<Pipes>,
    pace: Pace,
    /// A deadline may have moved before the timer's.
    rearm: bool,
    /// The second leg is another node, which relays the first.
    carries: bool,
    /// That node is to see a connection that broke.
    breaks: bool,
}

enum Turn {
    /// Its share of the thread is used up, and there is more to do.
    Yield,
    /// The timer is to be set anew.
    Rearm,
    /// Both directions are over.
    Done,
}

impl Splice {
    fn new(paired: Paired, relay: Arc<ActiveRelay>, splicer: &Splicer) -> Self {
        let limits = splicer.limits.share();
        let max = limits.max_message_size.get();
        let carries = splicer.registry.carries();
        let transports = match carries {
            // Another node reads what its messages are.
            true => [Transport::Tcp; 2],
            false => [paired.legs[0].transport, paired.legs[1].transport],
        };
        let [first, second] = paired.legs;
        let flows = [
            Flow::new(transports[0], transports[1], first.early, max),
            Flow::new(transports[1], transports[0], second.early, max),
        ];
        let Connection { socket: first, permit: first_permit, .. } = first.connection;
        let Connection { socket: second, permit: second_permit, .. } = second.connection;
        Self {
            relay,
            streams: [first, second],
            _permits: [first_permit, second_permit],
            flows,
            end: None,
            limits,
            close_wait: CloseWait::default(),
            pipes: Arc::clone(&splicer.pipes),
            pace: Pace::new(if splicer.bulk.is_there() { Plane::Light } else { Plane::Only }),
            rearm: false,
            carries,
            breaks: false,
        }
    }

    async fn run(&mut self) -> Leave {
        let relay = Arc::clone(&self.relay);
        let mut closing = pin!(relay.closing().cancelled());
        let mut timer = pin!(sleep_until(self.next_look()));
        loop {
            let turn = tokio::select! {
                biased;
                turn = poll_fn(|cx| self.poll_turn(cx)) => turn,
                () = &mut closing => return Leave::Ended(Box::pin(self.cut(relay.closed_by())).await),
                () = &mut timer => Turn::Rearm,
            };
            match turn {
                Turn::Done => {
                    let end = self.end.unwrap_or(End::Aborted);
                    return Leave::Ended(Box::pin(self.leave(end)).await);
                }
                Turn::Rearm => {}
                Turn::Yield if self.pace.is_due() && self.pace.is_bulk(Instant::now()) => {
                    return Leave::Moves;
                }
                // The other branches get their chance, or a busy relay could not be closed.
                Turn::Yield => tokio::select! {
                    biased;
                    () = &mut closing => return Leave::Ended(Box::pin(self.cut(relay.closed_by())).await),
                    () = &mut timer => {}
                    () = tokio::task::yield_now() => continue,
                },
            }
            if let Some(end) = self.look(timer.as_mut()) {
                return Leave::Ended(Box::pin(self.cut(end)).await);
            }
            if self.pace.is_calm(Instant::now()) {
                return Leave::Moves;
            }
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        with_scratch(|scratch| {
            for _ in 0..ROUNDS {
                let mut spent = false;
                let mut again = false;
                for from in LegIndex::BOTH {
                    match self.poll_flow(from, cx, scratch) {
                        Progress::Blocked => {}
                        Progress::Spent => spent = true,
                        Progress::Changed => again = true,
                    }
                }
                if self.flows.iter().all(Flow::is_done) {
                    return Poll::Ready(Turn::Done);
                }
                if spent || self.pace.is_due() {
                    return Poll::Ready(Turn::Yield);
                }
                if !again {
                    let rearm = std::mem::take(&mut self.rearm);
                    return if rearm { Poll::Ready(Turn::Rearm) } else { Poll::Pending };
                }
            }
            Poll::Ready(Turn::Yield)
        })
    }

    fn poll_flow(
        &mut self,
        from: LegIndex,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Progress {
        let limit = self.idle_limit();
        let [first, second] = &mut self.streams;
        let (source, sink) = match from {
            LegIndex::First => (first, second),
            LegIndex::Second => (second, first),
        };
        let flow = &mut self.flows[from.at()];
        let mut heard = Heard::default();
        let before = flow.standing();
        let place = self.relay.allowance().get();
        let bandwidth = place.map(|place| place.turn(from.at()));
        let means = Means { pipes: &self.pipes, bandwidth };
        let step = flow.poll(cx, source, sink, scratch, means, &mut heard);
        let limited = place.is_some();
        self.rearm |= flow.standing() != before;
        if let Some(received) = flow.take_activity() {
            self.relay.received(from, received);
            self.pace.moved(received);
        }
        self.rearm |= self.idle_limit() != limit;
        let told = self.hear(from, heard);
        match step {
            Ok(Step::Blocked) if !told => return Progress::Blocked,
            Ok(Step::Blocked) => {}
            // What was heard is acted on in the next turn: a flood of Pings is no reason for more.
            Ok(Step::Spent) => {
                // One that is limited is behind for that.
                if !limited {
                    self.pace.fell_behind();
                }
                return Progress::Spent;
            }
            Ok(Step::Ended) => self.source_ended(from),
            Err(broken) => self.broken(from, broken),
        }
        self.rearm = true;
        Progress::Changed
    }

    /// What a WebSocket's control frames ask for goes out with what flows to it.
    fn hear(&mut self, from: LegIndex, heard: Heard) -> bool {
        let Heard { ping, close } = heard;
        if let Some(ping) = ping {
            self.flows[from.other().at()].pong(ping);
        }
        if let Some(close) = close {
            self.end.get_or_insert(End::Closed(from));
            self.flows[from.at()].finish(ControlPayload::status(NORMAL));
            self.flows[from.other().at()].stop(Some(close.close_reply()));
        }
        ping.is_some() || close.is_some()
    }

    /// The end that a deadline asks for; if none does, the timer is set anew.
    fn look(&mut self, timer: Pin<&mut Sleep>) -> Option<End> {
        let now = Instant::now();
        for from in LegIndex::BOTH {
            let write_timeout = self.write_timeout(from.other());
            let flow = &mut self.flows[from.at()];
            flow.expire(now);
            if flow.nudge(now, &mut self.streams[from.other().at()]).is_err() {
                return Some(End::Aborted);
            }
            if flow.is_stalled(now, write_timeout) {
                return Some(End::WriteTimeout(from.other()));
            }
            if let Some(received) = flow.take_activity() {
                self.relay.received(from, received);
            }
        }
        self.look_whether_forsaken();
        if self.close_wait.is_over(now, &self.flows, self.usual_silence()) {
            return Some(self.end.unwrap_or(End::Idle));
        }
        if self.relay.idle() >= self.idle_limit() {
            if !self.relay.allowance().is_waited_for() {
                return Some(self.end.unwrap_or(End::Idle));
            }
            // It is we who do not read: that is as good as a byte.
            self.relay.received(LegIndex::First, 0);
        }
        timer.reset(self.next_look());
        None
    }

    fn next_look(&self) -> Instant {
        let quiet = self.idle_limit().saturating_sub(self.relay.idle());
        let write_timeout = self.limits.write_timeout.get();
        // A direction that stalls later still has to be seen in time.
        let latest = Instant::now() + quiet.min(write_timeout);
        let deadline =
            |from: LegIndex| self.flows[from.at()].deadline(self.write_timeout(from.other()));
        let deadlines = LegIndex::BOTH.into_iter().filter_map(deadline);
        let forsaken = self.may_be_forsaken().then(|| Instant::now() + LOOK);
        let others = self.pace.next_look().into_iter().chain(self.close_wait.deadline());
        let others = others.chain(forsaken);
        deadlines.chain(others).fold(latest, Instant::min)
    }

    fn idle_limit(&self) -> Duration {
        CloseWait::silence(&self.flows, self.usual_silence())
    }

    /// How long the legs may be silent where neither owes anything.
    fn usual_silence(&self) -> Duration {
        let (limits, quiet) = (&self.limits, self.relay.conn_type.is_quiet());
        if quiet { limits.port_forward_idle_timeout } else { limits.idle_timeout }.get()
    }
}

/// How far one direction came in a turn.
enum Progress {
    Blocked,
    Spent,
    /// Something happened that concerns the other direction too.
    Changed,
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpStream};

    use super::*;
    use crate::{
        config::{BandwidthConfig, ThreadsConfig},
        metrics,
        relay::{
            capacity::ActivePlace,
            tests::{access, request},
            throttle::Throttle,
        },
        wire::{
            rendezvous::{ConnType, Text},
            websocket::tests::masked,
        },
    };

    /// A WebSocket and a TCP leg, and the clients at their other ends.
    async fn mixed() -> (Splice, TcpStream, TcpStream) {
        let (first, websocket) = request("uuid", "").await;
        let (second, tcp) = request("uuid", "").await;
        let mut legs = [first.leg, second.leg].map(|leg| leg.wake().unwrap());
        legs[0].transport = Transport::WebSocket;
        let uuid = Text::from("uuid");
        let (target, conn_type) = (None, ConnType::Default);
        let (waited, grants, seats) = (Duration::ZERO, Default::default(), Default::default());
        let place = ActivePlace::default();
        let mut paired =
            Paired { uuid, target, conn_type, legs, grants, seats, place, waited, via: None };
        let metrics = Arc::new(metrics::start().unwrap().0);
        let limits = BandwidthConfig::default();
        let throttle = Throttle::new(limits, access(), Arc::clone(&metrics));
        let stop = tokio_util::sync::CancellationToken::new();
        let registry = ActiveRelays::new(stop, throttle, metrics);
        let relay = Arc::clone(registry.enter(&mut paired).relay());
        let splicer = Splicer {
            registry,
            limits: Live::default(),
            pipes: Pipes::new(0),
            bulk: BulkPlane::new(&ThreadsConfig::default()),
        };
        (Splice::new(paired, relay, &splicer), websocket, tcp)
    }

    /// Thousands of idle relays have one each, in the size that the allocator has for it.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_relay_fits_its_place_in_memory() {
        assert!(size_of::<Splice>() <= 448, "{}", size_of::<Splice>());
        // Behind the two counts of an `Arc`.
        let counted = 16 + size_of::<ActiveRelay>();
        assert!(counted <= 256, "{counted}");
    }

    async fn turn(splice: &mut Splice) -> Option<Turn> {
        poll_fn(|cx| match splice.poll_turn(cx) {
            Poll::Ready(turn) => Poll::Ready(Some(turn)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn a_turn_ends_though_pings_never_do() {
        let (mut splice, mut websocket, _tcp) = mixed().await;
        let pings = masked(0x89, &[1; 100], [0; 4]).repeat(40_000);
        let flood = tokio::spawn(async move { while websocket.write_all(&pings).await.is_ok() {} });
        for _ in 0..200 {
            splice.streams[0].as_plain().unwrap().readable().await.unwrap();
            let before = splice.relay.bytes();
            turn(&mut splice).await;
            let taken = splice.relay.bytes() - before;
            assert!(taken <= (ROUNDS as u64) * (512 << 10), "{taken} bytes in a turn");
            tokio::task::yield_now().await;
        }
        flood.abort();
    }

    /// A client that sends Pings and never reads a Pong costs no more than one that reads.
    #[tokio::test]
    async fn pongs_that_nobody_reads_do_not_pile_up() {
        let (mut splice, _websocket, mut tcp) = mixed().await;
        // Empty ones, so that there is always room between two.
        let frames = vec![0; 32 << 20];
        let flood = tokio::spawn(async move { tcp.write_all(&frames).await });
        while splice.flows[1].deadline(Duration::ZERO).is_none() {
            splice.streams[1].as_plain().unwrap().readable().await.unwrap();
            turn(&mut splice).await;
        }
        let stalled = splice.flows[1].pending_len();
        for _ in 0..2_000 {
            splice.flows[1].pong(ControlPayload::status(1));
            turn(&mut splice).await;
        }
        assert!(splice.flows[1].pending_len() <= stalled + 4 * 2);
        flood.abort();
    }
}
