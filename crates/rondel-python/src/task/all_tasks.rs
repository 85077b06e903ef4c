//! The registry of tasks: what `asyncio.all_tasks()` returns.
//!
//! Up to CPython 3.13 asyncio keeps tasks in a `WeakSet`, and adding to it costs more than running
//! a task. Tasks on a Rondel loop are in a doubly linked list of that loop instead, and
//! `python/rondel/_event_loop.py` makes asyncio's set show these too. Tasks on foreign loops are
//! registered with asyncio. From 3.14 on the interpreter has such a list itself, and all tasks are
//! in it (`future/thread_list.rs`).

use super::Task;
use crate::cpython::names::{Table, import};
#[cfg(Py_3_14)]
use crate::cpython::none;
use crate::cpython::{Native, Object, Owned, Res};
#[cfg(Py_3_14)]
use crate::future::{asyncio_part, thread_list};
#[cfg(not(Py_3_14))]
use crate::loop_core::LoopCore;

/// asyncio's registries, for tasks that are not in a list of this module.
struct Register {
    /// The set of tasks that are running their first step eagerly.
    #[cfg(all(Py_3_12, not(Py_3_14)))]
    eager_tasks: Owned,
    #[cfg(Py_3_14)]
    register: Owned,
    #[cfg(Py_3_14)]
    unregister: Owned,
}

static REGISTER: Table<Register> = Table::new();

/// Fetches the objects that are used often. Called once, at import.
pub(crate) fn init() -> Res<()> {
    #[cfg(Py_3_12)]
    let get = |module: &str, name: &str| import(module)?.getattr(&*Owned::from_str(name)?);
    REGISTER.fill(Register {
        #[cfg(all(Py_3_12, not(Py_3_14)))]
        eager_tasks: get("asyncio.tasks", "_eager_tasks")?,
        #[cfg(Py_3_14)]
        register: get("_asyncio", "_register_task")?,
        #[cfg(Py_3_14)]
        unregister: get("_asyncio", "_unregister_task")?,
    });
    Ok(())
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
            Ok(())
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
    // SAFETY: live objects; the C API checks that the first one is a set.
    return crate::cpython::object::check(unsafe {
        pyo3::ffi::PySet_Add(REGISTER.get().eager_tasks.as_ptr(), task.as_ptr())
    });
    #[cfg(not(Py_3_12))]
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
    // SAFETY: live objects; the C API checks that the first one is a set.
    return crate::cpython::object::check(unsafe {
        pyo3::ffi::PySet_Discard(REGISTER.get().eager_tasks.as_ptr(), task.as_ptr())
    });
    #[cfg(not(Py_3_12))]
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
