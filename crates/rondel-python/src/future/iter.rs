//! What `await future` does.
//!
//! A future is its own iterator, so `await` needs no second object. The first `__next__` of a
//! pending future marks it as *blocking* and yields it to the task, which removes the mark and
//! waits. The next `__next__` returns the result.
//!
//! If user code calls `__await__()` or `__iter__()` itself, it gets a [`FutureIter`], which also
//! has `send`, `throw` and `close`, as asyncio's does. The future itself must not have these
//! methods, as it would then pass for a coroutine. Compilers that await through the type slot, as
//! the interpreter does, treat it as an iterator without `throw`.

use std::cell::Cell;

use pyo3::ffi;

use super::{Future, Outcome, State, outcome, plain, uninitialized};
use crate::cpython::collected::Collected;
use crate::cpython::error::{guard_object, raise_instance, runtime_error, type_error};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::native::{Class, Fields, NativeClass};
use crate::cpython::stop_iteration::{complete_stop_iteration, stop_iteration};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Native, NativeSlot, Object, Owned, OwnedNative, Raised, Res, Slot};

/// One step of an iteration.
pub(crate) enum Step {
    Yield(Owned),
    Return(Owned),
}

#[inline]
pub(crate) fn advance(future: &Native<Future>) -> Res<Step> {
    let this: &Future = future;
    if this.is_done() {
        return match outcome(this)? {
            Outcome::Value(value) => Ok(Step::Return(value)),
            Outcome::Error(error) => raise_instance(error),
        };
    }
    if this.event_loop().is_none() {
        return uninitialized();
    }
    if this.is_blocking() {
        return runtime_error("await wasn't used with future");
    }
    this.set_blocking(true);
    Ok(Step::Yield(future.object().own()))
}

/// The result of an exact `rondel.Future` that finished without an exception; otherwise `None`.
#[inline]
pub(crate) fn value_if_done(object: &Object) -> Option<Owned> {
    let this = plain(object)?;
    (this.state() == State::Finished && !this.has_failed()).then(|| this.result.or_none())
}

#[inline]
fn next_of(step: Step) -> Res<Owned> {
    match step {
        Step::Yield(object) => Ok(object),
        Step::Return(value) => Err(stop_iteration(value)),
    }
}

pub(super) unsafe extern "C" fn am_await(future: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a live instance; a new reference is returned.
    unsafe {
        ffi::Py_INCREF(future);
    }
    future
}

pub(super) unsafe extern "C" fn tp_iternext(future: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    let future = unsafe { Native::from_ptr(future) };
    guard_object(|| next_of(advance(future)?))
}

pub(super) unsafe extern "C" fn am_send(
    future: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: the interpreter passes an instance of the class.
    let future = unsafe { Native::from_ptr(future) };
    let mut status = ffi::PySendResult::PYGEN_ERROR;
    let value = guard_object(|| {
        Ok(match advance(future)? {
            Step::Yield(object) => {
                status = ffi::PySendResult::PYGEN_NEXT;
                object
            }
            Step::Return(value) => {
                status = ffi::PySendResult::PYGEN_RETURN;
                value
            }
        })
    });
    // SAFETY: guaranteed by the caller: room for a reference. It is null with `PYGEN_ERROR`.
    unsafe { *result = value };
    status
}

/// The iterator that `__await__()` and `__iter__()` return to user code.
#[repr(C)]
struct FutureIter {
    /// Empty once the iteration is over.
    future: NativeSlot<Future>,
    started: Cell<bool>,
}

static CLASS: Class = Class::new();

// SAFETY: the fields are behind the object header; zeroed ones are valid.
unsafe impl Fields for FutureIter {}

// SAFETY: every object reference is visited.
unsafe impl Collected for FutureIter {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.future.slot());
    }
}

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for FutureIter {
    fn class() -> &'static Class {
        &CLASS
    }
}

pub(super) fn new_iter(future: &Native<Future>) -> Res<Owned> {
    if future.event_loop().is_none() {
        return uninitialized();
    }
    // SAFETY: all-zero fields are valid.
    let iter = unsafe { OwnedNative::<FutureIter>::new(allocate(CLASS.as_ptr())?) };
    iter.future.set(future.own());
    Ok(iter.into_owned())
}

