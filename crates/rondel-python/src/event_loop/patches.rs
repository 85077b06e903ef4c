//! Methods that the program has replaced in asyncio's own classes and that asyncio's loop would
//! call: `Handle._run`.
//!
//! Profilers and tracers replace it. `python/rondel/_patches.py` detects this and calls
//! [`set_handle_run`]. It is called when a run begins and before a poll of the reactor, but only if
//! the classes have changed: the interpreter gives a class a new version tag when an attribute of
//! it is set.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::error::write_unraisable;
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Raised, Res, imports, names};

/// The program's function that runs handles; null if it is not replaced.
static HANDLE_RUN: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());
/// `rondel._patches.look`; null until it is first needed.
static LOOK: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// The version tags of the classes at this thread's last check.
    static SEEN: Cell<[u32; 2]> = const { Cell::new([0; 2]) };
}

/// The program's function that runs handles, if there is one.
#[inline]
pub(super) fn handle_run() -> Option<&'static Object> {
    let run = HANDLE_RUN.load(Ordering::Relaxed);
    // SAFETY: a stored function is never released.
    (!run.is_null()).then(|| unsafe { Object::from_ptr(run) })
}

/// `_rondel.set_handle_run(function or None)`.
pub(crate) fn set_handle_run(_: &Object, run: &Object) -> Res<Owned> {
    let run = match run.is_none() {
        true => ptr::null_mut(),
        // Never released: another thread may be about to call it.
        false => run.own().into_ptr(),
    };
    HANDLE_RUN.store(run, Ordering::Relaxed);
    Ok(Owned::none())
}

pub(super) fn version(class: *mut ffi::PyTypeObject) -> u32 {
    // SAFETY: a live type, and the GIL is held, so the field is not written concurrently.
    unsafe { (*class).tp_version_tag }
}

/// Checks for replaced methods, if the classes have changed.
#[inline]
pub(super) fn look() {
    let seen = [
        version(imports().stock_handle.as_ptr().cast()),
        version(crate::handle::class()),
    ];
    // A class without a version tag has changed since the last attribute lookup.
    if SEEN.get() != seen || seen.contains(&0) {
        look_closely();
        // Read again, because attribute lookups may give a class a new version tag.
        SEEN.set([
            version(imports().stock_handle.as_ptr().cast()),
            version(crate::handle::class()),
        ]);
    }
}

#[cold]
fn look_closely() {
    let mut look = LOOK.load(Ordering::Relaxed);
    if look.is_null() {
        let found = || import("rondel._patches")?.getattr(&names().look);
        match found() {
            Ok(function) => {
                look = function.into_ptr();
                LOOK.store(look, Ordering::Relaxed);
            }
            Err(Raised) => return write_unraisable(None),
        }
    }
    // SAFETY: a live function that is never released.
    if let Err(Raised) = unsafe { Object::from_ptr(look) }.call(&[]) {
        write_unraisable(None);
    }
}
