//! The registry of tasks: what `asyncio.all_tasks()` returns.
//!
//! Up to CPython 3.13 asyncio keeps tasks in a `WeakSet`, and adding to it costs more than running
//! a task. Tasks on a Rondel loop are in a doubly linked list of that loop instead, and
//! `python/rondel/_event_loop.py` makes asyncio's set show these too. Tasks on foreign loops are
//! registered with asyncio, and all are where its set is not the known one. From 3.14 on the
//! interpreter has such a list itself, and all tasks are in it (`future/thread_list.rs`).

#[cfg(not(Py_3_14))]
use std::sync::atomic::{AtomicBool, Ordering};

use super::Task;
#[cfg(not(Py_3_14))]
use crate::cpython::names::import;
#[cfg(Py_3_14)]
use crate::cpython::names::import_from;
#[cfg(Py_3_12)]
use crate::cpython::names::{Table, import_optional};
#[cfg(Py_3_14)]
use crate::cpython::none;
use crate::cpython::{Native, Object, Owned, Res};
#[cfg(Py_3_14)]
use crate::future::{asyncio_part, thread_list};
#[cfg(not(Py_3_14))]
use crate::loop_core::LoopCore;

/// asyncio's registries, for tasks that are not in a list of this module.
#[cfg(Py_3_12)]
struct Register {
    /// The set of tasks that are running their first step eagerly. `None`: call asyncio's function.
    #[cfg(not(Py_3_14))]
    eager_tasks: Option<Owned>,
    #[cfg(Py_3_14)]
    register: Owned,
    #[cfg(Py_3_14)]
    unregister: Owned,
}

#[cfg(Py_3_12)]
static REGISTER: Table<Register> = Table::new();

/// Whether asyncio's set does not show the loops' lists.
#[cfg(not(Py_3_14))]
static UNSEEN: AtomicBool = AtomicBool::new(false);

/// Fetches the objects that are used often. Called once, at import.
#[cfg(not(Py_3_12))]
pub(crate) fn init() -> Res<()> {
    Ok(())
}

/// Fetches the objects that are used often. Called once, at import.
#[cfg(all(Py_3_12, not(Py_3_14)))]
pub(crate) fn init() -> Res<()> {
    let tasks = import_optional("asyncio.tasks", "_eager_tasks")?;
    REGISTER.fill(Register {
        // SAFETY: a live object.
        eager_tasks: tasks
            .filter(|tasks| unsafe { pyo3::ffi::PySet_CheckExact(tasks.as_ptr()) != 0 }),
    });
    Ok(())
}

/// Fetches the objects that are used often. Called once, at import.
#[cfg(Py_3_14)]
pub(crate) fn init() -> Res<()> {
    // Both modules have the same one, unless a program has replaced that of `asyncio.tasks`.
    let get = |name| match import_optional("_asyncio", name)? {
        Some(function) => Ok(function),
        None => import_from("asyncio.tasks", name),
    };
    REGISTER.fill(Register {
        register: get("_register_task")?,
        unregister: get("_unregister_task")?,
    });
    Ok(())
}

/// Whether asyncio keeps tasks as this version is known to.
pub(crate) fn is_known() -> bool {
    #[cfg(not(Py_3_14))]
    let is_seen = !UNSEEN.load(Ordering::Relaxed);
    #[cfg(all(Py_3_12, not(Py_3_14)))]
    let is_seen = is_seen && REGISTER.get().eager_tasks.is_some();
    #[cfg(Py_3_14)]
    let is_seen = true;
    is_seen
}

/// `register_with_asyncio()`: called when asyncio's set cannot be made to show the loops' lists.
pub(crate) fn register_with_asyncio(_: &Object) -> Res<Owned> {
    #[cfg(not(Py_3_14))]
    UNSEEN.store(true, Ordering::Relaxed);
    Ok(Owned::none())
}

/// `forget_task(task)`: called when asyncio's `_unregister_task` is called with the task.
pub(crate) fn forget(_: &Object, task: &Object) -> Res<Owned> {
    #[cfg(not(Py_3_14))]
    if let Some(task) = task.instance::<Task>() {
        task.node.unlink();
    }
    let _ = task;
    Ok(Owned::none())
}

/// Registers a new task.
#[cfg(not(Py_3_14))]
#[inline]
pub(super) fn register(task: &Native<Task>, event_loop: &Object) -> Res<()> {
    match LoopCore::of(event_loop) {
        Some(core) => {
            core.tasks.link(&task.node, task.object());
            match UNSEEN.load(Ordering::Relaxed) {
                false => Ok(()),
                true => tell_asyncio("_register_task", task),
            }
        }
        None => tell_asyncio("_register_task", task),
    }
}

/// Registers a new task.
#[cfg(Py_3_14)]
#[inline]
pub(super) fn register(task: &Native<Task>, _: &Object) -> Res<()> {
    if thread_list::link(task.asyncio_part()) {
        return Ok(());
    }
    REGISTER.get().register.call(&[task.object()]).map(drop)
}

/// Unregisters a task that is done or deallocated.
#[cfg(not(Py_3_14))]
#[inline]
pub(super) fn unregister(task: &Native<Task>) {
    task.node.unlink();
}

/// Unregisters a task that is done or deallocated. User code may have registered it itself.
#[cfg(Py_3_14)]
#[inline]
pub(super) fn unregister(task: &Native<Task>) {
    let part = task.asyncio_part();
    if asyncio_part::is_listed(part)
        && !thread_list::unlink(part)
        && REGISTER.get().unregister.call(&[task.object()]).is_err()
    {
        crate::cpython::error::write_unraisable(Some(task.object()));
    }
}

/// Registers an eager task for its first step.
pub(super) fn register_eager(task: &Native<Task>) -> Res<()> {
    #[cfg(Py_3_14)]
    return register(task, none());
    #[cfg(all(Py_3_12, not(Py_3_14)))]
    if let Some(tasks) = &REGISTER.get().eager_tasks {
        // SAFETY: live objects; the C API checks that the first one is a set.
        return crate::cpython::object::check(unsafe {
            pyo3::ffi::PySet_Add(tasks.as_ptr(), task.as_ptr())
        });
    }
    #[cfg(not(Py_3_14))]
    tell_asyncio("_register_eager_task", task)
}

/// Does nothing: there is only one list, in which the task stays until it is done.
#[cfg(Py_3_14)]
pub(super) fn unregister_eager(_: &Native<Task>) -> Res<()> {
    Ok(())
}

/// Unregisters an eager task after its first step.
#[cfg(not(Py_3_14))]
pub(super) fn unregister_eager(task: &Native<Task>) -> Res<()> {
    #[cfg(Py_3_12)]
    if let Some(tasks) = &REGISTER.get().eager_tasks {
        // SAFETY: live objects; the C API checks that the first one is a set.
        return crate::cpython::object::check(unsafe {
            pyo3::ffi::PySet_Discard(tasks.as_ptr(), task.as_ptr())
        });
    }
    tell_asyncio("_unregister_eager_task", task)
}

#[cfg(not(Py_3_14))]
#[cold]
fn tell_asyncio(function: &str, task: &Native<Task>) -> Res<()> {
    import("asyncio.tasks")?
        .getattr(&*Owned::from_str(function)?)?
        .call(&[task.object()])?;
    Ok(())
}
