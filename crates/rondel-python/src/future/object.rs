//! A future's life as a Python object: finalizer, garbage collection, freelist.

use std::ffi::{c_int, c_void};

use pyo3::ffi;

use super::{FREE, Future, Rare, State, asyncio_part, fields, is_exact};
use crate::cpython::instance_dict::has_dict;
use crate::cpython::nesting::{may_end, nested};
use crate::cpython::types::{clear_weakrefs, free, has_weakrefs, is_fresh};
use crate::cpython::{Object, Owned, Res, imports, names};
use crate::loop_core::LoopCore;

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
    let name = future.class_name()?;
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

pub(super) unsafe extern "C" fn tp_finalize(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let object = unsafe { Object::from_ptr(object) };
    crate::cpython::finalize::finalizing(object, || finalize(object));
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
    if let Ok(kept) = rare.kept.try_borrow() {
        for object in kept.iter() {
            // SAFETY: the collector's own visitor, with a live object.
            let result = unsafe { visit(object.as_ptr(), arg) };
            if result != 0 {
                return result;
            }
        }
    }
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
    asyncio_part::clear_future(object);
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
    // SAFETY: a live type; its own function for its own part, where most fields are null.
    unsafe {
        match (*base.as_type_ptr()).tp_traverse {
            Some(traverse) => traverse(object, visit, arg),
            None => 0,
        }
    }
}

/// Releases the instance dict, which the base class knows how to do.
///
/// # Safety
/// `object` is an instance of a type derived from `base`, in `tp_clear` or `tp_dealloc`.
#[inline]
pub(crate) unsafe fn clear_base(base: &Object, object: *mut ffi::PyObject) {
    // SAFETY: by the caller's word.
    unsafe {
        if has_dict(Object::from_ptr(object))
            && let Some(clear) = (*base.as_type_ptr()).tp_clear
        {
            clear(object);
        }
    }
}

pub(super) unsafe extern "C" fn tp_traverse(
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

pub(super) unsafe extern "C" fn tp_clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    unsafe {
        clear_base(&imports().stock_future, object);
        clear(Object::from_ptr(object));
    }
    0
}

/// A future of ours that was made by [`super::new_waiter`], has had its result and is not needed any more. If nobody else holds it,
/// it serves the next one who waits, and need not die and be made anew.
#[inline]
pub(crate) fn give_back(future: Owned) {
    // Without a lock, a count of one does not mean that nobody else is about to count.
    if cfg!(Py_GIL_DISABLED) || future.refcount() != 1 || !is_exact(&future) {
        return;
    }
    let this = fields(&future);
    // SAFETY: a live object of ours.
    let plain = this.state() == State::Finished
        && !this.has_failed()
        && this.has_no_rare()
        && unsafe { is_fresh(future.as_ptr()) && !has_weakrefs(&future) && !has_dict(&future) };
    if !plain {
        return;
    }
    let Some(event_loop) = this.event_loop().map(Object::as_ptr) else {
        return;
    };
    // SAFETY: the future holds its loop; after that, whoever runs it does.
    let core = LoopCore::of(unsafe { Object::from_ptr(event_loop) });
    let Some(core) = core.filter(|core| core.is_running()) else {
        return;
    };
    asyncio_part::clear_future(&future);
    this.result.clear();
    this.state.set(0);
    this.flags.set(0);
    core.keep_waiter(future);
}

/// Whether the end of a future may be the end of others that it holds.
#[inline]
pub(crate) fn may_end_others(this: &Future) -> bool {
    cfg!(not(Py_3_14))
        && (may_end(this.result.get()) || !this.callback.is_empty() || !this.has_no_rare())
}

pub(super) unsafe extern "C" fn tp_dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance; it ends once.
    unsafe {
        match may_end_others(fields(Object::from_ptr(object))) {
            true => end_nested(object),
            false => end(object),
        }
    }
}

/// # Safety
/// Only for `tp_dealloc`.
#[cold]
#[inline(never)]
unsafe fn end_nested(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe { nested(object, tp_dealloc, || end(object)) };
}

/// # Safety
/// Only for `tp_dealloc`.
#[inline(always)]
unsafe fn end(object: *mut ffi::PyObject) {
    // SAFETY: by the caller's word.
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
        if !(exact && is_fresh(object) && FREE.with(|list| list.keep(object))) {
            free(object);
        }
    }
}
