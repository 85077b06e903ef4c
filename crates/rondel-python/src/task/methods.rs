//! `Task` as Python sees it: methods, attributes, the class.

use std::ffi::c_int;
use std::ptr;
use std::sync::OnceLock;

use pyo3::ffi;

use super::{MUST_CANCEL, NO_DESTROY_LOG, Task, cancel, init, step};
use crate::cpython::Fields;
use crate::cpython::Native;
use crate::cpython::error::{guard, guard_object, not_deletable, runtime_error, type_error};
use crate::cpython::method::{Args, GetSet, Method, attribute, method, with_tuple_and_dict};
use crate::cpython::names::names;
use crate::cpython::types::{TypeBuilder, slot_fn};
use crate::cpython::{Object, Owned, Res, imports, none};
use crate::future::kinds::{AnyTask, TASK};
use crate::future::{self, Future};

fn cancel_method(task: &Native<Task>, args: Args<'_>) -> Res<Owned> {
    let message = future::message_of(args, "cancel")?;
    Ok(Owned::from_bool(cancel(task, message)?))
}

fn cancelling(task: &Native<Task>) -> Res<Owned> {
    Owned::from_u64(super::cancelling(task).into())
}

fn uncancel(task: &Native<Task>) -> Res<Owned> {
    Owned::from_u64(super::uncancel(task).into())
}

fn set_result(_: &Object, _: &Object) -> Res<Owned> {
    runtime_error("Task does not support set_result operation")
}

fn set_exception(_: &Object, _: &Object) -> Res<Owned> {
    runtime_error("Task does not support set_exception operation")
}

fn get_name(task: &Native<Task>) -> Res<Owned> {
    if task.coroutine.is_empty() && task.number.get() == 0 && task.name.is_empty() {
        return Ok(Owned::none());
    }
    task.name()
}

fn set_name(task: &Native<Task>, name: &Object) -> Res<Owned> {
    super::set_name(task, name)?;
    Ok(Owned::none())
}

fn get_coro(task: &Native<Task>) -> Res<Owned> {
    Ok(task.coroutine.or_none())
}

#[cfg(Py_3_12)]
fn get_context(task: &Native<Task>) -> Res<Owned> {
    Ok(task.context.or_none())
}

fn get_stack(task: &Native<Task>, args: Args<'_>) -> Res<Owned> {
    let [limit] = args.parse("get_stack", ["limit"], 0, 0)?;
    imports()
        .task_get_stack
        .call(&[task.object(), limit.unwrap_or(none())])
}

fn print_stack(task: &Native<Task>, args: Args<'_>) -> Res<Owned> {
    let [limit, file] = args.parse("print_stack", ["limit", "file"], 0, 0)?;
    imports().task_print_stack.call(&[
        task.object(),
        limit.unwrap_or(none()),
        file.unwrap_or(none()),
    ])
}

fn get_must_cancel(task: &Native<Task>) -> Res<Owned> {
    Ok(Owned::from_bool(task.flags.has(MUST_CANCEL)))
}

fn get_waits_for(task: &Native<Task>) -> Res<Owned> {
    Ok(task.waits_for.or_none())
}

fn get_log_destroy_pending(task: &Native<Task>) -> Res<Owned> {
    Ok(Owned::from_bool(!task.flags.has(NO_DESTROY_LOG)))
}

fn set_log_destroy_pending(task: &Native<Task>, value: Option<&Object>) -> Res<()> {
    match value {
        None => not_deletable(task.object(), "_log_destroy_pending"),
        Some(value) => {
            task.flags.set(NO_DESTROY_LOG, !value.is_true()?);
            Ok(())
        }
    }
}

// ---- a step and a wake-up as callables, for foreign loops and foreign futures ----

fn task_step(task: &Native<Task>, args: Args<'_>) -> Res<Owned> {
    let [exception] = args.parse("__step", ["exc"], 1, 0)?;
    step::step_by_call(task, exception)?;
    Ok(Owned::none())
}

fn task_wakeup(task: &Native<Task>, awaited: &Object) -> Res<Owned> {
    step::wakeup_by_call(task, awaited)?;
    Ok(Owned::none())
}

struct Definition(Method);

// SAFETY: a method definition is never written to after it is made.
unsafe impl Sync for Definition {}
// SAFETY: as above.
unsafe impl Send for Definition {}

static STEP: OnceLock<Definition> = OnceLock::new();
static WAKEUP: OnceLock<Definition> = OnceLock::new();

