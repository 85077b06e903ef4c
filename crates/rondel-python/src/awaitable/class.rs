//! The types of awaitables: the slots through which the interpreter awaits, traverses and
//! deallocates an instance, and the methods of a coroutine.

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use pyo3::ffi;

use super::progress::Progress;
use super::{Awaitable, Stage, Steps, This, base, shown};
use crate::cpython::error::{guard, guard_object, guard_quiet, raise_instance, type_error};
use crate::cpython::finalize::finalizing;
use crate::cpython::method::{self, Args, GetSet};
use crate::cpython::nesting::nested;
use crate::cpython::object::check;
use crate::cpython::stop_iteration::stop_iteration;
use crate::cpython::types::{TypeBuilder, free, slot_fn};
use crate::cpython::{Fields, Object, Owned, Res, Slot, none};
use crate::untracked;

fn value_of(progress: Progress) -> Res<Owned> {
    match progress {
        Progress::Yielded(value) => Ok(value),
        Progress::Returned(value) if value.is_none() => {
            // SAFETY: a built-in class lives as long as the interpreter.
            raise_instance(unsafe { Object::from_ptr(ffi::PyExc_StopIteration) }.call(&[])?)
        }
        Progress::Returned(value) => Err(stop_iteration(value)),
    }
}

unsafe extern "C" fn send<T: Steps>(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance and argument.
        let (object, value) = unsafe { (This::<T>::from_ptr(object), Object::from_ptr(value)) };
        object.send(value).and_then(value_of)
    })
}

unsafe extern "C" fn throw<T: Steps>(
    object: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance, and arguments by the fastcall
        // convention.
        let (object, args) = unsafe {
            (
                This::<T>::from_ptr(object),
                Args::new(args, nargs as usize, kwnames),
            )
        };
        raise_thrown(args)?;
        object.throw().and_then(value_of)
    })
}

unsafe extern "C" fn close<T: Steps>(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance.
        unsafe { This::<T>::from_ptr(object) }.close()?;
        Ok(Owned::none())
    })
}

unsafe extern "C" fn itself(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    unsafe { am_await(object) }
}

/// Defines the getter of an attribute from an expression on the awaitable.
macro_rules! getter {
    ($name:ident, |$this:ident| $value:expr) => {
        unsafe extern "C" fn $name<T: Steps>(
            object: *mut ffi::PyObject,
            _: *mut c_void,
        ) -> *mut ffi::PyObject {
            // SAFETY: the interpreter passes a live instance.
            let $this = unsafe { This::<T>::from_ptr(object) };
            guard_object(|| $value)
        }
    };
}

getter!(name, |this| Owned::from_str(this.steps.name()));
getter!(running, |this| Ok(Owned::from_bool(
    this.stage.get() == Stage::Running
)));
getter!(suspended, |this| Ok(Owned::from_bool(
    this.stage.get() == Stage::Suspended
)));
getter!(awaited, |this| Ok(this.inner.or_none()));
getter!(code, |this| shown::code(this.steps.name()));
getter!(frame, |this| match this.stage.get() {
    Stage::Done => Ok(Owned::none()),
    _ if this.steps.hands_over() => Ok(Owned::none()),
    stage => shown::frame(this.steps.name(), stage != Stage::Fresh),
});
// What `inspect.getcoroutinestate` reads from 3.15 on.
#[cfg(Py_3_15)]
getter!(state, |this| Owned::from_str(match this.stage.get() {
    Stage::Fresh => "CORO_CREATED",
    Stage::Suspended => "CORO_SUSPENDED",
    Stage::Running => "CORO_RUNNING",
    Stage::Done => "CORO_CLOSED",
}));

unsafe extern "C" fn nothing(_: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    Owned::none().into_ptr()
}

