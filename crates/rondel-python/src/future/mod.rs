//! `Future`: its fields, and its way from pending to done.
//!
//! `rondel.Future` derives from `_asyncio.Future`; our fields stand behind those of
//! `_asyncio.Task`, so that one offset does for futures and tasks. Done futures queue their
//! callbacks: a task of ours that waits is pushed onto the ready ring as it is (`Kind::Wakeup`),
//! any other callback gets a handle.
//!
//! | file | what it has |
//! |---|---|
//! | here | the fields; how a future is done |
//! | `callbacks.rs` | who waits for it, and how they are told |
//! | `watch.rs` | who watches it without a callback: `gather`, `wait`, task groups |
//! | `kinds.rs` | the classes of futures that are made above this folder |
//! | `any.rs` | futures of any class: asyncio's, and a program's own |
//! | `iter.rs` | what `await` does |
//! | `methods.rs` | what Python sees |
//! | `object.rs` | the life of the object |
//! | `asyncio_part.rs` | what is kept in asyncio's part of the object, from 3.14 on |
//! | `thread_list.rs` | the interpreter's list of a thread's tasks, from 3.14 on |

pub(crate) mod any;
pub(crate) mod asyncio_part;
mod callbacks;
mod iter;
pub(crate) mod kinds;
mod methods;
mod object;
#[cfg(Py_3_14)]
pub(crate) mod thread_list;
pub(crate) mod watch;

use std::cell::{Cell, RefCell};

use pyo3::ffi;

use crate::cpython::error::{exception_matches, raise, raise_instance, runtime_error, type_error};
use crate::cpython::frame::source_traceback;
use crate::cpython::freelist::free_list;
use crate::cpython::stack::recurse;
use crate::cpython::types::allocate;
use crate::cpython::{Class, Fields, NativeClass, Object, Owned, Res, Slot, imports, names};
use crate::loop_core::{LoopCore, is_debug};

#[cfg(not(Py_3_12))]
pub(crate) use callbacks::add_callback;
use callbacks::{Callback, schedule_callbacks};
pub(crate) use callbacks::{add_waiter, remove_waiter};
pub(crate) use iter::{Step, advance, begin_wait, value_if_done};
pub(crate) use kinds::is_native;
pub(crate) use methods::{
    build_iterable, check_fresh, init_types, loop_or_default, message_of, reset_keeping,
    shared_attributes, shared_methods,
};
pub(crate) use object::{finalize, give_back, may_end_others, release};

/// Where a future stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Pending,
    Cancelled,
    Finished,
}

const BLOCKING: u8 = 1;
const LOG_TRACEBACK: u8 = 2;
/// `result` is an exception.
const FAILED: u8 = 4;

/// A future's fields. All zero is a valid one that was not initialized.
#[repr(C)]
pub(crate) struct Future {
    event_loop: Slot,
    /// The result, or the exception.
    result: Slot,
    /// The first callback: a waiting task of ours or a task group (then `context` is empty), or any
    /// callable.
    callback: Slot,
    /// The callback's context. In a future that is queued for its task group: the group.
    context: Slot,
    /// What most futures never need.
    rare: Cell<Option<Box<Rare>>>,
    /// 0 pending, 1 cancelled, 2 finished: zero must be pending.
    state: Cell<u8>,
    flags: Cell<u8>,
}

#[derive(Default)]
struct Rare {
    /// The callbacks behind the first one.
    callbacks: RefCell<Vec<Callback>>,
    exception_traceback: Slot,
    cancel_message: Slot,
    cancelled_error: Slot,
    source_traceback: Slot,
    /// The contexts of a task that was made anew, one of which its step may be in.
    kept: RefCell<Vec<Owned>>,
}

static CLASS: Class = Class::new();

// SAFETY: all classes of futures are made with the fields at this offset, behind what
// `_asyncio.Task` has.
unsafe impl Fields for Future {
    #[inline]
    fn offset() -> usize {
        CLASS.offset()
    }
}

// SAFETY: instances of all of these classes have the fields. (`exact` gives what nothing is
// overridden of: futures, tasks, and what `gather` returns.)
unsafe impl NativeClass for Future {
    #[inline]
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn is_exact(object: &Object) -> bool {
        is_native(object)
    }

    #[inline]
    fn is_instance(object: &Object) -> bool {
        is_native(object) || CLASS.is_instance(object) || kinds::TASK.class.is_instance(object)
    }
}

free_list!(FREE, 1024);

/// The class.
pub(crate) fn class() -> &'static Object {
    CLASS.object()
}

/// Whether this is exactly a `rondel.Future`.
#[inline]
pub(crate) fn is_exact(object: &Object) -> bool {
    CLASS.is_exact(object)
}

/// The fields of a future or task of ours, which `object` must be.
#[inline]
pub(crate) fn fields(object: &Object) -> &Future {
    Future::of(object)
}

