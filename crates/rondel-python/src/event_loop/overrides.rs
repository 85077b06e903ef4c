//! Methods of a loop that the program has replaced: on the instance, in a subclass, or on Rondel's
//! class. Internal calls then call the replacement.
//!
//! Looking methods up at each call would cost what native calls save. So replacements are recorded
//! when they happen: setting an attribute of a loop is intercepted, and the loop's class is checked
//! when the loop is made, when its `__class__` is set, when a run begins, and before a poll of the
//! reactor if the class has a new version tag.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::patches;
use crate::cpython::error::write_unraisable;
use crate::cpython::{Object, Owned, Raised, Res, names};
use crate::loop_core::{LoopCore, nanos};

const TIME: u8 = 1;
const CALL_SOON: u8 = 2;
const CALL_LATER: u8 = 4;
const CREATE_TASK: u8 = 8;
const RUN_IN_EXECUTOR: u8 = 16;
/// `_selector`, or its `select`.
pub(super) const SELECT: u8 = 32;
/// `_run_once`.
pub(super) const RUN_ONCE: u8 = 64;

impl LoopCore {
    pub(crate) fn is_time_overridden(&self) -> bool {
        self.overridden.get() & TIME != 0
    }

    /// Whether internal calls may queue items without `call_soon`.
    #[inline]
    pub(crate) fn calls_directly(&self) -> bool {
        self.overridden.get() & CALL_SOON == 0
    }

    /// Whether internal calls may set timers without `call_later` or `call_at`.
    pub(crate) fn times_directly(&self) -> bool {
        self.overridden.get() & (TIME | CALL_LATER) == 0
    }

    /// Whether a task may be made without `create_task`.
    pub(crate) fn makes_tasks_directly(&self) -> bool {
        self.overridden.get() & CREATE_TASK == 0
            && self.task_factory.is_empty()
            && !self.is_closed()
    }

    /// Whether a function may be run in the default executor without `run_in_executor`.
    pub(crate) fn runs_in_executor_directly(&self) -> bool {
        self.overridden.get() & RUN_IN_EXECUTOR == 0
    }

    /// The task factory, if `create_task` asks it and is not replaced.
    pub(crate) fn direct_factory(&self) -> Option<Owned> {
        if self.overridden.get() & CREATE_TASK != 0 || self.is_closed() {
            return None;
        }
        self.task_factory.cloned()
    }

    pub(super) fn has_overridden(&self, bit: u8) -> bool {
        self.overridden.get() & bit != 0
    }

    pub(super) fn set_overridden(&self, bit: u8, on: bool) {
        let rest = self.overridden.get() & !bit;
        self.overridden.set(if on { rest | bit } else { rest });
    }

    /// Whether items take the slower path of debug mode or a replaced `Handle._run`.
    #[inline]
    pub(super) fn watches_items(&self) -> bool {
        self.watches_items.get()
    }

    pub(super) fn set_debug(&self, debug: bool) {
        self.debug.set(debug);
        self.note_patches();
    }

    /// Checks whether the program has replaced methods of asyncio's classes that asyncio's loop
    /// would call.
    pub(super) fn note_patches(&self) {
        patches::look();
        self.watches_items
            .set(self.debug.get() || patches::handle_run().is_some());
    }

    /// Checks whether an attribute of the loop's class or a base class was set. Only called between
    /// turns: the program's `_run_once` may take over.
    pub(super) fn look_at_class(&self) {
        let version = patches::version(self.object().type_ptr());
        if version == 0 || version != self.class_version.get() {
            self.note_changed_class();
        }
    }

    #[cold]
    fn note_changed_class(&self) {
        let runs_turns = !self.has_overridden(RUN_ONCE);
        if let Err(Raised) = self.note_class() {
            write_unraisable(None);
        }
        if runs_turns && self.has_overridden(RUN_ONCE) {
            self.hand_over();
        }
    }

    /// Continues the run with the program's `_run_once`.
    fn hand_over(&self) {
        if self.is_running() && !self.engine().is_stopping() {
            self.handed_over.set(true);
            self.engine().stop();
        }
    }

