//! `async with` on a `Timeout`, the functions that make one, and the class.
//!
//! Neither entering nor leaving ever waits: what `__aenter__` and `__aexit__` give is done at its
//! first step. The class that programs see has asyncio's own as a base, which has whatever is not
//! here (`__repr__`, `_insert_timeout_error`).

use std::ffi::c_int;

use pyo3::ffi;

use super::names::timeout_imports;
use super::timeout::{self, State, Timeout, running_loop};
use crate::awaitable::{self, Next, Steps, awaitable_class, init_type as init_awaitable, make};
use crate::cpython::error::{attribute_error, guard, type_error};
use crate::cpython::method::{
    Args, GetSet, Method, attribute, function, method, with_tuple_and_dict,
};
use crate::cpython::python_class::make_class;
use crate::cpython::types::{TypeBuilder, slot_fn};
use crate::cpython::{
    Fields, Native, NativeSlot, Object, Owned, OwnedNative, Res, Slot, names, none,
};
use crate::loop_core::LoopCore;

// ---- async with ----

awaitable_class!(ENTER, 128);

/// One `__aenter__()`.
struct Enter {
    timeout: NativeSlot<Timeout>,
}

impl Steps for Enter {
    fn name(&self) -> &'static str {
        "Timeout.__aenter__"
    }

    #[inline(always)]
    fn advance(&self, _: Option<Res<Owned>>) -> Res<Next> {
        let timeout = self.timeout.cloned();
        if let Some(timeout) = &timeout {
            timeout::enter(timeout)?;
        }
        Ok(Next::Return(
            timeout.map_or_else(Owned::none, OwnedNative::into_owned),
        ))
    }

    #[inline(always)]
    fn release(&self) {
        self.timeout.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.timeout.slot());
    }

    fn class() -> &'static awaitable::Class {
        &ENTER
    }
}

awaitable_class!(EXIT, 128);

/// One `__aexit__()`.
struct Exit {
    timeout: NativeSlot<Timeout>,
    /// The exception's class and the exception; empty if there is none.
    kind: Slot,
    error: Slot,
}

impl Steps for Exit {
    fn name(&self) -> &'static str {
        "Timeout.__aexit__"
    }

    #[inline(always)]
    fn advance(&self, _: Option<Res<Owned>>) -> Res<Next> {
        let timeout = self.timeout.cloned();
        let (kind, error) = (self.kind.cloned(), self.error.cloned());
        let (kind, error) = (
            kind.as_deref().unwrap_or(none()),
            error.as_deref().unwrap_or(none()),
        );
        if let Some(timeout) = timeout
            && timeout::leave(&timeout, kind, error)?
        {
            return timeout::raise_timeout(error, None);
        }
        Ok(Next::Return(Owned::none()))
    }

    #[inline(always)]
    fn release(&self) {
        self.timeout.clear();
        self.kind.clear();
        self.error.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.timeout.slot());
        see(&self.kind);
        see(&self.error);
    }

    fn class() -> &'static awaitable::Class {
        &EXIT
    }
}

fn enter_method(timeout: &Native<Timeout>) -> Res<Owned> {
    make::<Enter>(|enter| enter.timeout.fill(timeout.own()))
}

fn exit_method(timeout: &Native<Timeout>, args: Args<'_>) -> Res<Owned> {
    let (kind, error) = match args.positional() {
        [kind, error, _] if !args.has_named() => (*kind, *error),
        _ => {
            let [kind, error, _] =
                args.parse("Timeout.__aexit__", ["exc_type", "exc_val", "exc_tb"], 3, 3)?;
            (kind.unwrap_or(none()), error.unwrap_or(none()))
        }
    };
    make::<Exit>(|exit| {
        exit.timeout.fill(timeout.own());
        if !kind.is_none() {
            exit.kind.set(kind.own());
        }
        if !error.is_none() {
            exit.error.set(error.own());
        }
    })
}

// ---- the functions ----