/// `Future(loop=event_loop)`.
#[inline]
pub(crate) fn new_future(event_loop: &Object) -> Res<Owned> {
    let class = CLASS.as_ptr();
    let future = match FREE.with(|list| list.revive(class, true)) {
        Some(future) => future,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    init(&future, event_loop)?;
    Ok(future)
}

/// A future that one task is to wait on, in a loop of ours. Afterwards [`give_back`] may have it.
#[inline]
pub(crate) fn new_waiter(core: &LoopCore) -> Res<Owned> {
    match core.take_waiter() {
        Some(future) => Ok(future),
        None => new_future(core.object()),
    }
}

/// What `__init__` does for futures and tasks.
#[inline]
pub(crate) fn init(future: &Object, event_loop: &Object) -> Res<()> {
    let this = fields(future);
    this.event_loop.set(event_loop.own());
    if is_debug(event_loop)? {
        note_origin(future)?;
    }
    Ok(())
}

#[cold]
fn note_origin(future: &Object) -> Res<()> {
    let stack = source_traceback()?;
    fields(future).with_rare(|rare| rare.source_traceback.set(stack));
    Ok(())
}

impl Future {
    #[inline]
    pub(crate) fn state(&self) -> State {
        match self.state.get() {
            0 => State::Pending,
            1 => State::Cancelled,
            _ => State::Finished,
        }
    }

    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.state.get() != 0
    }

    #[inline]
    pub(crate) fn event_loop(&self) -> Option<&Object> {
        self.event_loop.get()
    }

    /// Whether it was just yielded by `await`, and not by a bare `yield`.
    #[inline]
    pub(crate) fn is_blocking(&self) -> bool {
        self.has(BLOCKING)
    }

    #[inline]
    pub(crate) fn set_blocking(&self, on: bool) {
        self.flag(BLOCKING, on);
    }

    pub(crate) fn set_log_traceback(&self, on: bool) {
        self.flag(LOG_TRACEBACK, on);
    }

    pub(crate) fn logs_traceback(&self) -> bool {
        self.has(LOG_TRACEBACK)
    }

    /// Whether it ended with an exception.
    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        self.has(FAILED)
    }

    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    #[inline]
    fn flag(&self, flag: u8, on: bool) {
        let rest = self.flags.get() & !flag;
        self.flags.set(if on { rest | flag } else { rest });
    }

    /// Runs `f` on the rare fields, which are made if need be. `f` must not run foreign code.
    fn with_rare<R>(&self, f: impl FnOnce(&Rare) -> R) -> R {
        let rare = self.rare.take().unwrap_or_default();
        let result = f(&rare);
        self.rare.set(Some(rare));
        result
    }

    /// As [`with_rare`](Self::with_rare), if there are any.
    fn if_rare<R>(&self, f: impl FnOnce(&Rare) -> Option<R>) -> Option<R> {
        let rare = self.rare.take()?;
        let result = f(&rare);
        self.rare.set(Some(rare));
        result
    }

    /// Whether there are none of the rare fields.
    #[inline]
    fn has_no_rare(&self) -> bool {
        // SAFETY: looked at, and nothing else happens meanwhile.
        unsafe { (*self.rare.as_ptr()).is_none() }
    }

    pub(crate) fn cancel_message(&self) -> Option<Owned> {
        self.if_rare(|rare| rare.cancel_message.cloned())
    }

    pub(crate) fn set_cancel_message(&self, message: Option<&Object>) {
        let message = message
            .filter(|message| !message.is_none())
            .map(Object::own);
        let before = if message.is_some() {
            self.with_rare(|rare| rare.cancel_message.replace(message))
        } else {
            self.if_rare(|rare| rare.cancel_message.take())
        };
        drop(before);
    }

    pub(crate) fn source_traceback(&self) -> Option<Owned> {
        self.if_rare(|rare| rare.source_traceback.cloned())
    }

    /// The exception that `cancelled()` futures raise: the one that ended the task, once; or a new
    /// one.
    pub(crate) fn cancelled_error(&self) -> Res<Owned> {
        if let Some(error) = self.if_rare(|rare| rare.cancelled_error.take()) {
            return Ok(error);
        }
        match self.cancel_message() {
            None => imports().cancelled_error.call(&[]),
            Some(message) => imports().cancelled_error.call(&[&*message]),
        }
    }

    pub(crate) fn set_cancelled_error(&self, error: Owned) {
        let before = self.with_rare(|rare| rare.cancelled_error.replace(Some(error)));
        drop(before);
    }

    /// The exception of a failed future, its traceback as it was when it was set.
    fn exception_to_raise(&self) -> Option<Owned> {
        if !self.has(FAILED) {
            return None;
        }
        let exception = self.result.cloned()?;
        let traceback = self.if_rare(|rare| rare.exception_traceback.take());
        let traceback = traceback.unwrap_or_else(Owned::none);
        // SAFETY: an exception instance, and a traceback or None.
        unsafe { ffi::PyException_SetTraceback(exception.as_ptr(), traceback.as_ptr()) };
        Some(exception)
    }
}