fn iter_next(iter: &Native<FutureIter>) -> Res<Owned> {
    let Some(future) = iter.future.cloned() else {
        return Err(Raised); // exhausted: no exception, no value
    };
    if !future.is_done() {
        if iter.started.replace(true) {
            return runtime_error("await wasn't used with future");
        }
        future.set_blocking(true);
        return Ok(future.into_owned());
    }
    iter.future.clear();
    match outcome(&future)? {
        Outcome::Value(value) => Err(stop_iteration(value)),
        Outcome::Error(error) => raise_instance(error),
    }
}

unsafe extern "C" fn iter_iternext(iter: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    let iter = unsafe { Native::from_ptr(iter) };
    guard_object(|| iter_next(iter))
}

/// `send`, called by user code: a result is raised as a full `StopIteration`.
fn iter_send(iter: &Native<FutureIter>, _: &Object) -> Res<Owned> {
    iter_next(iter).map_err(complete_stop_iteration)
}

fn iter_throw(iter: &Native<FutureIter>, args: Args<'_>) -> Res<Owned> {
    let (first, rest) = match args.positional() {
        [first, rest @ ..] if rest.len() <= 2 => (*first, rest),
        _ => return type_error("throw expected 1 to 3 arguments"),
    };
    iter.future.clear();
    if cfg!(Py_3_12) && !rest.is_empty() {
        let text = c"the (type, exc, tb) signature of throw() is deprecated, use the single-arg signature instead.";
        // SAFETY: a built-in class and a C string.
        crate::cpython::object::check(unsafe {
            ffi::PyErr_WarnEx(ffi::PyExc_DeprecationWarning, text.as_ptr(), 1)
        })?;
    }
    // SAFETY: live objects, whose types are checked before they are relied on.
    unsafe {
        let exception = if ffi::PyExceptionClass_Check(first.as_ptr()) != 0 {
            match rest.first().filter(|value| !value.is_none()) {
                Some(value) if ffi::PyExceptionInstance_Check(value.as_ptr()) != 0 => {
                    (*value).own()
                }
                Some(value) => first.call(&[value])?,
                None => first.call(&[])?,
            }
        } else if ffi::PyExceptionInstance_Check(first.as_ptr()) != 0 {
            if rest.first().is_some_and(|value| !value.is_none()) {
                return type_error("instance exception may not have a separate value");
            }
            first.own()
        } else {
            return type_error(
                "exceptions must be classes deriving BaseException or instances of such a class",
            );
        };
        if let Some(traceback) = rest.get(1).filter(|traceback| !traceback.is_none()) {
            if ffi::PyTraceBack_Check(traceback.as_ptr()) == 0 {
                return type_error("throw() third argument must be a traceback");
            }
            ffi::PyException_SetTraceback(exception.as_ptr(), traceback.as_ptr());
        }
        raise_instance(exception)
    }
}

fn iter_close(iter: &Native<FutureIter>) -> Res<Owned> {
    iter.future.clear();
    Ok(Owned::none())
}

fn iter_methods() -> Vec<Method> {
    vec![
        method!(onearg c"send" iter_send, c"Continues the iteration."),
        method!(fast c"throw" iter_throw, c"Raises an exception at the await."),
        method!(noargs c"close" iter_close, c"Ends the iteration."),
    ]
}

pub(super) fn init_type() -> Res<()> {
    let class = TypeBuilder::new::<FutureIter>(c"rondel.FutureIter", None, FutureIter::offset())
        .not_instantiable()
        .slot(
            ffi::Py_tp_iter,
            slot_fn!(ffi::PyObject_SelfIter, ffi::getiterfunc),
        )
        .slot(
            ffi::Py_tp_iternext,
            slot_fn!(iter_iternext, ffi::iternextfunc),
        )
        .collected::<FutureIter>()
        .methods(iter_methods())
        .build()?;
    CLASS.set(&class);
    Ok(())
}
