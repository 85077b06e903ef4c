//! Running, stopping and closing, and the attributes that asyncio's own code reads on a loop.

use std::ffi::CStr;

use super::steps;
use crate::cpython::error::{raise_os_error, runtime_error, type_error};
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Res};
use crate::handle;
use crate::loop_core::{LoopCore, check_closed, this_thread};

/// Whether this is the process's main thread, which runs the interpreter's pending calls.
fn is_main_thread() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() == libc::getpid() }
}

/// Calls the method of `asyncio.BaseEventLoop` of that name.
pub(crate) fn base_method(this: &Object, name: &CStr, args: Args<'_>) -> Res<Owned> {
    let base = import("asyncio.base_events")?.getattr(&*Owned::from_str("BaseEventLoop")?)?;
    let method = base.getattr(&*Owned::from_str(&name.to_string_lossy())?)?;
    let mut items = vec![this];
    items.extend(args.positional());
    let (names, values): (Vec<_>, Vec<_>) = args.named().unzip();
    items.extend(values);
    let names = Owned::tuple(&names)?;
    method.call_with(&items, Some(&names))
}

/// Marks the loop as running in this thread until it is dropped, even by a panic, so that the loop
/// can be closed then.
struct Running<'a> {
    core: &'a LoopCore,
    /// The thread that ran the loop before: this one for a nested run, otherwise 0.
    before: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.core.thread.set(self.before);
        if self.before == 0 {
            self.core.has_stopped();
        }
    }
}

impl LoopCore {
    fn has_stopped(&self) {
        self.forget_kept();
        self.leave_task();
        self.current.end();
    }
}

/// Runs turns until `stop()`. Called by `run_forever` in `python/rondel/_event_loop.py`, which
/// refuses a running loop; a program that has replaced `_check_running` may run the loop within one
/// of its own steps.
fn run(this: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    check_closed(core)?;
    let before = core.thread.get();
    if before != 0 && before != this_thread() {
        return runtime_error("This event loop is already running");
    }
    core.note_class()?;
    core.note_patches();
    core.handed_over.set(false);
    core.thread.set(this_thread());
    core.writes.of_main_thread(is_main_thread());
    let running = Running { core, before };
    let result = match before {
        0 => run_turns(core),
        _ => core.current.nested(this, || run_turns(core)),
    };
    drop(running);
    core.flush_written();
    core.notify_worker();
    result.map(|()| Owned::none())
}

fn run_turns(core: &LoopCore) -> Res<()> {
    loop {
        if core.run_by_method()?.is_break() {
            return Ok(());
        }
        if let Err(exit) = core.engine().run_forever() {
            return exit.raise();
        }
        // Stopped, unless the run only changes over to the program's own `_run_once`.
        if !core.handed_over.replace(false) {
            return Ok(());
        }
    }
}

fn stop(this: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    core.handed_over.set(false);
    core.engine().stop();
    Ok(Owned::none())
}

/// The native part of `close()`: drops everything queued and closes the loop's descriptors.
fn close_core(this: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    core.closed.set(true);
    drop(core.engine().drain());
    core.files.forget_all();
    core.engine().close();
    core.forget_send_ring();
    Ok(Owned::none())
}

/// Sends the writes of the running turn.
fn flush_written(this: &Object) -> Res<Owned> {
    LoopCore::of_loop(this).flush_written();
    Ok(Owned::none())
}

/// In the child of a fork: from now on the parent's registrations are not touched.
fn forked(this: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    core.engine().forked();
    core.forget_send_ring();
    Ok(Owned::none())
}

/// The descriptor that wakes the loop when the interpreter's C signal handler writes to it.
fn signal_fd(this: &Object) -> Res<Owned> {
    match LoopCore::of_loop(this).engine().signal_fd() {
        Ok(fd) => Owned::from_i64(fd.into()),
        Err(error) => raise_os_error(&error),
    }
}

fn is_running(this: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(LoopCore::of_loop(this).is_running()))
}

fn is_closed(this: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(LoopCore::of_loop(this).is_closed()))
}

fn check_closed_method(this: &Object) -> Res<Owned> {
    check_closed(LoopCore::of_loop(this))?;
    Ok(Owned::none())
}

fn get_debug(this: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(LoopCore::of_loop(this).is_debug()))
}

