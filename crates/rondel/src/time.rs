//! Time: the loop's clock as programs see it, `sleep`.
//!
//! A sleeping future shares one small entry with the loop's timer heap. The heap's side marks it as
//! fired and wakes the sleeper; the future's side marks it as cancelled when it is dropped first,
//! and the heap forgets it (at once if it is the newest, see `event_loop/timers.rs`).

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::runtime::{self, Item, Runtime};
use crate::task::Waiter;
use rondel_engine::event_loop::timers::Timer;

/// A point of the running loop's time: nanoseconds of a clock that never goes back, or of the
/// virtual clock.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let start = rondel::Instant::now();
///     rondel::sleep(Duration::from_millis(2)).await;
///     assert!(start.elapsed() >= Duration::from_millis(2));
///     assert!(start + Duration::from_millis(2) <= rondel::Instant::now());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Now, by the running loop's clock; by the monotonic clock if there is none.
    ///
    /// ```
    /// rondel::run(async {
    ///     let earlier = rondel::Instant::now();
    ///     assert!(rondel::Instant::now() >= earlier);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn now() -> Self {
        Self(
            runtime::try_current(|runtime| runtime.event_loop.now())
                .unwrap_or_else(|| rondel_engine::event_loop::clock::Clock::Monotonic.now()),
        )
    }

    /// This point as the standard library has it, as exactly as two clocks can be compared. On a
    /// virtual clock as much ahead as it is here.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// rondel::run(async {
    ///     let deadline = rondel::Instant::now() + Duration::from_secs(5);
    ///     let left = deadline.to_std() - std::time::Instant::now();
    ///     assert!(left > Duration::from_secs(4) && left <= Duration::from_secs(5));
    ///     let back = rondel::Instant::from(deadline.to_std());
    ///     assert!(back - deadline < Duration::from_secs(1));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn to_std(self) -> std::time::Instant {
        let (here, there) = (Self::now(), std::time::Instant::now());
        match self >= here {
            true => there + (self - here),
            false => there.checked_sub(here - self).unwrap_or(there),
        }
    }

    pub(crate) fn nanos(self) -> u64 {
        self.0
    }

    /// How much time has passed since then; zero if it lies ahead.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let start = rondel::Instant::now();
    ///     rondel::sleep(Duration::from_millis(1)).await;
    ///     assert!(start.elapsed() >= Duration::from_millis(1));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// How much later this is than `earlier`; zero if it isn't.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let start = rondel::Instant::now();
    ///     let later = start + Duration::from_secs(1);
    ///     assert_eq!(later.duration_since(start), Duration::from_secs(1));
    ///     assert_eq!(start.duration_since(later), Duration::ZERO);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl From<std::time::Instant> for Instant {
    /// As [`to_std`](Self::to_std), the other way round.
    fn from(instant: std::time::Instant) -> Self {
        let (here, there) = (Self::now(), std::time::Instant::now());
        match instant.checked_duration_since(there) {
            Some(ahead) => here + ahead,
            None => here - (there - instant),
        }
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instant({:?})", Duration::from_nanos(self.0))
    }
}

/// Moves the running loop's virtual clock forward, whatever its policy; the timers that are due
/// then fire in the next turn. See
/// [`Builder::virtual_clock_with`](crate::Builder::virtual_clock_with).
///
/// # Panics
/// If no loop runs on this thread, or its clock is the real one.
///
/// ```
/// use std::time::Duration;
///
/// rondel::Builder::new().virtual_clock().run(async {
///     let start = rondel::Instant::now();
///     rondel::advance(Duration::from_secs(60));
///     assert_eq!(start.elapsed(), Duration::from_secs(60));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn advance(duration: Duration) {
    runtime::with_current(|runtime| {
        let clock = runtime.event_loop.clock();
        assert!(!clock.is_real(), "only a virtual clock can be moved");
        clock.advance(nanos(duration));
    });
}

/// A duration in nanoseconds, as far as they fit: 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What the loop's timer heap holds.
pub(crate) struct TimerEntry(Rc<Entry>);

struct Entry {
    state: Cell<TimerState>,
    waiter: Cell<Option<Waiter>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TimerState {
    Waiting,
    Fired,
    Cancelled,
}

impl Timer for TimerEntry {
    #[inline]
    fn is_cancelled(&self) -> bool {
        self.0.state.get() == TimerState::Cancelled
    }
}

impl TimerEntry {
    /// The time has come.
    #[inline]
    pub(crate) fn fire(self) -> Option<Item> {
        if self.is_cancelled() {
            return None;
        }
        self.0.state.set(TimerState::Fired);
        self.0.waiter.take()?.into_item()
    }
}

impl Drop for TimerEntry {
    #[inline]
    fn drop(&mut self) {
        // Still waiting: the loop is closed, and no heap is to hear of this entry again.
        if self.0.state.get() == TimerState::Waiting {
            self.0.state.set(TimerState::Cancelled);
        }
    }
}

/// A place in the timer heap of a loop.
#[derive(Clone)]
pub(crate) struct Alarm(Rc<Entry>);

impl Alarm {
    /// Wakes `waiter` at the time, in nanoseconds, that `deadline` makes of that of now.
    #[inline]
    pub(crate) fn set(
        runtime: &Runtime,
        deadline: impl FnOnce(u64) -> u64,
        waiter: Waiter,
    ) -> Self {
        let entry = Rc::new(Entry {
            state: Cell::new(TimerState::Waiting),
            waiter: Cell::new(Some(waiter)),
        });
        let deadline = deadline(runtime.event_loop.now());
        let timer = TimerEntry(Rc::clone(&entry));
        runtime.event_loop.call_at(deadline, timer);
        Self(entry)
    }

