//! `contextvars` contexts: copying the current one, and running inside one.

use pyo3::ffi;

use super::object::check;
use super::{Object, Owned, Res};

/// A copy of the current context, as `contextvars.copy_context()`.
#[inline]
pub(crate) fn copy_current() -> Res<Owned> {
    // SAFETY: attached.
    unsafe { Owned::steal(ffi::PyContext_CopyCurrent()) }
}

/// Enters a context. Raises if it is entered already, or if the object is no context.
#[inline]
pub(crate) fn enter(context: &Object) -> Res<()> {
    // SAFETY: a live object; the C API checks its type.
    check(unsafe { ffi::PyContext_Enter(context.as_ptr()) })
}

/// Leaves the context that was entered last. An exception that is set stays set.
#[inline]
pub(crate) fn exit(context: &Object) -> Res<()> {
    // SAFETY: a live object; the C API checks that it is the current context.
    check(unsafe { ffi::PyContext_Exit(context.as_ptr()) })
}
