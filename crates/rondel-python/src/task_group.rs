//! `TaskGroup`: the code that runs for each task of a group. The code that runs once per group is
//! asyncio's own.
//!
//! The class that user code sees derives from two classes. The native one keeps the state and has
//! `create_task` and `_on_task_done`. asyncio's `TaskGroup` provides `__aenter__`, `__aexit__` and
//! `_abort`, which work on that state. The less common cases (a child fails, the group is not
//! active, tasks are made in another way) are also handled by asyncio's methods, so that each
//! version's rules hold.
//!
//! A child of a group gets no callback with a handle: the group watches it (`future/watch.rs`),
//! which calls [`child_done`].

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;

use pyo3::ffi;

use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::guard;
use crate::cpython::method::{Args, GetSet, Method, attribute, method, with_tuple_and_dict};
use crate::cpython::names::{import_from, imported, names};
use crate::cpython::native::{Class, Fields, NativeClass};
use crate::cpython::object::{check, truth};
use crate::cpython::python_class::make_class;
use crate::cpython::stock_code::{self, code_of, get};
use crate::cpython::types::{TypeBuilder, slot_fn};
use crate::cpython::{Native, Object, Owned, OwnedNative, Res, Slot};
use crate::future::kinds::Waiter;
use crate::future::watch::{self, Arrived, Watcher};
use crate::future::{self, State, any};
use crate::loop_core::LoopCore;
use crate::task::functions::CREATE_TASK;
use crate::task::{self, Task};
use crate::waits::awaited_by;

/// The fields of a group, under asyncio's names.
#[repr(C)]
struct TaskGroup {
    entered: Cell<bool>,
    exiting: Cell<bool>,
    aborting: Cell<bool>,
    parent_cancel_requested: Cell<bool>,
    /// Whether user code has replaced a method that is called from here.
    patched: Cell<bool>,
    event_loop: Slot,
    parent_task: Slot,
    /// A set.
    tasks: Slot,
    /// A list; `None` after the group has ended.
    errors: Slot,
    base_error: Slot,
    on_completed: Slot,
    arrived: Arrived,
}

// SAFETY: the fields are behind the object header; zeroed ones are valid.
unsafe impl Fields for TaskGroup {}

// SAFETY: every object reference is visited.
unsafe impl Collected for TaskGroup {
    slots!(
        event_loop,
        parent_task,
        tasks,
        errors,
        base_error,
        on_completed
    );

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.arrived.for_each(see);
    }

    fn release_others(&self) {
        self.arrived.clear();
    }
}

imported! {
    fn stock() -> Stock {
        class: "asyncio.taskgroups" "TaskGroup",
    } and {
        init: Owned = stock_method("__init__")?,
        create_task: Owned = stock_method("create_task")?,
        on_task_done: Owned = stock_method("_on_task_done")?,
        /// Whether asyncio's `__init__` sets attributes that are not kept here.
        inits_more: bool = stock_code::look(true, || inits_more(&*stock_method("__init__")?))?,
    }
}

fn stock_method(name: &str) -> Res<Owned> {
    get(&*import_from("asyncio.taskgroups", "TaskGroup")?, name)
}

/// The native base of the class that user code sees.
static BASE: Class = Class::new();
/// The class that user code sees.
static CLASS: Class = Class::new();

// SAFETY: the base is made for these fields, and all other classes derive from it. (`is_exact` is
// for the class that user code sees: nothing is overridden in its instances.)
unsafe impl NativeClass for TaskGroup {
    fn class() -> &'static Class {
        &BASE
    }

    #[inline]
    fn is_exact(object: &Object) -> bool {
        CLASS.is_exact(object)
    }
}

// SAFETY: a class of watchers.
unsafe impl Waiter for TaskGroup {}

/// The group as a watcher of its tasks.
impl Watcher for Native<TaskGroup> {
    fn name(&self, _: &Object) -> &'static str {
        "TaskGroup._on_task_done"
    }

    /// The bound method `_on_task_done`, which does the same as [`child_done`]. Foreign loops call
    /// it, and it is what `_callbacks` shows.
    fn method(&self) -> Option<Res<Owned>> {
        Some(self.object().getattr(&names().on_task_done))
    }

    fn note(&self, _: &Object) -> Res<Option<bool>> {
        Ok(Some(true))
    }

    fn act(&self, child: &Object, _: bool) -> Res<()> {
        child_done(self, child)
    }

    fn arrived(&self) -> &Arrived {
        &self.arrived
    }
}

