//! `__del__` of native objects (PEP 442).

use pyo3::ffi;

use super::error::{guard_quiet, restore, take_exception, write_unraisable};
use super::{Object, Raised, Res};

/// Runs the body of a `tp_finalize`. An exception that was set stays set; one that the body raises
/// is reported.
pub(crate) fn finalizing(object: &Object, body: impl FnOnce() -> Res<()>) {
    // SAFETY: the GIL is held.
    let pending = unsafe { !ffi::PyErr_Occurred().is_null() }.then(take_exception);
    guard_quiet(|| {
        if let Err(Raised) = body() {
            write_unraisable(Some(object));
        }
    });
    if let Some(pending) = pending {
        restore(pending);
    }
}

/// To be called first in a `tp_dealloc`. True if the finalizer has brought the object back to life.
///
/// # Safety
/// `object` is in its `tp_dealloc`, and still tracked.
pub(crate) unsafe fn finalize_from_dealloc(object: *mut ffi::PyObject) -> bool {
    // SAFETY: guaranteed by the caller.
    unsafe { ffi::PyObject_CallFinalizerFromDealloc(object) < 0 }
}
