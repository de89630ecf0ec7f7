//! Connections that have not yet said who they are, in the order in which they came. When there
//! is no room for one more connection, the oldest of them gives way.
//!
//! Who has said everything by the time it is accepted never stands in this line, and pays nothing
//! for it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures_util::task::AtomicWaker;

/// How many that gave way may still hold their sockets. Their tasks let go at their next turn, so
/// that more are there only while a thread is held up.
pub const MOST_LEAVING: usize = 64;

/// The line. One for all threads: who came first is the same for all of them.
#[derive(Default)]
pub struct Strangers {
    // Held for map operations only.
    line: Mutex<Line>,
    leaving: AtomicUsize,
}

#[derive(Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, Arc<Stranger>>,
}

/// One of them, or who was one.
pub struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    /// Whence it comes, if somebody has asked; a proxy's word can change it.
    ip: Mutex<Option<IpAddr>>,
    /// Set under the lock of the line, and only for those that stand in it.
    fate: AtomicU8,
    task: AtomicWaker,
}

/// Why a stranger must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentAway {
    /// There was no room for one more, and it was the oldest.
    Displaced,
    /// Nobody from there is wanted any more.
    TurnedOut,
}

const STAYS: u8 = 0;
const DISPLACED: u8 = 1;
const TURNED_OUT: u8 = 2;

impl Strangers {
    /// Puts somebody at the end of the line.
    pub fn enter(self: &Arc<Self>) -> Arc<Stranger> {
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        let stranger = Arc::new(Stranger {
            strangers: Arc::clone(self),
            number,
            ip: Mutex::default(),
            fate: AtomicU8::new(STAYS),
            task: AtomicWaker::new(),
        });
        line.waiting.insert(number, Arc::clone(&stranger));
        stranger
    }

    /// Makes the oldest stranger give way; `false` when there is none, or when too many that gave
    /// way have not gone yet.
    pub fn displace_oldest(&self) -> bool {
        if self.leaving.load(Ordering::Relaxed) >= MOST_LEAVING {
            return false;
        }
        let mut line = self.line();
        let Some((_, oldest)) = line.waiting.pop_first() else { return false };
        oldest.fate.store(DISPLACED, Ordering::Release);
        self.leaving.fetch_add(1, Ordering::Relaxed);
        drop(line);
        oldest.task.wake();
        true
    }

    /// Turns out all that come from where `is_unwanted` says.
    pub fn turn_out(&self, is_unwanted: impl Fn(IpAddr) -> bool) {
        let mut line = self.line();
        let out =
            line.waiting.extract_if(.., |_, stranger| stranger.ip().is_some_and(&is_unwanted));
        let out: Vec<_> = out.map(|(_, stranger)| stranger).collect();
        for stranger in &out {
            stranger.fate.store(TURNED_OUT, Ordering::Release);
        }
        drop(line);
        for stranger in out {
            stranger.task.wake();
        }
    }

