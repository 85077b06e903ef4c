//! Calls that run a program's code. They are made so that the interpreter may terminate the thread
//! during the call (`ending.rs`).

use pyo3::ffi;

use super::ending::{may_end_here, unwinding};
use super::{Object, Owned, Res};

/// A `vectorcallfunc`, for [`may_end_here`].
type Vectorcall = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    usize,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// `PyObject_Vectorcall` without the lookup of the thread state, and without the check that a call
/// returns either a result or an exception (a debug build of the interpreter makes that check).
///
/// # Safety
/// As `PyObject_Vectorcall`.
#[inline]
pub(super) unsafe fn vectorcall(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a type with the flag has a function pointer, or null, at its offset (PEP 590).
    let own = unsafe {
        let class = ffi::Py_TYPE(callable);
        if ffi::PyType_HasFeature(class, ffi::Py_TPFLAGS_HAVE_VECTORCALL) != 0 {
            let place = callable.byte_offset((*class).tp_vectorcall_offset);
            *place.cast::<Option<Vectorcall>>()
        } else {
            None
        }
    };
    let function = match own {
        Some(function) => function,
        None => unwinding!(
            ffi::PyObject_Vectorcall
                as fn(
                    *mut ffi::PyObject,
                    *const *mut ffi::PyObject,
                    usize,
                    *mut ffi::PyObject,
                ) -> *mut ffi::PyObject
        ),
    };
    // SAFETY: guaranteed by the caller.
    may_end_here(|| unsafe { function(callable, args, nargs, kwnames) })
}

/// `PyObject_VectorcallMethod`.
///
/// # Safety
/// As `PyObject_VectorcallMethod`.
pub(super) unsafe fn vectorcall_method(
    name: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let function = unwinding!(
        ffi::PyObject_VectorcallMethod
            as fn(
                *mut ffi::PyObject,
                *const *mut ffi::PyObject,
                usize,
                *mut ffi::PyObject,
            ) -> *mut ffi::PyObject
    );
    // SAFETY: guaranteed by the caller.
    may_end_here(|| unsafe { function(name, args, nargs, kwnames) })
}

/// `PyObject_GetAttr`.
///
/// # Safety
/// Live objects.
pub(super) unsafe fn get_attribute(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let function = unwinding!(
        ffi::PyObject_GetAttr as fn(*mut ffi::PyObject, *mut ffi::PyObject) -> *mut ffi::PyObject
    );
    // SAFETY: guaranteed by the caller.
    may_end_here(|| unsafe { function(object, name) })
}

/// `PyObject_Call`, with a tuple of arguments and a dict of named ones or nothing.
pub(crate) fn call(callable: &Object, args: &Object, kwargs: Option<&Object>) -> Res<Owned> {
    let function = unwinding!(
        ffi::PyObject_Call
            as fn(*mut ffi::PyObject, *mut ffi::PyObject, *mut ffi::PyObject) -> *mut ffi::PyObject
    );
    let kwargs = kwargs.map_or(std::ptr::null_mut(), Object::as_ptr);
    // SAFETY: a live callable, a tuple, and a dict or null.
    unsafe {
        Owned::steal(may_end_here(|| {
            function(callable.as_ptr(), args.as_ptr(), kwargs)
        }))
    }
}

/// `PyImport_Import`, with a `str`.
pub(super) fn import(name: &Object) -> Res<Owned> {
    let function = unwinding!(ffi::PyImport_Import as fn(*mut ffi::PyObject) -> *mut ffi::PyObject);
    // SAFETY: a live `str`.
    unsafe { Owned::steal(may_end_here(|| function(name.as_ptr()))) }
}

/// A `sendfunc`, for [`may_end_here`].
type Send = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *mut ffi::PyObject,
    *mut *mut ffi::PyObject,
) -> ffi::PySendResult;

/// `PyIter_Send`, with a direct call of `am_send` for what has one, as coroutines do.
///
/// # Safety
/// Live objects, the first an iterator.
#[inline]
pub(crate) unsafe fn iter_send(
    iterator: &Object,
    value: &Object,
    result: &mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: a live type's own table, or null; the two function types differ only in whether the
    // compiler assumes unwinding.
    let own = unsafe {
        let methods = (*iterator.type_ptr()).tp_as_async;
        (!methods.is_null()).then(|| {
            (&raw const (*methods).am_send)
                .cast::<Option<Send>>()
                .read()
        })
    };
    let function = match own.flatten() {
        Some(function) => function,
        None => unwinding!(
            ffi::PyIter_Send
                as fn(
                    *mut ffi::PyObject,
                    *mut ffi::PyObject,
                    *mut *mut ffi::PyObject,
                ) -> ffi::PySendResult
        ),
    };
    // SAFETY: guaranteed by the caller.
    may_end_here(|| unsafe { function(iterator.as_ptr(), value.as_ptr(), result) })
}
