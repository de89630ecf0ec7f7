//! One direction of a relay: where it stands, and how it ends. How its bytes move is `turn`'s.
//!
//! What the sink does not take at once is kept, and nothing is read until it has gone: that is the
//! back-pressure, and the bound. An idle direction holds no memory.

mod turn;

pub(super) use self::turn::Means;

use std::time::Duration;

use tokio::time::Instant;

use super::{
    kernel::Kernel,
    outbox::{Gone, Outbox},
    translate::Translator,
};
use crate::{
    net::stream::Stream,
    wire::{
        Transport,
        websocket::{ControlPayload, Fault},
    },
};

/// How long a source is waited for once its sink must end: for the rest of the frame in the way of
/// a Close, then for its end, what else it sends being read and dropped. Closing with bytes unread
/// would be a reset, and could overtake what the leg has still to read.
const LINGER: Duration = Duration::from_secs(5);

/// One direction.
pub(super) struct Flow {
    state: State,
    source_ended: bool,
    /// Whether the sink's sending is over too, so that it is shut down even if a WebSocket.
    hang_up: bool,
    /// Whether what the source sends makes no sense any more, and is dropped unread.
    deaf: bool,
    /// Whether the sink is not told that this ends: it will see a connection that broke.
    breaks: bool,
    from: Transport,
    to: Transport,
    /// `None`: raw bytes.
    translator: Option<Box<Translator>>,
    /// What was read before pairing.
    early: Box<[u8]>,
    outbox: Outbox,
    /// Engaged while there is much to move; the outbox is empty while bytes are in it.
    kernel: Option<Box<Kernel>>,
    linger_until: Option<Instant>,
    received: u64,
    active: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Reading and writing.
    Moving,
    /// The sink, a WebSocket, is to get a Close: only the frame that is passing goes on, since
    /// there is no room for a Close inside it.
    Completing,
    /// Writing what is pending, then the end.
    Finishing,
    /// Reading and dropping.
    Discarding,
    /// Over.
    Done,
}

/// How far a turn came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Until a socket was not ready; the task is woken when it is.
    Blocked,
    /// Until its budget was spent.
    Spent,
    /// Until the source's end, which the caller answers with [`Flow::finish`].
    Ended,
}

/// Why a direction cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Reading failed.
    Source,
    /// Writing failed.
    Sink,
    /// A message longer than may cross.
    TooLong,
    /// Not WebSocket frames.
    Protocol(Fault),
}

impl From<Gone> for Broken {
    fn from(_: Gone) -> Self {
        Self::Sink
    }
}

impl Flow {
    pub(super) fn new(from: Transport, to: Transport, early: Box<[u8]>, max: usize) -> Self {
        let raw = (from, to) == (Transport::Tcp, Transport::Tcp);
        Self {
            state: State::Moving,
            source_ended: false,
            hang_up: false,
            deaf: false,
            breaks: false,
            from,
            to,
            translator: (!raw).then(|| Box::new(Translator::new(from, to, max))),
            early,
            outbox: Outbox::default(),
            kernel: None,
            linger_until: None,
            received: 0,
            active: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether nothing has ended it yet.
    pub(super) fn is_moving(&self) -> bool {
        self.state == State::Moving
    }

    /// Whether nothing more comes from the source.
    pub(super) const fn source_has_ended(&self) -> bool {
        self.source_ended
    }

    pub(super) fn reads_websocket(&self) -> bool {
        self.from == Transport::WebSocket
    }

    /// Where it stands, its deadline included: to be compared only.
    pub(super) fn standing(&self) -> impl PartialEq + use<> {
        (self.state, self.linger_until)
    }

    /// Whether the sink, a WebSocket, has been sent a Close.
    pub(super) fn has_closed(&self) -> bool {
        matches!(self.state, State::Discarding | State::Done) && self.close_is_put()
    }

    /// Bytes received since this was last asked; `None` when not even a pending byte moved.
    pub(super) fn take_activity(&mut self) -> Option<u64> {
        std::mem::take(&mut self.active).then(|| std::mem::take(&mut self.received))
    }

    #[cfg(test)]
    pub(super) fn pending_len(&self) -> usize {
        self.outbox.len()
    }

    /// When this direction must be looked at, at the latest.
    pub(super) fn deadline(&self, write_timeout: Duration) -> Option<Instant> {
        let stalled = self.stalled_since().map(|since| since + write_timeout);
        let pipe = self.kernel.as_ref().and_then(|kernel| kernel.patience());
        let waits = matches!(self.state, State::Completing | State::Discarding);
        [stalled, pipe, self.linger_until.filter(|_| waits)].into_iter().flatten().min()
    }

    /// Whether the sink does not take all that there is for it.
    pub(super) fn is_held_up(&self) -> bool {
        self.stalled_since().is_some()
    }

    pub(super) fn is_stalled(&self, now: Instant, write_timeout: Duration) -> bool {
        self.stalled_since().is_some_and(|since| now >= since + write_timeout)
    }

    fn stalled_since(&self) -> Option<Instant> {
        let kernel = self.kernel.as_ref().and_then(|kernel| kernel.stalled_since());
        kernel.or(self.outbox.stalled_since())
    }

    /// Tries the sink of a direction that is stalled, and takes its pipe away if it does not help.
    pub(super) fn nudge(&mut self, now: Instant, sink: &mut Stream) -> Result<(), Gone> {
        self.active |= self.outbox.nudge(sink) > 0;
        let Some((kernel, sink)) = self.kernel.as_mut().zip(sink.as_plain()) else {
            return Ok(());
        };
        self.active |= kernel.nudge(sink) > 0;
        if kernel.patience().is_some_and(|until| now >= until) {
            let since = kernel.unload(self.outbox.pending_mut())?;
            self.outbox.stall(since);
        }
        Ok(())
    }

    /// Stops waiting for a source, once it had its time: the rest of its frame, or its end.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.linger_until.is_none_or(|until| now < until) {
            return;
        }
        match self.state {
            // Its bytes have had their time too, so that the deadline stays where it is.
            State::Completing => self.state = State::Finishing,
            State::Discarding => self.done(),
            State::Moving | State::Finishing | State::Done => {}
        }
    }