    /// Takes it back, if it has not fired.
    #[inline]
    pub(crate) fn cancel(&self) {
        let entry = &self.0;
        if entry.state.get() == TimerState::Waiting {
            entry.state.set(TimerState::Cancelled);
            drop(entry.waiter.take());
            // Without a loop the heap is gone already.
            runtime::try_current(|runtime| {
                runtime
                    .event_loop
                    .timer_cancelled(|timer| Rc::ptr_eq(&timer.0, entry));
            });
        }
    }
}

/// Waits for `duration`, by the loop's clock, from when it is first awaited. Zero lets all others
/// that are ready run once, as [`yield_now`].
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     rondel::sleep(Duration::from_micros(200)).await;
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn sleep(duration: Duration) -> Sleep {
    Sleep(if duration.is_zero() {
        SleepState::Yield
    } else {
        SleepState::For(nanos(duration))
    })
}

/// Waits until a point of the loop's time.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let mut tick = rondel::Instant::now();
///     for _ in 0..3 {
///         tick += Duration::from_millis(1);
///         rondel::sleep_until(tick).await;
///     }
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep(SleepState::Until(deadline.0))
}

/// Lets everything that is ready run before going on: asyncio's `sleep(0)`.
///
/// ```
/// use std::{cell::RefCell, rc::Rc};
///
/// let order = Rc::new(RefCell::new(Vec::new()));
/// let of_task = Rc::clone(&order);
/// rondel::run(async {
///     rondel::create_task(async move { of_task.borrow_mut().push("task") }).detach();
///     order.borrow_mut().push("before");
///     rondel::yield_now().await;
///     order.borrow_mut().push("after");
/// })?;
/// assert_eq!(*order.borrow(), ["before", "task", "after"]);
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn yield_now() -> Sleep {
    Sleep(SleepState::Yield)
}

/// The future of [`sleep`], [`sleep_until`] and [`yield_now`].
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     // The time begins with the first poll, not here.
///     let nap: rondel::Sleep = rondel::sleep(Duration::from_millis(1));
///     let start = rondel::Instant::now();
///     nap.await;
///     assert!(start.elapsed() >= Duration::from_millis(1));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep(SleepState);

enum SleepState {
    /// Sleeps that long from now on, in nanoseconds.
    For(u64),
    /// Sleeps until then, in nanoseconds of the loop's clock.
    Until(u64),
    /// Is to yield once.
    Yield,
    /// In the timer heap.
    Queued(Alarm),
    Done,
}

impl Sleep {
    /// One that is in the timer heap at once, until the time that `deadline` makes of that of now.
    #[inline]
    pub(crate) fn begin(context: &Context<'_>, deadline: impl FnOnce(Instant) -> Instant) -> Self {
        Self(SleepState::queued(context, |now| deadline(Instant(now)).0))
    }
}

impl Future for Sleep {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut self.0;
        match this {
            SleepState::Yield => {
                context.waker().wake_by_ref();
                *this = SleepState::Done;
                return Poll::Pending;
            }
            SleepState::For(duration) => {
                let duration = *duration;
                *this = SleepState::queued(context, |now| now.saturating_add(duration));
            }
            SleepState::Until(deadline) => {
                let deadline = *deadline;
                *this = SleepState::queued(context, |_| deadline);
            }
            SleepState::Queued(Alarm(entry)) => {
                if entry.state.get() == TimerState::Fired {
                    *this = SleepState::Done;
                    return Poll::Ready(());
                }
                let waiter = entry.waiter.take();
                entry.waiter.set(Some(match waiter {
                    Some(waiter) if waiter.is(context) => waiter,
                    // By its waker: the entry may be in another loop's heap than the new one's.
                    _ => Waiter::foreign(context),
                }));
            }
            SleepState::Done => return Poll::Ready(()),
        }
        Poll::Pending
    }
}

impl SleepState {
    fn queued(context: &Context<'_>, deadline: impl FnOnce(u64) -> u64) -> Self {
        let waiter = Waiter::new(context);
        Self::Queued(runtime::with_current(|runtime| {
            Alarm::set(runtime, deadline, waiter)
        }))
    }
}

impl Drop for Sleep {
    #[inline]
    fn drop(&mut self) {
        if let SleepState::Queued(alarm) = &self.0 {
            alarm.cancel();
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").finish_non_exhaustive()
    }
}
