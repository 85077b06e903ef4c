//! Time limits: [`timeout`], and what can be done to one while it runs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::task::TimeoutError;
use crate::time::{Instant, Sleep};

/// Awaits `future` for at most `duration`; drops it, which cancels it, when the time is over.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let quick = rondel::timeout(Duration::from_secs(5), async { "done" }).await;
///     assert_eq!(quick, Ok("done"));
///
///     let never = rondel::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
///     assert_eq!(never, Err(rondel::TimeoutError));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn timeout<F: IntoFuture>(duration: Duration, future: F) -> Timeout<F::IntoFuture> {
    Timeout::new(Limit::After(duration), future)
}

/// Awaits `future` until `deadline`; see [`timeout`].
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let deadline = rondel::Instant::now() + Duration::from_millis(1);
///     let both = async {
///         rondel::sleep(Duration::from_secs(1)).await;
///         rondel::sleep(Duration::from_secs(1)).await;
///     };
///     assert!(rondel::timeout_at(deadline, both).await.is_err());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn timeout_at<F: IntoFuture>(deadline: Instant, future: F) -> Timeout<F::IntoFuture> {
    Timeout::new(Limit::At(deadline), future)
}

/// Awaits what `body` does for at most `duration`, or without a limit at first. What it is called
/// with may move the deadline: asyncio's `async with asyncio.timeout(…) as cm`.
///
/// # Errors
/// If the time was over first.
///
/// ```
/// use std::time::Duration;
///
/// rondel::Builder::new().virtual_clock().run(async {
///     // A second for each step, however many there are.
///     let second = Duration::from_secs(1);
///     let done = rondel::timeout_scope(second, async |timeout| {
///         for _ in 0..10 {
///             rondel::sleep(second / 2).await;
///             timeout.reschedule(rondel::Instant::now() + second);
///         }
///     });
///     assert_eq!(done.await, Ok(()));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub async fn timeout_scope<T>(
    duration: impl Into<Option<Duration>>,
    body: impl AsyncFnOnce(TimeoutHandle) -> T,
) -> Result<T, TimeoutError> {
    let shared = Rc::new(Shared {
        when: Cell::new(duration.into().map(|duration| Instant::now() + duration)),
        changed: Cell::new(true),
        polling: Cell::new(false),
        state: Cell::new(State::Running),
        waker: RefCell::new(None),
    });
    let handle = TimeoutHandle(Rc::clone(&shared));
    Timeout {
        shared: Some(Ending(shared)),
        ..Timeout::new(Limit::Never, body(handle))
    }
    .await
}

/// The future of [`timeout`] and [`timeout_at`].
///
/// ```
/// use std::future::Ready;
/// use std::time::Duration;
///
/// rondel::run(async {
///     // A future that is ready in time wins, even if there is no time at all.
///     let at_once: rondel::Timeout<Ready<i32>> = rondel::timeout(Duration::ZERO, std::future::ready(1));
///     assert_eq!(at_once.await, Ok(1));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct Timeout<F> {
    /// `None` once it has ended or was cancelled.
    future: Option<F>,
    limit: Limit,
    /// In the timer heap since the first poll.
    sleep: Option<Sleep>,
    /// If there is a handle.
    shared: Option<Ending>,
}

#[derive(Clone, Copy)]
enum Limit {
    /// So long from the first poll on.
    After(Duration),
    At(Instant),
    Never,
}

/// What a timeout and its handles share.
struct Shared {
    when: Cell<Option<Instant>>,
    /// The future has not seen `when` yet.
    changed: Cell<bool>,
    /// What is awaited is being polled: the future looks at `when` behind that.
    polling: Cell<bool>,
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Expired,
    Over,
}

/// Says that it is over when the future goes.
struct Ending(Rc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if self.0.state.get() == State::Running {
            self.0.state.set(State::Over);
        }
        let waker = self.0.waker.take();
        drop(waker);
    }
}

impl<F> Timeout<F> {
    fn new(limit: Limit, future: impl IntoFuture<IntoFuture = F>) -> Self
    where
        F: Future,
    {
        Self {
            future: Some(future.into_future()),
            limit,
            sleep: None,
            shared: None,
        }
    }

