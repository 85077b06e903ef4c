//! Drops a future at each of its polls in turn, in each way in which that can happen.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::{turns, virtually};

/// More turns than any scenario takes that does not wait for the clock.
const MOST_TURNS: usize = 40;

/// When a future is dropped.
#[derive(Clone, Copy, Debug)]
enum When {
    /// After so many polls, as soon as it waits.
    Asleep(usize),
    /// After so many polls, when it was woken and would be polled again.
    Woken(usize),
    /// After so many turns of the loop: its task is cancelled.
    Cancelled(usize),
}

/// Drops one future of a scenario.
#[derive(Clone)]
pub struct Knife {
    when: When,
    was_used: Rc<Cell<bool>>,
}

impl Knife {
    /// The future's output; `None` if it was dropped.
    pub async fn cut<F: Future<Output: 'static> + 'static>(&self, future: F) -> Option<F::Output> {
        let (polls, asleep) = match self.when {
            When::Asleep(polls) => (polls, true),
            When::Woken(polls) => (polls, false),
            When::Cancelled(number) => {
                let task = rondel::create_task(future);
                let handle = task.cancel_handle();
                let was_used = Rc::clone(&self.was_used);
                rondel::create_task(async move {
                    turns(number).await;
                    was_used.set(handle.cancel());
                })
                .detach();
                return task.await.ok();
            }
        };
        let mut done = 0;
        let mut future = pin!(future);
        poll_fn(|context| {
            if !asleep && done == polls {
                self.was_used.set(true);
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            done += 1;
            if asleep && done == polls + 1 {
                self.was_used.set(true);
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }
}

/// Runs a scenario again and again, cutting later each time, until its future comes to its end.
/// `least` is how often it has to be cut at least, so that a scenario in which nothing has to wait
/// is noticed.
pub fn at_every_poll(least: usize, scenario: impl AsyncFn(Knife)) {
    for way in [When::Asleep, When::Woken, When::Cancelled] {
        let mut cuts = 0;
        loop {
            let knife = Knife {
                when: way(cuts),
                was_used: Rc::default(),
            };
            virtually(scenario(knife.clone()));
            // No time passes while turns are counted: a future that waits for the clock does not
            // come to its end here.
            if !knife.was_used.get() || matches!(knife.when, When::Cancelled(MOST_TURNS)) {
                break;
            }
            cuts += 1;
            assert!(cuts < 100, "{:?}: no end", knife.when);
        }
        assert!(cuts >= least, "{:?}: cut {cuts} times only", way(0));
    }
}
