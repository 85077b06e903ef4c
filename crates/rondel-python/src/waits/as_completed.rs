//! `as_completed`: gives out several futures in the order in which they finish.
//!
//! The iterator watches the futures and puts each into a queue when its watcher item runs. It gives
//! out awaitables of the queue's next item: of its result in plain iteration, and, from 3.13 on, of
//! the future itself in `async for`.

use std::cell::Cell;
use std::ptr;

use pyo3::ffi;

use super::awaited_by::{current_task, link, unlink};
use super::names::waits_imports;
use super::parse_one;
use crate::awaitable::{
    Class, Next, Steps, awaitable_class, init_type as init_awaitable, is_awaitable, iterator_of,
    make,
};
use crate::cpython::collected::Collected;
use crate::cpython::error::{guard_object, raise_bare, type_error};
use crate::cpython::method::{Args, attribute, function, method};
use crate::cpython::native::{self, Fields, NativeClass};
use crate::cpython::object::{check, truth};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{
    Native, NativeSlot, Object, Owned, OwnedNative, Raised, Res, Slot, imports, names, none,
};
use crate::future::kinds::Waiter;
use crate::future::watch::{self, Arrived, Watcher};
use crate::future::{self, Future};
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;
use crate::sleep::start_timer;
use crate::sync::Queue;
use crate::{handle, sync, task};

// ---- the iterator ----

/// One `as_completed` call, the watcher of its futures.
struct Completed {
    /// A `Queue` of futures that are done and not yet given out. `None` in it stands for a future
    /// that missed the timeout.
    done: NativeSlot<Queue>,
    /// The set of futures that are not done.
    todo: Slot,
    timer: Slot,
    /// The calling task, if links between futures are kept.
    task: Slot,
    /// The number of futures not yet given out.
    left: Cell<usize>,
    arrived: Arrived,
}

// SAFETY: all-zero fields are valid.
unsafe impl Fields for Completed {}

// SAFETY: every object reference is visited.
unsafe impl Collected for Completed {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        for slot in [self.done.slot(), &self.todo, &self.timer, &self.task] {
            see(slot);
        }
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.arrived.for_each(see);
    }

    fn release_others(&self) {
        self.arrived.clear();
    }
}

static CLASS: native::Class = native::Class::new();

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for Completed {
    fn class() -> &'static native::Class {
        &CLASS
    }
}

// SAFETY: a class of watchers.
unsafe impl Waiter for Completed {}

impl Watcher for Native<Completed> {
    fn name(&self, _: &Object) -> &'static str {
        if cfg!(Py_3_13) {
            "_AsCompletedIterator._handle_completion"
        } else {
            "as_completed.<locals>._on_completion"
        }
    }

    fn note(&self, _: &Object) -> Res<Option<bool>> {
        Ok(Some(false))
    }

    fn act(&self, future: &Object, _: bool) -> Res<()> {
        completed(self, future)
    }

    fn arrived(&self) -> &Arrived {
        &self.arrived
    }
}

impl Completed {
    fn has_todo(&self) -> bool {
        // SAFETY: a live object; the C API checks that it is a set.
        self.todo
            .get()
            .is_some_and(|todo| unsafe { ffi::PySet_Size(todo.as_ptr()) > 0 })
    }

    fn cancel_timer(&self) -> Res<()> {
        match self.timer.cloned() {
            Some(timer) => handle::cancel_any(&timer),
            None => Ok(()),
        }
    }
}

/// Handles a future that is done, when the watcher's item runs.
fn completed(this: &Completed, future: &Object) -> Res<()> {
    if !this.has_todo() {
        return Ok(()); // the timeout has already passed
    }
    if let Some(task) = this.task.cloned() {
        unlink(future, Some(&task))?;
    }
    let todo = this.todo.or_none();
    // SAFETY: live objects; the C API checks that `todo` is a set.
    truth(unsafe { ffi::PySet_Discard(todo.as_ptr(), future.as_ptr()) })?;
    if let Some(done) = this.done.cloned() {
        sync::put_item(&done, future)?;
    }
    if this.has_todo() {
        return Ok(());
    }
    this.cancel_timer()
}

/// Handles the timeout: each future that is not done gives a `TimeoutError`.
fn handle_timeout(iterator: &Native<Completed>) -> Res<Owned> {
    let (todo, done) = (iterator.todo.or_none(), iterator.done.cloned());
    let task = iterator.task.cloned();
    for_each(&todo, |future| {
        watch::remove(future, iterator)?;
        unlink(future, task.as_deref())?;
        match &done {
            Some(done) => sync::put_item(done, none()).map(drop),
            None => Ok(()),
        }
    })?;
    // SAFETY: a live object; the C API checks that it is a set.
    check(unsafe { ffi::PySet_Clear(todo.as_ptr()) })?;
    Ok(Owned::none())
}

