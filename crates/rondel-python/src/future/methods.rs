//! `Future` as Python sees it: methods, attributes, the class.

use std::collections::BTreeSet;
use std::ffi::c_int;

use pyo3::ffi;

use super::callbacks::{Callback, add, callbacks, nth, set_callbacks};
use super::kinds::AnyTask;
use super::watch;
use super::{CLASS, Future, State, cancel, fail, finish, init, iter, take_result, uninitialized};
use crate::cpython::error::{
    guard, guard_object, not_deletable, raise, raise_instance, runtime_error, type_error,
    value_error,
};
use crate::cpython::method::{Args, GetSet, Method, attribute, method, with_tuple_and_dict};
use crate::cpython::types::{TypeBuilder, hide_slot, slot_fn};
use crate::cpython::{Native, Object, Owned, Res, context, imports, names, none};

/// The fields of a future. Raises `RuntimeError` if its `__init__` has not run.
fn alive(future: &Native<Future>) -> Res<&Future> {
    let this: &Future = future;
    if this.event_loop().is_none() {
        return uninitialized();
    }
    Ok(this)
}

/// Like [`alive`], but raises `InvalidStateError`, as `result` and `exception` do.
fn alive_to_read(future: &Native<Future>) -> Res<&Future> {
    let this: &Future = future;
    if this.event_loop().is_none() {
        return raise(
            &imports().invalid_state_error,
            "Future object is not initialized.",
        );
    }
    Ok(this)
}

fn result(future: &Native<Future>) -> Res<Owned> {
    let this = alive_to_read(future)?;
    if this.state() == State::Pending {
        return raise(&imports().invalid_state_error, "Result is not set.");
    }
    take_result(this)
}

fn exception(future: &Native<Future>) -> Res<Owned> {
    let this = alive_to_read(future)?;
    match this.state() {
        State::Cancelled => raise_instance(this.cancelled_error()?),
        State::Pending => raise(&imports().invalid_state_error, "Exception is not set."),
        State::Finished => {
            this.set_log_traceback(false);
            get_exception(future)
        }
    }
}

fn set_result(future: &Native<Future>, value: &Object) -> Res<Owned> {
    alive(future)?;
    finish(future, value.own())?;
    Ok(Owned::none())
}

fn set_exception(future: &Native<Future>, exception: &Object) -> Res<Owned> {
    alive(future)?;
    fail(future, exception)?;
    Ok(Owned::none())
}

pub(crate) fn message_of<'a>(args: Args<'a>, function: &str) -> Res<Option<&'a Object>> {
    if args.positional().is_empty() && !args.has_named() {
        return Ok(None);
    }
    let [message] = args.parse(function, ["msg"], 1, 0)?;
    Ok(message)
}

fn cancel_method(future: &Native<Future>, args: Args<'_>) -> Res<Owned> {
    let message = message_of(args, "cancel")?;
    alive(future)?;
    Ok(Owned::from_bool(cancel(future, message)?))
}

fn cancelled(future: &Native<Future>) -> Res<Owned> {
    Ok(Owned::from_bool(future.state() == State::Cancelled))
}

fn done(future: &Native<Future>) -> Res<Owned> {
    Ok(Owned::from_bool(future.is_done()))
}

fn add_done_callback(future: &Native<Future>, args: Args<'_>) -> Res<Owned> {
    let context = args.only_keyword("add_done_callback", &names().context)?;
    let [callback] = args.positional() else {
        return type_error(&format!(
            "add_done_callback() takes exactly 1 positional argument ({} given)",
            args.positional().len()
        ));
    };
    if future.event_loop().is_none() {
        return runtime_error("uninitialized Future object");
    }
    let context = match context.filter(|context| !context.is_none()) {
        Some(context) => context.own(),
        None => context::copy_current()?,
    };
    add(
        future,
        Callback {
            target: (*callback).own(),
            context: Some(context),
        },
    )?;
    Ok(Owned::none())
}

impl Callback {
    /// A key that distinguishes this callback from all others of its future.
    fn identity(&self) -> (usize, usize) {
        let context = self.context.as_deref().map_or(0, |it| it.as_ptr().addr());
        (self.target.as_ptr().addr(), context)
    }

    /// The callable as Python sees it among the callbacks of `future`.
    fn callable(&self, future: &Object) -> Res<Owned> {
        match self.context {
            Some(_) => Ok(self.target.clone()),
            None if watch::is_watcher(&self.target) => watch::callable(&self.target, future),
            None => self.task().wakeup_callable(),
        }
    }

    fn context(&self) -> Res<Owned> {
        match &self.context {
            Some(context) => Ok(context.clone()),
            None if watch::is_watcher(&self.target) => context::copy_current(),
            None => Ok(self.task().context()),
        }
    }

    /// The target of a callback that has no context and is no watcher.
    fn task(&self) -> &Native<AnyTask> {
        // SAFETY: what has no context is a waiter: a watcher or a task.
        unsafe { self.target.known() }
    }
}

