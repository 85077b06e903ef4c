//! The fields of a future that belong to asyncio's own class, from CPython 3.14 on.
//!
//! The native classes derive from `_asyncio.Future` and `_asyncio.Task`, whose fields are otherwise
//! left zeroed. Other code reads or writes some of them:
//!
//! - the awaiters of a future (`_asyncio_awaited_by`, call graphs): asyncio's functions keep them
//!   there for its tasks and groups, so native tasks are added there too;
//! - the coroutine and the name of a task, and whether the object is a task: `python -m asyncio ps`
//!   and profilers read these from outside the process;
//! - the task's node in the thread's list of tasks (`thread_list.rs`).
//!
//! The offsets of the fields differ between versions and builds. They are found at import: the
//! methods of a stock object set its fields, and its memory is searched for the change.

use std::cell::Cell;
use std::ptr;

use pyo3::ffi;

use super::Future;
#[cfg(Py_3_14)]
use super::thread_list::{self, Node};
use crate::cpython::error::{runtime_error, take_unless_exit};
use crate::cpython::layout::{WORD, bytes, holder_of};
use crate::cpython::names::{Table, import};
use crate::cpython::{Fields, Native, Object, Owned, OwnedNative, Raised, Res, Slot, imports};

/// Offsets in bytes, and asyncio's functions that change the fields.
struct Part {
    awaited_by: usize,
    awaited_by_is_set: usize,
    is_task: usize,
    coroutine: usize,
    name: usize,
    /// Two words, null for a task that is in no list.
    #[cfg(Py_3_14)]
    node: usize,
    add_to_awaited_by: Owned,
    discard_from_awaited_by: Owned,
}

/// `None` if the fields were not found; they stay zeroed then.
static PART: Table<Option<Part>> = Table::new();

#[inline]
fn part() -> Option<&'static Part> {
    match cfg!(Py_3_14) {
        true => PART.get().as_ref(),
        false => None,
    }
}

/// Whether the fields were found.
#[cfg(Py_3_14)]
pub(crate) fn is_found() -> bool {
    part().is_some()
}

/// What an instance of `_asyncio.Future` or `_asyncio.Task` has, and of a class derived from one,
/// as ours are.
pub(crate) struct AsyncioPart;

// SAFETY: no fields, as their offsets are found at import.
unsafe impl Fields for AsyncioPart {}

impl Native<AsyncioPart> {
    /// The slot at an offset.
    #[inline]
    fn slot(&self, offset: usize) -> &Slot {
        // SAFETY: `find` has seen that instances have a `PyObject *` at this offset.
        unsafe { &*self.as_ptr().byte_add(offset).cast::<Slot>() }
    }

    /// The one-byte flag at an offset.
    #[inline]
    fn flag(&self, offset: usize) -> &Cell<u8> {
        // SAFETY: `find` has seen that instances have a `char` at this offset.
        unsafe { &*self.as_ptr().byte_add(offset).cast::<Cell<u8>>() }
    }
}

impl Native<Future> {
    /// Asyncio's part of the future.
    #[inline]
    pub(crate) fn asyncio_part(&self) -> &Native<AsyncioPart> {
        // SAFETY: all classes of futures derive from asyncio's.
        unsafe { self.object().known() }
    }
}

/// Records that `waiter` awaits `future`.
#[inline]
pub(crate) fn add_awaiter(future: &Native<AsyncioPart>, waiter: &Native<AsyncioPart>) -> Res<()> {
    let Some(part) = part() else {
        return Ok(());
    };
    let awaited_by = future.slot(part.awaited_by);
    if awaited_by.is_empty() {
        awaited_by.set(waiter.object().own());
        return Ok(());
    }
    part.add_to_awaited_by
        .call(&[future.object(), waiter.object()])
        .map(drop)
}

