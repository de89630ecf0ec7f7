//! Connections that have not yet said who they are, in the order in which they came. When there
//! is no room for one more connection, the oldest of them gives way.
//!
//! Who has said everything by the time it is accepted never stands in this line, and pays nothing
//! for it.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    /// Set under the lock of the line, and only for those that stand in it.
    displaced: AtomicBool,
    task: AtomicWaker,
}

impl Strangers {
    /// Puts somebody at the end of the line.
    pub fn enter(self: &Arc<Self>) -> Arc<Stranger> {
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        let stranger = Arc::new(Stranger {
            strangers: Arc::clone(self),
            number,
            displaced: AtomicBool::new(false),
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
        oldest.displaced.store(true, Ordering::Release);
        self.leaving.fetch_add(1, Ordering::Relaxed);
        drop(line);
        oldest.task.wake();
        true
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
    /// It has said who it is and gives way no more; `false` when it had to already. Both are
    /// decided under one lock: nobody is displaced that was let in.
    pub fn is_let_in(&self) -> bool {
        let left = self.strangers.line().waiting.remove(&self.number);
        left.is_some() || !self.is_displaced()
    }

    /// Drives what is done for it; `None`, and `work` dropped, once it must give way.
    pub async fn unless_displaced<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            self.task.register(cx.waker());
            if self.is_displaced() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Ends its stay; whether its place had gone to somebody else before.
    pub(super) fn leave(&self) -> bool {
        let was_displaced = !self.is_let_in();
        if was_displaced {
            self.strangers.leaving.fetch_sub(1, Ordering::Relaxed);
        }
        was_displaced
    }

    fn is_displaced(&self) -> bool {
        self.displaced.load(Ordering::Acquire)
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
                .unless_displaced(async {
                    let _held = held;
                    std::future::pending::<()>().await;
                })
                .await
        });
        tokio::task::yield_now().await;
        assert!(gone.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        assert!(strangers.displace_oldest());
        assert_eq!(task.await.unwrap(), None);
        assert!(gone.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
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
