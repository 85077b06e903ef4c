//! The awaitable that the collector does not know of yet.
//!
//! Most awaitables are awaited as soon as they are made, and are done at once: to tell the
//! collector of each would be a tenth of their time. So an awaitable is tracked when it is
//! suspended; before that, the one that was made last is known here. It is tracked when another one
//! is made before it was begun, or when the collector starts: nothing that could be part of a cycle
//! is ever missed.

use std::cell::Cell;
use std::ptr;
#[cfg(not(Py_3_14))]
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;

use crate::cpython::method::{self, Args, method};
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Res};

/// An awaitable that was made and not begun, and its mark that it is tracked. Both null if there is
/// none.
struct Newest {
    object: Cell<*mut ffi::PyObject>,
    tracked: Cell<*const Cell<bool>>,
}

// SAFETY: used by code that holds the GIL, one thread at a time; free-threaded builds have one for
// each thread.
unsafe impl Sync for Newest {}

impl Newest {
    const fn new() -> Self {
        Self {
            object: Cell::new(ptr::null_mut()),
            tracked: Cell::new(ptr::null()),
        }
    }

    /// As a `LocalKey` has it.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    fn with<R>(&self, f: impl FnOnce(&Self) -> R) -> R {
        f(self)
    }

    /// Tracks the awaitable that is known, if there is one.
    #[cold]
    fn track(&self) {
        let (object, tracked) = (
            self.object.replace(ptr::null_mut()),
            self.tracked.replace(ptr::null()),
        );
        if !object.is_null() {
            // SAFETY: it is alive, as it is forgotten here before it is begun or dies, and it is
            // not tracked.
            unsafe {
                (*tracked).set(true);
                ffi::PyObject_GC_Track(object.cast());
            }
        }
    }
}

#[cfg(not(Py_GIL_DISABLED))]
static NEWEST: Newest = Newest::new();
#[cfg(Py_GIL_DISABLED)]
thread_local! {
    static NEWEST: Newest = const { Newest::new() };
}

/// An awaitable was made that the collector does not know of.
#[inline]
pub(crate) fn note(object: &Object, tracked: &Cell<bool>) {
    NEWEST.with(|newest| {
        if !newest.object.get().is_null() {
            newest.track();
        }
        newest.object.set(object.as_ptr());
        newest.tracked.set(tracked);
    });
}

/// An awaitable begins, or dies.
#[inline]
pub(crate) fn forget(tracked: &Cell<bool>) {
    NEWEST.with(|newest| {
        if ptr::eq(newest.tracked.get(), tracked) {
            newest.object.set(ptr::null_mut());
            newest.tracked.set(ptr::null());
        }
    });
}

/// Whether the collector is at work.
#[cfg(not(Py_3_14))]
static COLLECTING: AtomicBool = AtomicBool::new(false);

/// Whether the collector is at work: what dies now is most likely part of its garbage, whose weak
/// references it has cleared.
#[cfg(not(Py_3_14))]
pub(crate) fn is_collecting() -> bool {
    COLLECTING.load(Ordering::Relaxed)
}

/// An entry of `gc.callbacks`: the collector starts, or has ended.
fn collecting(_: &Object, args: Args<'_>) -> Res<Owned> {
    NEWEST.with(Newest::track);
    #[cfg(not(Py_3_14))]
    if let Some(phase) = args.positional().first() {
        COLLECTING.store(phase.to_text()? == "start", Ordering::Relaxed);
    }
    let _ = args;
    Ok(Owned::none())
}

/// Lets the collector say when it starts. Once, at import.
pub(crate) fn init() -> Res<()> {
    let callback = method::function(
        method!(fast c"track_newest_awaitable" collecting, c"Tells the collector of the awaitable that was made last."),
    )?;
    import("gc")?
        .getattr(&*Owned::from_str("callbacks")?)?
        .append(&callback)
}
