//! `Future`: its fields, and its way from pending to done.
//!
//! `rondel.Future` derives from `_asyncio.Future`; our fields stand behind those of `_asyncio.Task`, so that one
//! offset does for futures and tasks. Done futures queue their callbacks: a task of ours that waits is pushed
//! onto the ready ring as it is ([`Kind::Wakeup`]), any other callback gets a handle.
//!
//! `methods.rs` is what Python sees, `iter.rs` is what `await` does with it.

mod iter;
mod methods;

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;

use crate::cpython::error::{
    exception_matches, raise, raise_instance, runtime_error, type_error, write_unraisable,
};
use crate::cpython::freelist::free_list;
use crate::cpython::types::{allocate, clear_weakrefs, free, is_fresh};
use crate::cpython::{Object, Owned, Raised, Res, Slot, imports, names};
use crate::event_loop::core::{LoopCore, is_debug};
use crate::event_loop::host::Kind;
use crate::{handle, task};

pub(crate) use methods::{
    alive, init_types, iterator_slots, loop_or_default, message_of, reset, shared_attributes,
    shared_methods,
};

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
    /// The first callback: a waiting task of ours (then `context` is empty), or any callable.
    callback: Slot,
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
}

/// Who wants to know.
struct Callback {
    /// A task of ours if there is no context, otherwise a callable.
    target: Owned,
    context: Option<Owned>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static OFFSET: AtomicUsize = AtomicUsize::new(0);

free_list!(FREE, 1024);

/// Where our fields stand in futures and tasks.
#[inline]
pub(crate) fn offset() -> usize {
    OFFSET.load(Ordering::Relaxed)
}

/// Whether this is exactly a `rondel.Future`.
#[inline]
pub(crate) fn is_exact(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed))
}

/// Whether this is exactly a future or a task of ours: then nothing of it is overridden.
#[inline]
pub(crate) fn is_native(object: &Object) -> bool {
    is_exact(object) || task::is_exact(object)
}

/// The fields of a future or task of ours, which `object` must be.
#[inline]
pub(crate) fn fields(object: &Object) -> &Future {
    // SAFETY: instances of both classes and of their subclasses have these fields at this offset.
    unsafe { &*object.as_ptr().byte_add(offset()).cast::<Future>() }
}

