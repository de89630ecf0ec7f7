//! What the end of one leg means for the other, and how a relay is cut short.
//!
//! Where the second leg is another node, which relays the first, that has to know how its client
//! ended: it is the one to tell the peer, and to write it down. So a connection that broke is passed on
//! as one that breaks; and a WebSocket that is cut short is told by the other node, which alone knows
//! where its frames end.

use std::{future::poll_fn, time::Duration};

use tokio::time::timeout;

use super::{End, FAREWELL, GOING_AWAY, LegIndex, NORMAL, Splice, TOO_LONG, Turn, flow::Broken};
use crate::wire::{Transport, websocket::ControlPayload};

impl Splice {
    /// A leg's last byte was read.
    pub(super) fn source_ended(&mut self, from: LegIndex) {
        self.end.get_or_insert(End::Closed(from));
        if !self.flows[from.at()].reads_websocket() {
            self.flows[from.at()].finish(ControlPayload::status(NORMAL));
            if from == LegIndex::Second {
                self.hear_no_more();
            }
            return;
        }
        // It ended both ways at once: there is no half-closed WebSocket. And in no good order, as it
        // sent no Close.
        self.flows[from.at()].finish(ControlPayload::status(GOING_AWAY));
        self.flows[from.other().at()].stop(Some(ControlPayload::status(GOING_AWAY)));
    }

    /// A leg's socket failed, or what it sent cannot be passed on.
    pub(super) fn broken(&mut self, from: LegIndex, broken: Broken) {
        let across = from.other().at();
        match broken {
            Broken::Source => {
                self.end.get_or_insert(End::Reset(from));
                self.flows[from.at()].finish(ControlPayload::status(GOING_AWAY));
                self.flows[across].discard();
                self.pass_on_break(from);
            }
            Broken::Sink => {
                self.end.get_or_insert(End::Reset(from.other()));
                self.flows[from.at()].discard();
                self.pass_on_break(from.other());
            }
            Broken::TooLong => {
                self.end.get_or_insert(End::MessageTooLong(from));
                self.flows[from.at()].give_up(ControlPayload::status(TOO_LONG));
                self.flows[across].stop(Some(ControlPayload::status(TOO_LONG)));
            }
            Broken::Protocol(fault) => {
                self.end.get_or_insert(End::WebSocketProtocol(from));
                self.flows[from.at()].give_up(ControlPayload::status(GOING_AWAY));
                self.flows[across].stop(Some(ControlPayload::status(fault.close_code())));
            }
        }
    }

    /// Cuts the relay short: what is pending goes out, and WebSockets are told. Then the legs have
    /// a moment to end by themselves, since closing with bytes unread would be a reset, and could
    /// overtake the rest.
    pub(super) async fn cut(&mut self, end: End) -> End {
        self.relay.allowance().lift();
        if self.carries {
            self.cut_off();
        } else {
            for flow in &mut self.flows {
                flow.stop(Some(ControlPayload::status(GOING_AWAY)));
            }
        }
        let farewell = async {
            loop {
                match poll_fn(|cx| self.poll_turn(cx)).await {
                    Turn::Done => return,
                    Turn::Rearm => {}
                    Turn::Yield => tokio::task::yield_now().await,
                }
            }
        };
        // A leg that takes nothing does not hear the farewell either.
        let _ = timeout(FAREWELL, farewell).await;
        self.leave(end).await
    }

    /// A leg's connection broke.
    fn pass_on_break(&mut self, broken: LegIndex) {
        if self.carries && broken == LegIndex::First {
            self.break_off();
            self.flows[LegIndex::Second.at()].give_up_now();
        }
    }

    /// The other node has ended. That is the end of a WebSocket, whatever its client still says; a TCP
    /// leg's peer may have ended its sending only.
    fn hear_no_more(&mut self) {
        if self.carries && self.client() == Transport::WebSocket {
            self.flows[LegIndex::First.at()].discard();
        }
    }

    /// Whether the other node, which has ended its sending, may have gone altogether: that is not
    /// seen by whoever has nothing to say to it.
    pub(super) fn may_be_forsaken(&self) -> bool {
        let [first, second] = &self.flows;
        self.carries && second.is_done() && first.is_moving()
    }

    /// Looks whether it has, and hears the client no more then.
    pub(super) fn look_whether_forsaken(&mut self) {
        if self.may_be_forsaken() && self.streams[LegIndex::Second.at()].is_gone() {
            self.flows[LegIndex::First.at()].discard();
        }
    }

    /// How long a leg may take nothing. The node that carries one takes bytes in lumps, and the next
    /// only once its client has taken the last: a slow client is to have time for that.
    pub(super) fn write_timeout(&self, sink: LegIndex) -> Duration {
        let is_carried = self.relay.is_guest() && !self.carries && sink == LegIndex::Second;
        self.limits.write_timeout.get().saturating_mul(if is_carried { 2 } else { 1 })
    }

    /// How the client of a leg that is carried came.
    fn client(&self) -> Transport {
        self.relay.legs[LegIndex::First.at()].transport
    }

    /// Nothing more comes of the client. What is for it still comes, if the other node has to tell it
    /// anything.
    fn cut_off(&mut self) {
        let client = self.client();
        let [first, second] = &mut self.flows;
        first.stop(None);
        if client == Transport::Tcp {
            second.stop(None);
            self.break_off();
        }
    }

    /// The connection to the other node is over. Where the leg is carried it ends as the client did;
    /// and the node that carries one learns of an end which its client has not answered.
    pub(super) async fn leave(&mut self, end: End) -> End {
        let unanswered = !self.flows[LegIndex::Second.at()].source_has_ended();
        if self.breaks || (self.relay.is_guest() && !self.carries && unanswered) {
            // What was sent is not to be overtaken; whoever does not take it has had its time.
            let _ = timeout(FAREWELL, self.streams[LegIndex::Second.at()].break_off()).await;
        }
        end
    }

    fn break_off(&mut self) {
        self.breaks = true;
        self.flows[LegIndex::First.at()].break_off();
    }
}