fn remove_done_callback(future: &Native<Future>, callback: &Object) -> Res<Owned> {
    let this = alive(future)?;
    // A comparison may run code that changes the callbacks, so each one is looked up when it is
    // compared.
    let mut equal = BTreeSet::new(); // a `HashSet` would ask the kernel for random bytes
    let mut index = 0;
    while let Some(candidate) = nth(this, index) {
        if candidate.callable(future.object())?.equals(callback)? {
            equal.insert(candidate.identity());
        }
        index += 1;
    }
    if equal.is_empty() {
        return Owned::from_u64(0);
    }
    let before = callbacks(this);
    let len = before.len();
    let kept: Vec<_> = before
        .into_iter()
        .filter(|candidate| !equal.contains(&candidate.identity()))
        .collect();
    let removed = len - kept.len();
    set_callbacks(this, kept);
    Owned::from_u64(removed as u64)
}

fn get_loop(future: &Native<Future>) -> Res<Owned> {
    let this = alive(future)?;
    Ok(this.event_loop().unwrap_or(none()).own())
}

fn make_cancelled_error(future: &Native<Future>) -> Res<Owned> {
    future.cancelled_error()
}

fn get_state(future: &Native<Future>) -> Res<Owned> {
    Owned::from_str(match alive(future)?.state() {
        State::Pending => "PENDING",
        State::Cancelled => "CANCELLED",
        State::Finished => "FINISHED",
    })
}

fn get_blocking(future: &Native<Future>) -> Res<Owned> {
    Ok(Owned::from_bool(
        future.event_loop().is_some() && future.is_blocking(),
    ))
}

fn set_blocking(future: &Native<Future>, value: Option<&Object>) -> Res<()> {
    let this = alive(future)?;
    match value {
        None => not_deletable(future.object(), "_asyncio_future_blocking"),
        Some(value) => {
            this.set_blocking(value.is_true()?);
            Ok(())
        }
    }
}

fn get_log_traceback(future: &Native<Future>) -> Res<Owned> {
    alive(future)?;
    Ok(Owned::from_bool(future.logs_traceback()))
}

fn set_log_traceback(future: &Native<Future>, value: Option<&Object>) -> Res<()> {
    match value {
        None => not_deletable(future.object(), "_log_traceback"),
        Some(value) if value.is_true()? => value_error("_log_traceback can only be set to False"),
        Some(_) => {
            future.set_log_traceback(false);
            Ok(())
        }
    }
}

fn get_loop_attribute(future: &Native<Future>) -> Res<Owned> {
    Ok(future.event_loop().unwrap_or(none()).own())
}

fn get_callbacks(future: &Native<Future>) -> Res<Owned> {
    let all = callbacks(alive(future)?);
    if all.is_empty() {
        return Ok(Owned::none());
    }
    let list = Owned::list()?;
    for callback in all {
        let (callable, context) = (callback.callable(future.object())?, callback.context()?);
        list.append(&*Owned::tuple(&[&*callable, &*context])?)?;
    }
    Ok(list)
}

fn get_result(future: &Native<Future>) -> Res<Owned> {
    let this = alive(future)?;
    Ok(if this.flags.has(super::FAILED) {
        Owned::none()
    } else {
        this.result.or_none()
    })
}

fn get_exception(future: &Native<Future>) -> Res<Owned> {
    let this = alive(future)?;
    Ok(if this.flags.has(super::FAILED) {
        this.result.or_none()
    } else {
        Owned::none()
    })
}

fn get_source_traceback(future: &Native<Future>) -> Res<Owned> {
    Ok(future.source_traceback().unwrap_or_else(Owned::none))
}

fn get_cancel_message(future: &Native<Future>) -> Res<Owned> {
    Ok(future.cancel_message().unwrap_or_else(Owned::none))
}

fn set_cancel_message(future: &Native<Future>, value: Option<&Object>) -> Res<()> {
    match value {
        None => not_deletable(future.object(), "_cancel_message"),
        value => {
            future.set_cancel_message(value);
            Ok(())
        }
    }
}

unsafe extern "C" fn tp_iter(future: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    let future = unsafe { Native::from_ptr(future) };
    guard_object(|| iter::new_iter(future))
}

unsafe extern "C" fn tp_repr(future: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    let future = unsafe { Native::<Future>::from_ptr(future) };
    guard_object(|| {
        alive(future)?;
        imports().future_repr.call(&[future.object()])
    })
}

unsafe extern "C" fn tp_init(
    future: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        unsafe {
            let future = Native::from_ptr(future);
            with_tuple_and_dict(args, kwargs, |args| {
                let [event_loop] = args.parse("Future", ["loop"], 0, 0)?;
                check_fresh(future)?;
                reset(future);
                init(future, &*loop_or_default(event_loop)?)
            })?;
        }
        Ok(0)
    })
}

