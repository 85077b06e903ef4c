//! `Task`: a coroutine that the loop runs.
//!
//! A task is a future (a future's fields, followed by its own) that steps its coroutine. While it
//! is queued, the ready ring owns a reference to the task itself; while it waits for a native
//! future, that future does.
//!
//! | file | what it has |
//! |---|---|
//! | `step.rs` | one step: runs the coroutine and handles what it yields |
//! | `all_tasks.rs` | the registry that `asyncio.all_tasks()` reads |
//! | `functions.rs` | `create_task`, `ensure_future`, `eager_task_factory` |
//! | `methods.rs` | methods, attributes, the class |

pub(crate) mod all_tasks;
pub(crate) mod functions;
mod methods;
mod step;

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::ffi;

use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::type_error;
use crate::cpython::freelist::free_list;
use crate::cpython::types::{allocate, is_fresh};
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, Res, Slot, context, imports, names,
};
use crate::future::kinds::TASK;
use crate::future::{self, Future, asyncio_part};
use crate::handle::call_soon;
use crate::loop_core::LoopCore;
use crate::loop_core::check_step;
use crate::loop_core::item::Kind;
#[cfg(not(Py_3_14))]
use crate::loop_core::task_list::Node;
#[cfg(not(Py_3_14))]
use crate::untracked;

pub(crate) use methods::init_type;
pub(crate) use step::step;

const MUST_CANCEL: u8 = 1;
/// Not logged if it is destroyed while it is pending.
const NO_DESTROY_LOG: u8 = 2;

/// A task's fields, behind those of its future. All-zero fields are a valid, uninitialized task.
#[repr(C)]
pub(crate) struct Task {
    #[cfg(not(Py_3_14))]
    node: Node,
    coroutine: Slot,
    context: Slot,
    /// The future that the task waits for.
    waits_for: Slot,
    /// Thrown into the coroutine at the next step.
    pending_exception: Slot,
    /// Empty while the name is `Task-<number>` and has not been read.
    name: Slot,
    number: Cell<u64>,
    cancels_requested: Cell<u32>,
    flags: Cell<u8>,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

free_list!(FREE, 256);

/// Whether an object is exactly a `rondel.Task`.
#[inline]
pub(crate) fn is_exact(object: &Object) -> bool {
    TASK.is_exact(object)
}

/// Whether an object is a `rondel.Task` or an instance of a subclass.
#[cfg(not(Py_3_14))]
pub(crate) fn is_ours(object: &Object) -> bool {
    TASK.class.is_instance(object)
}

// SAFETY: the class is made with these fields behind those of a future.
unsafe impl Fields for Task {
    #[inline]
    fn offset() -> usize {
        Future::offset() + size_of::<Future>()
    }
}

// SAFETY: as above.
unsafe impl NativeClass for Task {
    #[inline]
    fn class() -> &'static Class {
        &TASK.class
    }
}

impl Native<Task> {
    /// The task as a future.
    #[inline]
    pub(crate) fn as_future(&self) -> &Native<Future> {
        // SAFETY: the fields of a future precede a task's own.
        unsafe { self.object().known() }
    }
}

/// The fields of `object`, which must be a native task.
#[inline]
pub(crate) fn fields(object: &Object) -> &Task {
    Task::of(object)
}

