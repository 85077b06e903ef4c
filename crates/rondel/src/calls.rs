//! `call_soon`, `call_later`, `call_at`: functions that the loop calls.
//!
//! A call stands in the same ring, and in the same heap of timers, as tasks do, so its order among
//! them is asyncio's.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use crate::context::{self, Context, copy_context};
use crate::exceptions::report_panic;
use crate::runtime::{self, Item};
use crate::task::Waiter;
use crate::time::{Alarm, Instant};

/// A function that is to be called.
pub(crate) struct Call {
    /// `None` once it was called, or cancelled.
    function: Cell<Option<Box<dyn FnOnce()>>>,
    context: Cell<Option<Context>>,
    cancelled: Cell<bool>,
    /// In debug mode.
    created_at: Option<&'static Location<'static>>,
}

impl Call {
    /// Of whatever runs now.
    #[track_caller]
    pub(crate) fn new(function: Box<dyn FnOnce()>) -> Rc<Self> {
        Rc::new(Self {
            function: Cell::new(Some(function)),
            context: Cell::new(Some(copy_context())),
            cancelled: Cell::new(false),
            created_at: in_debug_mode().then(Location::caller),
        })
    }

    /// Calls it, in its context. Only outside of tasks' steps.
    pub(crate) fn run(&self) {
        let (Some(function), Some(context)) = (self.function.take(), self.context.take()) else {
            return;
        };
        let outer = context::swap(context);
        let call = || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(function)) {
                report_panic("Exception in callback", &*panic);
            }
        };
        match in_debug_mode() {
            false => call(),
            true => runtime::current().debug.callback(self.created_at, call),
        }
        drop(context::swap(outer));
    }

    fn cancel(&self) -> bool {
        let function = self.function.take();
        let was_there = function.is_some();
        if was_there {
            self.cancelled.set(true);
        }
        drop(self.context.take());
        drop(function);
        was_there
    }
}

fn in_debug_mode() -> bool {
    runtime::try_current(|runtime| runtime.debug.is_on()).unwrap_or(false)
}

/// Has the running loop call `function` in its next turn, after all that is ready already.
///
/// It gets the [context](crate::ContextVar) that is current now. A panic is told to the loop's
/// exception handler.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// rondel::run(async {
///     let called = Rc::new(Cell::new(false));
///     let of_call = Rc::clone(&called);
///     rondel::call_soon(move || of_call.set(true));
///     assert!(!called.get());
///     rondel::yield_now().await;
///     assert!(called.get());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn call_soon(function: impl FnOnce() + 'static) -> Handle {
    let call = Call::new(Box::new(function));
    let item = Item::Call(Rc::clone(&call));
    runtime::with_current(|runtime| runtime.event_loop.call_soon(item));
    Handle(call)
}

/// Has the running loop call `function` when so much time has passed.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let bell = std::rc::Rc::new(rondel::Event::new());
///     let of_call = bell.clone();
///     rondel::call_later(Duration::from_millis(1), move || of_call.set());
///     bell.wait().await;
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn call_later(delay: Duration, function: impl FnOnce() + 'static) -> TimerHandle {
    call_at(Instant::now() + delay, function)
}

/// Has the running loop call `function` at that time. Of equal times the one that was set first
/// comes first.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let when = rondel::Instant::now() + Duration::from_secs(60);
///     let handle = rondel::call_at(when, || unreachable!());
///     assert_eq!(handle.when(), when);
///     assert!(handle.cancel());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn call_at(when: Instant, function: impl FnOnce() + 'static) -> TimerHandle {
    let call = Call::new(Box::new(function));
    let waiter = Waiter::Call(Rc::clone(&call));
    let alarm = runtime::with_current(|runtime| Alarm::set(runtime, |_| when.nanos(), waiter));
    TimerHandle { call, alarm, when }
}

/// A call that is to come, of [`call_soon`]. Dropping it changes nothing.
///
/// ```
/// rondel::run(async {
///     let handle: rondel::Handle = rondel::call_soon(|| unreachable!());
///     assert!(handle.cancel() && handle.cancelled());
///     rondel::yield_now().await;
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone)]
pub struct Handle(Rc<Call>);

impl Handle {
    /// Has the function not be called, and drops it. `false` if it was called before, or cancelled.
    ///
    /// ```
    /// rondel::run(async {
    ///     let handle = rondel::call_soon(|| unreachable!());
    ///     assert!(handle.cancel());
    ///     assert!(!handle.cancel(), "it is cancelled already");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancel(&self) -> bool {
        self.0.cancel()
    }

    /// Whether it was cancelled.
    ///
    /// ```
    /// rondel::run(async {
    ///     let handle = rondel::call_soon(|| ());
    ///     rondel::yield_now().await;
    ///     assert!(!handle.cancel() && !handle.cancelled(), "it was called");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancelled(&self) -> bool {
        self.0.cancelled.get()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("cancelled", &self.cancelled())
            .finish()
    }
}

/// A call that is to come, of [`call_later`] or [`call_at`]. Dropping it changes nothing.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let handle: rondel::TimerHandle = rondel::call_later(Duration::from_secs(9), || ());
///     assert!(handle.cancel() && handle.cancelled());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone)]
pub struct TimerHandle {
    call: Rc<Call>,
    alarm: Alarm,
    when: Instant,
}

impl TimerHandle {
    /// As [`Handle::cancel`].
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let handle = rondel::call_later(Duration::from_secs(9), || unreachable!());
    ///     assert!(handle.cancel());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancel(&self) -> bool {
        self.alarm.cancel();
        self.call.cancel()
    }

    /// Whether it was cancelled.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let handle = rondel::call_later(Duration::from_secs(9), || ());
    ///     assert!(!handle.cancelled());
    ///     handle.cancel();
    ///     assert!(handle.cancelled());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancelled(&self) -> bool {
        self.call.cancelled.get()
    }

    /// When it is to be called.
    ///
    /// ```
    /// rondel::run(async {
    ///     let deadline = rondel::Instant::now();
    ///     assert_eq!(rondel::call_at(deadline, || ()).when(), deadline);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn when(&self) -> Instant {
        self.when
    }
}

impl fmt::Debug for TimerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerHandle")
            .field("when", &self.when)
            .field("cancelled", &self.cancelled())
            .finish()
    }
}
