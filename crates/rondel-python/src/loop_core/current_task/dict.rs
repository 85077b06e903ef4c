//! The current task up to CPython 3.13: `_asyncio._current_tasks`, a dict from loop to task.
//!
//! asyncio sets and deletes the loop's entry around each step, which costs more than all other
//! bookkeeping of a step. Here the entry is made once for each run of the loop, and its key is an
//! object with the loop's hash ([`LoopKey`]). A lookup of the loop makes the dict compare this key
//! with the loop, and the comparison stores the running task in the entry. So a step only sets a
//! field, and every lookup finds the current task: `asyncio.current_task`, `_enter_task` and
//! related functions, and programs that read `asyncio.tasks._current_tasks[loop]`.
//!
//! Other code may change the entry as well. A task that it stores is the current task from then on;
//! if it deletes the entry, no new one is made until the step ends.
//!
//! If the dict is not found at import, each step calls asyncio's functions (`functions.rs`), as it
//! does with the entry after one was deleted.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::functions;
use crate::cpython::collected::Collected;
use crate::cpython::error::{Raised, guard_object, quietly, unless_raised};
use crate::cpython::names::{import_from, import_optional};
use crate::cpython::native::{Fields, Native};
use crate::cpython::object::check;
use crate::cpython::private::{
    _PyDict_DelItem_KnownHash, _PyDict_GetItem_KnownHash, _PyDict_SetItem_KnownHash,
};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Res, Slot, none};

/// `_asyncio._current_tasks`; null if it is not the dict that asyncio's functions use.
static DICT: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());
static KEY_CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// Finds the dict and makes the class of keys. Called once, at import.
pub(crate) fn init() -> Res<()> {
    if let Some(dict) = find()? {
        DICT.store(dict.into_ptr(), Ordering::Release);
    }
    let class = TypeBuilder::new::<LoopKey>(c"rondel._rondel.LoopKey", None, LoopKey::offset())
        .not_instantiable()
        .doc(c"The key of a loop in asyncio's dict of current tasks.")
        .collected::<LoopKey>()
        .slot(ffi::Py_tp_richcompare, slot_fn!(compare, ffi::richcmpfunc))
        .slot(ffi::Py_tp_hash, slot_fn!(hash, ffi::hashfunc))
        .build()?;
    KEY_CLASS.store(class.into_ptr().cast(), Ordering::Release);
    Ok(())
}

/// The dict, if entering a task of a loop changes it as expected.
fn find() -> Res<Option<Owned>> {
    let Some(dict) = import_optional("_asyncio", "_current_tasks")? else {
        return Ok(None);
    };
    // SAFETY: a live object.
    if unsafe { ffi::PyDict_CheckExact(dict.as_ptr()) } == 0 {
        return Ok(None);
    }
    let class = import_from("builtins", "object")?;
    let (event_loop, task) = (class.call(&[])?, class.call(&[])?);
    // SAFETY: a dict and a live object, which is hashed by its address.
    let entry = || unsafe { ffi::PyDict_GetItemWithError(dict.as_ptr(), event_loop.as_ptr()) };
    let is_shown = unless_raised(|| {
        functions::try_out(&event_loop, &task, || ptr::eq(entry(), task.as_ptr()))
    })?;
    let is_gone = entry().is_null();
    Ok((is_shown == Some(true) && is_gone).then_some(dict))
}

/// Whether the dict was found.
pub(crate) fn is_known() -> bool {
    !dict().is_null()
}

fn dict() -> *mut ffi::PyObject {
    DICT.load(Ordering::Relaxed)
}

// ---- the key ----

/// The key of a loop's entry. The dict holds the only reference.
struct LoopKey {
    /// Null once the loop is gone.
    current: Cell<*const CurrentTask>,
}

// SAFETY: the fields follow the header, and zeroed fields are valid.
unsafe impl Fields for LoopKey {}

// SAFETY: it holds no references.
unsafe impl Collected for LoopKey {
    const FINALIZED: bool = true;

    fn for_each_slot(&self, _see: &mut dyn FnMut(&Slot)) {}

    /// The entry was deleted.
    fn finalize(key: &Native<Self>) -> Res<()> {
        if let Some(current) = current_of(key.object()) {
            current.lost();
        }
        Ok(())
    }
}

fn current_of(key: &Object) -> Option<&CurrentTask> {
    // SAFETY: `CurrentTask` is part of a loop and clears the key's pointer before it is dropped.
    unsafe { LoopKey::of(key).current.get().as_ref() }
}

unsafe extern "C" fn hash(key: *mut ffi::PyObject) -> ffi::Py_hash_t {
    // SAFETY: the interpreter passes a live instance.
    current_of(unsafe { Object::from_ptr(key) }).map_or(0, |current| current.hash.get())
}

