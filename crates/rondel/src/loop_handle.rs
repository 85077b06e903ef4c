//! A loop, as other threads have it: `call_soon_threadsafe`, `run_coroutine_threadsafe`.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::calls::Call;
use crate::runtime::{self, LoopInbox, Remote, Runtime};
use crate::task::{self, CancelledError, JoinError, TimeoutError, create_task};

/// The loop that runs on this thread, for other threads: asyncio's `get_running_loop()`.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// rondel::run(async {
///     let event_loop = rondel::get_running_loop();
///     let answer = rondel::spawn_blocking(move || {
///         event_loop.run_coroutine_threadsafe(|| async { 42 }).result(None)
///     });
///     assert_eq!(answer.await??, 42);
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn get_running_loop() -> LoopHandle {
    runtime::with_current(LoopHandle::new)
}

/// Lets the current turn of the running loop be the last of this run. If the main future is not
/// done then, [`run`](crate::run) gives [`RunError::Stopped`](crate::RunError::Stopped), and the
/// future is dropped.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// let stopped = rondel::run(async {
///     rondel::call_soon(rondel::stop);
///     std::future::pending::<()>().await;
/// });
/// assert!(matches!(stopped, Err(rondel::RunError::Stopped)));
/// ```
#[track_caller]
pub fn stop() {
    runtime::with_current(|runtime| runtime.event_loop.stop());
}

/// A loop, to be sent to other threads and shared between them.
///
/// ```
/// rondel::run(async {
///     let event_loop: rondel::LoopHandle = rondel::get_running_loop();
///     let work = rondel::spawn_blocking(move || {
///         let sum = event_loop.run_coroutine_threadsafe(|| async {
///             rondel::yield_now().await;
///             1 + 1
///         });
///         sum.result(None)
///     });
///     assert_eq!(work.await??, 2);
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LoopHandle(Arc<LoopInbox>);

impl LoopHandle {
    pub(crate) fn new(runtime: &Runtime) -> Self {
        Self(Arc::clone(runtime.event_loop.inbox()))
    }

    /// Has the loop call `function`, in the order in which these come in, and wakes it if it waits.
    ///
    /// # Errors
    /// If the loop is closed.
    ///
    /// ```
    /// rondel::run(async {
    ///     let event_loop = rondel::get_running_loop();
    ///     rondel::spawn_blocking(move || {
    ///         event_loop.call_soon_threadsafe(|| println!("on the loop's thread"))
    ///     })
    ///     .await??;
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_soon_threadsafe(
        &self,
        function: impl FnOnce() + Send + 'static,
    ) -> Result<(), LoopClosedError> {
        let refused = Arc::new(AtomicBool::new(false));
        self.0.send(Remote::Call(SentCall {
            function: Some(Box::new(function)),
            refused: Arc::clone(&refused),
        }));
        // An inbox that is closed drops what is sent at once.
        match refused.load(Ordering::Relaxed) {
            true => Err(LoopClosedError),
            false => Ok(()),
        }
    }

    /// Makes a future on the loop's thread and runs it there, as a task. The future need not be
    /// `Send`; its output has to.
    ///
    /// If the loop is closed, or ends before the task does, the task counts as cancelled.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// rondel::run(async {
    ///     let event_loop = rondel::get_running_loop();
    ///     let thread = std::thread::spawn(move || {
    ///         event_loop.run_coroutine_threadsafe(async || 6 * 7).result(None)
    ///     });
    ///     while !thread.is_finished() {
    ///         rondel::yield_now().await;
    ///     }
    ///     assert_eq!(thread.join().unwrap()?, 42);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn run_coroutine_threadsafe<C, F>(&self, coroutine: C) -> ConcurrentFuture<F::Output>
    where
        C: FnOnce() -> F + Send + 'static,
        F: Future<Output: Send> + 'static,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                result: None,
                is_over: false,
                cancelled: false,
                task: None,
                waiter: None,
            }),
            changed: Condvar::new(),
        });
        let promise = Promise(Arc::clone(&shared));
        // A loop that is closed drops the promise.
        let _ = self.call_soon_threadsafe(move || {
            create_task(async move {
                let shared = &*promise.0;
                let mut running = pin!(task::catch(async move { coroutine().await }));
                let result = poll_fn(|context| {
                    if shared.is_cancelled(context) {
                        return Poll::Ready(Err(CancelledError.into()));
                    }
                    let polled = running.as_mut().poll(context);
                    polled.map_err(|panic| JoinError::Panicked(panic.into()))
                })
                .await;
                shared.finish(result);
            })
            .detach();
        });
        ConcurrentFuture(shared)
    }

    /// As [`stop`], from any thread.
    ///
    /// # Errors
    /// If the loop is closed.
    ///
    /// ```
    /// let stopped = rondel::run(async {
    ///     let event_loop = rondel::get_running_loop();
    ///     std::thread::spawn(move || event_loop.stop());
    ///     std::future::pending::<()>().await
    /// });
    /// assert!(matches!(stopped, Err(rondel::RunError::Stopped)));
    /// ```
    pub fn stop(&self) -> Result<(), LoopClosedError> {
        self.call_soon_threadsafe(stop)
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").finish_non_exhaustive()
    }
}