/// Calls `f` with each item of an iterable.
fn for_each(iterable: &Object, mut f: impl FnMut(&Object) -> Res<()>) -> Res<()> {
    // SAFETY: live objects; `PyIter_Next` returns null without an exception at the end.
    unsafe {
        let iterator = Owned::steal(ffi::PyObject_GetIter(iterable.as_ptr()))?;
        while let Ok(item) = Owned::steal(ffi::PyIter_Next(iterator.as_ptr())) {
            f(&item)?;
        }
        if ffi::PyErr_Occurred().is_null() {
            Ok(())
        } else {
            Err(Raised)
        }
    }
}

/// `ensure_future(awaitable, loop=event_loop)`.
fn ensure_future(event_loop: &Object, core: &LoopCore, awaitable: &Object) -> Res<Owned> {
    if let Some(future) = awaitable.exact::<Future>() {
        let theirs = future.event_loop();
        if theirs.is_some_and(|theirs| theirs.is(event_loop)) {
            return Ok(awaitable.own());
        }
    } else if core.makes_tasks_directly()
        && (is_awaitable(awaitable)
            || ptr::eq(awaitable.type_ptr(), imports().coroutine_type.as_type_ptr()))
    {
        let task = task::new_task(event_loop, awaitable, None, None, false)?;
        return Ok(task.into_owned());
    }
    waits_imports()
        .ensure_future
        .call_with(&[awaitable, event_loop], Some(&imports().kw_loop))
}

fn new(core: &LoopCore, passed: &Object, timeout: &Object) -> Res<OwnedNative<Completed>> {
    let event_loop = core.object();
    // SAFETY: all-zero fields are valid.
    let iterator = unsafe { OwnedNative::<Completed>::new(allocate(CLASS.as_ptr())?) };
    iterator.done.set(sync::new_queue()?);
    if waits_imports().quirks.as_completed_links {
        drop(iterator.task.replace(current_task(event_loop)?));
    }
    // SAFETY: live objects, or null for an empty set; a non-iterable raises `TypeError`.
    let (each_once, todo) = unsafe {
        (
            Owned::steal(ffi::PySet_New(passed.as_ptr()))?,
            Owned::steal(ffi::PySet_New(ptr::null_mut()))?,
        )
    };
    for_each(&each_once, |awaitable| {
        let future = ensure_future(event_loop, core, awaitable)?;
        // SAFETY: a set that no other code has seen, and a live object.
        check(unsafe { ffi::PySet_Add(todo.as_ptr(), future.as_ptr()) })
    })?;
    let task = iterator.task.cloned();
    for_each(&todo, |future| {
        watch::add(future, &iterator)?;
        link(future, task.as_deref())
    })?;
    // SAFETY: `todo` is a set.
    let count = unsafe { ffi::PySet_Size(todo.as_ptr()) } as usize;
    if count > 0 && !timeout.is_none() {
        let late = iterator
            .object()
            .getattr(&*Owned::from_str("_handle_timeout")?)?;
        iterator
            .timer
            .set(start_timer(event_loop, timeout, &late, &[])?);
    }
    iterator.todo.set(todo);
    iterator.left.set(count);
    Ok(iterator)
}

// ---- the awaitables ----

awaitable_class!(ONE, 128);

/// Waits for the next future that finishes.
struct One {
    iterator: NativeSlot<Completed>,
    /// Whether it gives the future (`async for`) or the future's result.
    is_async: Cell<bool>,
}

impl Steps for One {
    fn name(&self) -> &'static str {
        match self.is_async.get() {
            true => "_AsCompletedIterator.__anext__",
            false if cfg!(Py_3_13) => "_AsCompletedIterator._wait_for_one",
            false => "as_completed.<locals>._wait_for_one",
        }
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let Some(this) = self.iterator.cloned() else {
            return Ok(Next::Return(Owned::none()));
        };
        match awaited {
            None => {
                if self.is_async.get() {
                    if this.left.get() == 0 {
                        // SAFETY: a built-in class lives as long as the interpreter.
                        return raise_bare(unsafe {
                            Object::from_ptr(ffi::PyExc_StopAsyncIteration)
                        });
                    }
                    this.left.set(this.left.get() - 1);
                }
                let Some(queue) = this.done.cloned() else {
                    return Ok(Next::Return(Owned::none()));
                };
                if sync::is_empty(&queue)? {
                    return Ok(Next::Await(iterator_of(&*sync::wait_for_item(&queue)?)?));
                }
                self.give(&*sync::get_item(&queue)?)
            }
            Some(Ok(item)) => self.give(&item),
            Some(Err(Raised)) => {
                if waits_imports().quirks.as_completed_gives_back {
                    this.left.set(this.left.get() + 1);
                }
                Err(Raised)
            }
        }
    }

    fn release(&self) {
        self.iterator.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.iterator.slot());
    }

    fn class() -> &'static Class {
        &ONE
    }
}

