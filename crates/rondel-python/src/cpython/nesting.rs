//! Bounds the nesting of deallocators: a long chain of objects must not use up the C stack.
//!
//! A future's result may be a future whose result is a future: when the first one is deallocated,
//! the second one is inside its `tp_dealloc`, and so on. CPython's containers defer what is nested
//! too deeply ("trashcan"), and so does this file. From 3.14 on the interpreter does it for every
//! type, and `nested` is only a call.

use pyo3::ffi;

#[cfg(not(Py_3_14))]
mod aside {
    use std::cell::{Cell, UnsafeCell};
    use std::mem::{ManuallyDrop, take};

    use pyo3::ffi;

    /// How deep deallocators may nest (the same number as CPython's).
    const MAX_NESTING: u32 = 50;

    /// An object without references, whose `tp_dealloc` is to be called again.
    struct Waiting {
        object: *mut ffi::PyObject,
        dealloc: ffi::destructor,
        was_tracked: bool,
    }

    /// The objects whose deallocation a thread has deferred.
    struct Aside {
        nesting: Cell<u32>,
        /// Holds memory only while something waits, so that nothing need be done when the thread
        /// ends.
        waiting: UnsafeCell<ManuallyDrop<Vec<Waiting>>>,
    }

    thread_local! {
        static ASIDE: Aside = const {
            Aside {
                nesting: Cell::new(0),
                waiting: UnsafeCell::new(ManuallyDrop::new(Vec::new())),
            }
        };
    }

    /// See the outer module's function of this name.
    ///
    /// # Safety
    /// As there.
    #[inline]
    pub(crate) unsafe fn nested(
        object: *mut ffi::PyObject,
        dealloc: ffi::destructor,
        body: impl FnOnce(),
    ) {
        ASIDE.with(|aside| {
            let nesting = aside.nesting.get();
            // SAFETY: guaranteed by the caller.
            if nesting >= MAX_NESTING && unsafe { aside.put(object, dealloc) } {
                return;
            }
            aside.nesting.set(nesting + 1);
            body();
            if nesting == 0 {
                aside.empty();
            }
            // Not what it was: a library that switches stacks may have begun and ended others
            // meanwhile.
            aside.nesting.set(aside.nesting.get() - 1);
        });
    }

    impl Aside {
        /// Defers the deallocation of an object. False if there is no memory to note it.
        ///
        /// # Safety
        /// As [`nested`].
        #[cold]
        unsafe fn put(&self, object: *mut ffi::PyObject, dealloc: ffi::destructor) -> bool {
            // SAFETY: this thread's own; the borrow ends here, and nothing runs meanwhile.
            let waiting = unsafe { &mut *self.waiting.get() };
            if waiting.try_reserve(1).is_err() {
                return false;
            }
            // SAFETY: a collected object, guaranteed by the caller. The collector must not find one
            // without references.
            let was_tracked = unsafe {
                let was_tracked = ffi::PyObject_GC_IsTracked(object) != 0;
                ffi::PyObject_GC_UnTrack(object.cast());
                was_tracked
            };
            waiting.push(Waiting {
                object,
                dealloc,
                was_tracked,
            });
            true
        }

        /// Deallocates what was deferred, including what is deferred meanwhile.
        fn empty(&self) {
            loop {
                // SAFETY: as above: the borrow is over before anything runs.
                let next = unsafe { (*self.waiting.get()).pop() };
                let Some(next) = next else { break };
                // SAFETY: it was put aside as its `tp_dealloc` found it, and is that again.
                unsafe {
                    if next.was_tracked {
                        ffi::PyObject_GC_Track(next.object.cast());
                    }
                    (next.dealloc)(next.object);
                }
            }
            // SAFETY: as above.
            drop(unsafe { take(&mut **self.waiting.get()) });
        }
    }
}

#[cfg(not(Py_3_14))]
pub(crate) use aside::nested;

/// Runs the body of a `tp_dealloc` that may deallocate other objects. If it is nested too deeply,
/// `dealloc` is called with the object later instead.
///
/// # Safety
/// `object` is of a collected type and in its `tp_dealloc`, which has done nothing yet; `dealloc`
/// is that function.
#[cfg(Py_3_14)]
#[inline]
pub(crate) unsafe fn nested(
    _object: *mut ffi::PyObject,
    _dealloc: ffi::destructor,
    body: impl FnOnce(),
) {
    body();
}

/// Whether deallocating the holder of this object may deallocate this one, and others in turn.
#[inline]
pub(crate) fn may_end(held: Option<&super::Object>) -> bool {
    cfg!(not(Py_3_14))
        && held.is_some_and(|held| {
            // SAFETY: a live object, whose type is read.
            held.refcount() == 1 && unsafe { ffi::PyType_IS_GC(held.type_ptr()) != 0 }
        })
}