unsafe extern "C" fn init(
    group: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        let group = unsafe {
            with_tuple_and_dict(args, kwargs, |args| {
                let [] = args.parse("TaskGroup.__init__", [], 0, 0)?;
                Ok(())
            })?;
            Native::<TaskGroup>::from_ptr(group)
        };
        let this: &TaskGroup = group;
        for flag in [
            &this.entered,
            &this.exiting,
            &this.aborting,
            &this.parent_cancel_requested,
        ] {
            flag.set(false);
        }
        for slot in [
            &this.event_loop,
            &this.parent_task,
            &this.base_error,
            &this.on_completed,
        ] {
            slot.clear();
        }
        // SAFETY: the GIL is held.
        this.tasks
            .set(unsafe { Owned::steal(ffi::PySet_New(ptr::null_mut()))? });
        this.errors.set(Owned::list()?);
        if stock().inits_more {
            stock().init.call(&[group.object()])?;
        }
        Ok(0)
    })
}

impl TaskGroup {
    /// The set of tasks; `None` if user code has assigned something else.
    #[inline]
    fn set_of_tasks(&self) -> Option<Owned> {
        // SAFETY: a live object.
        let is_set = |tasks: &Owned| unsafe { ffi::PySet_Check(tasks.as_ptr()) != 0 };
        self.tasks.cloned().filter(is_set)
    }
}

#[inline]
fn set_len(set: &Object) -> isize {
    // SAFETY: guaranteed by `set_of_tasks`, which checks that it is a set.
    unsafe { ffi::PySet_Size(set.as_ptr()) }
}

/// `create_task(coro, *, name=None, context=None)`.
fn create_task(group: &Native<TaskGroup>, args: Args<'_>) -> Res<Owned> {
    match create_plainly(group, args)? {
        Some(task) => Ok(task.into_owned()),
        None => {
            let (items, kwnames) = args.behind(group.object());
            stock().create_task.call_with(&items, kwnames)
        }
    }
}

/// Handles the common case: an active group, on a Rondel loop that makes its tasks itself. Returns
/// `None` otherwise.
#[inline]
fn create_plainly(group: &Native<TaskGroup>, args: Args<'_>) -> Res<Option<OwnedNative<Task>>> {
    let this: &TaskGroup = group;
    let ([coroutine], Some(options)) = (args.positional(), task::functions::Options::parse(args))
    else {
        return Ok(None);
    };
    let (Some(event_loop), Some(tasks)) = (this.event_loop.cloned(), this.set_of_tasks()) else {
        return Ok(None);
    };
    if !this.entered.get()
        || this.aborting.get()
        || (this.exiting.get() && set_len(&tasks) == 0)
        || !TaskGroup::is_exact(group.object())
        || this.patched.get()
        || options.eager_start.is_some()
    {
        return Ok(None);
    }
    let Some(task) = task::functions::create_directly(&event_loop, coroutine, &options)? else {
        return Ok(None);
    };
    // SAFETY: `set_of_tasks` checks that it is a set; the task is alive.
    check(unsafe { ffi::PySet_Add(tasks.as_ptr(), task.as_ptr()) })?;
    if awaited_by::are_kept() {
        awaited_by::link(task.object(), this.parent_task.cloned().as_deref())?;
    }
    future::add_waiter(task.as_future(), group)?;
    Ok(Some(task))
}

/// `_on_task_done(task)`.
fn on_task_done(group: &Native<TaskGroup>, child: &Object) -> Res<Owned> {
    child_done(group, child)?;
    Ok(Owned::none())
}

/// Handles a child that is done. Calls asyncio's own method except in the common case.
#[inline]
fn child_done(group: &Native<TaskGroup>, child: &Object) -> Res<()> {
    let this: &TaskGroup = group;
    let stock = stock();
    let succeeded = |task: &Native<Task>| {
        let base = task.as_future();
        base.state() == State::Cancelled || (base.is_done() && !base.has_failed())
    };
    let plain = child.exact::<Task>().is_some_and(succeeded);
    let (true, Some(tasks)) = (plain, this.set_of_tasks()) else {
        // This is a callback, not a task's step, and it runs user code, which must see no current
        // task.
        if let Some(core) = this.event_loop.get().and_then(LoopCore::of) {
            core.leave_task();
        }
        return stock.on_task_done.call(&[group.object(), child]).map(drop);
    };
    // SAFETY: `set_of_tasks` checks that it is a set; the child is alive.
    truth(unsafe { ffi::PySet_Discard(tasks.as_ptr(), child.as_ptr()) })?;
    let left = set_len(&tasks);
    if awaited_by::are_kept() {
        awaited_by::unlink(child, this.parent_task.cloned().as_deref())?;
    }
    if left != 0 {
        return Ok(());
    }
    let Some(completed) = this.on_completed.cloned() else {
        return Ok(());
    };
    if let Some(completed) = future::plain(&completed) {
        if !completed.is_done() {
            future::finish(completed, Owned::from_bool(true))?;
        }
        return Ok(());
    }
    match any::is_done(&completed)? {
        true => Ok(()),
        false => any::set_result(&completed, &Owned::from_bool(true)),
    }
}

