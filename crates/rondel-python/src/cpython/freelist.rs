//! Memory of dead objects, kept for the next ones of the same type.
//!
//! An object in a list has one reference, the list's; its fields are as `tp_dealloc` left them
//! (empty) and the collector does not track it. It keeps its reference to its type, which saves a
//! decrement and an increment each time. With the GIL there is one list for the process;
//! free-threaded builds have one for each thread, so that threads share nothing.

use std::cell::UnsafeCell;

use pyo3::ffi;

use super::Owned;

/// Up to `N` dead objects of one exact type.
pub(crate) struct FreeList<const N: usize>(UnsafeCell<List<N>>);

struct List<const N: usize> {
    len: usize,
    dead: [*mut ffi::PyObject; N],
}

// SAFETY: used by code that holds the GIL, one thread at a time (see `cpython/mod.rs`);
// free-threaded builds keep one list a thread.
unsafe impl<const N: usize> Sync for FreeList<N> {}

impl<const N: usize> FreeList<N> {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(List {
            len: 0,
            dead: [std::ptr::null_mut(); N],
        }))
    }

    /// A dead object brought back to life: one reference, tracked if `track`.
    #[inline]
    pub(crate) fn revive(&self, class: *mut ffi::PyTypeObject, track: bool) -> Option<Owned> {
        // SAFETY: no borrow of the list outlives this block, and nothing in it runs foreign code
        // before the object is taken out.
        unsafe {
            let list = &mut *self.0.get();
            list.len = list.len.checked_sub(1)?;
            let object = list.dead[list.len];
            init(object, class);
            if track {
                ffi::PyObject_GC_Track(object.cast());
            }
            Some(Owned::steal_unchecked(object))
        }
    }

    /// Keeps a dead object, if there is room. Otherwise the caller frees it.
    ///
    /// # Safety
    /// The object is dead, untracked and empty, and exactly of this list's type.
    #[inline]
    pub(crate) unsafe fn keep(&self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: as in `revive`.
        let list = unsafe { &mut *self.0.get() };
        if list.len == N {
            return false;
        }
        if !COUNTED {
            // SAFETY: it was one of its type until now.
            unsafe { ffi::Py_INCREF(object) };
        }
        list.dead[list.len] = object;
        list.len += 1;
        true
    }

    /// As [`keep`](Self::keep), for one that is alive still: nobody else has a reference. Gives it
    /// back if it cannot be kept.
    ///
    /// # Safety
    /// The object is untracked and empty, has no weak references, and is exactly of this list's
    /// type.
    #[inline]
    pub(crate) unsafe fn keep_unused(&self, object: Owned) -> Option<Owned> {
        // SAFETY: as in `revive`.
        let list = unsafe { &mut *self.0.get() };
        if COUNTED || list.len == N {
            return Some(object);
        }
        list.dead[list.len] = object.into_ptr();
        list.len += 1;
        None
    }
}

/// Whether the build tracks or counts references in another way. Objects are then created and freed
/// only through the interpreter.
const COUNTED: bool = cfg!(any(Py_GIL_DISABLED, py_sys_config = "Py_REF_DEBUG"));

/// `PyObject_Init` for an object that has been one of that type before: the type is still in it,
/// with a reference.
///
/// # Safety
/// The object is in a list, and of that type.
#[inline]
unsafe fn init(object: *mut ffi::PyObject, class: *mut ffi::PyTypeObject) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if COUNTED {
            ffi::PyObject_Init(object, class);
            ffi::Py_DECREF(class.cast());
        } else {
            debug_assert!(ffi::Py_TYPE(object) == class && ffi::Py_REFCNT(object) == 1);
        }
    }
}

/// Declares a list: `free_list!(NAME, 256)`, used as `NAME.with(|list| …)` in every build.
macro_rules! free_list {
    ($name:ident, $capacity:expr) => {
        #[cfg(not(Py_GIL_DISABLED))]
        static $name: $crate::cpython::freelist::Global<$capacity> =
            $crate::cpython::freelist::Global::new();
        #[cfg(Py_GIL_DISABLED)]
        thread_local! {
            static $name: $crate::cpython::freelist::FreeList<$capacity> =
                const { $crate::cpython::freelist::FreeList::new() };
        }
    };
}
pub(crate) use free_list;

/// A list of the process, with the call syntax of a thread's.
#[cfg(not(Py_GIL_DISABLED))]
pub(crate) struct Global<const N: usize>(FreeList<N>);

#[cfg(not(Py_GIL_DISABLED))]
impl<const N: usize> Global<N> {
    pub(crate) const fn new() -> Self {
        Self(FreeList::new())
    }

    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&FreeList<N>) -> R) -> R {
        f(&self.0)
    }
}