/// `Future(loop=event_loop)`.
#[inline]
pub(crate) fn new_future(event_loop: &Object) -> Res<Owned> {
    let class = CLASS.load(Ordering::Relaxed);
    let future = match FREE.with(|list| list.revive(class, true)) {
        Some(future) => future,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    init(&future, event_loop)?;
    Ok(future)
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
    let frame = imports().getframe.call(&[&*Owned::from_i64(0)?])?;
    let stack = imports().extract_stack.call(&[&*frame])?;
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

    /// The exception that `cancelled()` futures raise: the one that ended the task, once; or a new one.
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

/// A `StopIteration` can't be raised into a future. Patch releases differ in what is done with one (`TypeError`, or a
/// `RuntimeError` in its place), so a future of asyncio's own is asked.
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
    if task::is_exact(future) {
        return task::cancel(future, message);
    }
    let message = message.map_or_else(Owned::none, Object::own);
    future
        .call_method_with(&names().cancel, &[&*message], Some(&imports().kw_msg))?
        .is_true()
}

/// Queues all callbacks, in the order in which they were added.
#[inline]
fn schedule_callbacks(future: &Object) -> Res<()> {
    let this = fields(future);
    if let Some(target) = this.callback.take() {
        let context = this.context.take();
        schedule(future, Callback { target, context })?;
    }
    if let Some(callbacks) = this.if_rare(|rare| Some(rare.callbacks.take())) {
        for callback in callbacks {
            schedule(future, callback)?;
        }
    }
    Ok(())
}

#[inline]
fn schedule(future: &Object, callback: Callback) -> Res<()> {
    let Some(event_loop) = fields(future).event_loop.cloned() else {
        return uninitialized();
    };
    match callback.context {
        None => task::wake(&event_loop, callback.target, future),
        Some(context) => call_soon(&event_loop, &callback.target, &[future], &context),
    }
}

/// `event_loop.call_soon(callback, *args, context=context)`, on any loop.
pub(crate) fn call_soon(
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: &Object,
) -> Res<()> {
    if let Some(core) = LoopCore::of(event_loop)
        && core.calls_directly()
        && !core.is_debug()
    {
        if core.is_closed() {
            return runtime_error("Event loop is closed");
        }
        let handle = handle::new_handle(event_loop, callback, args, Some(context))?;
        core.push(Kind::Handle, handle);
        return Ok(());
    }
    let mut items = vec![callback];
    items.extend(args);
    items.push(context);
    event_loop.call_method_with(&names().call_soon, &items, Some(&imports().kw_context))?;
    Ok(())
}

/// Lets a task of ours wait for a future of ours. If that is done, the task is queued at once.
#[inline]
pub(crate) fn add_waiter(future: &Object, task: &Object) -> Res<()> {
    let callback = Callback {
        target: task.own(),
        context: None,
    };
    add(future, callback)
}

fn add(future: &Object, callback: Callback) -> Res<()> {
    let this = fields(future);
    if this.is_done() {
        return schedule(future, callback);
    }
    let first = this.callback.is_empty()
        && this
            .if_rare(|rare| Some(rare.callbacks.borrow().is_empty()))
            .unwrap_or(true);
    if first {
        this.callback.set(callback.target);
        drop(this.context.replace(callback.context));
    } else {
        this.with_rare(|rare| rare.callbacks.borrow_mut().push(callback));
    }
    Ok(())
}

/// All callbacks, in order.
fn callbacks(this: &Future) -> Vec<Callback> {
    let mut all = Vec::new();
    if let Some(target) = this.callback.cloned() {
        all.push(Callback {
            target,
            context: this.context.cloned(),
        });
    }
    let more = this.if_rare(|rare| {
        Some(
            rare.callbacks
                .borrow()
                .iter()
                .map(|callback| Callback {
                    target: callback.target.clone(),
                    context: callback.context.clone(),
                })
                .collect::<Vec<_>>(),
        )
    });
    all.extend(more.into_iter().flatten());
    all
}

fn set_callbacks(this: &Future, all: Vec<Callback>) {
    let mut all = all.into_iter();
    let (target, context) = match all.next() {
        Some(callback) => (Some(callback.target), callback.context),
        None => (None, None),
    };
    let before = (this.callback.replace(target), this.context.replace(context));
    let rest: Vec<_> = all.collect();
    let rest_before = if rest.is_empty() {
        this.if_rare(|rare| Some(rare.callbacks.take()))
    } else {
        Some(this.with_rare(|rare| rare.callbacks.replace(rest)))
    };
    drop((before, rest_before));
}

/// The error of objects made by `__new__` alone.
#[cold]
pub(crate) fn uninitialized<T>() -> Res<T> {
    runtime_error("Future object is not initialized.")
}

// ---- life as an object ----

/// `__del__`: an exception that nobody looked at is reported.
pub(crate) fn finalize(future: &Object) -> Res<()> {
    let this = fields(future);
    if !this.logs_traceback() {
        return Ok(());
    }
    this.set_log_traceback(false);
    let Some(event_loop) = this.event_loop.cloned() else {
        return Ok(());
    };
    let name = future
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()?;
    let context = Owned::dict()?;
    let message = format!("{name} exception was never retrieved");
    context.set_item(c"message", &*Owned::from_str(&message)?)?;
    context.set_item(c"exception", &this.result.or_none())?;
    context.set_item(c"future", future)?;
    if let Some(traceback) = this.source_traceback() {
        context.set_item(c"source_traceback", &traceback)?;
    }
    event_loop.call_method(&names().call_exception_handler, &[&*context])?;
    Ok(())
}

/// Runs a finalizer with the exception that may be set kept as it is.
pub(crate) fn with_exception_kept(object: &Object, f: impl FnOnce(&Object) -> Res<()>) {
    // SAFETY: attached.
    let pending = unsafe { !ffi::PyErr_Occurred().is_null() };
    let saved = pending.then(crate::cpython::error::take_exception);
    if let Err(Raised) = f(object) {
        write_unraisable(Some(object));
    }
    if let Some(saved) = saved {
        let Raised = crate::cpython::error::restore(saved);
    }
}

unsafe extern "C" fn tp_finalize(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let object = unsafe { Object::from_ptr(object) };
    crate::cpython::error::guard_quiet(|| with_exception_kept(object, finalize));
}

/// Visits the fields of the future in `object`.
pub(crate) fn traverse(object: &Object, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    let this = fields(object);
    crate::cpython::types::visit!(
        visit,
        arg,
        this.event_loop,
        this.result,
        this.callback,
        this.context
    );
    // The collector's visits run no foreign code, so the box may be out for their time.
    let Some(rare) = this.rare.take() else {
        return 0;
    };
    let result = traverse_rare(&rare, visit, arg);
    this.rare.set(Some(rare));
    result
}

fn traverse_rare(rare: &Rare, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    crate::cpython::types::visit!(
        visit,
        arg,
        rare.exception_traceback,
        rare.cancel_message,
        rare.cancelled_error,
        rare.source_traceback,
    );
    if let Ok(callbacks) = rare.callbacks.try_borrow() {
        for callback in callbacks.iter() {
            for object in [Some(&callback.target), callback.context.as_ref()]
                .into_iter()
                .flatten()
            {
                // SAFETY: the collector's own visitor, with a live object.
                let result = unsafe { visit(object.as_ptr(), arg) };
                if result != 0 {
                    return result;
                }
            }
        }
    }
    0
}

/// Empties the future in `object`.
#[inline]
pub(crate) fn clear(object: &Object) {
    let this = fields(object);
    this.callback.clear();
    this.context.clear();
    this.result.clear();
    this.event_loop.clear();
    drop(this.rare.take());
}

/// Calls the base class's slot on the part of the object that is its own: an instance dict, if there is one.
///
/// # Safety
/// As the collector calls `tp_traverse`.
pub(crate) unsafe fn traverse_base(
    base: &Object,
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: a live type; its own function for its own part, which is zeroed but for the dict.
    unsafe {
        match (*base.as_type_ptr()).tp_traverse {
            Some(traverse) => traverse(object, visit, arg),
            None => 0,
        }
    }
}

unsafe extern "C" {
    fn _PyObject_GetDictPtr(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject;
}

/// Releases the instance dict, which the base class knows how to do.
///
/// # Safety
/// `object` is an instance of a type derived from `base`, in `tp_clear` or `tp_dealloc`.
#[inline]
pub(crate) unsafe fn clear_base(base: &Object, object: *mut ffi::PyObject) {
    // SAFETY: by the caller's word; the function is exported by every supported version.
    unsafe {
        let dict = _PyObject_GetDictPtr(object);
        if !dict.is_null()
            && !(*dict).is_null()
            && let Some(clear) = (*base.as_type_ptr()).tp_clear
        {
            clear(object);
        }
    }
}

unsafe extern "C" fn tp_traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    unsafe {
        let result = traverse_base(&imports().stock_future, object, visit, arg);
        if result != 0 {
            return result;
        }
        traverse(Object::from_ptr(object), visit, arg)
    }
}

unsafe extern "C" fn tp_clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    unsafe {
        clear_base(&imports().stock_future, object);
        clear(Object::from_ptr(object));
    }
    0
}

unsafe extern "C" fn tp_dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance.
    unsafe {
        let this = fields(Object::from_ptr(object));
        let exact = is_exact(Object::from_ptr(object));
        if (!exact || this.logs_traceback()) && ffi::PyObject_CallFinalizerFromDealloc(object) < 0 {
            return; // resurrected
        }
        ffi::PyObject_GC_UnTrack(object.cast());
        clear_weakrefs(object);
        clear_base(&imports().stock_future, object);
        clear(Object::from_ptr(object));
        this.state.set(0);
        this.flags.set(0);
        if exact && is_fresh(object) && FREE.with(|list| list.keep(object)) {
            ffi::Py_DECREF(CLASS.load(Ordering::Relaxed).cast());
        } else {
            free(object);
        }
    }
}