    /// What others can look at it by, and move its deadline. The time of [`timeout`] begins now
    /// then, if it has not begun yet.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// rondel::Builder::new().virtual_clock().run(async {
    ///     let minute = Duration::from_secs(60);
    ///     let mut limited = rondel::timeout(minute, rondel::sleep(2 * minute));
    ///     let handle = limited.handle();
    ///     rondel::call_later(minute / 2, move || {
    ///         handle.reschedule(None);
    ///     });
    ///     assert_eq!(limited.await, Ok(()));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn handle(&mut self) -> TimeoutHandle {
        let (limit, future) = (&mut self.limit, &self.future);
        let Ending(shared) = self.shared.get_or_insert_with(|| {
            if let Limit::After(duration) = *limit {
                *limit = Limit::At(Instant::now() + duration);
            }
            let when = match *limit {
                Limit::At(when) => Some(when),
                _ => None,
            };
            Ending(Rc::new(Shared {
                when: Cell::new(when),
                changed: Cell::new(false),
                polling: Cell::new(false),
                state: Cell::new(match future {
                    Some(_) => State::Running,
                    None => State::Expired,
                }),
                waker: RefCell::new(None),
            }))
        });
        TimeoutHandle(Rc::clone(shared))
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimeoutError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned as `self` is: never moved, dropped in place. The others are
        // `Unpin`.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: the same.
        let mut future = unsafe { Pin::new_unchecked(&mut this.future) };
        if let Some(Ending(shared)) = &this.shared {
            shared.polling.set(true);
        }
        if let Some(inner) = future.as_mut().as_pin_mut()
            && let Poll::Ready(output) = inner.poll(context)
        {
            this.shared = None;
            return Poll::Ready(Ok(output));
        }
        if let Some(Ending(shared)) = &this.shared {
            shared.polling.set(false);
            if shared.changed.take() {
                this.limit = shared.when.get().map_or(Limit::Never, Limit::At);
                this.sleep = None;
            }
            let known = (shared.waker.borrow().as_ref())
                .is_some_and(|waker| waker.will_wake(context.waker()));
            if !known {
                let before = shared.waker.replace(Some(context.waker().clone()));
                drop(before);
            }
        }
        let Some(sleep) = &mut this.sleep else {
            // Not polled before the next turn: a deadline that is over already lets others run
            // first, as asyncio's.
            let deadline = match this.limit {
                Limit::At(when) => Sleep::begin(context, |_| when),
                Limit::After(duration) => Sleep::begin(context, |now| {
                    let when = now + duration;
                    this.limit = Limit::At(when);
                    when
                }),
                Limit::Never => return Poll::Pending,
            };
            this.sleep = Some(deadline);
            return Poll::Pending;
        };
        if Pin::new(sleep).poll(context).is_pending() {
            return Poll::Pending;
        }
        if let Some(Ending(shared)) = &this.shared {
            shared.state.set(State::Expired);
        }
        // The future is gone before whoever waits for it goes on, as a cancelled task is in
        // asyncio.
        future.set(None);
        Poll::Ready(Err(TimeoutError))
    }
}

impl<F> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").finish_non_exhaustive()
    }
}

/// The handle of a time limit, of [`timeout_scope`] or [`Timeout::handle`]: what asyncio's
/// `Timeout` is. Clones are of the same limit.
///
/// ```
/// use std::time::Duration;
///
/// rondel::Builder::new().virtual_clock().run(async {
///     let mut limited = rondel::timeout(Duration::from_secs(1), std::future::pending::<()>());
///     let handle: rondel::TimeoutHandle = limited.handle();
///     assert!(limited.await.is_err());
///     assert!(handle.expired());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone)]
pub struct TimeoutHandle(Rc<Shared>);

impl TimeoutHandle {
    /// The deadline; `None` if there is none.
    ///
    /// ```
    /// rondel::run(async {
    ///     let deadline = rondel::Instant::now();
    ///     let handle = rondel::timeout_at(deadline, async {}).handle();
    ///     assert_eq!(handle.when(), Some(deadline));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn when(&self) -> Option<Instant> {
        self.0.when.get()
    }

    /// Moves the deadline, or takes it away. One that is over already ends what is awaited at its
    /// next `await`. `false`: it has ended before, or was dropped, and nothing has changed.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// rondel::Builder::new().virtual_clock().run(async {
    ///     let done = rondel::timeout_scope(None, async |timeout| {
    ///         timeout.reschedule(rondel::Instant::now());
    ///         rondel::sleep(Duration::from_secs(1)).await;
    ///     });
    ///     assert!(done.await.is_err());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn reschedule(&self, when: impl Into<Option<Instant>>) -> bool {
        let shared = &self.0;
        if shared.state.get() != State::Running {
            return false;
        }
        shared.when.set(when.into());
        shared.changed.set(true);
        if !shared.polling.get() {
            let waker = shared.waker.borrow().clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        true
    }

    /// Whether the time was over first.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// rondel::run(async {
    ///     let mut quick = rondel::timeout(Duration::from_secs(1), async {});
    ///     let handle = quick.handle();
    ///     assert_eq!(quick.await, Ok(()));
    ///     assert!(!handle.expired());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn expired(&self) -> bool {
        self.0.state.get() == State::Expired
    }
}

impl fmt::Debug for TimeoutHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.0.state.get() {
            State::Running => "running",
            State::Expired => "expired",
            State::Over => "over",
        };
        f.debug_struct("TimeoutHandle")
            .field("when", &self.when())
            .field("state", &state)
            .finish()
    }
}