/// `timeout(delay)`, without the look at its arguments.
#[inline]
pub(super) fn timeout_in(delay: &Object) -> Res<OwnedNative<Timeout>> {
    let event_loop = running_loop()?;
    let made = timeout::new()?;
    if delay.is_none() {
        return Ok(made);
    }
    match LoopCore::of(&event_loop) {
        Some(core) if !core.is_time_overridden() && is_number(delay) => {
            made.set_seconds(core.time() + delay.to_f64()?);
        }
        _ => {
            let now = event_loop.call_method(&names().time, &[])?;
            // SAFETY: live objects.
            let when = unsafe { Owned::steal(ffi::PyNumber_Add(now.as_ptr(), delay.as_ptr()))? };
            made.set_when(&when);
        }
    }
    Ok(made)
}

/// Whether adding it to a `float` is what it is for C.
#[inline]
fn is_number(object: &Object) -> bool {
    // SAFETY: a live object.
    unsafe {
        ffi::PyFloat_CheckExact(object.as_ptr()) != 0
            || ffi::PyLong_CheckExact(object.as_ptr()) != 0
    }
}

/// The one argument of a function.
#[inline]
fn only<'a>(args: Args<'a>, function: &str, parameter: &str) -> Res<&'a Object> {
    match args.positional() {
        [value] if !args.has_named() => Ok(value),
        _ => {
            let [value] = args.parse_function(function, [parameter], 1, 1)?;
            Ok(value.unwrap_or(none()))
        }
    }
}

fn timeout_function(_: &Object, args: Args<'_>) -> Res<Owned> {
    timeout_in(only(args, "timeout", "delay")?).map(OwnedNative::into_owned)
}

fn timeout_at(_: &Object, args: Args<'_>) -> Res<Owned> {
    let when = only(args, "timeout_at", "when")?;
    let made = timeout::new()?;
    made.set_when(when);
    Ok(made.into_owned())
}

// ---- the class ----

fn when(timeout: &Native<Timeout>) -> Res<Owned> {
    timeout.when()
}

fn reschedule(timeout: &Native<Timeout>, when: &Object) -> Res<Owned> {
    timeout::reschedule(timeout, when)?;
    Ok(Owned::none())
}

fn expired(timeout: &Native<Timeout>) -> Res<Owned> {
    let expired = matches!(timeout.state(), State::Expiring | State::Expired);
    Ok(Owned::from_bool(expired))
}

fn on_timeout(timeout: &Native<Timeout>) -> Res<Owned> {
    timeout::expire(timeout)?;
    Ok(Owned::none())
}

/// What a native timer calls.
fn on_timeout_of(_: &Object, timeout: &Object) -> Res<Owned> {
    match timeout.instance::<Timeout>() {
        Some(timeout) => on_timeout(timeout),
        None => type_error("a Timeout was expected"),
    }
}

fn set_when(timeout: &Native<Timeout>, value: Option<&Object>) -> Res<()> {
    timeout.set_when(value.unwrap_or(none()));
    Ok(())
}

fn get_state(timeout: &Native<Timeout>) -> Res<Owned> {
    Ok(timeout_imports().states[timeout.state() as usize].clone())
}

fn set_state(timeout: &Native<Timeout>, value: Option<&Object>) -> Res<()> {
    let states = State::ALL.iter().zip(&timeout_imports().states);
    for (state, member) in states {
        if value.is_some_and(|value| value.is(member)) {
            timeout.set_state(*state);
            return Ok(());
        }
    }
    type_error("a timeout's state is a member of asyncio.timeouts._State")
}

fn get_timer(timeout: &Native<Timeout>) -> Res<Owned> {
    Ok(timeout.timer.or_none())
}

fn set_slot(slot: &Slot, value: Option<&Object>) {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(slot.replace(value));
}

fn set_timer(timeout: &Native<Timeout>, value: Option<&Object>) -> Res<()> {
    set_slot(&timeout.timer, value);
    Ok(())
}

fn get_task(timeout: &Native<Timeout>) -> Res<Owned> {
    Ok(timeout.task.or_none())
}

fn set_task(timeout: &Native<Timeout>, value: Option<&Object>) -> Res<()> {
    set_slot(&timeout.task, value);
    Ok(())
}

