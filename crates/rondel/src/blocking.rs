//! Work that blocks, on threads of its own, so that the loop doesn't.
//!
//! A [`Pool`] starts threads as jobs come, up to a limit, and lets them go when they have been idle
//! for a while. A job and its [`BlockingTask`] share a slot: the thread puts the result in and
//! wakes the waiting task, through the loop's inbox.

#[cfg(all(test, loom))]
mod interleavings;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::mem;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::exceptions::{LostPanic, report_panic};
use crate::primitives::{
    AtomicUsize, Condvar, JoinHandle, Mutex, MutexGuard, Ordering, ThreadBuilder, has_ended,
};
use crate::runtime::{self, LoopInbox, Remote, Runtime};
use crate::task::JoinError;

/// After this long without work a thread ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Threads that run jobs. Dropping it lets the threads end by themselves.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    /// Jobs that have not ended yet.
    in_flight: Arc<AtomicUsize>,
    name: &'static str,
    max_threads: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that run or wait; `threads` may have handles of ended ones besides.
    alive: usize,
    /// Threads that wait for a job.
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(name: &'static str, max_threads: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    jobs: VecDeque::new(),
                    threads: Vec::new(),
                    alive: 0,
                    idle: 0,
                    closed: false,
                }),
                changed: Condvar::new(),
            }),
            in_flight: Arc::new(AtomicUsize::new(0)),
            name,
            max_threads,
        }
    }

    /// The pool of [`spawn_blocking`], as large as asyncio's default executor.
    pub(crate) fn for_blocking() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::new("rondel-blocking", (cores + 4).min(32))
    }

    /// Runs `work` on one of the threads. What nobody waits for is told to the loop.
    pub(crate) fn spawn<T, W>(&self, runtime: &Runtime, work: W) -> BlockingTask<T>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let slot = Arc::new(Slot {
            stage: Mutex::new(Stage::Queued(None)),
        });
        let of_thread = Arc::clone(&slot);
        let inbox = Arc::clone(runtime.event_loop.inbox());
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight {
            count: Arc::clone(&self.in_flight),
            // A virtual clock may be going in real time for this job, also if nobody waits for it
            // any more.
            wake: (!runtime.event_loop.clock().is_real()).then(|| Arc::clone(&inbox)),
        };
        let job = move || {
            let _in_flight = in_flight;
            if let Some(panic) = of_thread.run(work) {
                send_lost(&inbox, panic);
            }
        };
        if let Err(error) = self.submit(Box::new(job)) {
            slot.finish(Err(Box::new(format!("can't start new thread: {error}"))));
        }
        BlockingTask {
            slot,
            awaited: false,
        }
    }

    /// Whether there are jobs that have not ended yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    fn submit(&self, job: Job) -> std::io::Result<()> {
        let mut state = self.shared.lock();
        if state.jobs.len() >= state.idle && state.alive < self.max_threads {
            let shared = Arc::clone(&self.shared);
            let thread = ThreadBuilder::new()
                .name(self.name.to_owned())
                .spawn(move || shared.work());
            match thread {
                Ok(thread) => {
                    state.threads.retain(|thread| !has_ended(thread));
                    state.threads.push(thread);
                    state.alive += 1;
                }
                // The threads there are will come to it.
                Err(_) if state.alive > 0 => {}
                Err(error) => return Err(error),
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Waits until all jobs that were not cancelled are done and all threads have ended; no longer
    /// than `limit`, if there is one. Jobs that have not begun then never do. `false`: some are
    /// still running.
    pub(crate) fn join(&self, limit: Option<Duration>) -> bool {
        // No deadline at all, if it is further away than time goes.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        while state.alive > 0 {
            let Some(deadline) = deadline else { break };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let never = mem::take(&mut state.jobs);
                drop(state);
                drop(never);
                return false;
            }
            state = match self.shared.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        let threads = mem::take(&mut state.threads);
        drop(state);
        for thread in threads {
            // Jobs catch their panics.
            let _ = thread.join();
        }
        true
    }
}