/// Removes the record that `waiter` awaits `future`.
#[inline]
pub(crate) fn discard_awaiter(
    future: &Native<AsyncioPart>,
    waiter: &Native<AsyncioPart>,
) -> Res<()> {
    let Some(part) = part() else {
        return Ok(());
    };
    let awaited_by = future.slot(part.awaited_by);
    if awaited_by.holds(waiter.object()) {
        awaited_by.clear();
    } else if !awaited_by.is_empty() {
        part.discard_from_awaited_by
            .call(&[future.object(), waiter.object()])
            .map(drop)?;
    }
    Ok(())
}

/// Asyncio's part of an object of any type, if asyncio keeps awaiters in it.
pub(crate) fn with_awaiters(object: &Object) -> Option<&Native<AsyncioPart>> {
    let is_one_of = |class: &Object| {
        // SAFETY: a live object, and a class of asyncio's. What the object says of its class, as a
        // mock may do, does not count.
        unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class.as_type_ptr()) != 0 }
    };
    let imports = imports();
    (cfg!(Py_3_14) && (is_one_of(&imports.stock_future) || is_one_of(&imports.stock_task)))
        // SAFETY: the class was compared.
        .then(|| unsafe { object.known() })
}

/// Makes the coroutine and the name of a new task visible to external tools. `name` may be the
/// task's number.
#[inline]
pub(crate) fn show_task(task: &Native<AsyncioPart>, coroutine: &Object, name: Owned) {
    let Some(part) = part() else {
        return;
    };
    task.flag(part.is_task).set(1);
    task.slot(part.name).set(name);
    // Only the interpreter's own coroutines have a frame that such tools can find.
    if ptr::eq(coroutine.type_ptr(), imports().coroutine_type.as_type_ptr()) {
        task.slot(part.coroutine).set(coroutine.own());
    }
}

/// Records the new name of a task.
pub(crate) fn show_name(task: &Native<AsyncioPart>, name: &Object) {
    if let Some(part) = part() {
        task.slot(part.name).set(name.own());
    }
}

/// Whether asyncio's list may contain the task.
#[cfg(Py_3_14)]
#[inline]
pub(crate) fn is_listed(task: &Native<AsyncioPart>) -> bool {
    part().is_none_or(|part| !task.slot(part.node).is_empty())
}

/// The task's node in that list.
#[cfg(Py_3_14)]
#[inline]
pub(crate) fn node(task: &Native<AsyncioPart>) -> Option<&Node> {
    let part = part()?;
    // SAFETY: `find` has seen that tasks have their node at this offset.
    Some(unsafe { &*task.as_ptr().byte_add(part.node).cast::<Node>() })
}

/// Clears the fields of a future before it is deallocated.
#[inline]
pub(crate) fn clear_future(future: &Native<AsyncioPart>) {
    if let Some(part) = part() {
        future.slot(part.awaited_by).clear();
        future.flag(part.awaited_by_is_set).set(0);
    }
}

/// Clears the fields of a task before it is deallocated.
#[inline]
pub(crate) fn clear_task(task: &Native<AsyncioPart>) {
    if let Some(part) = part() {
        task.slot(part.coroutine).clear();
        task.slot(part.name).clear();
        clear_future(task);
    }
}

// ---- finding the fields ----

/// Finds the fields. Called once, at import. If they are not as expected, they stay unused:
/// external tools see no tasks, and asyncio's functions are called for its list of tasks.
pub(super) fn init() -> Res<()> {
    if cfg!(not(Py_3_14)) {
        return Ok(());
    }
    #[cfg(Py_3_14)]
    crate::cpython::instance_dict::find(&*new(&imports().stock_future)?)?;
    let (coroutine, name) = (new_coroutine()?, Owned::from_str("a name of its own")?);
    PART.fill(match find(&coroutine, &name) {
        Ok(part) => Some(part),
        Err(Raised) => {
            drop(take_unless_exit()?);
            None
        }
    });
    #[cfg(Py_3_14)]
    if is_found() {
        let tasks = [new_task(&coroutine, &name)?, new_task(&coroutine, &name)?];
        thread_list::find(&tasks);
    }
    coroutine
        .call_method(&*Owned::from_str("close")?, &[])
        .map(drop)
}

