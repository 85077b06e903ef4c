//! One step of a task: resumes the coroutine in the task's context.
//!
//! If the coroutine returns, the task is done. If it raises, the task has failed or was cancelled.
//! If it yields a native future, the task becomes the future's waiter; any other future gets a
//! callback. If it yields `None`, the task is queued again. Anything else is an error that is
//! thrown into the coroutine.

use std::ops::ControlFlow;
use std::ptr;

use pyo3::ffi;

use super::{MUST_CANCEL, Task, all_tasks, methods, schedule_step};
use crate::cpython::call::iter_send;
use crate::cpython::error::{
    Builtin, Raised, exception_matches, is_exit, no_memory, raise, raised_matches, restore,
    runtime_error, take_exception,
};
use crate::cpython::stack::check_stack;
use crate::cpython::{Native, Object, Owned, OwnedNative, Res, context, imports, names, none};
use crate::future::{self, Future, Outcome, State, asyncio_part};
use crate::loop_core::item::{Exit, Kind};
use crate::loop_core::{LoopCore, current_task};

/// The state of a task after a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// The task is done, or waits.
    Settled,
    /// The coroutine yielded `None`: the next step is to be queued.
    Again,
}

/// Runs a queued step. `woken`: it was queued because the native future that the task waits for is
/// done.
#[inline]
pub(crate) fn step(core: &LoopCore, task: OwnedNative<Task>, woken: bool) -> ControlFlow<Exit> {
    let exception = if woken {
        match error_of_awaited(&task) {
            Ok(exception) => exception,
            Err(raised) => return failed(core, &task, raised),
        }
    } else {
        task.pending_exception.take()
    };
    run_on(core, task, exception)
}

#[inline]
fn error_of_awaited(task: &Native<Task>) -> Res<Option<Owned>> {
    let Some(awaited) = task.waits_for.get() else {
        return Ok(None);
    };
    let Some(awaited) = awaited.exact::<Future>() else {
        return Ok(None);
    };
    // asyncio's `awaited_by` may be a set, whose comparisons may run user code. So the future is
    // kept alive.
    let kept = cfg!(Py_3_14).then(|| awaited.own());
    let awaited = kept.as_deref().unwrap_or(awaited);
    asyncio_part::discard_awaiter(awaited.asyncio_part(), task.asyncio_part())?;
    // The common case need not read the result, as `await` does so itself.
    if awaited.state() == State::Finished && !awaited.has_failed() {
        return Ok(None);
    }
    match future::outcome(awaited)? {
        Outcome::Value(_) => Ok(None),
        Outcome::Error(error) => Ok(Some(error)),
    }
}

#[inline(always)]
fn run_on(core: &LoopCore, task: OwnedNative<Task>, exception: Option<Owned>) -> ControlFlow<Exit> {
    let entered = match core.current.enter(core.object(), task.object()) {
        Ok(entered) => entered,
        Err(raised) => return failed(core, &task, raised),
    };
    let result = run_in_context(&task, exception);
    core.current.exit(core.object(), entered);
    match result {
        Ok(After::Settled) => ControlFlow::Continue(()),
        Ok(After::Again) => again(core, task),
        Err(raised) => failed(core, &task, raised),
    }
}

/// Queues the next step, reusing the reference of this one.
#[inline]
fn again(core: &LoopCore, task: OwnedNative<Task>) -> ControlFlow<Exit> {
    if core.calls_directly() && !core.is_closed() {
        return match core.try_push(Kind::Step, task.into_owned()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(task) => match no_memory::<()>() {
                Ok(()) => ControlFlow::Continue(()),
                // SAFETY: `task` is the task that was not queued.
                Err(raised) => failed(core, unsafe { task.known() }, raised),
            },
        };
    }
    match schedule_step(&task, core.object()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(raised) => failed(core, &task, raised),
    }
}