/// A job that has not ended yet.
struct InFlight {
    count: Arc<AtomicUsize>,
    wake: Option<Arc<LoopInbox>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Released: who sees that the job has ended sees what it has sent, too.
        self.count.fetch_sub(1, Ordering::AcqRel);
        if let Some(inbox) = &self.wake {
            inbox.wake();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // The work's own panics are caught in the job. What is left are destructors, of a
                // result that nobody wants, and wakers that aren't a task's.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                    report_panic("Exception ignored in a thread of spawn_blocking", &*panic);
                }
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let timed_out;
            (state, timed_out) = match self.changed.wait_timeout(state, IDLE) {
                Ok((state, waited)) => (state, waited.timed_out()),
                Err(poisoned) => {
                    let (state, waited) = poisoned.into_inner();
                    (state, waited.timed_out())
                }
            };
            state.idle -= 1;
            if timed_out && state.jobs.is_empty() {
                break;
            }
        }
        state.alive -= 1;
        if state.closed {
            // Somebody may be waiting for the last one.
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What a job and its future share.
struct Slot<T> {
    stage: Mutex<Stage<T>>,
}

enum Stage<T> {
    /// No thread has begun; who waits.
    Queued(Option<Waker>),
    /// No thread has begun, and nobody wants the result: it is to run all the same.
    Detached,
    /// A thread is at it; who waits.
    Running(Option<Waker>),
    Done(Result<T, Box<dyn Any + Send>>),
    /// The future is gone, or has the result.
    Over,
}

impl<T> Slot<T> {
    /// Gives back a panic that nobody waits for.
    fn run(&self, work: impl FnOnce() -> T) -> Option<Box<dyn Any + Send>> {
        let mut stage = lock(&self.stage);
        match &mut *stage {
            Stage::Queued(waker) => *stage = Stage::Running(waker.take()),
            Stage::Detached => *stage = Stage::Over,
            _ => return None,
        }
        drop(stage);
        self.finish(catch_unwind(AssertUnwindSafe(work)))
    }

    fn finish(&self, result: Result<T, Box<dyn Any + Send>>) -> Option<Box<dyn Any + Send>> {
        let mut stage = lock(&self.stage);
        match mem::replace(&mut *stage, Stage::Over) {
            Stage::Queued(waker) | Stage::Running(waker) => {
                *stage = Stage::Done(result);
                drop(stage);
                if let Some(waker) = waker {
                    waker.wake();
                }
                None
            }
            // Nobody waits any more; a panic is not to go unheard.
            Stage::Detached | Stage::Done(_) | Stage::Over => {
                drop(stage);
                result.err()
            }
        }
    }
}

const NEVER_RETRIEVED: &str = "Exception in spawn_blocking was never retrieved";

/// Has the loop's exception handler told, on the loop's thread.
fn send_lost(inbox: &LoopInbox, panic: Box<dyn Any + Send>) {
    inbox.send(Remote::Lost(Box::new(LostPanic::new(
        NEVER_RETRIEVED,
        panic,
    ))));
}

/// Runs a function that blocks on a thread of a small pool; the future gives its result.
///
/// The pool has as many threads as asyncio's default executor: five to thirty-two. The function
/// starts as soon as a thread is free, whether or not the future is awaited. If the future is
/// dropped while it is being awaited (by a [`timeout`](crate::timeout), say) a function that has
/// not begun never runs. In all other cases it runs to its end, also if the future is dropped at
/// once, as with asyncio's `run_in_executor`; at its end [`run`](crate::run) waits for it, for as
/// long as [`Builder::shutdown_timeout`](crate::Builder::shutdown_timeout) says.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// rondel::run(async {
///     let sum = rondel::spawn_blocking(|| (1..=1000_u64).sum::<u64>()).await?;
///     assert_eq!(sum, 500_500);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn spawn_blocking<T, W>(work: W) -> BlockingTask<T>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    runtime::with_current(|runtime| {
        let pool = runtime.blocking.get_or_init(Pool::for_blocking);
        pool.spawn(runtime, work)
    })
}

/// The future of [`spawn_blocking`]: the function's result, or its panic.
///
/// ```
/// rondel::run(async {
///     let lucky = rondel::spawn_blocking(|| 7);
///     let unlucky = rondel::spawn_blocking(|| -> i32 { panic!("no luck") });
///     assert_eq!(lucky.await.unwrap(), 7);
///     assert_eq!(unlucky.await.unwrap_err().to_string(), "task panicked: no luck");
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "the result is lost when this is dropped; `detach` says that this is meant"]
pub struct BlockingTask<T> {
    slot: Arc<Slot<T>>,
    /// Whether it was polled: then dropping it is cancelling.
    awaited: bool,
}

impl<T> BlockingTask<T> {
    /// Lets the function run without anybody who waits for it.
    ///
    /// ```
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// rondel::run(async {
    ///     rondel::spawn_blocking(move || sender.send("done")).detach();
    /// })?;
    /// assert_eq!(receiver.try_recv(), Ok("done"));
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn detach(mut self) {
        self.awaited = false;
    }
}

impl<T> Future for BlockingTask<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// If it is polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.awaited = true;
        let mut stage = lock(&this.slot.stage);
        match &mut *stage {
            Stage::Queued(waker) | Stage::Running(waker) => {
                let before = match waker {
                    Some(waker) if waker.will_wake(context.waker()) => None,
                    _ => waker.replace(context.waker().clone()),
                };
                drop(stage);
                drop(before);
                Poll::Pending
            }
            Stage::Done(_) => {
                let Stage::Done(result) = mem::replace(&mut *stage, Stage::Over) else {
                    return Poll::Pending;
                };
                Poll::Ready(result.map_err(|panic| JoinError::Panicked(panic.into())))
            }
            Stage::Over | Stage::Detached => {
                panic!("a BlockingTask was polled after it had given its result")
            }
        }
    }
}

impl<T> Drop for BlockingTask<T> {
    fn drop(&mut self) {
        let mut stage = lock(&self.slot.stage);
        let after = match &*stage {
            Stage::Queued(_) if !self.awaited => Stage::Detached,
            _ => Stage::Over,
        };
        let before = mem::replace(&mut *stage, after);
        drop(stage);
        match before {
            Stage::Done(Err(panic)) => report_panic(NEVER_RETRIEVED, &*panic),
            // The result's destructor is to harm the program as little as it would have harmed the
            // thread.
            Stage::Done(Ok(result)) => {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(result))) {
                    report_panic("Exception ignored in the result of spawn_blocking", &*panic);
                }
            }
            Stage::Queued(_) | Stage::Detached | Stage::Running(_) | Stage::Over => {}
        }
    }
}

impl<T> fmt::Debug for BlockingTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingTask").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks: a poisoned one guards whole values.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
