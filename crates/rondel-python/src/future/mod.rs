//! `Future`: its fields, and its transition from pending to done.
//!
//! `rondel.Future` derives from `_asyncio.Future`. The native fields are behind those of
//! `_asyncio.Task`, so that futures and tasks share one offset. A future that is done queues its
//! callbacks: a waiting native task is pushed directly onto the ready ring (`Kind::Wakeup`), any
//! other callback gets a handle.
//!
//! | file | what it has |
//! |---|---|
//! | here | the fields; completing and cancelling |
//! | `callbacks.rs` | the callbacks, and how they are scheduled |
//! | `watch.rs` | watchers, which need no callback: `gather`, `wait`, task groups |
//! | `kinds.rs` | the classes of futures that are made outside this folder |
//! | `any.rs` | futures of any class: asyncio's, and user-defined ones |
//! | `iter.rs` | what `await` does |
//! | `methods.rs` | methods, attributes, the class |
//! | `object.rs` | finalizer, garbage collection, freelist |
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
use crate::cpython::flags::Flags;
use crate::cpython::frame::source_traceback;
use crate::cpython::freelist::free_list;
use crate::cpython::stack::recurse;
use crate::cpython::types::allocate;
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, OwnedNative, Res, Slot, imports, names,
};
use crate::loop_core::{LoopCore, is_debug};

#[cfg(not(Py_3_12))]
pub(crate) use callbacks::add_callback;
use callbacks::{Callback, schedule_callbacks};
pub(crate) use callbacks::{add_waiter, remove_waiter};
pub(crate) use iter::{Step, advance, value_if_done};
pub(crate) use kinds::is_native;
pub(crate) use methods::{
    build_iterable, check_fresh, init_types, loop_or_default, message_of, reset_keeping,
    shared_attributes, shared_methods,
};
pub(crate) use object::{finalize, give_back, may_end_others, release};

/// The state of a future.
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

/// A future's fields. All-zero fields are a valid, uninitialized future.
#[repr(C)]
pub(crate) struct Future {
    event_loop: Slot,
    /// The result, or the exception.
    result: Slot,
    /// The first callback: a waiting native task or a watcher (then `context` is empty), or any
    /// callable.
    callback: Slot,
    /// The context of the first callback.
    context: Slot,
    /// Fields that most futures never need.
    rare: Cell<Option<Box<Rare>>>,
    /// 0 pending, 1 cancelled, 2 finished: zero must be pending.
    state: Cell<u8>,
    flags: Flags<u8>,
}

#[derive(Default)]
struct Rare {
    /// The callbacks after the first one.
    callbacks: RefCell<Vec<Callback>>,
    exception_traceback: Slot,
    cancel_message: Slot,
    cancelled_error: Slot,
    source_traceback: Slot,
    /// Earlier contexts of a task whose `__init__` ran again; a step may still run in one of them.
    kept: RefCell<Vec<Owned>>,
}

static CLASS: Class = Class::new();

// SAFETY: all classes of futures are made with the fields at this offset, behind those of
// `_asyncio.Task`.
unsafe impl Fields for Future {
    #[inline]
    fn offset() -> usize {
        CLASS.offset()
    }
}

// SAFETY: instances of all these classes have the fields. (`is_exact` covers the classes without
// overridden methods: futures, tasks, and what `gather` returns.)
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

/// The class `rondel.Future`.
pub(crate) fn class() -> &'static Object {
    CLASS.object()
}

/// Whether an object is exactly a `rondel.Future`.
#[inline]
pub(crate) fn is_exact(object: &Object) -> bool {
    CLASS.is_exact(object)
}

/// An object that is exactly a `rondel.Future`, as one.
#[inline]
pub(crate) fn plain(object: &Object) -> Option<&Native<Future>> {
    // SAFETY: the class was compared.
    is_exact(object).then(|| unsafe { object.known() })
}

/// Like [`plain`], for a reference; any other one is given back.
#[inline]
pub(crate) fn into_plain(object: Owned) -> Result<OwnedNative<Future>, Owned> {
    match is_exact(&object) {
        // SAFETY: the class was compared.
        true => Ok(unsafe { OwnedNative::new(object) }),
        false => Err(object),
    }
}