/// `tp_setattro`: notes if user code replaces a method that is called from here.
unsafe extern "C" fn setattro(
    group: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        let (result, group, name) = unsafe {
            (
                ffi::PyObject_GenericSetAttr(group, name, value),
                Native::<TaskGroup>::from_ptr(group),
                Object::from_ptr(name),
            )
        };
        let names = names();
        let called: [&Object; 3] = [&names.abort_attr, &names.is_base_error, &names.on_task_done];
        if called.iter().any(|method| method.is(name)) {
            group.patched.set(true);
        }
        Ok(result)
    })
}

// ---- the state under asyncio's names ----

macro_rules! flag {
    ($field:ident, $get:ident, $set:ident) => {
        fn $get(group: &Native<TaskGroup>) -> Res<Owned> {
            Ok(Owned::from_bool(group.$field.get()))
        }

        fn $set(group: &Native<TaskGroup>, value: Option<&Object>) -> Res<()> {
            let on = value.map_or(Ok(false), Object::is_true)?;
            group.$field.set(on);
            Ok(())
        }
    };
}

macro_rules! field {
    ($field:ident, $get:ident, $set:ident) => {
        fn $get(group: &Native<TaskGroup>) -> Res<Owned> {
            Ok(group.$field.or_none())
        }

        fn $set(group: &Native<TaskGroup>, value: Option<&Object>) -> Res<()> {
            let value = value.filter(|value| !value.is_none()).map(Object::own);
            drop(group.$field.replace(value));
            Ok(())
        }
    };
}

flag!(entered, get_entered, set_entered);
flag!(exiting, get_exiting, set_exiting);
flag!(aborting, get_aborting, set_aborting);
flag!(
    parent_cancel_requested,
    get_parent_cancel_requested,
    set_parent_cancel_requested
);
field!(event_loop, get_loop, set_loop);
field!(parent_task, get_parent_task, set_parent_task);
field!(tasks, get_tasks, set_tasks);
field!(errors, get_errors, set_errors);
field!(base_error, get_base_error, set_base_error);
field!(on_completed, get_on_completed, set_on_completed);

const KEPT: [&str; 10] = [
    "_entered",
    "_exiting",
    "_aborting",
    "_parent_cancel_requested",
    "_loop",
    "_parent_task",
    "_tasks",
    "_errors",
    "_base_error",
    "_on_completed_fut",
];

fn attributes() -> [GetSet; KEPT.len()] {
    [
        attribute!(c"_entered" get_entered, set_entered),
        attribute!(c"_exiting" get_exiting, set_exiting),
        attribute!(c"_aborting" get_aborting, set_aborting),
        attribute!(c"_parent_cancel_requested" get_parent_cancel_requested, set_parent_cancel_requested),
        attribute!(c"_loop" get_loop, set_loop),
        attribute!(c"_parent_task" get_parent_task, set_parent_task),
        attribute!(c"_tasks" get_tasks, set_tasks),
        attribute!(c"_errors" get_errors, set_errors),
        attribute!(c"_base_error" get_base_error, set_base_error),
        attribute!(c"_on_completed_fut" get_on_completed, set_on_completed),
    ]
}

fn methods() -> [Method; 2] {
    [
        method!(fast CREATE_TASK create_task,
            c"Creates a task of the group from a coroutine."),
        method!(onearg c"_on_task_done(task, /)" on_task_done, c"A task of the group is done."),
    ]
}

/// Whether asyncio's `__init__` sets an attribute that is not kept here.
fn inits_more(init: &Object) -> Res<bool> {
    let names = get(&*code_of(init)?, "co_names")?;
    for index in 0..crate::cpython::object::tuple_len(&names) {
        let name = crate::cpython::object::tuple_item(&names, index).to_text()?;
        if name.starts_with('_') && !KEPT.contains(&name.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the class.
pub(crate) fn init_type() -> Res<Owned> {
    Stock::fill()?;
    let offset = TaskGroup::offset();
    let native = TypeBuilder::new::<TaskGroup>(c"rondel._rondel.TaskGroup", None, offset)
        .subclassable()
        .slot(ffi::Py_tp_init, slot_fn!(init, ffi::initproc))
        .slot(ffi::Py_tp_setattro, slot_fn!(setattro, ffi::setattrofunc))
        .collected::<TaskGroup>()
        .methods(methods())
        .getset(attributes())
        .build()?;
    BASE.set(&native);
    let class = make_class(
        "TaskGroup()",
        "Waits for a group of tasks, as asyncio.TaskGroup.",
        &[&native, &stock().class],
        &methods(),
    )?;
    CLASS.set(&class);
    // SAFETY: the class derives from the native one.
    unsafe { watch::register::<TaskGroup>(&class) };
    Ok(class)
}