/// How a future ended, as whoever waits for it gets it. It must be done.
pub(crate) enum Outcome {
    Value(Owned),
    Error(Owned),
}

/// Reads a done future's outcome, which counts as retrieving its exception.
#[inline]
pub(crate) fn outcome(this: &Future) -> Res<Outcome> {
    if this.state() == State::Cancelled {
        return Ok(Outcome::Error(this.cancelled_error()?));
    }
    this.set_log_traceback(false);
    Ok(match this.exception_to_raise() {
        Some(exception) => Outcome::Error(exception),
        None => Outcome::Value(this.result.or_none()),
    })
}

/// The exception of a future that has failed, which counts as retrieving it.
pub(crate) fn exception(future: &Object) -> Option<Owned> {
    let this = fields(future);
    this.set_log_traceback(false);
    if this.has_failed() {
        this.result.cloned()
    } else {
        None
    }
}

/// `result()` of a done future.
pub(crate) fn take_result(this: &Future) -> Res<Owned> {
    match outcome(this)? {
        Outcome::Value(value) => Ok(value),
        Outcome::Error(error) => raise_instance(error),
    }
}

fn check_pending(this: &Future) -> Res<()> {
    if this.is_done() {
        return raise(&imports().invalid_state_error, "invalid state");
    }
    Ok(())
}

/// Ends a future with a result.
#[inline]
pub(crate) fn finish(future: &Object, value: Owned) -> Res<()> {
    let this = fields(future);
    check_pending(this)?;
    this.result.set(value);
    this.state.set(2);
    schedule_callbacks(future)
}

/// Ends a future with an exception instance.
pub(crate) fn fail(future: &Object, exception: &Object) -> Res<()> {
    let this = fields(future);
    check_pending(this)?;
    let exception = exception_instance(future, exception)?;
    check_pending(this)?; // the exception's class may have completed it
    // SAFETY: an exception instance.
    let traceback = unsafe { Owned::steal(ffi::PyException_GetTraceback(exception.as_ptr())).ok() };
    if traceback.is_some() {
        drop(this.with_rare(|rare| rare.exception_traceback.replace(traceback)));
    }
    this.result.set(exception);
    this.flag(FAILED, true);
    this.state.set(2);
    schedule_callbacks(future)?;
    this.set_log_traceback(true);
    Ok(())
}

fn exception_instance(future: &Object, exception: &Object) -> Res<Owned> {
    // SAFETY: live objects throughout.
    unsafe {
        let exception = if ffi::PyExceptionClass_Check(exception.as_ptr()) != 0 {
            exception.call(&[])?
        } else {
            exception.own()
        };
        if ffi::PyExceptionInstance_Check(exception.as_ptr()) == 0 {
            return type_error("invalid exception object");
        }
        if exception_matches(&exception, Object::from_ptr(ffi::PyExc_StopIteration)) {
            return stop_iteration_as_stock(future, &exception);
        }
        Ok(exception)
    }
}

/// A `StopIteration` can't be raised into a future. Patch releases differ in what is done with one
/// (`TypeError`, or a `RuntimeError` in its place), so a future of asyncio's own is asked.
#[cold]
fn stop_iteration_as_stock(future: &Object, exception: &Object) -> Res<Owned> {
    let event_loop = fields(future).event_loop.or_none();
    let stock = imports()
        .stock_future
        .call_with(&[&event_loop], Some(&imports().kw_loop))?;
    stock.call_method(&*Owned::from_str("set_exception")?, &[exception])?;
    stock.call_method(&*Owned::from_str("exception")?, &[])
}

/// `Future.cancel`: false if it is done already.
pub(crate) fn cancel(future: &Object, message: Option<&Object>) -> Res<bool> {
    let this = fields(future);
    this.set_log_traceback(false);
    if this.is_done() {
        return Ok(false);
    }
    this.state.set(1);
    this.set_cancel_message(message);
    schedule_callbacks(future)?;
    Ok(true)
}

/// Cancels what a task waits for: a future of ours, or anything with `cancel(msg=…)`.
pub(crate) fn cancel_any(future: &Object, message: Option<&Object>) -> Res<bool> {
    if is_exact(future) {
        return cancel(future, message);
    }
    // Each may wait for another one, and tasks that wait for each other never end.
    recurse(|| {
        for kind in [&kinds::TASK, &kinds::GATHERING] {
            if kind.is_exact(future) {
                return kind.cancel(future, message);
            }
        }
        let message = message.map_or_else(Owned::none, Object::own);
        future
            .call_method_with(&names().cancel, &[&*message], Some(&imports().kw_msg))?
            .is_true()
    })
}

/// The error of objects made by `__new__` alone.
#[cold]
pub(crate) fn uninitialized<T>() -> Res<T> {
    runtime_error("Future object is not initialized.")
}