fn set_debug_attribute(this: &Object, value: Option<&Object>) -> Res<()> {
    LoopCore::of_loop(this).set_debug(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn set_closed(this: &Object, value: Option<&Object>) -> Res<()> {
    LoopCore::of_loop(this)
        .closed
        .set(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn thread_id(this: &Object) -> Res<Owned> {
    match LoopCore::of_loop(this).thread.get() {
        0 => Ok(Owned::none()),
        thread => Owned::from_u64(thread),
    }
}

/// A program with its own `run_forever` sets the thread that runs the loop, and `None` when the run
/// ends.
fn set_thread_id(this: &Object, value: Option<&Object>) -> Res<()> {
    let core = LoopCore::of_loop(this);
    let thread = match value.filter(|value| !value.is_none()) {
        Some(value) => value.to_isize()? as u64,
        None => 0,
    };
    core.flush_written();
    core.notify_worker();
    let before = core.thread.replace(thread);
    core.writes.of_main_thread(is_main_thread());
    if thread == 0 && before != 0 {
        core.has_stopped();
    }
    Ok(())
}

fn stopping(this: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        LoopCore::of_loop(this).engine().is_stopping(),
    ))
}

fn set_stopping(this: &Object, value: Option<&Object>) -> Res<()> {
    LoopCore::of_loop(this)
        .engine()
        .set_stopping(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn get_task_factory(this: &Object) -> Res<Owned> {
    Ok(LoopCore::of_loop(this).task_factory.or_none())
}

fn set_task_factory_attribute(this: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(LoopCore::of_loop(this).task_factory.replace(value));
    Ok(())
}

fn set_task_factory(this: &Object, factory: &Object) -> Res<Owned> {
    if !factory.is_none() && !factory.is_callable() {
        return type_error("task factory must be a callable or None");
    }
    set_task_factory_attribute(this, Some(factory))?;
    Ok(Owned::none())
}

/// Ignores the empty list that asyncio's `BaseEventLoop.__init__` sets.
fn ignore(_: &Object, _: Option<&Object>) -> Res<()> {
    Ok(())
}

/// The tasks of this loop that are not done.
fn tasks(this: &Object) -> Res<Owned> {
    let list = Owned::list()?;
    for task in LoopCore::of_loop(this).tasks.snapshot() {
        list.append(&task)?;
    }
    Ok(list)
}

/// Whether `run_in_executor` was not replaced by the program.
fn runs_in_executor_directly(this: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        LoopCore::of_loop(this).runs_in_executor_directly(),
    ))
}

/// Called when a foreign timer handle is cancelled: cancels the Rondel handle that stands for it,
/// if there is one. Rondel's own handles tell the heap directly.
fn timer_handle_cancelled(this: &Object, foreign: &Object) -> Res<Owned> {
    let mut ours = None;
    LoopCore::of_loop(this).engine().for_each_timer(|timer| {
        if handle::stands_for(timer.handle(), foreign) {
            ours = Some(timer.handle().own());
        }
    });
    if let Some(ours) = ours {
        handle::cancel(&ours)?;
    }
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"_run" run, c"Runs turns until stop() is called."),
        method!(noargs c"stop" stop, c"Stops the loop after the current turn."),
        method!(noargs c"_close_core" close_core, c"Drops queued callbacks and closes the descriptors."),
        method!(noargs c"_flush_written" flush_written, c"Sends the data written in the running turn."),
        method!(noargs c"_signal_fd" signal_fd, c"What signal.set_wakeup_fd() is to be given, for signals to wake the loop."),
        method!(noargs c"_forked" forked, c"In the child of a fork: leaves the parent's registrations alone."),
        method!(noargs c"is_running" is_running, c"Whether the loop runs."),
        method!(noargs c"is_closed" is_closed, c"Whether the loop was closed."),
        method!(noargs c"_check_closed" check_closed_method, c"Raises RuntimeError if the loop was closed."),
        method!(noargs c"get_debug" get_debug, c"Whether debug mode is on."),
        method!(named c"set_task_factory" ("factory") set_task_factory, c"Sets the task factory; None for the default."),
        method!(noargs c"get_task_factory" get_task_factory, c"Returns the task factory, or None."),
        method!(noargs c"_tasks" tasks, c"The tasks of this loop that are not done."),
        method!(noargs c"_runs_in_executor_directly" runs_in_executor_directly,
            c"Whether run_in_executor() was not replaced."),
        method!(onearg c"_timer_handle_cancelled" timer_handle_cancelled, c"Called by foreign timer handles."),
    ]
}

pub(super) fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_debug" get_debug, set_debug_attribute),
        attribute!(c"_closed" is_closed, set_closed),
        attribute!(c"_thread_id" thread_id, set_thread_id),
        attribute!(c"_stopping" stopping, set_stopping),
        attribute!(c"_task_factory" get_task_factory, set_task_factory_attribute),
        attribute!(c"_scheduled" steps::scheduled, ignore),
    ]
}
