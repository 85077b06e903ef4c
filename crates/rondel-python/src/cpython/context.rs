//! `contextvars` contexts: copying the current one, running inside one, and snapshots that many
//! share.
//!
//! Each callback and each task has a context of its own, a copy of the one that was current when it
//! was scheduled. For callbacks the copy is made only when the callback runs, as most timers are
//! cancelled: callbacks scheduled while no variable changes share a snapshot. A copy that no
//! program has seen, and in which no variable was changed, is reused for the next callback or task
//! ([`Contexts`]).
//!
//! The C API does not tell whether a variable has changed. The context shows it: its mapping is
//! immutable, and is replaced by each change. The offset of the context in the thread state, and of
//! the mapping in a context, are found by probing at import. If a probe fails, every copy is made
//! anew.

use std::cell::RefCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;

use super::layout::{WORD, word, words};
use super::object::check;
use super::types::has_weakrefs;
use super::{Object, Owned, Res, Slot, none};

/// A copy of the current context, as `contextvars.copy_context()`.
#[inline]
pub(crate) fn copy_current() -> Res<Owned> {
    // SAFETY: attached.
    unsafe { Owned::steal(ffi::PyContext_CopyCurrent()) }
}

/// Whether it is a context.
pub(crate) fn is_context(object: &Object) -> bool {
    // SAFETY: a live object.
    unsafe { ffi::PyContext_CheckExact(object.as_ptr()) != 0 }
}

/// A copy of a context.
#[inline]
pub(crate) fn copy(context: &Object) -> Res<Owned> {
    // SAFETY: a live object; the C API checks its type.
    unsafe { Owned::steal(ffi::PyContext_Copy(context.as_ptr())) }
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

/// Whether it is the thread's current context. `false` if that can't be told.
pub(crate) fn is_current(context: &Object) -> bool {
    let offset = IN_THREAD.load(Ordering::Relaxed);
    // SAFETY: attached; `find` has seen a context, or null, at that offset of a thread's state.
    offset != 0
        && unsafe {
            let current = ffi::PyThreadState_Get()
                .byte_add(offset)
                .cast::<*mut ffi::PyObject>();
            ptr::eq(*current, context.as_ptr())
        }
}

/// Whether both offsets were found.
pub(crate) fn is_found() -> bool {
    IN_THREAD.load(Ordering::Relaxed) != 0
}

// ---- snapshots ----

/// Where a `PyThreadState` has its context, in bytes; 0 if that is not known.
static IN_THREAD: AtomicUsize = AtomicUsize::new(0);
/// Where a context has its mapping, in bytes.
static IN_CONTEXT: AtomicUsize = AtomicUsize::new(0);

/// How many copies are kept.
const MAX_SPARE: usize = 128;

/// A loop's snapshot, and copies of it that are free.
#[derive(Default)]
pub(crate) struct Contexts {
    /// The context as it was when something was scheduled last.
    last: Slot,
    /// Copies of `last`, with its mapping, that nobody else holds.
    spare: RefCell<Vec<Owned>>,
}

impl Contexts {
    /// A context with the values that the current one has, which is the last one if nothing has
    /// changed since that was made. Whoever runs something needs a [`copy`](Self::copy) of it: it
    /// is neither entered nor shown to programs.
    #[inline]
    pub(crate) fn snapshot(&self) -> Res<Owned> {
        let offset = IN_THREAD.load(Ordering::Relaxed);
        if cfg!(Py_GIL_DISABLED) || offset == 0 {
            return copy_current();
        }
        if let Some(last) = self.last.get() {
            // SAFETY: attached; `find` has seen a context, or null before the first one, at that
            // offset of a thread's state.
            let current = unsafe {
                *ffi::PyThreadState_Get()
                    .byte_add(offset)
                    .cast::<*mut ffi::PyObject>()
            };
            if !current.is_null() && mapping(current) == mapping(last.as_ptr()) {
                return Ok(last.own());
            }
        }
        let made = copy_current()?;
        self.forget();
        self.last.set(made.clone());
        Ok(made)
    }

    /// A copy of a snapshot.
    #[inline]
    pub(crate) fn copy(&self, snapshot: &Object) -> Res<Owned> {
        if !self.last.holds(snapshot) {
            self.forget();
            self.last.set(snapshot.own());
        } else if let Some(spare) = self.spare.borrow_mut().pop() {
            return Ok(spare);
        }
        copy(snapshot)
    }

    /// A copy of the current context.
    #[inline]
    pub(crate) fn copy_current(&self) -> Res<Owned> {
        if cfg!(Py_GIL_DISABLED) || IN_THREAD.load(Ordering::Relaxed) == 0 {
            return copy_current();
        }
        self.copy(&*self.snapshot()?)
    }

    /// A context that is not needed any more. It is kept if it is like the snapshot, and nobody
    /// could tell.
    #[inline]
    pub(crate) fn give_back(&self, context: Owned) {
        if cfg!(Py_GIL_DISABLED) || context.refcount() != 1 {
            return;
        }
        let Some(last) = self.last.get() else { return };
        if mapping(context.as_ptr()) == mapping(last.as_ptr()) && !has_weakrefs(&context) {
            let mut spare = self.spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(context);
            }
        }
    }

    /// As [`give_back`](Self::give_back), from a `tp_dealloc` or `tp_clear`. The collector may be
    /// about to clear the context, as part of the same garbage: it must not find it there any more.
    #[inline]
    pub(crate) fn give_back_dying(&self, context: Owned) {
        if cfg!(Py_GIL_DISABLED) || context.refcount() != 1 || self.last.is_empty() {
            return;
        }
        // SAFETY: a live object that the collector knows of, and is told of anew.
        unsafe {
            ffi::PyObject_GC_UnTrack(context.as_ptr().cast());
            ffi::PyObject_GC_Track(context.as_ptr().cast());
        }
        self.give_back(context);
    }

    /// Drops the snapshot and the copies, so that the variables' values do not outlive their use.
    #[inline]
    pub(crate) fn forget(&self) {
        self.last.clear();
        if !self.spare.borrow().is_empty() {
            drop(self.spare.take());
        }
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.last
    }
}