/// Handles an exception that leaves a step. `KeyboardInterrupt` and `SystemExit` end the loop. Any
/// other one is an error of the step itself, not of its coroutine; asyncio reports it like that of
/// a callback.
#[cold]
fn failed(core: &LoopCore, task: &Native<Task>, Raised: Raised) -> ControlFlow<Exit> {
    let exception = take_exception();
    if is_exit(&exception) {
        return ControlFlow::Break(Exit::Raised(restore(exception)));
    }
    let report = || -> Res<()> {
        let context = Owned::dict()?;
        let text = format!(
            "Exception in callback {}",
            methods::step_callable(task)?.repr()?.to_text()?
        );
        context.set_item(c"message", &*Owned::from_str(&text)?)?;
        context.set_item(c"exception", &exception)?;
        context.set_item(c"task", task.object())?;
        core.object()
            .call_method(&names().call_exception_handler, &[&*context])?;
        Ok(())
    };
    match report() {
        Ok(()) => ControlFlow::Continue(()),
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

#[inline(always)]
fn run_in_context(task: &Native<Task>, exception: Option<Owned>) -> Res<After> {
    // The task keeps its context alive, and the caller holds the task.
    let context = task.context.get().unwrap_or(none());
    context::enter(context)?;
    let result = run(task, exception);
    context::exit(context).and(result)
}

/// Runs a step that a foreign loop or a foreign future has called.
pub(super) fn step_by_call(task: &Native<Task>, exception: Option<&Object>) -> Res<()> {
    let event_loop = task.as_future().event_loop().map(Object::own);
    let Some(event_loop) = event_loop else {
        return future::uninitialized();
    };
    let exception = exception
        .filter(|exception| !exception.is_none())
        .map(Object::own);
    let exception = exception.or_else(|| task.pending_exception.take());
    if let Some(core) = LoopCore::of(&event_loop) {
        if let Some(running) = core.current.get(&event_loop)? {
            return within_another(task, &running);
        }
        let entered = core.current.enter(&event_loop, task.object())?;
        let result = run_and_schedule(task, exception, &event_loop);
        core.current.exit(&event_loop, entered);
        return result;
    }
    current_task::enter_foreign(&event_loop, task.object())?;
    let result = run_and_schedule(task, exception, &event_loop);
    current_task::leave_foreign(&event_loop, task.object(), result)
}

fn run_and_schedule(task: &Native<Task>, exception: Option<Owned>, event_loop: &Object) -> Res<()> {
    match run(task, exception)? {
        After::Settled => Ok(()),
        After::Again => schedule_step(task, event_loop),
    }
}

#[cold]
fn within_another(task: &Native<Task>, running: &Object) -> Res<()> {
    let (task, running) = (task.object().repr()?.to_text()?, running.repr()?.to_text()?);
    runtime_error(&format!(
        "Cannot enter into task {task} while another task {running} is being executed."
    ))
}

/// The wake-up as a callback: `awaited`, a future of any kind, is done.
pub(super) fn wakeup_by_call(task: &Native<Task>, awaited: &Object) -> Res<()> {
    if let Some(awaited) = asyncio_part::with_awaiters(awaited) {
        asyncio_part::discard_awaiter(awaited, task.asyncio_part())?;
    }
    match awaited.call_method(&names().result, &[]) {
        Ok(_) => step_by_call(task, None),
        Err(Raised) => step_by_call(task, Some(&*take_exception())),
    }
}

/// Runs the first step at once, for `Task(eager_start=True)`.
pub(super) fn start_eagerly(task: &Native<Task>, event_loop: &Object) -> Res<()> {
    check_stack()?;
    all_tasks::register_eager(task)?;
    let result = current_task::within(event_loop, task.object(), || {
        match run_in_context(task, None)? {
            After::Settled => Ok(()),
            After::Again => schedule_step(task, event_loop),
        }
    })?;
    // The exception that the step raised must survive the cleanup.
    let raised = result.err().map(|Raised| take_exception());
    all_tasks::unregister_eager(task)?;
    if let Some(core) = LoopCore::of(event_loop) {
        // The enclosing step goes on, and may block until a worker thread has run its job.
        core.notify_worker();
    }
    if task.as_future().is_done() {
        task.coroutine.clear();
    } else {
        all_tasks::register(task, event_loop)?;
    }
    match raised {
        None => Ok(()),
        Some(exception) => Err(restore(exception)),
    }
}

/// Resumes the coroutine and handles the result.
#[inline(always)]
fn run(task: &Native<Task>, exception: Option<Owned>) -> Res<After> {
    let (this, base): (&Task, _) = (task, task.as_future());
    if base.is_done() {
        return already_done(task, exception.as_deref());
    }
    let mut exception = exception;
    if this.flags.has(MUST_CANCEL) {
        let is_cancellation = exception
            .as_deref()
            .is_some_and(|exception| exception_matches(exception, &imports().cancelled_error));
        if !is_cancellation {
            exception = Some(base.cancelled_error()?);
        }
        this.flags.set(MUST_CANCEL, false);
    }
    this.waits_for.clear();
    let Some(coroutine) = this.coroutine.cloned() else {
        return runtime_error("uninitialized Task object");
    };
    let mut result = ptr::null_mut();
    let status = match exception {
        // SAFETY: a live coroutine, and a place for the result.
        None => unsafe { iter_send(&coroutine, none(), &mut result) },
        Some(exception) => match coroutine.call_method(&names().throw, &[&*exception]) {
            Ok(yielded) => {
                result = yielded.into_ptr();
                ffi::PySendResult::PYGEN_NEXT
            }
            Err(Raised) => returned_value(&mut result),
        },
    };
    match status {
        ffi::PySendResult::PYGEN_NEXT => {
            // SAFETY: PYGEN_NEXT comes with a reference.
            yielded(task, unsafe { Owned::steal_unchecked(result) })
        }
        ffi::PySendResult::PYGEN_RETURN => {
            // SAFETY: PYGEN_RETURN comes with a reference.
            let value = unsafe { Owned::steal_unchecked(result) };
            returned(task, value).map(|()| After::Settled)
        }
        ffi::PySendResult::PYGEN_ERROR => raised(task).map(|()| After::Settled),
    }
}

/// `throw` reports a return as `StopIteration`, unlike `PyIter_Send`.
fn returned_value(result: &mut *mut ffi::PyObject) -> ffi::PySendResult {
    // SAFETY: a built-in class; every supported version exports the function, which leaves null in
    // `result` on failure.
    unsafe {
        if raised_matches(Object::from_ptr(ffi::PyExc_StopIteration))
            && crate::cpython::private::_PyGen_FetchStopIterationValue(result) == 0
        {
            return ffi::PySendResult::PYGEN_RETURN;
        }
    }
    ffi::PySendResult::PYGEN_ERROR
}

#[cold]
fn already_done(task: &Native<Task>, exception: Option<&Object>) -> Res<After> {
    let step = if cfg!(Py_3_14) { "__step" } else { "_step" };
    let text = format!(
        "{step}(): already done: {} {}",
        task.object().repr()?.to_text()?,
        exception.unwrap_or(none()).repr()?.to_text()?
    );
    raise(&imports().invalid_state_error, &text)
}

#[inline]
fn returned(task: &Native<Task>, value: Owned) -> Res<()> {
    let this: &Task = task;
    all_tasks::unregister(task);
    if this.flags.has(MUST_CANCEL) {
        // The task was cancelled right before the coroutine returned.
        this.flags.set(MUST_CANCEL, false);
        let message = task.as_future().cancel_message();
        return future::cancel(task.as_future(), message.as_deref()).map(drop);
    }
    future::finish(task.as_future(), value)
}

fn raised(task: &Native<Task>) -> Res<()> {
    let exception = take_exception();
    all_tasks::unregister(task);
    if exception_matches(&exception, &imports().cancelled_error) {
        // The exception is kept, so that awaiting the task raises it with its traceback.
        task.as_future().set_cancelled_error(exception);
        return future::cancel(task.as_future(), None).map(drop);
    }
    future::fail(task.as_future(), &exception)?;
    if is_exit(&exception) {
        return Err(restore(exception));
    }
    Ok(())
}

#[inline(always)]
fn yielded(task: &Native<Task>, result: Owned) -> Res<After> {
    if result.is_none() {
        return Ok(After::Again);
    }
    match result.into_exact::<Future>() {
        Ok(awaited) => wait_for(task, awaited)?,
        Err(result) => {
            let event_loop = task.as_future().event_loop().unwrap_or(none()).own();
            yielded_other(task, result, &event_loop)?;
        }
    }
    Ok(After::Settled)
}

/// Makes the task wait for a native future or task.
#[inline(always)]
fn wait_for(task: &Native<Task>, awaited: OwnedNative<Future>) -> Res<()> {
    let this: &Task = task;
    if awaited.is(task.object()) {
        return throw_soon(
            task,
            format!(
                "Task cannot await on itself: {}",
                task.object().repr()?.to_text()?
            ),
        );
    }
    let same_loop = match (awaited.event_loop(), task.as_future().event_loop()) {
        (Some(theirs), Some(ours)) => theirs.is(ours),
        _ => false,
    };
    if !same_loop {
        return other_loop(task, awaited.object());
    }
    if !awaited.is_blocking() {
        return not_awaited(task, awaited.object());
    }
    asyncio_part::add_awaiter(awaited.asyncio_part(), task.asyncio_part())?;
    awaited.set_blocking(false);
    future::add_waiter(&awaited, task)?;
    this.waits_for.set(awaited.into_owned());
    if this.flags.has(MUST_CANCEL) {
        cancel_awaited(task)?;
    }
    Ok(())
}

#[cold]
fn cancel_awaited(task: &Native<Task>) -> Res<()> {
    let this: &Task = task;
    let message = task.as_future().cancel_message();
    if let Some(awaited) = this.waits_for.cloned()
        && future::cancel_any(&awaited, message.as_deref())?
    {
        this.flags.set(MUST_CANCEL, false);
    }
    Ok(())
}

#[cold]
fn other_loop(task: &Native<Task>, awaited: &Object) -> Res<()> {
    let (task_text, awaited_text) = (task.object().repr()?.to_text()?, awaited.repr()?.to_text()?);
    throw_soon(
        task,
        format!("Task {task_text} got Future {awaited_text} attached to a different loop"),
    )
}

#[cold]
fn not_awaited(task: &Native<Task>, awaited: &Object) -> Res<()> {
    let (task_text, awaited_text) = (task.object().repr()?.to_text()?, awaited.repr()?.to_text()?);
    throw_soon(
        task,
        format!("yield was used instead of yield from in task {task_text} with {awaited_text}"),
    )
}

/// Handles a yielded object that is neither a native future nor `None`: a foreign future, or an
/// error.
fn yielded_other(task: &Native<Task>, result: Owned, event_loop: &Object) -> Res<()> {
    let names = names();
    let blocking = result.getattr_optional(&names.asyncio_future_blocking)?;
    let Some(blocking) = blocking.filter(|blocking| !blocking.is_none()) else {
        let text = result.repr()?.to_text()?;
        if result.is_instance(&imports().generator_type)? {
            let task_text = task.object().repr()?.to_text()?;
            return throw_soon(
                task,
                format!(
                    "yield was used instead of yield from for generator in task {task_text} with {text}"
                ),
            );
        }
        return throw_soon(task, format!("Task got bad yield: {text}"));
    };
    let get_loop = match result.getattr_optional(&names.get_loop)? {
        Some(get_loop) => get_loop.call(&[])?,
        None => result.getattr(&names.loop_attr)?,
    };
    if !get_loop.is(event_loop) {
        return other_loop(task, &result);
    }
    if !blocking.is_true()? {
        return not_awaited(task, &result);
    }
    if result.is(task.object()) {
        return throw_soon(
            task,
            format!(
                "Task cannot await on itself: {}",
                task.object().repr()?.to_text()?
            ),
        );
    }
    if let Some(awaited) = asyncio_part::with_awaiters(&result) {
        asyncio_part::add_awaiter(awaited, task.asyncio_part())?;
    }
    result.setattr(&names.asyncio_future_blocking, &Owned::from_bool(false))?;
    let this: &Task = task;
    result.call_method_with(
        &names.add_done_callback,
        &[&*methods::wakeup_callable(task)?, &*this.context.or_none()],
        Some(&imports().kw_context),
    )?;
    this.waits_for.set(result);
    if this.flags.has(MUST_CANCEL) {
        cancel_awaited(task)?;
    }
    Ok(())
}

/// Makes the next step raise `RuntimeError(message)` in the coroutine.
#[cold]
fn throw_soon(task: &Native<Task>, message: String) -> Res<()> {
    let error = Builtin::Runtime.instance(&message)?;
    task.pending_exception.set(error);
    let event_loop = task.as_future().event_loop().unwrap_or(none()).own();
    schedule_step(task, &event_loop)
}