/// The loop is closed: asyncio's `RuntimeError`.
///
/// ```
/// let event_loop = rondel::run(async { rondel::get_running_loop() })?;
/// assert_eq!(event_loop.call_soon_threadsafe(|| ()), Err(rondel::LoopClosedError));
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopClosedError;

impl fmt::Display for LoopClosedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event loop is closed")
    }
}

impl Error for LoopClosedError {}

/// A function on its way through the inbox.
pub(crate) struct SentCall {
    function: Option<Box<dyn FnOnce() + Send>>,
    refused: Arc<AtomicBool>,
}

impl SentCall {
    /// On the loop's thread.
    pub(crate) fn receive(mut self) -> Rc<Call> {
        let function = RefCell::new(self.function.take());
        Call::new(Box::new(move || {
            if let Some(function) = function.take() {
                function();
            }
        }))
    }
}

impl Drop for SentCall {
    fn drop(&mut self) {
        if self.function.is_some() {
            self.refused.store(true, Ordering::Relaxed);
        }
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    result: Option<Result<T, JoinError>>,
    is_over: bool,
    cancelled: bool,
    /// Wakes the task, so that it learns that it was cancelled.
    task: Option<Waker>,
    /// Who awaits the result.
    waiter: Option<Waker>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No foreign code runs while the lock is held: the contents are whole.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_cancelled(&self, context: &Context<'_>) -> bool {
        let mut state = self.lock();
        let before = match &state.task {
            Some(task) if task.will_wake(context.waker()) => None,
            _ => state.task.replace(context.waker().clone()),
        };
        let cancelled = state.cancelled;
        drop(state);
        drop(before);
        cancelled
    }

    fn finish(&self, result: Result<T, JoinError>) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        state.is_over = true;
        state.result = Some(result);
        let (task, waiter) = (state.task.take(), state.waiter.take());
        drop(state);
        self.changed.notify_all();
        drop(task);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// The task's side: if it goes without a result, it was cancelled.
struct Promise<T>(Arc<Shared<T>>);

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.finish(Err(CancelledError.into()));
    }
}

/// The result of a task of another thread's loop: asyncio's `concurrent.futures.Future`. It can be
/// waited for, by blocking the thread or by awaiting it on any loop. Dropping it cancels nothing.
///
/// ```
/// rondel::run(async {
///     let event_loop = rondel::get_running_loop();
///     let never: rondel::ConcurrentFuture<()> =
///         event_loop.run_coroutine_threadsafe(std::future::pending);
///     never.cancel();
///     assert!(never.await.unwrap_err().is_cancelled());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub struct ConcurrentFuture<T>(Arc<Shared<T>>);

impl<T> ConcurrentFuture<T> {
    /// Waits for the result by blocking the thread, for so long at most. Not on the loop's own
    /// thread: it would wait for itself.
    ///
    /// # Errors
    /// If the task was cancelled or has panicked, or the time is over; the result is lost then.
    pub fn result(self, timeout: Option<Duration>) -> Result<T, ResultError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.0.lock();
        loop {
            if let Some(result) = state.result.take() {
                return result.map_err(ResultError::Join);
            }
            let changed = &self.0.changed;
            state = match deadline {
                None => changed.wait(state).unwrap_or_else(|it| it.into_inner()),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(ResultError::Timeout(TimeoutError));
                    }
                    let waited = changed.wait_timeout(state, left);
                    waited.unwrap_or_else(|it| it.into_inner()).0
                }
            };
        }
    }

    /// Whether the task is done.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::get_running_loop().run_coroutine_threadsafe(async || 1);
    ///     while !future.done() {
    ///         rondel::yield_now().await;
    ///     }
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn done(&self) -> bool {
        self.0.lock().is_over
    }

    /// Asks for the task to be cancelled; `false` if it is done.
    ///
    /// ```
    /// rondel::run(async {
    ///     let event_loop = rondel::get_running_loop();
    ///     let future = event_loop.run_coroutine_threadsafe(std::future::pending::<()>);
    ///     assert!(future.cancel());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancel(&self) -> bool {
        let mut state = self.0.lock();
        if state.is_over {
            return false;
        }
        state.cancelled = true;
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        true
    }
}

impl<T> Future for ConcurrentFuture<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        let before = state.waiter.replace(context.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl<T> fmt::Debug for ConcurrentFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrentFuture")
            .field("done", &self.done())
            .finish()
    }
}

/// Why [`ConcurrentFuture::result`] gave none.
#[derive(Debug)]
pub enum ResultError {
    /// The task was cancelled, or has panicked.
    Join(JoinError),
    /// The time is over.
    Timeout(TimeoutError),
}

impl fmt::Display for ResultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join(error) => error.fmt(f),
            Self::Timeout(error) => error.fmt(f),
        }
    }
}

impl Error for ResultError {}
