//! Tasks: Rust futures that the event loop runs.
//!
//! A task is one allocation (`header.rs`, `cell.rs`). Its way: [`create_task`] puts it into the
//! loop's list of tasks (`list.rs`) and into the ready ring; [`step`] polls it; whoever is to wake
//! it holds a waker (`waker.rs`) or, on the loop's own thread, a [`Waiter`] (`waiter.rs`), both of
//! which lead to the ready ring again, from other threads through the inbox. When its future is
//! done the output takes the future's place, and the one who awaits the handle (`join.rs`) is
//! woken. `gather.rs` and `group.rs` await many; `end.rs` is how tasks end that don't end by
//! themselves.

mod builder;
mod catch;
mod cell;
mod completions;
mod end;
mod errors;
mod extra;
mod gather;
mod group;
mod header;
#[cfg(all(test, loom))]
mod interleavings;
mod join;
mod list;
mod memory;
mod scope;
mod wait;
mod waiter;
mod waker;

use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::ptr::NonNull;

use crate::context::copy_context;
use crate::runtime::{self, Runtime};
use crate::spans;

pub use builder::{TaskBuilder, build_task};
pub(crate) use catch::catch;
use end::cancel_now;
pub(crate) use end::{Ending, cancel_all};
pub(crate) use errors::panic_message;
pub use errors::{CancelledError, JoinError, Panic, TimeoutError};
pub(crate) use extra::Names;
pub use gather::{Gather, GatherFuture, GatherResults, TryGatherError, gather, try_gather};
pub use group::{ExceptionGroup, TaskFailure, TaskGroup, task_group};
use header::{CANCEL, COMPLETE, CONTEXT, HANDLE, MAIN, QUEUED};
pub(crate) use header::{Header, SentWake, TaskRef};
pub(crate) use join::name;
pub use join::{CancelHandle, Task, all_tasks, current_task};
pub(crate) use list::TaskList;
pub use scope::{ScopedTask, TaskScope, gather_scoped, task_scope, try_gather_scoped};
pub use wait::{AsCompleted, Awaitable, ReturnWhen, Shield, Wait, as_completed, shield, wait};
pub(crate) use waiter::Waiter;

/// Schedules a future to run on the current loop, soon, concurrently with whoever called.
///
/// The future need not be `Send`. It starts in the loop's next turn, after all that is ready
/// already. It runs to its end even if the handle is dropped, as long as the loop runs;
/// [`run`](crate::run) drops what is left at its end.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// rondel::run(async {
///     let task = rondel::create_task(async { 6 * 7 });
///     assert_eq!(task.await?, 42);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn create_task<F>(future: F) -> Task<F::Output>
where
    F: Future + 'static,
{
    let runtime = runtime::current();
    let task = if runtime.is_closing() {
        end::create_late(&runtime, future)
    } else {
        let task = cell::allocate(future, runtime.inbox_ptr(), HANDLE);
        inherit(&runtime, &task);
        spans::begin(&task);
        start(&runtime, &task);
        task
    };
    // SAFETY: the future's output is what the handle says.
    unsafe { Task::new::<F>(task) }
}

/// The task in which [`run`](crate::run) wraps its argument; the loop stops when it is complete.
///
/// # Safety
/// The future may borrow: the caller sees to it that the task is complete before the borrows end.
#[track_caller]
pub(crate) unsafe fn create_main_task<F: Future>(runtime: &Runtime, future: F) -> Task<F::Output> {
    let task = cell::allocate(future, runtime.inbox_ptr(), HANDLE | MAIN);
    inherit(runtime, &task);
    spans::begin(&task);
    start(runtime, &task);
    // SAFETY: the future's output is what the handle says.
    unsafe { Task::new::<F>(task) }
}

/// The task whose step runs.
pub(crate) fn current_header(runtime: &Runtime) -> Option<TaskRef> {
    let task = runtime.current_task.get()?;
    // SAFETY: whoever runs the step holds a reference, and this is its thread.
    Some(unsafe { TaskRef::borrow_raw(task) })
}