    /// Nothing more comes from the source: what is pending goes out, then the end, with this Close
    /// on a WebSocket.
    pub(super) fn finish(&mut self, close: ControlPayload) {
        self.source_ended = true;
        match self.state {
            State::Moving | State::Completing => {
                self.ask_for_close(Some(close));
                self.state = State::Finishing;
            }
            State::Discarding => self.done(),
            State::Finishing | State::Done => {}
        }
    }

    /// As [`Flow::finish`], for a source that sends on what cannot be passed on: it is dropped
    /// until it ends.
    pub(super) fn give_up(&mut self, close: ControlPayload) {
        self.deaf = true;
        if matches!(self.state, State::Moving | State::Completing) {
            self.early = Box::default();
            self.ask_for_close(Some(close));
            self.state = State::Finishing;
        }
    }

    /// Nothing more is for the sink, which has ended or must: what is pending goes out, then the
    /// end, and what the source still sends is dropped. A Close has to wait for its place.
    pub(super) fn stop(&mut self, close: Option<ControlPayload>) {
        self.hang_up = true;
        if self.state == State::Moving {
            let in_the_way = close.is_some() && self.is_within_frame();
            self.ask_for_close(close);
            self.state = if in_the_way { State::Completing } else { State::Finishing };
        }
    }

    /// The sink is gone: what the source still sends is dropped.
    pub(super) fn discard(&mut self) {
        self.outbox.clear();
        self.kernel = None;
        self.rest();
    }

    /// What is pending goes out, and then nothing: the sink's connection is to be broken off.
    pub(super) const fn break_off(&mut self) {
        self.breaks = true;
    }

    /// The sink is gone, and the source is to know that at once.
    pub(super) fn give_up_now(&mut self) {
        self.discard();
        self.done();
    }

    /// Asks for a Pong to the sink, which is the leg that pinged.
    pub(super) fn pong(&mut self, payload: ControlPayload) {
        if let Some(translator) = &mut self.translator {
            translator.pong(payload);
        }
    }

    /// The sink's part is over: wait for the source's end, unless it came.
    fn rest(&mut self) {
        self.early = Box::default();
        if self.source_ended || self.state == State::Done {
            self.done();
        } else {
            self.state = State::Discarding;
            self.linger();
        }
    }

    fn done(&mut self) {
        self.state = State::Done;
        self.linger_until = None;
    }

    fn linger(&mut self) {
        self.linger_until.get_or_insert_with(|| Instant::now() + LINGER);
    }

    fn close_is_put(&self) -> bool {
        self.translator.as_ref().is_some_and(|translator| translator.has_closed())
    }

    fn is_within_frame(&self) -> bool {
        self.translator.as_ref().is_some_and(|translator| translator.is_within_frame())
    }

    fn ask_for_close(&mut self, close: Option<ControlPayload>) {
        if let (Some(translator), Some(close)) = (&mut self.translator, close) {
            translator.close(close);
        }
    }
}
