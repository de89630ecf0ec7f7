//! One turn of a direction: read from one socket, translate, write to the other.
//!
//! Bytes pass through a buffer that all relays of a thread share; between two TCP legs, and where
//! there is much at a time, through the kernel alone.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead as _, ReadBuf};

use super::{Broken, Flow, State, Step};
use crate::{
    net::stream::Stream,
    relay::{
        splice::{
            batch::Batch,
            kernel::{self, Kernel},
            pipes::Pipes,
            scratch::Scratch,
            translate::{Heard, Unreadable},
        },
        throttle,
    },
    wire::Transport,
};

/// How much a direction moves before others have their turn.
const BUDGET: usize = 256 << 10;

/// What a direction may borrow, and use up, in a turn.
pub(in crate::relay::splice) struct Means<'a> {
    pub(in crate::relay::splice) pipes: &'a Arc<Pipes>,
    /// `None` where nothing limits it.
    pub(in crate::relay::splice) bandwidth: Option<throttle::Turn<'a>>,
}

impl Means<'_> {
    fn used(&mut self, bytes: usize) {
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.read(bytes);
        }
    }
}

impl Flow {
    /// Moves bytes until a socket is not ready, the budget or the bandwidth is spent, or the source
    /// ends.
    pub(in crate::relay::splice) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
        scratch: &mut Scratch,
        mut means: Means<'_>,
        heard: &mut Heard,
    ) -> Result<Step, Broken> {
        let mut budget = if self.kernel.is_some() { kernel::BUDGET } else { BUDGET };
        loop {
            if self.poll_write(cx, sink)?.is_pending() {
                return Ok(Step::Blocked);
            }
            if matches!(self.state, State::Done) {
                return Ok(Step::Blocked);
            }
            if budget == 0 {
                means.bandwidth.into_iter().for_each(throttle::Turn::go_on);
                return Ok(Step::Spent);
            }
            let Poll::Ready(most) = self.poll_allowed(cx, source, &mut means, budget) else {
                return Ok(Step::Blocked);
            };
            match self.poll_fill(cx, source, budget.min(most)) {
                Poll::Pending => return Ok(Step::Blocked),
                Poll::Ready(Err(_)) => return Err(Broken::Source),
                Poll::Ready(Ok(Some(0))) => return Ok(Step::Ended),
                Poll::Ready(Ok(Some(len))) => {
                    budget -= len;
                    means.used(len);
                    continue;
                }
                Poll::Ready(Ok(None)) => {}
            }
            let Scratch { input, output } = &mut *scratch;
            let most = most.min(input.len());
            let input = match self.poll_read(cx, source, &mut input[..most]) {
                Poll::Pending => return Ok(Step::Blocked),
                Poll::Ready(Err(_)) => return Err(Broken::Source),
                Poll::Ready(Ok(0)) => return Ok(Step::Ended),
                Poll::Ready(Ok(len)) => {
                    means.used(len);
                    // After a read of this much there is more where it came from.
                    if len >= kernel::MUCH {
                        self.engage(source, sink, means.pipes);
                    }
                    &mut input[..len]
                }
            };
            budget = budget.saturating_sub(source.toil(input.len()));
            self.pass_on(cx, input, output, sink, heard)?;
            if heard.close.is_some() {
                // The caller ends this direction; bytes behind a Close are nobody's.
                return Ok(Step::Blocked);
            }
        }
    }

    /// How much may be read now. What is dropped takes no bandwidth from anybody.
    fn poll_allowed(
        &self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        means: &mut Means<'_>,
        budget: usize,
    ) -> Poll<usize> {
        let Some(bandwidth) = &mut means.bandwidth else { return Poll::Ready(usize::MAX) };
        if self.deaf || !matches!(self.state, State::Moving | State::Completing) {
            means.bandwidth = None;
            return Poll::Ready(usize::MAX);
        }
        // One that has nothing to read must not wait for a share.
        if self.early.is_empty() {
            ready!(source.poll_readable(cx));
        }
        bandwidth.poll_draw(cx, budget)
    }

    /// Takes bytes by way of the kernel, where that is engaged and has room.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &Stream,
        max: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        let engaged = self.kernel.as_mut().filter(|_| self.state == State::Moving);
        let Some((kernel, source)) = engaged.zip(source.as_plain()) else {
            return Poll::Ready(Ok(None));
        };
        let filled = kernel.poll_fill(cx, source, max);
        if let Poll::Ready(Ok(Some(len @ 1..))) = filled {
            self.received += len as u64;
            self.active = true;
        }
        filled
    }

    /// Goes over to the kernel, where both streams are sockets and nothing between them has to be
    /// changed.
    fn engage(&mut self, source: &Stream, sink: &Stream, pipes: &Arc<Pipes>) {
        let plain = source.as_plain().is_some() && sink.as_plain().is_some();
        if plain && self.translator.is_none() && self.kernel.is_none() {
            self.kernel = Kernel::engage(pipes);
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
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
        sink: &mut Stream,
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
    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Result<Poll<()>, Broken> {
        if matches!(self.state, State::Discarding | State::Done) {
            return Ok(Poll::Ready(()));
        }
        while self.next_pending() {
            self.active |= self.outbox.flush(cx, sink)? > 0;
            if !self.outbox.is_empty() {
                return Ok(Poll::Pending);
            }
        }
        if let Some((kernel, sink)) = self.kernel.as_mut().zip(sink.as_plain()) {
            self.active |= kernel.flush(cx, sink)? > 0;
            if !kernel.is_empty() {
                return Ok(Poll::Pending);
            }
            if kernel.is_calm() {
                self.kernel = None;
            }
        }
        if self.state == State::Completing {
            if self.close_is_put() {
                self.state = State::Finishing;
            } else {
                self.linger();
            }
        }
        if self.state == State::Finishing && self.breaks {
            self.done();
        }
        if self.state == State::Finishing {
            let hangs_up = self.to == Transport::Tcp || self.hang_up || !self.close_is_put();
            if hangs_up && !self.outbox.end(cx, sink) {
                return Ok(Poll::Pending);
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
}