/// `throw(exception)`, or its old form `throw(type, value, traceback)`.
fn raise_thrown(args: Args<'_>) -> Res<()> {
    let [kind, value, traceback] = args.parse("throw", ["type", "value", "traceback"], 3, 1)?;
    let kind = kind.unwrap_or(none());
    let value = value.filter(|value| !value.is_none());
    // SAFETY: a built-in class lives as long as the interpreter.
    let base = unsafe { Object::from_ptr(ffi::PyExc_BaseException) };
    let exception = if kind.is_instance(base)? {
        kind.own()
    } else if kind.is_type() {
        match value {
            Some(value) if value.is_instance(kind)? => value.own(),
            Some(value) => kind.call(&[value])?,
            None => kind.call(&[])?,
        }
    } else {
        return type_error("exceptions must be classes or instances deriving from BaseException");
    };
    if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none()) {
        // SAFETY: a live exception and object; the C API checks the type.
        check(unsafe { ffi::PyException_SetTraceback(exception.as_ptr(), traceback.as_ptr()) })?;
    }
    // The exception stays set, as the caller expects.
    let _set = raise_instance::<()>(exception);
    Ok(())
}

unsafe extern "C" fn next<T: Steps>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance.
        match unsafe { This::<T>::from_ptr(object) }.resume()? {
            Progress::Yielded(value) => Ok(value),
            Progress::Returned(value) => Err(stop_iteration(value)),
        }
    })
}

unsafe extern "C" fn am_send<T: Steps>(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    guard(ffi::PySendResult::PYGEN_ERROR, || {
        // SAFETY: the slot's contract: live objects, and room for a reference.
        unsafe {
            *result = ptr::null_mut();
            let (this, value) = (This::<T>::from_ptr(object), Object::from_ptr(value));
            // The call that the interpreter's own `await` makes takes the fast path.
            let progress = if cfg!(any(not(Py_3_12), Py_3_14)) && value.is_none() {
                this.resume()?
            } else {
                this.send(value)?
            };
            let (value, kind) = match progress {
                Progress::Yielded(value) => (value, ffi::PySendResult::PYGEN_NEXT),
                Progress::Returned(value) => (value, ffi::PySendResult::PYGEN_RETURN),
            };
            *result = value.into_ptr();
            Ok(kind)
        }
    })
}

unsafe extern "C" fn am_await(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    unsafe { Object::from_ptr(object).own().into_ptr() }
}

unsafe extern "C" fn traverse<T: Steps>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance; its type is visited as heap types require.
    unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 {
            return result;
        }
        let this = This::<T>::from_ptr(object);
        let mut result = 0;
        let mut see = |slot: &Slot| {
            if let (0, Some(held)) = (result, slot.get()) {
                result = visit(held.as_ptr(), arg);
            }
        };
        see(&this.inner);
        this.steps.for_each_slot(&mut see);
        result
    }
}

unsafe extern "C" fn clear<T: Steps>(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = unsafe { This::<T>::from_ptr(object) };
    guard_quiet(|| this.finish());
    0
}

/// Finalizes an awaitable that is not done, as for coroutines: a suspended one is closed, and one
/// that was never awaited causes a warning.
fn finalize_kept<T: Steps>(this: &This<T>) -> Res<()> {
    this.finalized.set(true);
    match this.stage.get() {
        Stage::Fresh if !T::REUSABLE => {
            let text = format!("coroutine '{}' was never awaited", this.steps.name());
            this.finish();
            warn_never_awaited(&text)
        }
        Stage::Suspended => this.close(),
        _ => Ok(()),
    }
}

#[cold]
fn warn_never_awaited(text: &str) -> Res<()> {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: a built-in class and a NUL-terminated text.
    check(unsafe { ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, text.as_ptr(), 1) })
}

unsafe extern "C" fn finalize<T: Steps>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let this = unsafe { This::<T>::from_ptr(object) };
    finalizing(this.object(), || finalize_kept(this));
}

unsafe extern "C" fn dealloc<T: Steps>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes an instance without references, once.
    unsafe {
        let this = This::<T>::from_ptr(object);
        match this.stage.get() {
            Stage::Done => give_back::<T>(object),
            _ => end_undone::<T>(object),
        }
    }
}