/// Gives a new task what it gets from whoever creates it: its context; in debug mode the place
/// where that is.
#[inline]
#[track_caller]
fn inherit(runtime: &Runtime, task: &TaskRef) {
    let has_context = match runtime.current_task.get() {
        // SAFETY: whoever runs the step holds a reference, and this is its thread.
        Some(creator) => unsafe { creator.as_ref() }.state.get() & CONTEXT != 0,
        None => !runtime.context.borrow().is_empty(),
    };
    if has_context {
        task.with_context(|context| *context = copy_context());
    }
    if runtime.debug.is_on() {
        let place = Location::caller();
        task.header()
            .with_extra(|extra| extra.created_at = Some(place));
    }
}

fn start(runtime: &Runtime, task: &TaskRef) {
    runtime.tasks.push(task.clone());
    if let Some(item) = task.header().queue() {
        runtime.event_loop.call_soon(runtime::Item::Task(item));
    }
}

/// Runs one step of a task that was taken from the ready ring.
#[inline]
pub(crate) fn step(runtime: &Runtime, task: &TaskRef) {
    let header = task.header();
    header.clear(QUEUED);
    let state = header.state.get();
    if state & (COMPLETE | CANCEL) != 0 {
        if state & COMPLETE == 0 {
            cancel_now(runtime, task);
        }
        return;
    }
    let outer = runtime.current_task.replace(Some(task.as_ptr()));
    // SAFETY: the table is the cell's, this is its thread, `task` is a reference, and steps don't
    // nest.
    let done = spans::within(task, || unsafe { (header.vtable.poll)(task.as_ptr()) });
    runtime.current_task.set(outer);
    if done {
        complete(runtime, task);
    } else if header.state.get() & CANCEL != 0 {
        // It was cancelled by itself, or by what ran within its step.
        header.schedule();
    }
}

/// How deep eager tasks start within the steps of others.
const MAX_EAGER_DEPTH: u32 = 16;

/// Runs the first step of a new task within the step that runs now, if there are not too many of
/// these already.
fn step_eagerly(runtime: &Runtime, task: &TaskRef) {
    let Some(_deeper) = runtime.ending.begin_nested(runtime, MAX_EAGER_DEPTH) else {
        start(runtime, task);
        return;
    };
    runtime.tasks.push(task.clone());
    step(runtime, task);
}

/// Drops a task's output: what is told meanwhile is about that task.
fn about(runtime: &Runtime, task: &TaskRef, drop_output: impl FnOnce()) {
    struct Reset<'a>(&'a Runtime, Option<NonNull<Header>>);
    impl Drop for Reset<'_> {
        fn drop(&mut self) {
            self.0.exception_handler.about.set(self.1);
        }
    }
    let told = &runtime.exception_handler.about;
    let _reset = Reset(runtime, told.replace(Some(task.as_ptr())));
    drop_output();
}

/// The task that a report of now is about: the one that has failed, or the one that runs.
pub(crate) fn of_report(runtime: &Runtime) -> Option<CancelHandle> {
    let failed = runtime.exception_handler.about.get();
    let task = failed.or(runtime.current_task.get())?;
    // SAFETY: who drops a task's output, or runs its step, holds a reference, and this is its
    // thread.
    Some(CancelHandle::of(unsafe { TaskRef::borrow_raw(task) }))
}

fn complete(runtime: &Runtime, task: &TaskRef) {
    let header = task.header();
    header.set(COMPLETE);
    // SAFETY: a task that was not complete is in its loop's list.
    drop(unsafe { runtime.tasks.remove(task.as_ptr()) });
    let state = header.state.get();
    if state & MAIN != 0 {
        runtime.event_loop.stop();
    }
    if state & HANDLE == 0 {
        // SAFETY: complete, and nobody wants it.
        let drop_output = || unsafe { (header.vtable.drop_output)(task.as_ptr()) };
        spans::within(task, || about(runtime, task, drop_output));
    } else if let Some(joiner) = header.set_joiner(None) {
        joiner.wake();
    }
    if state & CONTEXT != 0 {
        // Here and not with the memory, which any thread may free.
        let context = header.with_extra(|extra| std::mem::take(&mut extra.context));
        drop(context);
    }
    spans::end(task);
}

/// Keeps a type on the thread where it was made.
pub(crate) type NotSend = PhantomData<*const ()>;
