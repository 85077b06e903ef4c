//! C functions of the interpreter that pyo3's bindings lack: the private ones, and a few public
//! ones. And one of the C library that `libc` lacks.
//!
//! All supported versions export them under these names and with these signatures, unless a `cfg`
//! says otherwise.

use std::ffi::{c_char, c_int, c_void};

use pyo3::ffi;

unsafe extern "C" {
    /// `Include/cpython/bytesobject.h`. Gives a new reference in place of the old, or null.
    pub(crate) fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;

    /// `Include/sysmodule.h`.
    pub(crate) fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;

    /// `Include/internal/pycore_genobject.h`. Takes the value of a `StopIteration` that is raised;
    /// without an exception it is None.
    pub(crate) fn _PyGen_FetchStopIterationValue(value: *mut *mut ffi::PyObject) -> c_int;
    /// As above. Raises `StopIteration(value)`, whatever the value is.
    pub(crate) fn _PyGen_SetStopIterationValue(value: *mut ffi::PyObject) -> c_int;

    /// `Include/cpython/object.h`. From 3.14 on it makes the dict, if the object may have one.
    pub(crate) fn _PyObject_GetDictPtr(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject;
}

unsafe extern "C" {
    /// The C library's, as `socket.inet_ntop` calls it.
    pub(crate) fn inet_ntop(
        family: c_int,
        address: *const c_void,
        text: *mut c_char,
        size: libc::socklen_t,
    ) -> *const c_char;
}

#[cfg(not(Py_3_12))]
unsafe extern "C" {
    /// `Include/cpython/classobject.h`.
    pub(crate) fn PyMethod_New(
        function: *mut ffi::PyObject,
        this: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

#[cfg(not(Py_3_14))]
unsafe extern "C" {
    /// `Include/cpython/dictobject.h`, as the next two. Gives a borrowed reference, or null.
    pub(crate) fn _PyDict_GetItem_KnownHash(
        dict: *mut ffi::PyObject,
        key: *mut ffi::PyObject,
        hash: ffi::Py_hash_t,
    ) -> *mut ffi::PyObject;
    pub(crate) fn _PyDict_SetItem_KnownHash(
        dict: *mut ffi::PyObject,
        key: *mut ffi::PyObject,
        value: *mut ffi::PyObject,
        hash: ffi::Py_hash_t,
    ) -> c_int;
    pub(crate) fn _PyDict_DelItem_KnownHash(
        dict: *mut ffi::PyObject,
        key: *mut ffi::PyObject,
        hash: ffi::Py_hash_t,
    ) -> c_int;
}

#[cfg(Py_3_12)]
unsafe extern "C" {
    /// `Include/cpython/funcobject.h`. The interpreter then runs the function's bytecode only when
    /// it is asked to.
    pub(crate) fn PyFunction_SetVectorcall(
        function: *mut ffi::PyFunctionObject,
        vectorcall: ffi::vectorcallfunc,
    );

    /// `Include/cpython/dictobject.h`.
    pub(crate) fn PyDict_AddWatcher(
        callback: unsafe extern "C" fn(
            c_int,
            *mut ffi::PyObject,
            *mut ffi::PyObject,
            *mut ffi::PyObject,
        ) -> c_int,
    ) -> c_int;
    pub(crate) fn PyDict_Watch(watcher: c_int, dict: *mut ffi::PyObject) -> c_int;

    /// Exported for the interpreter's own tests. The last argument says whether only the main
    /// thread may make the call. Where it takes no more, it gives something else than 0.
    pub(crate) fn _PyEval_AddPendingCall(
        interpreter: *mut ffi::PyInterpreterState,
        call: extern "C" fn(*mut c_void) -> c_int,
        argument: *mut c_void,
        flags: c_int,
    ) -> c_int;
}