    /// The result of a replaced `time()`, in nanoseconds.
    pub(crate) fn overridden_time(&self) -> Res<u64> {
        Ok(nanos(
            self.object().call_method(&names().time, &[])?.to_f64()?,
        ))
    }

    /// The time until which timers are due with a replaced `time()`: asyncio's timers may be early
    /// by `_clock_resolution`, which the program may have set.
    pub(super) fn overridden_due_until(&self) -> Res<u64> {
        let now = self.object().call_method(&names().time, &[])?.to_f64()?;
        let resolution = self.object().getattr(&names().clock_resolution)?.to_f64()?;
        // asyncio's comparison is `when < now + resolution`.
        Ok(nanos(now + resolution).saturating_sub(1).max(nanos(now)))
    }

    fn watched_bit(name: &Object) -> u8 {
        let names = names();
        let is = |known: &Object| name.is(known) || name.equals(known).unwrap_or(false);
        if is(&names.time) {
            TIME
        } else if is(&names.call_soon) {
            CALL_SOON
        } else if is(&names.call_later) || is(&names.call_at) {
            CALL_LATER
        } else if is(&names.create_task) {
            CREATE_TASK
        } else if is(&names.run_in_executor) {
            RUN_IN_EXECUTOR
        } else if is(&names.run_once) {
            RUN_ONCE
        } else {
            0
        }
    }

    pub(super) fn note_override(&self, name: &Object, set: bool) {
        let bit = Self::watched_bit(name);
        if bit == RUN_ONCE && set {
            self.hand_over();
        }
        if bit != 0 {
            let rest = self.overridden.get() & !bit;
            let kept = self.overridden_by_class.get() & bit;
            self.overridden
                .set(if set { rest | bit } else { rest | kept });
        }
    }

    /// Checks which methods were replaced in a subclass or in Rondel's own class.
    pub(super) fn note_class(&self) -> Res<()> {
        let class = self.object().class();
        let names = names();
        let mut bits = 0;
        for name in [
            &names.time,
            &names.call_soon,
            &names.call_later,
            &names.call_at,
            &names.create_task,
            &names.run_in_executor,
            &names.run_once,
        ] {
            if let Some(native) = native_method(name)?
                && !class.getattr(name)?.is(&native)
            {
                bits |= Self::watched_bit(name);
            }
        }
        // The lookups above have given the class a version tag, if it had none.
        self.class_version
            .set(patches::version(class.as_type_ptr()));
        let before = self.overridden_by_class.replace(bits);
        self.overridden.set(self.overridden.get() & !before | bits);
        Ok(())
    }

    /// Handles the setting of `__class__` and `_selector`.
    pub(super) fn note_attribute(&self, name: &Object) -> Res<()> {
        if name.equals(&names().class)? {
            self.note_class()?;
        } else if name.equals(&names().selector)? {
            self.note_selector(false); // until `_selector_changed` says it is ours
        }
        Ok(())
    }

    pub(super) fn note_selector(&self, is_ours: bool) {
        self.set_overridden(SELECT, !is_ours);
        self.engine().poll_every_turn(!is_ours);
    }
}

/// The original methods of loops, by name: a dict.
static NATIVE: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

fn native_method(name: &Object) -> Res<Option<Owned>> {
    let methods = NATIVE.load(Ordering::Relaxed);
    if methods.is_null() {
        return Ok(None);
    }
    // SAFETY: a live dict and key; the result is a borrowed reference, or null without an exception
    // for a missing key.
    unsafe {
        let method = ffi::PyDict_GetItemWithError(methods, name.as_ptr());
        Ok(Object::from_nullable(method).map(Object::own))
    }
}

/// `_rondel.note_methods(cls)`: records the original methods of the finished class, before any
/// program can replace them.
pub(crate) fn note_methods(_: &Object, class: &Object) -> Res<Owned> {
    let (methods, names) = (Owned::dict()?, names());
    for name in [
        &names.time,
        &names.call_soon,
        &names.call_later,
        &names.call_at,
        &names.create_task,
        &names.run_in_executor,
        &names.run_once,
    ] {
        methods.set(name, &*class.getattr(name)?)?;
    }
    NATIVE.store(methods.into_ptr(), Ordering::Relaxed);
    Ok(Owned::none())
}