/// # Safety
/// Only for `tp_dealloc`.
#[cold]
#[inline(never)]
unsafe fn end_undone<T: Steps>(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        // The collector must not find the object while its deallocation is deferred.
        untracked::forget(&This::<T>::from_ptr(object).tracked);
        nested(object, dealloc::<T>, || {
            if !end::<T>(object) {
                give_back::<T>(object);
            }
        });
    }
}

/// Puts an awaitable that is done on the freelist, or frees it.
///
/// # Safety
/// Only for `tp_dealloc`.
#[inline]
unsafe fn give_back<T: Steps>(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let this = This::<T>::from_ptr(object);
        if this.tracked.get() {
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        if this.finalized.get() || !(T::class().keep)(object) {
            free(object);
        }
    }
}

/// Finalizes and empties an awaitable that is not done. Returns whether it was resurrected instead.
///
/// # Safety
/// Only for `tp_dealloc`.
#[inline(never)]
unsafe fn end<T: Steps>(object: *mut ffi::PyObject) -> bool {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let this = This::<T>::from_ptr(object);
        // The finalizer may resurrect the object, and the interpreter expects a resurrected object
        // to be tracked.
        if !this.tracked.replace(true) {
            untracked::forget(&this.tracked);
            ffi::PyObject_GC_Track(object.cast());
        }
        if ffi::PyObject_CallFinalizerFromDealloc(object) < 0 {
            return true;
        }
        // Releasing references may start the collector, which must not find the object.
        if this.tracked.replace(false) {
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        if this.stage.get() != Stage::Done {
            guard_quiet(|| this.finish());
        }
        false
    }
}

fn read_only(name: &'static CStr, get: method::Getter) -> GetSet {
    GetSet(ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set: None,
        doc: ptr::null(),
        closure: ptr::null_mut(),
    })
}

/// Makes the type.
pub(crate) fn init_type<T: Steps>(type_name: &'static CStr) -> Res<()> {
    let class =
        TypeBuilder::new::<Awaitable<T>>(type_name, Some(base()?), Awaitable::<T>::offset())
            .not_instantiable()
            .slot(
                ffi::Py_tp_traverse,
                slot_fn!(traverse::<T>, ffi::traverseproc),
            )
            .slot(ffi::Py_tp_clear, slot_fn!(clear::<T>, ffi::inquiry))
            .slot(
                ffi::Py_tp_finalize,
                slot_fn!(finalize::<T>, ffi::destructor),
            )
            .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc::<T>, ffi::destructor))
            // The result of a coroutine's `__await__()` is an iterator.
            .slot(
                ffi::Py_tp_iter,
                slot_fn!(ffi::PyObject_SelfIter, ffi::getiterfunc),
            )
            .slot(ffi::Py_tp_iternext, slot_fn!(next::<T>, ffi::iternextfunc))
            .slot(ffi::Py_am_await, slot_fn!(am_await, ffi::unaryfunc))
            .slot(ffi::Py_am_send, slot_fn!(am_send::<T>, ffi::sendfunc))
            .methods([
                method::onearg(c"send", send::<T>, c"Runs until it has to wait."),
                method::fast(c"throw", None, throw::<T>, c"Resumes with an exception."),
                method::noargs(c"close", close::<T>, c"Gives up."),
                method::noargs(c"__await__", itself, c"This object.").over_slot(),
            ])
            .getset([
                read_only(c"__name__", name::<T>),
                read_only(c"__qualname__", name::<T>),
                read_only(c"cr_running", running::<T>),
                read_only(c"cr_suspended", suspended::<T>),
                #[cfg(Py_3_15)]
                read_only(c"cr_state", state::<T>),
                read_only(c"cr_await", awaited::<T>),
                read_only(c"cr_origin", nothing),
                read_only(c"cr_frame", frame::<T>),
                read_only(c"cr_code", code::<T>),
            ])
            .build()?;
    T::class()
        .class
        .store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}
