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
use crate::cpython::flags::Flags;
use crate::cpython::freelist::free_list;
use crate::cpython::types::{allocate, is_fresh};
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, OwnedNative, Res, Slot, context, imports,
    names,
};
use crate::future::asyncio_part::{self, AsyncioPart};
use crate::future::kinds::{Cancellable, TASK, TaskClass, Waiter};
use crate::future::{self, Future};
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
    flags: Flags<u8>,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

free_list!(FREE, 256);

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

// SAFETY: the class of tasks.
unsafe impl Waiter for Task {}

impl Cancellable for Task {
    fn cancel(task: &Native<Self>, message: Option<&Object>) -> Res<bool> {
        cancel(task, message)
    }
}

impl TaskClass for Task {
    fn wakeup_callable(task: &Native<Self>) -> Res<Owned> {
        methods::wakeup_callable(task)
    }

    fn context(task: &Native<Self>) -> Owned {
        context_of(task)
    }
}

impl Native<Task> {
    /// The task as a future.
    #[inline]
    pub(crate) fn as_future(&self) -> &Native<Future> {
        // SAFETY: the fields of a future precede a task's own.
        unsafe { self.object().known() }
    }

    /// asyncio's part of the task.
    #[inline]
    pub(crate) fn asyncio_part(&self) -> &Native<AsyncioPart> {
        self.as_future().asyncio_part()
    }
}

impl OwnedNative<Task> {
    /// The task as a future.
    #[inline]
    pub(crate) fn into_future(self) -> OwnedNative<Future> {
        // SAFETY: as in `as_future`.
        unsafe { OwnedNative::new(self.into_owned()) }
    }
}

/// `Task(coroutine, loop=event_loop, name=name, context=context, eager_start=eager_start)`.
#[inline]
pub(crate) fn new_task(
    event_loop: &Object,
    coroutine: &Object,
    name: Option<&Object>,
    context: Option<&Object>,
    eager_start: bool,
) -> Res<OwnedNative<Task>> {
    let class = TASK.class.as_ptr();
    let object = match FREE.with(|list| list.revive(class, true)) {
        Some(object) => object,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    // SAFETY: an instance of the class.
    let task = unsafe { OwnedNative::new(object) };
    init(&task, event_loop, coroutine, name, context, eager_start)?;
    Ok(task)
}

/// What `__init__` does.
#[inline]
fn init(
    task: &Native<Task>,
    event_loop: &Object,
    coroutine: &Object,
    name: Option<&Object>,
    context: Option<&Object>,
    eager_start: bool,
) -> Res<()> {
    future::init(task.as_future(), event_loop)?;
    let this: &Task = task;
    this.flags.set_all(NO_DESTROY_LOG);
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
        asyncio_part::show_task(task.asyncio_part(), coroutine, this.name_or_number()?);
    }
    this.waits_for.clear();
    this.pending_exception.clear();
    this.cancels_requested.set(0);
    this.flags.set_all(0);
    if eager_start {
        let running = match core {
            Some(core) => core.is_running(),
            None => event_loop
                .call_method(&names().is_running, &[])?
                .is_true()?,
        };
        if running {
            return step::start_eagerly(task, event_loop);
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
fn schedule_step(task: &Native<Task>, event_loop: &Object) -> Res<()> {
    if let Some(core) = LoopCore::of(event_loop)
        && core.calls_directly()
    {
        check_step(core)?;
        return core.push(Kind::Step, task.object().own());
    }
    let context = context_of(task);
    call_soon(event_loop, &*methods::step_callable(task)?, &[], &context)
}

/// Suppresses the report that a task was destroyed while it was pending.
pub(crate) fn keep_quiet(task: &Task) {
    task.flags.set(NO_DESTROY_LOG, true);
}

/// `Task.set_name`.
pub(crate) fn set_name(task: &Native<Task>, name: &Object) -> Res<()> {
    let name = name.str()?;
    asyncio_part::show_name(task.asyncio_part(), &name);
    task.name.set(name);
    Ok(())
}

/// The context that a task runs in.
pub(crate) fn context_of(task: &Task) -> Owned {
    task.context.or_none()
}

/// `Task.cancel`.
pub(crate) fn cancel(task: &Native<Task>, message: Option<&Object>) -> Res<bool> {
    let (this, base): (&Task, &Future) = (task, task.as_future());
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
    this.flags.set(MUST_CANCEL, true);
    base.set_cancel_message(message);
    Ok(true)
}

/// `Task.cancelling`.
#[inline]
pub(crate) fn cancelling(task: &Task) -> u32 {
    task.cancels_requested.get()
}

/// `Task.uncancel`.
pub(crate) fn uncancel(this: &Task) -> u32 {
    let requested = this.cancels_requested.get();
    if requested > 0 {
        this.cancels_requested.set(requested - 1);
        // From 3.13 on this also revokes a cancellation that has not been delivered yet.
        if cfg!(Py_3_13) && requested == 1 {
            this.flags.set(MUST_CANCEL, false);
        }
    }
    this.cancels_requested.get()
}

impl Task {
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
fn finalize(task: &Native<Task>) -> Res<()> {
    let (this, base): (&Task, _) = (task, task.as_future());
    #[cfg(not(Py_3_14))]
    if untracked::is_collecting() {
        // The collector has already cleared weak references, so asyncio's `WeakSet` would no longer
        // contain the task.
        this.node.unlink();
    }
    if !base.is_done()
        && !this.flags.has(NO_DESTROY_LOG)
        && let Some(event_loop) = base.event_loop().map(Object::own)
    {
        let context = Owned::dict()?;
        context.set_item(c"task", task.object())?;
        context.set_item(
            c"message",
            &*Owned::from_str("Task was destroyed but it is pending!")?,
        )?;
        if let Some(traceback) = base.source_traceback() {
            context.set_item(c"source_traceback", &traceback)?;
        }
        event_loop.call_method(&names().call_exception_handler, &[&*context])?;
    }
    future::finalize(base)
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
        asyncio_part::clear_task(this.asyncio_part());
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
        !TASK.is_exact(this.object()) || !base.is_done() || base.logs_traceback()
    }

    #[inline]
    fn dies(this: &Native<Self>) {
        all_tasks::unregister(this);
        give_context_back(this);
    }

    #[inline]
    unsafe fn keep(object: *mut ffi::PyObject) -> bool {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let this = Native::<Self>::from_ptr(object);
            this.as_future().renew();
            this.flags.set_all(0);
            TASK.is_exact(this.object()) && is_fresh(object) && FREE.with(|list| list.keep(object))
        }
    }

    fn finalize(task: &Native<Self>) -> Res<()> {
        finalize(task)
    }
}

/// Gives the context of a deallocated task to its loop, if that runs. The next task may reuse it.
#[inline]
fn give_context_back(task: &Native<Task>) {
    if let Some(core) = task.as_future().event_loop().and_then(LoopCore::of)
        && core.is_running()
        && let Some(context) = task.context.take()
    {
        core.contexts.give_back_dying(context);
    }
}
