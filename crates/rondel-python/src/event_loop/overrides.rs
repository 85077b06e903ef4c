//! Which methods of a loop a program has replaced: on the instance, by a subclass, or on our own
//! class. Internal calls then go there.
//!
//! It is noted when it is done, as asking at each call would cost what native calls save: an
//! attribute that is set on a loop comes by here, and the loop's class is looked at when it is
//! made, when it gets another class, when a run begins, and when the reactor is asked if the
//! interpreter has given the class a new version since.

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

    /// Whether an item is run with more around it than usual.
    #[inline]
    pub(super) fn watches_items(&self) -> bool {
        self.watches_items.get()
    }

    pub(super) fn set_debug(&self, debug: bool) {
        self.debug.set(debug);
        self.note_patches();
    }

    /// Looks whether the program has replaced what the loop would call if it were asyncio's.
    pub(super) fn note_patches(&self) {
        patches::look();
        self.watches_items
            .set(self.debug.get() || patches::handle_run().is_some());
    }

    /// Looks whether something was set in the loop's class, or in a base of it. Between two turns
    /// only: the program's `_run_once` takes over.
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

    /// The program's `_run_once` runs what follows.
    fn hand_over(&self) {
        if self.is_running() && !self.engine().is_stopping() {
            self.handed_over.set(true);
            self.engine().stop();
        }
    }

    /// What a `time` that was replaced says, in nanoseconds.
    pub(crate) fn overridden_time(&self) -> Res<u64> {
        Ok(nanos(
            self.object().call_method(&names().time, &[])?.to_f64()?,
        ))
    }

    /// The same, and as much later as asyncio's timers may be early: clocks that programs move are
    /// as coarse as they say.
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

    /// Looks for methods that a class replaced: a subclass, or what the program has done to our
    /// own.
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
        // Looking methods up has given the class a version, if it had none.
        self.class_version
            .set(patches::version(class.as_type_ptr()));
        let before = self.overridden_by_class.replace(bits);
        self.overridden.set(self.overridden.get() & !before | bits);
        Ok(())
    }

    /// An attribute was set that says more than which method was replaced.
    pub(super) fn note_attribute(&self, name: &Object) -> Res<()> {
        if name.equals(&names().class)? {
            self.note_class()?;
        } else if name.equals(&names().selector)? {
            self.note_selector(false); // until it says that it is ours
        }
        Ok(())
    }

    pub(super) fn note_selector(&self, is_ours: bool) {
        self.set_overridden(SELECT, !is_ours);
        self.engine().poll_every_turn(!is_ours);
    }
}

/// The methods of loops that are looked for, as they are unless somebody replaces them: a dict by
/// name.
static NATIVE: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

fn native_method(name: &Object) -> Res<Option<Owned>> {
    let methods = NATIVE.load(Ordering::Relaxed);
    if methods.is_null() {
        return Ok(None);
    }
    // SAFETY: a live dict and key; a borrowed reference, or null without an exception for a missing
    // key.
    unsafe {
        let method = ffi::PyDict_GetItemWithError(methods, name.as_ptr());
        Ok(Object::from_nullable(method).map(Object::own))
    }
}

/// `_rondel.note_methods(cls)`: notes them, of a class that is whole and that nobody has touched
/// yet.
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