/// A context's mapping, to be compared.
#[inline]
fn mapping(context: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a live context; `find` has seen the mapping at that offset.
    unsafe {
        *context
            .byte_add(IN_CONTEXT.load(Ordering::Relaxed))
            .cast::<*mut ffi::PyObject>()
    }
}

/// No supported version's thread state is shorter than this many words.
const WORDS_OF_THREAD: usize = 38;

/// Finds both places. Once, at import.
pub(crate) fn find() -> Res<()> {
    // SAFETY: attached. The words that are read belong to the thread's state, or to contexts that
    // are alive here.
    unsafe {
        let context = Owned::steal(ffi::PyContext_New())?;
        let thread = ffi::PyThreadState_Get().cast::<usize>();
        let holders = |wanted: &Object| {
            (1..WORDS_OF_THREAD)
                .filter(|&word| *thread.add(word) == wanted.as_ptr().addr())
                .collect::<Vec<_>>()
        };
        enter(&context)?;
        let inside = holders(&context);
        let variable = Owned::steal(ffi::PyContextVar_New(c"rondel".as_ptr(), ptr::null_mut()))?;
        drop(Owned::steal(ffi::PyContextVar_Set(
            variable.as_ptr(),
            none().as_ptr(),
        ))?);
        let before = copy(&context)?;
        drop(Owned::steal(ffi::PyContextVar_Set(
            variable.as_ptr(),
            variable.as_ptr(),
        ))?);
        let after = copy(&context)?;
        exit(&context)?;
        let outside = holders(&context);
        let [in_thread] = inside[..] else {
            return Ok(());
        };
        // The mapping is what the copy shares with the context, and what differs from before the
        // change.
        let mappings: Vec<_> = words(&context)
            .map(|(at, now)| (at, [now, word(&after, at), word(&before, at)]))
            .filter(|&(_, [now, after, before])| {
                before != 0 && after != 0 && now == after && before != after
            })
            .collect();
        if let ([(mapping, _)], true) = (&mappings[..], outside.is_empty()) {
            IN_CONTEXT.store(*mapping, Ordering::Relaxed);
            IN_THREAD.store(in_thread * WORD, Ordering::Relaxed);
        }
    }
    Ok(())
}