fn find(coroutine: &Object, name: &Object) -> Res<Part> {
    let asyncio = import("_asyncio")?;
    let get = |name: &str| asyncio.getattr(&*Owned::from_str(name)?);
    let add_to_awaited_by = get("future_add_to_awaited_by")?;
    let future = new(&imports().stock_future)?;
    let waiters = [new(&imports().stock_future)?, new(&imports().stock_future)?];
    add_to_awaited_by.call(&[&future, &waiters[0]])?;
    let awaited_by = found(holder_of(&future, &waiters[0]))?;
    let before = bytes(&future);
    add_to_awaited_by.call(&[&future, &waiters[1]])?;
    let after = bytes(&future);
    let awaited_by_is_set =
        found((awaited_by + WORD..before.len()).find(|&at| (before[at], after[at]) == (0, 1)))?;
    let task = new_task(coroutine, name)?;
    let listed = bytes(task.object());
    get("_unregister_task")?.call(&[task.object()])?;
    #[cfg(Py_3_14)]
    let unlisted = bytes(task.object());
    // The `is_task` flag directly precedes the other flag. It is set in tasks and clear in futures.
    let is_task = awaited_by_is_set - 1;
    found((listed[is_task] == 1 && after[is_task] == 0).then_some(()))?;
    Ok(Part {
        awaited_by,
        awaited_by_is_set,
        is_task,
        coroutine: found(holder_of(task.object(), coroutine))?,
        name: found(holder_of(task.object(), name))?,
        #[cfg(Py_3_14)]
        node: found((0..listed.len()).find(|&at| listed[at] != unlisted[at]))? / WORD * WORD,
        add_to_awaited_by,
        discard_from_awaited_by: get("future_discard_from_awaited_by")?,
    })
}

fn found<T>(field: Option<T>) -> Res<T> {
    match field {
        Some(field) => Ok(field),
        None => runtime_error("a field is not where it was looked for"),
    }
}

/// `class.__new__(class)`.
fn new(class: &Object) -> Res<Owned> {
    class.call_method(&*Owned::from_str("__new__")?, &[class])
}

fn new_coroutine() -> Res<Owned> {
    let names = Owned::dict()?;
    let source = Owned::from_str("async def probe(): pass\ncoroutine = probe()")?;
    import("builtins")?
        .getattr(&*Owned::from_str("exec")?)?
        .call(&[&source, &names])?;
    // SAFETY: a live dict; the result is a borrowed reference or null.
    unsafe {
        let coroutine = ffi::PyDict_GetItemString(names.as_ptr(), c"coroutine".as_ptr());
        Owned::steal(ffi::Py_XNewRef(coroutine))
    }
}

/// A stock task on a stub loop that ignores the calls it gets.
fn new_task(coroutine: &Object, name: &Object) -> Res<OwnedNative<AsyncioPart>> {
    let attribute = |module: &str, name: &str| import(module)?.getattr(&*Owned::from_str(name)?);
    let event_loop = attribute("types", "SimpleNamespace")?.call(&[])?;
    event_loop.setattr(
        &*Owned::from_str("get_debug")?,
        &*attribute("builtins", "bool")?,
    )?;
    event_loop.setattr(
        &*Owned::from_str("call_soon")?,
        &*attribute("functools", "partial")?,
    )?;
    let names = Owned::tuple(&[&*Owned::from_str("loop")?, &*Owned::from_str("name")?])?;
    let task = imports()
        .stock_task
        .call_with(&[coroutine, &event_loop, name], Some(&names))?;
    task.setattr(
        &*Owned::from_str("_log_destroy_pending")?,
        &Owned::from_bool(false),
    )?;
    // SAFETY: an instance of `_asyncio.Task`.
    Ok(unsafe { OwnedNative::new(task) })
}