/// Called by the dict when an object with the same hash is looked up.
unsafe extern "C" fn compare(
    key: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes live objects.
        let (key, other) = unsafe { (Object::from_ptr(key), Object::from_ptr(other)) };
        let found = match current_of(key) {
            Some(current) if ptr::eq(current.event_loop.get(), other.as_ptr()) => {
                current.update(key)?
            }
            _ => key.is(other),
        };
        match op {
            ffi::Py_EQ => Ok(Owned::from_bool(found)),
            ffi::Py_NE => Ok(Owned::from_bool(!found)),
            // SAFETY: a live singleton.
            _ => Ok(unsafe { Object::from_ptr(ffi::Py_NotImplemented()) }.own()),
        }
    })
}

// ---- the loop's part ----

/// A loop's current task.
pub(crate) struct CurrentTask {
    /// The loop that this is part of. Only compared.
    event_loop: Cell<*mut ffi::PyObject>,
    /// The loop's hash.
    hash: Cell<ffi::Py_hash_t>,
    /// The task whose step runs, or null. The caller of the step holds a reference.
    task: Cell<*mut ffi::PyObject>,
    /// The last value stored in the entry; null for `None`. Only compared.
    shown: Cell<*mut ffi::PyObject>,
    /// The entry's key; null when there is no entry.
    key: Cell<*mut ffi::PyObject>,
    /// The entry was deleted by other code during a step; always set if there is no dict.
    disturbed: Cell<bool>,
}

/// The state before a step, to be restored after it.
pub(crate) struct Entered {
    task: *mut ffi::PyObject,
    /// The value of the program's own entry; `None` if there was none.
    displaced: Option<Owned>,
}

impl Default for CurrentTask {
    fn default() -> Self {
        Self {
            event_loop: Cell::new(ptr::null_mut()),
            hash: Cell::new(0),
            task: Cell::new(ptr::null_mut()),
            shown: Cell::new(ptr::null_mut()),
            key: Cell::new(ptr::null_mut()),
            disturbed: Cell::new(false),
        }
    }
}

impl CurrentTask {
    /// Must be called once the loop object exists.
    pub(crate) fn init(&self, event_loop: &Object) -> Res<()> {
        self.event_loop.set(event_loop.as_ptr());
        self.disturbed.set(!is_known());
        // SAFETY: a live object.
        self.hash
            .set(unsafe { ffi::PyObject_Hash(event_loop.as_ptr()) });
        if self.hash.get() == -1 {
            Err(Raised)
        } else {
            Ok(())
        }
    }

    /// Begins a task's step. The caller holds a reference to the task until the step ends.
    #[inline]
    pub(crate) fn enter(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        let displaced = if self.key.get().is_null() {
            self.enter_without_entry(event_loop, task)?
        } else {
            None
        };
        let task = self.task.replace(task.as_ptr());
        Ok(Entered { task, displaced })
    }

    /// Begins a task's step within another one.
    pub(crate) fn enter_within(&self, event_loop: &Object, task: &Object) -> Res<Entered> {
        self.enter(event_loop, task)
    }

    /// Ends the step. A pending exception stays set.
    #[inline]
    pub(crate) fn exit(&self, event_loop: &Object, entered: Entered) {
        self.task.set(entered.task);
        if let Some(before) = entered.displaced {
            self.give_back(event_loop, &before);
        } else if !self.shown.get().is_null() || self.disturbed.get() {
            self.tidy_up(event_loop);
        }
    }

    /// Ends a step within another one, which continues. A pending exception stays set.
    pub(crate) fn resume(&self, event_loop: &Object, entered: Entered) {
        self.exit(event_loop, entered);
    }

    /// Runs something that may itself be a task's step, within or outside of a step.
    pub(crate) fn aside<R>(&self, _event_loop: &Object, run: impl FnOnce() -> R) -> R {
        run() // each step restores the previous task
    }

    /// Runs the loop within one of its own steps.
    pub(crate) fn nested<R>(&self, event_loop: &Object, run: impl FnOnce() -> R) -> R {
        self.aside(event_loop, run)
    }

    /// Must be called before code runs that is not a task's step.
    #[inline]
    pub(crate) fn leave(&self, _event_loop: &Object) {}

    /// The current task.
    #[inline]
    pub(crate) fn get(&self, event_loop: &Object) -> Res<Option<Owned>> {
        let task = self.task.get();
        // If no step of Rondel's runs, another task implementation's may.
        if !task.is_null() && self.shown.get().is_null() && !self.disturbed.get() {
            // SAFETY: the task of the running step, whose caller holds a reference.
            return Ok(Some(unsafe { Object::from_ptr(task) }.own()));
        }
        self.look_up(event_loop)
    }

