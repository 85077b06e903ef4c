//! Returning a value from an iterator.
//!
//! `tp_iternext` returns a value to `await` by raising `StopIteration(value)`. Up to CPython 3.13
//! the interpreter's SEND instruction calls `tp_iternext` (and not `am_send`, which needs no
//! exception), so every awaitable with a result has to build that exception, which takes 0.1 µs. A
//! subclass with a freelist, whose instances are set as the current exception without
//! normalization, costs a third of it. The interpreter reads `value` and drops the instance at
//! once.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::error::restore;
use super::freelist::free_list;
use super::object::check;
use super::private::{_PyGen_FetchStopIterationValue, _PyGen_SetStopIterationValue};
use super::types::{TypeBuilder, free, slot_fn};
use super::{Object, Owned, Raised, Res};

free_list!(FREE, 8);

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// Makes the class. Once, at import.
pub(crate) fn init() -> Res<()> {
    // SAFETY: the built-in class is live.
    let base = unsafe { Object::from_ptr(ffi::PyExc_StopIteration) };
    // SAFETY: a live type; a collected type that overrides `tp_dealloc` must name its `tp_traverse`
    // as well.
    let traverse = unsafe { (*base.as_type_ptr()).tp_traverse };
    let traverse = traverse.map_or(ptr::null_mut(), |traverse| {
        traverse as *mut std::ffi::c_void
    });
    let class = TypeBuilder::new::<()>(c"rondel.StopIteration", Some(base), base.basicsize())
        .slot(ffi::Py_tp_traverse, traverse)
        .slot(
            ffi::Py_tp_dealloc,
            slot_fn!(dealloc, unsafe extern "C" fn(*mut ffi::PyObject)),
        )
        .build()?;
    CLASS.store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}

/// Sets `StopIteration(value)`. `None` needs no exception at all: a bare null return means it.
#[inline]
pub(crate) fn stop_iteration(value: Owned) -> Raised {
    if value.is_none() {
        return Raised;
    }
    let class = CLASS.load(Ordering::Relaxed);
    let instance = match FREE.with(|list| list.revive(class, false)) {
        Some(instance) => instance,
        None => match new_instance(class) {
            Ok(instance) => instance,
            Err(Raised) => return Raised,
        },
    };
    // SAFETY: an instance of a subclass of StopIteration, whose `value` field is null in fresh and
    // kept ones.
    unsafe {
        let fields = instance.as_ptr().cast::<ffi::PyStopIterationObject>();
        (*fields).value = value.into_ptr();
    }
    restore(instance)
}

/// After [`stop_iteration`], or a null return without an exception, for a program that called
/// `send` itself and may look at the exception: it is replaced by a plain `StopIteration` with all
/// its fields. Any other exception stays.
#[cold]
pub(crate) fn complete_stop_iteration(raised: Raised) -> Raised {
    // SAFETY: the GIL is held; both functions are exported by every supported version. Fetching
    // takes the value out of the exception that is set, or gives None if none is; it fails, and
    // changes nothing, for any other exception.
    unsafe {
        let mut value = ptr::null_mut();
        if _PyGen_FetchStopIterationValue(&mut value) == 0 {
            let value = Owned::steal_unchecked(value);
            if value.is_none() {
                ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
            } else {
                _PyGen_SetStopIterationValue(value.as_ptr());
            }
        }
    }
    raised
}

#[cold]
fn new_instance(class: *mut ffi::PyTypeObject) -> Res<Owned> {
    // SAFETY: `class` is our live type; BaseException.__new__ fills `args`.
    unsafe {
        let instance = Object::from_ptr(class.cast()).call(&[])?;
        ffi::PyObject_GC_UnTrack(instance.as_ptr().cast());
        let fields = instance.as_ptr().cast::<ffi::PyStopIterationObject>();
        drop(Owned::steal(std::mem::replace(
            &mut (*fields).value,
            ptr::null_mut(),
        )));
        Ok(instance)
    }
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance; everything it holds is released once.
    unsafe {
        let fields = object.cast::<ffi::PyStopIterationObject>();
        let value = std::mem::replace(&mut (*fields).value, ptr::null_mut());
        let plain = (*fields).dict.is_null()
            && (*fields).traceback.is_null()
            && (*fields).context.is_null()
            && (*fields).cause.is_null();
        let class = ffi::Py_TYPE(object);
        let kept = plain
            && ptr::eq(class, CLASS.load(Ordering::Relaxed))
            && FREE.with(|list| list.keep(object));
        if !kept {
            if ffi::PyObject_GC_IsTracked(object) != 0 {
                ffi::PyObject_GC_UnTrack(object.cast());
            }
            if let Some(clear) = (*ffi::PyExc_StopIteration.cast::<ffi::PyTypeObject>()).tp_clear {
                let _ = check(clear(object));
            }
            free(object);
        }
        ffi::Py_XDECREF(value);
    }
}
