//! What programs have replaced in asyncio's own classes, and a loop of asyncio's would call:
//! `Handle._run`.
//!
//! Profilers and tracers put a function of theirs in its place. `python/rondel/_patches.py` finds
//! out, and says so by [`set_handle_run`]. It is asked when a run begins, and when the reactor is
//! asked if the classes have changed since: the interpreter gives a class a new version when an
//! attribute of it is set.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::error::write_unraisable;
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Raised, Res, imports, names};

/// The function that runs handles; null while it is ours.
static HANDLE_RUN: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());
/// What looks for patches; null until the package is whole.
static LOOK: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// The versions of the classes when this thread last looked.
    static SEEN: Cell<[u32; 2]> = const { Cell::new([0; 2]) };
}

/// The program's function that runs handles, if there is one.
#[inline]
pub(super) fn handle_run() -> Option<&'static Object> {
    let run = HANDLE_RUN.load(Ordering::Relaxed);
    // SAFETY: what was stored there is never given up.
    (!run.is_null()).then(|| unsafe { Object::from_ptr(run) })
}

/// `_rondel.set_handle_run(function or None)`.
pub(crate) fn set_handle_run(_: &Object, run: &Object) -> Res<Owned> {
    let run = match run.is_none() {
        true => ptr::null_mut(),
        // Kept forever: another thread may be about to call it.
        false => run.own().into_ptr(),
    };
    HANDLE_RUN.store(run, Ordering::Relaxed);
    Ok(Owned::none())
}

pub(super) fn version(class: *mut ffi::PyTypeObject) -> u32 {
    // SAFETY: a live type; the field is written by the interpreter while this thread does not run,
    // or is a number that is read whole.
    unsafe { (*class).tp_version_tag }
}

/// Looks whether something was replaced, if the classes have changed.
#[inline]
pub(super) fn look() {
    let seen = [
        version(imports().stock_handle.as_ptr().cast()),
        version(crate::handle::class()),
    ];
    // A class without a version is one that nobody has looked at since it changed.
    if SEEN.get() != seen || seen.contains(&0) {
        look_closely();
        // As it is now: looking an attribute up may give a class its first version.
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
    // SAFETY: a live function, kept forever.
    if let Err(Raised) = unsafe { Object::from_ptr(look) }.call(&[]) {
        write_unraisable(None);
    }
}