impl One {
    fn give(&self, item: &Object) -> Res<Next> {
        if item.is_none() {
            // SAFETY: a built-in class lives as long as the interpreter.
            return raise_bare(unsafe { Object::from_ptr(ffi::PyExc_TimeoutError) });
        }
        Ok(Next::Return(if self.is_async.get() {
            item.own()
        } else if let Some(future) = item.exact::<Future>() {
            future::take_result(future)?
        } else {
            item.call_method(&names().result, &[])?
        }))
    }
}

fn one(iterator: &Native<Completed>, is_async: bool) -> Res<Owned> {
    make::<One>(|one| {
        one.iterator.set(iterator.own());
        one.is_async.set(is_async);
    })
}

// ---- what Python sees ----

unsafe extern "C" fn iternext(iterator: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    let iterator = unsafe { Native::<Completed>::from_ptr(iterator) };
    if iterator.left.get() == 0 {
        return ptr::null_mut(); // exhausted
    }
    iterator.left.set(iterator.left.get() - 1);
    guard_object(|| one(iterator, false))
}

unsafe extern "C" fn anext(iterator: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    let iterator = unsafe { Native::from_ptr(iterator) };
    guard_object(|| one(iterator, true))
}

fn get_done(iterator: &Native<Completed>) -> Res<Owned> {
    Ok(iterator.done.slot().or_none())
}

fn get_todo(iterator: &Native<Completed>) -> Res<Owned> {
    Ok(iterator.todo.or_none())
}

fn get_left(iterator: &Native<Completed>) -> Res<Owned> {
    Owned::from_u64(iterator.left.get() as u64)
}

fn get_timer(iterator: &Native<Completed>) -> Res<Owned> {
    Ok(iterator.timer.or_none())
}

/// Raises `TypeError` if a single future or coroutine was passed instead of an iterable.
fn check_passed(passed: &Object) -> Res<()> {
    // SAFETY: a live object.
    let usual = unsafe {
        ffi::PyList_CheckExact(passed.as_ptr()) != 0
            || ffi::PyTuple_CheckExact(passed.as_ptr()) != 0
            || ffi::PyAnySet_CheckExact(passed.as_ptr()) != 0
    };
    if usual {
        return Ok(());
    }
    let (refused, what) = if cfg!(Py_3_13) {
        let refused = waits_imports().isawaitable.call(&[passed])?.is_true()?;
        (refused, "expects an iterable of awaitables")
    } else {
        let refused = waits_imports().isfuture.call(&[passed])?.is_true()?
            || imports().iscoroutine.call(&[passed])?.is_true()?;
        (refused, "expect an iterable of futures")
    };
    if refused {
        return type_error(&format!("{what}, not {}", passed.class_name()?));
    }
    Ok(())
}

/// `as_completed(fs, *, timeout=None)`; up to 3.12, a Python generator wraps this function.
fn as_completed(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [passed, timeout] = parse_one("as_completed", ["fs", "timeout"], args)?;
    let event_loop = running_loop()?;
    let Some(core) = LoopCore::of(&event_loop) else {
        return waits_imports().stock_as_completed.call_all(args);
    };
    let passed = passed.unwrap_or(none());
    check_passed(passed)?;
    new(core, passed, timeout.unwrap_or(none())).map(OwnedNative::into_owned)
}

/// Makes the classes and the function, which is returned under the names that the module exports.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let class = TypeBuilder::new::<Completed>(
        c"rondel._rondel._AsCompletedIterator",
        None,
        Completed::offset(),
    )
    .not_instantiable()
    .slot(
        ffi::Py_tp_iter,
        slot_fn!(ffi::PyObject_SelfIter, ffi::getiterfunc),
    )
    .slot(ffi::Py_tp_iternext, slot_fn!(iternext, ffi::iternextfunc))
    .slot(
        ffi::Py_am_aiter,
        slot_fn!(ffi::PyObject_SelfIter, ffi::unaryfunc),
    )
    .slot(ffi::Py_am_anext, slot_fn!(anext, ffi::unaryfunc))
    .methods([method!(noargs c"_handle_timeout" handle_timeout,
        c"Time is up: whatever is not done counts as late.")])
    .getset([
        attribute!(c"_done" get_done),
        attribute!(c"_todo" get_todo),
        attribute!(c"_todo_left" get_left),
        attribute!(c"_timeout_handle" get_timer),
    ])
    .collected::<Completed>()
    .build()?;
    CLASS.set(&class);
    // SAFETY: the class was made for these fields.
    unsafe { watch::register::<Completed>(&class) };
    init_awaitable::<One>(c"rondel._rondel.NextCompleted")?;
    let made = function(
        method!(fast c"as_completed(fs, *, timeout=None)" as_completed,
        c"Iterates over awaitables in the order in which they are done."),
    )?;
    let mut names = vec![("_as_completed", made.clone())];
    if cfg!(Py_3_13) {
        names.push(("as_completed", made));
    }
    Ok(names)
}
