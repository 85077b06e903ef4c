//! The current task from CPython 3.14 on: a field of the thread's state, swapped by `_asyncio._swap_current_task`.
//!
//! asyncio swaps it around each step. Here a step only puts its task there, and it is taken away when something runs that
//! is no task's step, or when the loop waits.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::error::quietly;
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Res, none};

/// `_asyncio._swap_current_task`.
static REGISTER: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Fetches it. Once, at import.
pub(crate) fn init() -> Res<()> {
    let register = import("_asyncio")?.getattr(&*Owned::from_str("_swap_current_task")?)?;
    REGISTER.store(register.into_ptr(), Ordering::Release);
    Ok(())
}

fn register() -> &'static Object {
    // SAFETY: filled by `init`, and never released.
    unsafe { Object::from_ptr(REGISTER.load(Ordering::Relaxed)) }
}

/// A loop's part in it.
#[derive(Default)]
pub(crate) struct CurrentTask {
    entered: Cell<bool>,
}

/// The task before, for when a step that runs within another one is over.
pub(crate) struct Entered(Option<Owned>);

impl CurrentTask {
    /// To be called once the loop object exists.
    pub(crate) fn init(&self, _event_loop: &Object) -> Res<()> {
        Ok(())
    }

    /// A task's step begins.
    #[inline]
    pub(crate) fn enter(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        // What was there is the task of a step that is over, which nobody is to keep alive.
        drop(self.enter_within(event_loop, task)?);
        Ok(Entered(None))
    }

    /// A task's step begins within another one.
    pub(crate) fn enter_within(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        self.entered.set(true);
        let before = register().call(&[event_loop, task])?;
        Ok(Entered((!before.is_none()).then_some(before)))
    }

    /// It ends.
    #[inline]
    pub(crate) fn exit(&self, _event_loop: &Object, _entered: Entered) {}

    /// It ends, and the step that it ran in goes on. An exception that is set stays set.
    pub(crate) fn resume(&self, event_loop: &Object, entered: Entered) {
        quietly(|| {
            let before = entered.0.as_deref().unwrap_or(none());
            register().call(&[event_loop, before]).map(drop)
        });
    }

    /// The task that runs now.
    pub(crate) fn get(&self, event_loop: &Object) -> Res<Option<Owned>> {
        let name = Owned::from_str("current_task")?;
        let mut task = import("_asyncio")?.getattr(&name)?.call(&[event_loop])?;
        if task.is_none() {
            // Tasks of asyncio's in pure Python are known to its function in pure Python, if that stands there.
            task = import("asyncio.tasks")?
                .getattr(&name)?
                .call(&[event_loop])?;
        }
        Ok((!task.is_none()).then_some(task))
    }

    /// What is no task's step is about to run.
    #[inline]
    pub(crate) fn leave(&self, event_loop: &Object) {
        if self.entered.replace(false) {
            quietly(|| register().call(&[event_loop, none()]).map(drop));
        }
    }

    /// The loop has stopped, or is gone.
    pub(crate) fn end(&self) {}
}