fn bound(definition: &'static Definition, task: &Native<Task>) -> Res<Owned> {
    // SAFETY: the definition lives forever, and the C API only reads it.
    unsafe {
        Owned::steal(ffi::PyCFunction_NewEx(
            ptr::from_ref(&definition.0.0).cast_mut(),
            task.as_ptr(),
            ptr::null_mut(),
        ))
    }
}

/// A callable that runs a step of the task: `callable(exception=None)`.
pub(super) fn step_callable(task: &Native<Task>) -> Res<Owned> {
    let definition = STEP
        .get_or_init(|| Definition(method!(fast c"task_step" task_step, c"The task's next step.")));
    bound(definition, task)
}

/// A callable that wakes the task up: `callable(future)`. Two callables of the same task are equal.
pub(super) fn wakeup_callable(task: &Native<Task>) -> Res<Owned> {
    let definition = WAKEUP.get_or_init(|| {
        Definition(
            method!(onearg c"task_wakeup" task_wakeup, c"The task's next step, after a future."),
        )
    });
    bound(definition, task)
}

// ---- the type ----

unsafe extern "C" fn tp_init(
    task: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        unsafe {
            let task = Native::<Task>::from_ptr(task);
            with_tuple_and_dict(args, kwargs, |args| {
                let known = ["coro", "loop", "name", "context", "eager_start"];
                if cfg!(not(Py_3_12)) && args.named().any(|(name, _)| name.is(&names().eager_start))
                {
                    return type_error("'eager_start' is an invalid keyword argument for Task()");
                }
                let [coroutine, event_loop, name, context, eager_start] =
                    args.parse("Task", known, 1, 1)?;
                let event_loop = future::loop_or_default(event_loop)?;
                let eager_start = eager_start.map_or(Ok(false), Object::is_true)?;
                future::check_fresh(task.as_future())?;
                // A step may be running in the current context, which must stay alive.
                future::reset_keeping(task.as_future(), task.context.cloned());
                init(
                    task,
                    &event_loop,
                    coroutine.unwrap_or(none()),
                    name,
                    context,
                    eager_start,
                )
            })?;
        }
        Ok(0)
    })
}

unsafe extern "C" fn tp_repr(task: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    let task = unsafe { Object::from_ptr(task) };
    guard_object(|| imports().task_repr.call(&[task]))
}

fn methods() -> Vec<Method> {
    vec![
        method!(fast c"cancel(msg=None)" cancel_method,
            c"Requests cancellation: CancelledError is thrown into the coroutine in the next turn of the loop."),
        method!(noargs c"cancelling" cancelling, c"Returns how many cancellation requests were not withdrawn."),
        method!(noargs c"uncancel" uncancel, c"Withdraws one cancellation request. Returns how many are left."),
        method!(onearg c"set_result(result, /)" set_result, c"Not supported by tasks."),
        method!(onearg c"set_exception(exception, /)" set_exception, c"Not supported by tasks."),
        method!(noargs c"get_name" get_name, c"The task's name."),
        method!(onearg c"set_name(value, /)" set_name, c"Sets the task's name."),
        method!(noargs c"get_coro" get_coro, c"The coroutine."),
        #[cfg(Py_3_12)]
        method!(noargs c"get_context" get_context, c"The context that the coroutine runs in."),
        method!(fast c"get_stack(*, limit=None)" get_stack, c"Returns the frames of the coroutine's stack."),
        method!(fast c"print_stack(*, limit=None, file=None)" print_stack, c"Prints the coroutine's stack or the exception's traceback."),
    ]
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_must_cancel" get_must_cancel),
        attribute!(c"_coro" get_coro),
        attribute!(c"_fut_waiter" get_waits_for),
        attribute!(c"_log_destroy_pending" get_log_destroy_pending, set_log_destroy_pending),
        attribute!(c"_num_cancels_requested" cancelling),
    ]
}

/// Makes the class.
pub(crate) fn init_type() -> Res<Owned> {
    #[repr(C)]
    struct All(Future, Task);
    let base = &imports().stock_task;
    let builder = TypeBuilder::new::<All>(c"rondel.Task", Some(base), Future::offset())
        .subclassable()
        .doc(c"A coroutine that an event loop runs, as asyncio.Task.")
        .slot(ffi::Py_tp_init, slot_fn!(tp_init, ffi::initproc))
        .slot(ffi::Py_tp_repr, slot_fn!(tp_repr, ffi::reprfunc))
        .collected::<Task>()
        .methods(future::shared_methods())
        .methods(methods())
        .getset(future::shared_attributes())
        .getset(attributes());
    let class = future::build_iterable(builder)?;
    TASK.fill::<Task>(&class);
    AnyTask::set_class::<Task>();
    Ok(class)
}