fn get_cancelling(timeout: &Native<Timeout>) -> Res<Owned> {
    if timeout.task.is_empty() {
        return attribute_error("'Timeout' object has no attribute '_cancelling'");
    }
    timeout.cancelling()
}

fn set_cancelling(timeout: &Native<Timeout>, value: Option<&Object>) -> Res<()> {
    set_slot(&timeout.foreign_cancelling, value);
    Ok(())
}

unsafe extern "C" fn tp_init(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract: an instance of the class, a tuple, and a dict or null.
        unsafe {
            let timeout = Native::<Timeout>::from_ptr(object);
            with_tuple_and_dict(args, kwargs, |args| {
                let [when] = args.parse("Timeout.__init__", ["when"], 1, 1)?;
                timeout.reset();
                timeout.set_when(when.unwrap_or(none()));
                Ok(())
            })?;
        }
        Ok(0)
    })
}

/// Whatever a program sets on an instance may be a method that is called from here.
unsafe extern "C" fn tp_setattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        unsafe {
            Native::<Timeout>::from_ptr(object).is_patched.set(true);
            Ok(ffi::PyObject_GenericSetAttr(object, name, value))
        }
    })
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"when" when, c"The time at which the timeout expires, in seconds of the loop's clock; None for never."),
        method!(named c"reschedule" ("when") reschedule,
            c"Sets the time at which the timeout expires; None for never."),
        method!(noargs c"expired" expired, c"Whether the timeout expired while it was active."),
        method!(noargs c"__aenter__" enter_method, c"Starts the timeout. Returns it."),
        method!(fast c"__aexit__(exc_type, exc_val, exc_tb)" exit_method, c"Ends the timeout. A cancellation that it requested becomes TimeoutError."),
        method!(noargs c"_on_timeout" on_timeout, c"Cancels the task."),
    ]
}

fn attributes() -> [GetSet; 5] {
    [
        attribute!(c"_when" when, set_when),
        attribute!(c"_state" get_state, set_state),
        attribute!(c"_timeout_handler" get_timer, set_timer),
        attribute!(c"_task" get_task, set_task),
        attribute!(c"_cancelling" get_cancelling, set_cancelling),
    ]
}

/// Makes the class and the functions. Where asyncio's own `Timeout` is another than the one made
/// here, that one is given.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    init_awaitable::<Enter>(c"rondel._rondel.TimeoutEnter")?;
    init_awaitable::<Exit>(c"rondel._rondel.TimeoutExit")?;
    let stock = timeout_imports();
    let native =
        TypeBuilder::new::<Timeout>(c"rondel._rondel.NativeTimeout", None, Timeout::offset())
            .subclassable()
            .slot(ffi::Py_tp_init, slot_fn!(tp_init, ffi::initproc))
            .slot(
                ffi::Py_tp_setattro,
                slot_fn!(tp_setattro, ffi::setattrofunc),
            )
            .collected::<Timeout>()
            .getset(attributes())
            .build()?;
    let doc = "What cancels the task that entered it when its time has come, as asyncio.Timeout.";
    let class = make_class("Timeout(when)", doc, &[&native, &stock.timeout], &methods())?;
    let on_timeout = function(method!(onearg c"on_timeout" on_timeout_of,
        c"Cancels the task of a timeout whose time has come."))?;
    timeout::init(&native, &class, on_timeout);
    if !stock.is_known {
        return Ok(vec![
            ("Timeout", stock.timeout.clone()),
            ("timeout", stock.timeout_function.clone()),
            ("timeout_at", stock.timeout_at.clone()),
        ]);
    }
    let timeout = function(method!(fast c"timeout(delay)" timeout_function,
        c"An asynchronous context manager that cancels its body after delay seconds and raises TimeoutError. None: no limit."))?;
    let timeout_at = function(method!(fast c"timeout_at(when)" timeout_at,
        c"As timeout(), with an absolute time of the loop's clock instead of a delay."))?;
    Ok(vec![
        ("Timeout", class),
        ("timeout", timeout),
        ("timeout_at", timeout_at),
    ])
}