    /// Deletes the entry, because the loop has stopped or is being deallocated.
    pub(crate) fn end(&self) {
        self.task.set(ptr::null_mut());
        self.disturbed.set(!is_known());
        self.shown.set(ptr::null_mut());
        let key = self.key.replace(ptr::null_mut());
        if key.is_null() {
            return;
        }
        // SAFETY: the entry is there, so its key is alive.
        let key = unsafe { Object::from_ptr(key) }.own();
        LoopKey::of(&key).current.set(ptr::null());
        quietly(|| self.delete(&key));
    }

    /// Enters a step when there is no entry: none was made yet, or it was deleted in this step.
    #[cold]
    fn enter_without_entry(&self, event_loop: &Object, task: &Object) -> Res<Option<Owned>> {
        if !self.disturbed.get() {
            self.make_entry()?;
            return Ok(None);
        }
        let before = self.look_up(event_loop)?.unwrap_or_else(Owned::none);
        self.store(event_loop, task)?;
        Ok(Some(before))
    }

    #[cold]
    fn give_back(&self, event_loop: &Object, before: &Object) {
        quietly(|| {
            if before.is_none() {
                self.delete(event_loop)
            } else {
                self.store(event_loop, before)
            }
        });
    }

    fn look_up(&self, event_loop: &Object) -> Res<Option<Owned>> {
        if !is_known() {
            let task = functions::current(event_loop)?;
            return Ok((!task.is_none()).then_some(task));
        }
        // SAFETY: a dict and a live key; the result is a borrowed reference.
        unsafe {
            let task = _PyDict_GetItem_KnownHash(dict(), event_loop.as_ptr(), self.hash.get());
            if task.is_null() {
                return if ffi::PyErr_Occurred().is_null() {
                    Ok(None)
                } else {
                    Err(Raised)
                };
            }
            Ok(Some(Object::from_ptr(task).own()).filter(|task| !task.is_none()))
        }
    }

    fn make_entry(&self) -> Res<()> {
        // SAFETY: all-zero fields are valid.
        let key = unsafe { allocate(KEY_CLASS.load(Ordering::Relaxed))? };
        LoopKey::of(&key).current.set(self);
        self.store(&key, none())?;
        self.key.set(key.as_ptr());
        self.shown.set(ptr::null_mut());
        Ok(())
    }

    /// Updates the entry. Returns whether a task is running.
    fn update(&self, key: &Object) -> Res<bool> {
        let shown = match self.shown.get() {
            shown if shown.is_null() => none().as_ptr(),
            shown => shown,
        };
        // SAFETY: a dict and the entry's key, which is found by identity.
        let there = unsafe { _PyDict_GetItem_KnownHash(dict(), key.as_ptr(), self.hash.get()) };
        if !there.is_null() && there != shown {
            // Other code, such as `_swap_current_task`, has stored it. The dict holds a reference.
            self.task.set(there);
            self.shown.set(there);
            return Ok(there != none().as_ptr());
        }
        let task = self.task.get();
        if task.is_null() {
            return Ok(false);
        }
        if task != there {
            // SAFETY: the task of the running step.
            self.store(key, unsafe { Object::from_ptr(task) })?;
            self.shown.set(task);
        }
        Ok(true)
    }

    fn store(&self, key: &Object, task: &Object) -> Res<()> {
        if !is_known() {
            // The key is the loop.
            return functions::swap(key, task).map(drop);
        }
        // SAFETY: a dict and live objects; the hash is the key's.
        check(unsafe {
            _PyDict_SetItem_KnownHash(dict(), key.as_ptr(), task.as_ptr(), self.hash.get())
        })
    }

    fn delete(&self, key: &Object) -> Res<()> {
        if !is_known() {
            return functions::swap(key, none()).map(drop);
        }
        // SAFETY: a dict and a live object; the hash is the key's.
        check(unsafe { _PyDict_DelItem_KnownHash(dict(), key.as_ptr(), self.hash.get()) })
    }

    /// The entry was deleted, and its key is being deallocated.
    fn lost(&self) {
        self.key.set(ptr::null_mut());
        self.shown.set(ptr::null_mut());
        self.task.set(ptr::null_mut());
        self.disturbed.set(true);
    }

    /// Cleans up after a step in which the entry was read or changed.
    #[cold]
    fn tidy_up(&self, event_loop: &Object) {
        if self.disturbed.replace(false) {
            // Delete the program's own entry, as `_leave_task` would now.
            quietly(|| self.delete(event_loop));
        }
        let key = self.key.get();
        if self.shown.replace(ptr::null_mut()).is_null() || key.is_null() {
            return;
        }
        // Reset the entry, so that the dict does not keep the task alive. SAFETY: the entry is
        // there, so its key is alive.
        let key = unsafe { Object::from_ptr(key) }.own();
        quietly(|| self.store(&key, none()));
    }
}
