//! Which task is running: what `asyncio.current_task()` gives.
//!
//! Up to CPython 3.13 that is the dict `_asyncio._current_tasks`, from loop to task; asyncio sets and deletes the
//! loop's entry around each step. Here a step only sets it, with the loop's hash known, and it is deleted when
//! something runs that is no task's step, or when the loop waits. From 3.14 on it is a field of the thread's
//! state, swapped by `_asyncio._swap_current_task`.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::error::{Raised, take_exception};
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Res};

/// `_asyncio._current_tasks`, or `_asyncio._swap_current_task` from 3.14 on.
static REGISTER: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Fetches it. Once, at import.
pub(crate) fn init() -> Res<()> {
    let name = if cfg!(Py_3_14) {
        "_swap_current_task"
    } else {
        "_current_tasks"
    };
    let register = import("_asyncio")?.getattr(&*Owned::from_str(name)?)?;
    REGISTER.store(register.into_ptr(), Ordering::Release);
    Ok(())
}

fn register() -> &'static Object {
    // SAFETY: filled by `init`, and never released.
    unsafe { Object::from_ptr(REGISTER.load(Ordering::Relaxed)) }
}

#[cfg(not(Py_3_14))]
unsafe extern "C" {
    fn _PyDict_SetItem_KnownHash(
        dict: *mut ffi::PyObject,
        key: *mut ffi::PyObject,
        value: *mut ffi::PyObject,
        hash: ffi::Py_hash_t,
    ) -> std::ffi::c_int;
    fn _PyDict_DelItem_KnownHash(
        dict: *mut ffi::PyObject,
        key: *mut ffi::PyObject,
        hash: ffi::Py_hash_t,
    ) -> std::ffi::c_int;
}

/// A loop's part in it.
#[derive(Default)]
pub(crate) struct CurrentTask {
    hash: Cell<ffi::Py_hash_t>,
    entered: Cell<bool>,
}

impl CurrentTask {
    /// To be called once the loop object exists.
    pub(crate) fn init(&self, event_loop: &Object) -> Res<()> {
        // SAFETY: a live object.
        self.hash
            .set(unsafe { ffi::PyObject_Hash(event_loop.as_ptr()) });
        if self.hash.get() == -1 {
            Err(Raised)
        } else {
            Ok(())
        }
    }

    /// A task's step begins.
    #[inline]
    pub(crate) fn enter(&self, event_loop: &Object, task: &Object) -> Res<()> {
        self.entered.set(true);
        #[cfg(not(Py_3_14))]
        // SAFETY: a dict, and live objects; the hash is the key's.
        return crate::cpython::object::check(unsafe {
            _PyDict_SetItem_KnownHash(
                register().as_ptr(),
                event_loop.as_ptr(),
                task.as_ptr(),
                self.hash.get(),
            )
        });
        #[cfg(Py_3_14)]
        register().call(&[event_loop, task]).map(drop)
    }

    /// No task is the loop's current one any more.
    #[inline]
    pub(crate) fn leave(&self, event_loop: &Object) {
        if self.entered.replace(false) {
            self.forget(event_loop);
        }
    }

    fn forget(&self, event_loop: &Object) {
        // What the last step left behind, e.g. an exception on its way out, stays set.
        // SAFETY: attached.
        let pending = unsafe { !ffi::PyErr_Occurred().is_null() }.then(take_exception);
        #[cfg(not(Py_3_14))]
        // SAFETY: a dict, and a live object; the hash is the key's. A program that has left the task itself (by
        // `asyncio.tasks._leave_task`) gives a KeyError, which says nothing new.
        unsafe {
            if _PyDict_DelItem_KnownHash(register().as_ptr(), event_loop.as_ptr(), self.hash.get())
                < 0
            {
                ffi::PyErr_Clear();
            }
        }
        #[cfg(Py_3_14)]
        if register()
            .call(&[event_loop, crate::cpython::none()])
            .is_err()
        {
            // SAFETY: attached.
            unsafe { ffi::PyErr_Clear() };
        }
        if let Some(exception) = pending {
            let Raised = crate::cpython::error::restore(exception);
        }
    }
}

/// Makes `task` the current one of any loop, and gives the one that was.
pub(super) fn swap(event_loop: &Object, task: Option<&Object>) -> Res<Option<Owned>> {
    let swap = import("asyncio.tasks")?.getattr(&*Owned::from_str("_swap_current_task")?)?;
    let before = swap.call(&[event_loop, task.unwrap_or(crate::cpython::none())])?;
    Ok((!before.is_none()).then_some(before))
}

/// A step begins on a loop that is not ours.
pub(super) fn enter_foreign(event_loop: &Object, task: &Object) -> Res<()> {
    let enter = import("asyncio.tasks")?.getattr(&*Owned::from_str("_enter_task")?)?;
    enter.call(&[event_loop, task]).map(drop)
}

/// It ends, with `result`.
pub(super) fn leave_foreign(event_loop: &Object, task: &Object, result: Res<()>) -> Res<()> {
    let raised = result.err().map(|Raised| take_exception());
    let leave = import("asyncio.tasks")?.getattr(&*Owned::from_str("_leave_task")?)?;
    leave.call(&[event_loop, task])?;
    match raised {
        None => Ok(()),
        Some(exception) => Err(crate::cpython::error::restore(exception)),
    }
}