/// `Future(loop=event_loop)`.
#[inline]
pub(crate) fn new_future(event_loop: &Object) -> Res<OwnedNative<Future>> {
    let class = CLASS.as_ptr();
    let object = match FREE.with(|list| list.revive(class, true)) {
        Some(object) => object,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    // SAFETY: an instance of the class.
    let future = unsafe { OwnedNative::new(object) };
    init(&future, event_loop)?;
    Ok(future)
}

/// A future for one task to wait on, on a Rondel loop. Pass it to [`give_back`] afterwards.
#[inline]
pub(crate) fn new_waiter(core: &LoopCore) -> Res<OwnedNative<Future>> {
    match core.take_waiter() {
        // SAFETY: the loop keeps what `give_back` has given it.
        Some(future) => Ok(unsafe { OwnedNative::new(future) }),
        None => new_future(core.object()),
    }
}

/// What `__init__` does for futures and tasks.
#[inline]
pub(crate) fn init(future: &Future, event_loop: &Object) -> Res<()> {
    future.event_loop.set(event_loop.own());
    if is_debug(event_loop)? {
        note_origin(future)?;
    }
    Ok(())
}

#[cold]
fn note_origin(future: &Future) -> Res<()> {
    let stack = source_traceback()?;
    future.with_rare(|rare| rare.source_traceback.set(stack));
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

    /// Whether `await` has just yielded it, as opposed to a bare `yield`.
    #[inline]
    pub(crate) fn is_blocking(&self) -> bool {
        self.flags.has(BLOCKING)
    }

    #[inline]
    pub(crate) fn set_blocking(&self, on: bool) {
        self.flags.set(BLOCKING, on);
    }

    pub(crate) fn set_log_traceback(&self, on: bool) {
        self.flags.set(LOG_TRACEBACK, on);
    }

    pub(crate) fn logs_traceback(&self) -> bool {
        self.flags.has(LOG_TRACEBACK)
    }

    /// Whether it ended with an exception.
    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        self.flags.has(FAILED)
    }

    /// Runs `f` on the rare fields, which are made if needed. `f` must not run foreign code.
    fn with_rare<R>(&self, f: impl FnOnce(&Rare) -> R) -> R {
        let rare = self.rare.take().unwrap_or_default();
        let result = f(&rare);
        self.rare.set(Some(rare));
        result
    }

    /// Like [`with_rare`](Self::with_rare), but only if there are rare fields.
    fn if_rare<R>(&self, f: impl FnOnce(&Rare) -> Option<R>) -> Option<R> {
        let rare = self.rare.take()?;
        let result = f(&rare);
        self.rare.set(Some(rare));
        result
    }

    /// Whether the rare fields have not been made.
    #[inline]
    fn has_no_rare(&self) -> bool {
        // SAFETY: the borrow ends within the expression, and nothing else runs meanwhile.
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

    /// The `CancelledError` to raise: the one that ended the task, the first time; later a new one.
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

    /// The exception of a failed future. The first call restores the traceback that it had when it
    /// was set; later calls clear the traceback, as CPython does.
    fn exception_to_raise(&self) -> Option<Owned> {
        if !self.flags.has(FAILED) {
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

/// The outcome of a future that is done, as `await` gives it.
pub(crate) enum Outcome {
    Value(Owned),
    Error(Owned),
}

/// The outcome of a future that is done. Marks its exception as retrieved.
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

/// The exception of a future, if it has failed. Marks it as retrieved.
pub(crate) fn exception(this: &Future) -> Option<Owned> {
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

/// Completes a future with a result. Raises `InvalidStateError` if it is done.
#[inline]
pub(crate) fn finish(future: &Native<Future>, value: Owned) -> Res<()> {
    check_pending(future)?;
    future.result.set(value);
    future.state.set(2);
    schedule_callbacks(future)
}

/// Completes a future with an exception, or a class of exceptions. Raises `InvalidStateError` if it
/// is done.
pub(crate) fn fail(future: &Native<Future>, exception: &Object) -> Res<()> {
    let this: &Future = future;
    check_pending(this)?;
    let exception = exception_instance(this, exception)?;
    check_pending(this)?; // the exception's constructor may have completed it
    // SAFETY: an exception instance.
    let traceback = unsafe { Owned::steal(ffi::PyException_GetTraceback(exception.as_ptr())).ok() };
    if traceback.is_some() {
        drop(this.with_rare(|rare| rare.exception_traceback.replace(traceback)));
    }
    this.result.set(exception);
    this.flags.set(FAILED, true);
    this.state.set(2);
    schedule_callbacks(future)?;
    this.set_log_traceback(true);
    Ok(())
}

fn exception_instance(future: &Future, exception: &Object) -> Res<Owned> {
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

/// `StopIteration` can't be raised into a future. Patch releases differ in what they raise or set
/// instead (`TypeError`, or a `RuntimeError` in its place), so a stock asyncio future decides.
#[cold]
fn stop_iteration_as_stock(future: &Future, exception: &Object) -> Res<Owned> {
    let event_loop = future.event_loop.or_none();
    let stock = imports()
        .stock_future
        .call_with(&[&event_loop], Some(&imports().kw_loop))?;
    stock.call_method(&*Owned::from_str("set_exception")?, &[exception])?;
    stock.call_method(&*Owned::from_str("exception")?, &[])
}

/// `Future.cancel`: false if the future is already done.
pub(crate) fn cancel(future: &Native<Future>, message: Option<&Object>) -> Res<bool> {
    let this: &Future = future;
    this.set_log_traceback(false);
    if this.is_done() {
        return Ok(false);
    }
    this.state.set(1);
    this.set_cancel_message(message);
    schedule_callbacks(future)?;
    Ok(true)
}

/// Cancels what a task waits for: a native future, or any object with `cancel(msg=…)`.
pub(crate) fn cancel_any(future: &Object, message: Option<&Object>) -> Res<bool> {
    if let Some(future) = plain(future) {
        return cancel(future, message);
    }
    // Tasks may wait for each other in a long chain or a cycle, so the recursion is bounded.
    recurse(|| {
        for kind in [&kinds::TASK, &kinds::GATHERING] {
            if let Some(done) = kind.cancel(future, message) {
                return done;
            }
        }
        let message = message.map_or_else(Owned::none, Object::own);
        future
            .call_method_with(&names().cancel, &[&*message], Some(&imports().kw_msg))?
            .is_true()
    })
}

/// The error for objects whose `__init__` has not run.
#[cold]
pub(crate) fn uninitialized<T>() -> Res<T> {
    runtime_error("Future object is not initialized.")
}
