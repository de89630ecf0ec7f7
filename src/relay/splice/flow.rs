//! One direction of a relay: read from one socket, translate, write to the other.
//!
//! Bytes pass through a buffer that all relays of a thread share. What the sink does not take at
//! once is kept, and nothing is read until it has gone: that is the back-pressure, and the bound.
//! An idle direction holds no memory.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{
    batch::Batch,
    outbox::{Gone, Outbox},
    scratch::Scratch,
    translate::{Heard, Translator, Unreadable},
};
use crate::wire::{
    Transport,
    websocket::{ControlPayload, Fault},
};

/// How much a direction moves before others have their turn.
const BUDGET: usize = 256 << 10;

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
    from: Transport,
    to: Transport,
    /// `None`: raw bytes.
    translator: Option<Box<Translator>>,
    /// What was read before pairing.
    early: Box<[u8]>,
    outbox: Outbox,
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
            from,
            to,
            translator: (!raw).then(|| Box::new(Translator::new(from, to, max))),
            early,
            outbox: Outbox::default(),
            linger_until: None,
            received: 0,
            active: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
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
        let stalled = self.outbox.deadline(write_timeout);
        let waits = matches!(self.state, State::Completing | State::Discarding);
        [stalled, self.linger_until.filter(|_| waits)].into_iter().flatten().min()
    }

    /// Whether the sink does not take all that there is for it.
    pub(super) fn is_held_up(&self) -> bool {
        self.outbox.is_stalled()
    }

    pub(super) fn is_stalled(&self, now: Instant, write_timeout: Duration) -> bool {
        self.outbox.deadline(write_timeout).is_some_and(|at| now >= at)
    }

    /// Tries the sink of a direction that is stalled.
    pub(super) fn nudge(&mut self, sink: &TcpStream) {
        self.active |= self.outbox.nudge(sink) > 0;
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
        self.rest();
    }

    /// Asks for a Pong to the sink, which is the leg that pinged.
    pub(super) fn pong(&mut self, payload: ControlPayload) {
        if let Some(translator) = &mut self.translator {
            translator.pong(payload);
        }
    }

    /// Moves bytes until a socket is not ready, the budget is spent or the source ends.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        scratch: &mut Scratch,
        heard: &mut Heard,
    ) -> Result<Step, Broken> {
        let mut budget = BUDGET;
        loop {
            if self.poll_write(cx, sink)?.is_pending() {
                return Ok(Step::Blocked);
            }
            if matches!(self.state, State::Done) {
                return Ok(Step::Blocked);
            }
            if budget == 0 {
                return Ok(Step::Spent);
            }
            let Scratch { input, output } = &mut *scratch;
            let input = match self.poll_read(cx, source, input) {
                Poll::Pending => return Ok(Step::Blocked),
                Poll::Ready(Err(_)) => return Err(Broken::Source),
                Poll::Ready(Ok(0)) => return Ok(Step::Ended),
                Poll::Ready(Ok(len)) => &mut input[..len],
            };
            budget = budget.saturating_sub(input.len());
            self.pass_on(cx, input, output, sink, heard)?;
            if heard.close.is_some() {
                // The caller ends this direction; bytes behind a Close are nobody's.
                return Ok(Step::Blocked);
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        input: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            // Bounded by the first message's own limit, so smaller than the buffer.
            let early = std::mem::take(&mut self.early);
            let len = early.len().min(input.len());
            input[..len].copy_from_slice(&early[..len]);
            self.early = early[len..].into();
            return Poll::Ready(Ok(len));
        }
        // Not `try_read`: after less than it asked for, this knows that there is no more, and saves
        // the call that would say so.
        let mut input = ReadBuf::new(input);
        Pin::new(source).poll_read(cx, &mut input).map_ok(|()| input.filled().len())
    }

    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut [u8],
        output: &mut Batch,
        sink: &mut TcpStream,
        heard: &mut Heard,
    ) -> Result<(), Broken> {
        if self.deaf {
            return Ok(());
        }
        let discarding = self.state == State::Discarding;
        if !discarding {
            self.received += input.len() as u64;
            self.active = true;
        }
        let Some(translator) = &mut self.translator else {
            if !discarding {
                self.outbox.send(cx, sink, input)?;
            }
            return Ok(());
        };
        output.clear();
        let readable = translator.translate(input, output, heard);
        if !discarding {
            output.write(|own| translator.put_control(own));
            self.outbox.send_batch(cx, sink, input, output)?;
        }
        readable.map_err(|unreadable| match unreadable {
            Unreadable::TooLong => Broken::TooLong,
            Unreadable::Protocol(fault) => Broken::Protocol(fault),
        })
    }

    /// Writes what is pending, and the end once it is time.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut TcpStream,
    ) -> Result<Poll<()>, Broken> {
        if matches!(self.state, State::Discarding | State::Done) {
            return Ok(Poll::Ready(()));
        }
        while self.next_pending() {
            self.active |= self.outbox.flush(cx, sink)? > 0;
            if !self.outbox.is_empty() {
                return Ok(Poll::Pending);
            }
        }
        if self.state == State::Completing {
            if self.close_is_put() {
                self.state = State::Finishing;
            } else {
                self.linger();
            }
        }
        if self.state == State::Finishing {
            if self.to == Transport::Tcp || self.hang_up || !self.close_is_put() {
                // It fails only when the connection is gone, and then it need not be told.
                let _ = SockRef::from(&*sink).shutdown(Shutdown::Write);
            }
            self.rest();
        }
        Ok(Poll::Ready(()))
    }

    /// Whether anything is pending. Control frames join only when all else has gone, or a flood of
    /// Pings from a client that reads no Pong would pile up here.
    fn next_pending(&mut self) -> bool {
        if self.outbox.is_empty()
            && let Some(translator) = &mut self.translator
        {
            translator.put_control(self.outbox.pending_mut());
        }
        !self.outbox.is_empty()
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