    /// How many stand in the line.
    pub fn len(&self) -> usize {
        self.line().waiting.len()
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // A map operation that panicked left the map as it was.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// Says whence it comes.
    pub fn comes_from(&self, ip: IpAddr) {
        *self.ip() = Some(ip);
    }

    /// It has said who it is and gives way no more; `false` when it had to already. Both are
    /// decided under one lock: nobody is displaced that was let in.
    pub fn is_let_in(&self) -> bool {
        let left = self.strangers.line().waiting.remove(&self.number);
        left.is_some() || self.sent_away().is_none()
    }

    /// Drives what is done for it.
    ///
    /// # Errors
    /// When it must go: `work` is dropped then.
    pub async fn unless_sent_away<T>(&self, work: impl Future<Output = T>) -> Result<T, SentAway> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            self.task.register(cx.waker());
            if let Some(why) = self.sent_away() {
                return Poll::Ready(Err(why));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Why it has to go, once it has to.
    pub fn sent_away(&self) -> Option<SentAway> {
        match self.fate.load(Ordering::Acquire) {
            DISPLACED => Some(SentAway::Displaced),
            TURNED_OUT => Some(SentAway::TurnedOut),
            _ => None,
        }
    }

    /// Ends its stay; whether its place had gone to somebody else before.
    pub(super) fn leave(&self) -> bool {
        let was_displaced = !self.is_let_in() && self.sent_away() == Some(SentAway::Displaced);
        if was_displaced {
            self.strangers.leaving.fetch_sub(1, Ordering::Relaxed);
        }
        was_displaced
    }

    fn ip(&self) -> MutexGuard<'_, Option<IpAddr>> {
        self.ip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::JoinSet};

    use super::*;

    #[test]
    fn the_oldest_gives_way_and_who_is_let_in_does_not() {
        let strangers = Arc::new(Strangers::default());
        let [first, second, third] = [(); 3].map(|()| strangers.enter());
        assert!(first.is_let_in() && first.is_let_in());
        assert!(strangers.displace_oldest());
        assert!(!second.is_let_in() && third.is_let_in(), "the second was the oldest left");
        assert!(!strangers.displace_oldest(), "nobody is left");
        assert!(!first.leave() && second.leave() && !third.leave());
        assert!(strangers.is_empty());
    }

    #[test]
    fn those_that_do_not_go_are_bounded() {
        let strangers = Arc::new(Strangers::default());
        let all: Vec<_> = (0..=MOST_LEAVING).map(|_| strangers.enter()).collect();
        assert_eq!((0..all.len()).filter(|_| strangers.displace_oldest()).count(), MOST_LEAVING);
        assert!(all[0].leave());
        assert!(strangers.displace_oldest());
        all[1..].iter().for_each(|one| assert!(one.leave()));
        assert_eq!(strangers.leaving.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_done_for_who_gives_way_is_dropped_at_once() {
        let strangers = Arc::new(Strangers::default());
        let stranger = strangers.enter();
        let (held, mut gone) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            stranger
                .unless_sent_away(async {
                    let _held = held;
                    std::future::pending::<()>().await;
                })
                .await
        });
        tokio::task::yield_now().await;
        assert!(gone.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        assert!(strangers.displace_oldest());
        assert_eq!(task.await.unwrap(), Err(SentAway::Displaced));
        assert!(gone.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn those_that_are_not_wanted_go_and_nobody_else_gets_their_place() {
        let strangers = Arc::new(Strangers::default());
        let [first, second, third] = [1, 2, 3].map(|n| {
            let stranger = strangers.enter();
            stranger.comes_from([192, 0, 2, n].into());
            stranger
        });
        let nameless = strangers.enter();
        assert!(second.is_let_in());
        strangers.turn_out(|ip| ip != IpAddr::from([192, 0, 2, 3]));
        assert!(!first.is_let_in() && second.is_let_in() && third.is_let_in());
        assert!(nameless.is_let_in(), "nobody has asked whence it comes");
        assert!([first, second, third, nameless].iter().all(|one| !one.leave()));
    }

    /// Either it is let in or it gives way, whichever threads ask.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_both_let_in_and_displaced() {
        let strangers = Arc::new(Strangers::default());
        for _ in 0..2_000 {
            let stranger = strangers.enter();
            let (mut tasks, start) = (JoinSet::new(), Arc::new(tokio::sync::Barrier::new(2)));
            let (line, begin) = (Arc::clone(&strangers), Arc::clone(&start));
            tasks.spawn(async move {
                begin.wait().await;
                line.displace_oldest()
            });
            let one = Arc::clone(&stranger);
            tasks.spawn(async move {
                start.wait().await;
                one.is_let_in()
            });
            let done = tasks.join_all().await;
            assert!(done[0] != done[1], "one of the two, not {done:?}");
            assert_eq!(stranger.leave(), !stranger.is_let_in());
        }
        assert!(strangers.is_empty());
        assert_eq!(strangers.leaving.load(Ordering::Relaxed), 0);
    }
}