/// `Task(coroutine, loop=event_loop, name=name, context=context, eager_start=eager_start)`.
#[inline]
pub(crate) fn new_task(
    event_loop: &Object,
    coroutine: &Object,
    name: Option<&Object>,
    context: Option<&Object>,
    eager_start: bool,
) -> Res<Owned> {
    let class = TASK.class.as_ptr();
    let task = match FREE.with(|list| list.revive(class, true)) {
        Some(task) => task,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    init(&task, event_loop, coroutine, name, context, eager_start)?;
    Ok(task)
}

/// What `__init__` does.
#[inline]
fn init(
    task: &Object,
    event_loop: &Object,
    coroutine: &Object,
    name: Option<&Object>,
    context: Option<&Object>,
    eager_start: bool,
) -> Res<()> {
    future::init(task, event_loop)?;
    let this = fields(task);
    this.flags.set(NO_DESTROY_LOG);
    if !is_coroutine(coroutine)? {
        let text = coroutine.repr()?.to_text()?;
        return type_error(&format!("a coroutine was expected, got {text}"));
    }
    let core = LoopCore::of(event_loop);
    let context = match context.filter(|context| !context.is_none()) {
        Some(other) if imports().tasks_check_context && !context::is_context(other) => {
            let class = other.class_name()?;
            return type_error(&format!("a contextvars.Context was expected, got {class}"));
        }
        Some(context) => context.own(),
        None => match core {
            Some(core) => core.contexts.copy_current()?,
            None => context::copy_current()?,
        },
    };
    match name.filter(|name| !name.is_none()) {
        Some(name) => this.name.set(name.str()?),
        None => {
            this.name.clear();
            this.number.set(NEXT_NUMBER.fetch_add(1, Ordering::Relaxed));
        }
    }
    this.context.set(context);
    this.coroutine.set(coroutine.own());
    if cfg!(Py_3_14) {
        asyncio_part::show_task(task, coroutine, this.name_or_number()?);
    }
    this.waits_for.clear();
    this.pending_exception.clear();
    this.cancels_requested.set(0);
    this.flags.set(0);
    if eager_start {
        let running = match core {
            Some(core) => core.is_running(),
            None => event_loop
                .call_method(&names().is_running, &[])?
                .is_true()?,
        };
        if running {
            // SAFETY: `task` is a task that is being initialized.
            return step::start_eagerly(unsafe { task.known() }, event_loop);
        }
    }
    schedule_step(task, event_loop)?;
    all_tasks::register(task, event_loop)
}

#[inline]
fn is_coroutine(object: &Object) -> Res<bool> {
    if ptr::eq(object.type_ptr(), imports().coroutine_type.as_type_ptr())
        || crate::awaitable::is_awaitable(object)
    {
        return Ok(true);
    }
    imports().iscoroutine.call(&[object])?.is_true()
}

/// Queues the next step.
#[inline]
fn schedule_step(task: &Object, event_loop: &Object) -> Res<()> {
    if let Some(core) = LoopCore::of(event_loop)
        && core.calls_directly()
    {
        check_step(core)?;
        return core.push(Kind::Step, task.own());
    }
    let context = fields(task).context.or_none();
    call_soon(event_loop, &*methods::step_callable(task)?, &[], &context)
}

/// Suppresses the report that a task was destroyed while it was pending.
pub(crate) fn keep_quiet(task: &Object) {
    fields(task).set(NO_DESTROY_LOG, true);
}

/// `Task.set_name`.
pub(crate) fn set_name(task: &Object, name: &Object) -> Res<()> {
    let name = name.str()?;
    asyncio_part::show_name(task, &name);
    fields(task).name.set(name);
    Ok(())
}

/// The context that a task runs in.
pub(crate) fn context_of(task: &Object) -> Owned {
    fields(task).context.or_none()
}

/// `Task.cancel`.
pub(crate) fn cancel(task: &Object, message: Option<&Object>) -> Res<bool> {
    let (this, base) = (fields(task), future::fields(task));
    base.set_log_traceback(false);
    if base.is_done() {
        return Ok(false);
    }
    this.cancels_requested.set(this.cancels_requested.get() + 1);
    if let Some(awaited) = this.waits_for.cloned()
        && future::cancel_any(&awaited, message)?
    {
        // `waits_for` is kept: the awaited task may suppress this cancellation, and must be
        // cancelled again then.
        return Ok(true);
    }
    this.set(MUST_CANCEL, true);
    base.set_cancel_message(message);
    Ok(true)
}

/// `Task.cancelling`.
#[inline]
pub(crate) fn cancelling(task: &Object) -> u32 {
    fields(task).cancels_requested.get()
}

/// `Task.uncancel`.
pub(crate) fn uncancel(task: &Object) -> u32 {
    let this = fields(task);
    let requested = this.cancels_requested.get();
    if requested > 0 {
        this.cancels_requested.set(requested - 1);
        // From 3.13 on this also revokes a cancellation that has not been delivered yet.
        if cfg!(Py_3_13) && requested == 1 {
            this.set(MUST_CANCEL, false);
        }
    }
    this.cancels_requested.get()
}

impl Task {
    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    #[inline]
    fn set(&self, flag: u8, on: bool) {
        let rest = self.flags.get() & !flag;
        self.flags.set(if on { rest | flag } else { rest });
    }

    /// The name, or the number that stands for `Task-<number>`.
    fn name_or_number(&self) -> Res<Owned> {
        match self.name.cloned() {
            Some(name) => Ok(name),
            None => Owned::from_u64(self.number.get()),
        }
    }

    fn name(&self) -> Res<Owned> {
        if let Some(name) = self.name.cloned() {
            return Ok(name);
        }
        let name = Owned::from_str(&format!("Task-{}", self.number.get()))?;
        self.name.set(name.clone());
        Ok(name)
    }
}

// ---- life as an object ----

/// `__del__`: reports a task that is destroyed while it is pending.
fn finalize(task: &Object) -> Res<()> {
    let (this, base) = (fields(task), future::fields(task));
    #[cfg(not(Py_3_14))]
    if untracked::is_collecting() {
        // The collector has already cleared weak references, so asyncio's `WeakSet` would no longer
        // contain the task.
        this.node.unlink();
    }
    if !base.is_done()
        && !this.has(NO_DESTROY_LOG)
        && let Some(event_loop) = base.event_loop().map(Object::own)
    {
        let context = Owned::dict()?;
        context.set_item(c"task", task)?;
        context.set_item(
            c"message",
            &*Owned::from_str("Task was destroyed but it is pending!")?,
        )?;
        if let Some(traceback) = base.source_traceback() {
            context.set_item(c"source_traceback", &traceback)?;
        }
        event_loop.call_method(&names().call_exception_handler, &[&*context])?;
    }
    future::finalize(task)
}

// SAFETY: every object reference is visited.
unsafe impl Collected for Task {
    const FINALIZED: bool = true;

    slots!(coroutine, context, waits_for, pending_exception, name);

    /// asyncio's class, whose part of an instance holds the `__dict__`.
    fn base() -> Option<&'static Object> {
        Some(&imports().stock_task)
    }

    #[inline]
    fn release_others(&self) {
        #[cfg(not(Py_3_14))]
        self.node.unlink();
    }

    fn for_each_inherited(this: &Native<Self>, see: &mut dyn FnMut(&Object)) {
        this.as_future().for_each(see);
    }

    #[inline]
    fn release_inherited(this: &Native<Self>) {
        asyncio_part::clear_task(this.object());
        future::release(this.as_future());
    }

    #[inline]
    fn may_end_others(this: &Native<Self>) -> bool {
        let base = this.as_future();
        !base.is_done() || future::may_end_others(base)
    }

    #[inline]
    fn needs_finalizer(this: &Native<Self>) -> bool {
        let base = this.as_future();
        !is_exact(this.object()) || !base.is_done() || base.logs_traceback()
    }

    #[inline]
    fn dies(this: &Native<Self>) {
        all_tasks::unregister(this.object());
        give_context_back(this.object());
    }

    #[inline]
    unsafe fn keep(object: *mut ffi::PyObject) -> bool {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let this = Native::<Self>::from_ptr(object);
            this.as_future().renew();
            this.flags.set(0);
            is_exact(this.object()) && is_fresh(object) && FREE.with(|list| list.keep(object))
        }
    }

    fn finalize(task: &Native<Self>) -> Res<()> {
        finalize(task.object())
    }
}

/// Gives the context of a deallocated task to its loop, if that runs. The next task may reuse it.
#[inline]
fn give_context_back(task: &Object) {
    if let Some(core) = future::fields(task).event_loop().and_then(LoopCore::of)
        && core.is_running()
        && let Some(context) = fields(task).context.take()
    {
        core.contexts.give_back_dying(context);
    }
}