/// From 3.15 on, a second call of `__init__` raises `RuntimeError`.
pub(crate) fn check_fresh(future: &Native<Future>) -> Res<()> {
    if cfg!(Py_3_15) && future.event_loop().is_some() {
        let class = future.object().class();
        let get = |name: &str| class.getattr(&*Owned::from_str(name)?)?.to_text();
        let (module, class) = (get("__module__")?, get("__qualname__")?);
        return runtime_error(&format!("{module}.{class} object is already initialized"));
    }
    Ok(())
}

/// Reverts everything that an earlier `__init__` did.
pub(crate) fn reset(future: &Native<Future>) {
    super::release(future);
    future.renew();
}

/// Like [`reset`], but keeps an object alive as long as the future.
pub(crate) fn reset_keeping(future: &Native<Future>, object: Option<Owned>) {
    let kept = future.if_rare(|rare| Some(rare.kept.take()));
    reset(future);
    let kept: Vec<Owned> = kept.into_iter().flatten().chain(object).collect();
    if !kept.is_empty() {
        drop(future.with_rare(|rare| rare.kept.replace(kept)));
    }
}

/// The loop that was passed, or else the current one.
pub(crate) fn loop_or_default(event_loop: Option<&Object>) -> Res<Owned> {
    match event_loop.filter(|event_loop| !event_loop.is_none()) {
        Some(event_loop) => Ok(event_loop.own()),
        None => imports().get_event_loop.call(&[]),
    }
}

/// Methods that futures and tasks share.
pub(crate) fn shared_methods() -> Vec<Method> {
    vec![
        method!(noargs c"result" result, c"Returns the result, or raises the exception. Raises CancelledError or InvalidStateError if there is none."),
        method!(noargs c"exception" exception, c"Returns the exception that was set, or None."),
        method!(noargs c"cancelled" cancelled, c"Whether the future was cancelled."),
        method!(noargs c"done" done, c"Whether the future has a result or an exception, or was cancelled."),
        method!(fast c"add_done_callback(fn, /, *, context=None)" add_done_callback,
            c"Adds a callback: fn(future) is scheduled when the future is done."),
        method!(onearg c"remove_done_callback(fn, /)" remove_done_callback,
            c"Removes all instances of a callback. Returns how many there were."),
        method!(noargs c"get_loop" get_loop, c"Returns the event loop that the object is bound to."),
        method!(noargs c"_make_cancelled_error" make_cancelled_error, c"The CancelledError to raise."),
    ]
}

/// Attributes that futures and tasks share.
pub(crate) fn shared_attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_state" get_state),
        attribute!(c"_asyncio_future_blocking" get_blocking, set_blocking),
        attribute!(c"_log_traceback" get_log_traceback, set_log_traceback),
        attribute!(c"_loop" get_loop_attribute),
        attribute!(c"_callbacks" get_callbacks),
        attribute!(c"_result" get_result),
        attribute!(c"_exception" get_exception),
        attribute!(c"_source_traceback" get_source_traceback),
        attribute!(c"_cancel_message" get_cancel_message, set_cancel_message),
    ]
}

/// Makes a class whose instances are their own iterators for the interpreter. Python code finds no
/// `__next__` on them.
pub(crate) fn build_iterable(builder: TypeBuilder) -> Res<Owned> {
    let class = builder
        .slot(ffi::Py_am_await, slot_fn!(iter::am_await, ffi::unaryfunc))
        .slot(ffi::Py_am_send, slot_fn!(iter::am_send, ffi::sendfunc))
        .slot(ffi::Py_tp_iter, slot_fn!(tp_iter, ffi::getiterfunc))
        .slot(
            ffi::Py_tp_iternext,
            slot_fn!(iter::tp_iternext, ffi::iternextfunc),
        )
        .methods([
            method!(noargs c"__await__" iter::new_iter, c"An iterator for await.").over_slot(),
        ])
        .build()?;
    hide_slot(&class, "__next__")?;
    Ok(class)
}

/// Makes the class.
pub(crate) fn init_types() -> Res<Owned> {
    let base = &imports().stock_future;
    let offset = base.basicsize().max(imports().stock_task.basicsize());
    CLASS.set_offset(offset);
    super::asyncio_part::init()?;
    iter::init_type()?;
    let builder = TypeBuilder::new::<Future>(c"rondel.Future", Some(base), offset)
        .subclassable()
        .doc(c"A result that will be available later, as asyncio.Future.")
        .slot(ffi::Py_tp_init, slot_fn!(tp_init, ffi::initproc))
        .slot(ffi::Py_tp_repr, slot_fn!(tp_repr, ffi::reprfunc))
        .collected::<Future>()
        .methods(shared_methods())
        .methods([
            method!(onearg c"set_result(result, /)" set_result, c"Sets the result; the future is done."),
            method!(onearg c"set_exception(exception, /)" set_exception, c"Sets the exception; the future is done."),
            method!(fast c"cancel(msg=None)" cancel_method, c"Cancels the future. Returns False if it is done already."),
        ])
        .getset(shared_attributes());
    let class = build_iterable(builder)?;
    CLASS.set(&class);
    Ok(class)
}
