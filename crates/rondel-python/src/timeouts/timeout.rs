//! `Timeout`: its states, its timer, and whose cancellation it was.
//!
//! Entering sets a timer; when that fires, the task is cancelled. On the way out, the cancellation
//! is the timeout's own if nobody else has asked for one since the timeout was entered: then it
//! becomes a `TimeoutError`.
//!
//! `async with` (`async_with.rs`) and `wait_for` call [`enter`] and [`leave`]. A subclass's own
//! `reschedule` and `_on_timeout`, and those put onto an instance, are called as asyncio calls
//! them.

use std::cell::Cell;
use std::ptr;

use pyo3::ffi;

use super::names::timeout_imports;
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{raise_instance, restore, runtime_error, type_error};
use crate::cpython::freelist::free_list;
use crate::cpython::names::Table;
use crate::cpython::nesting::may_end;
use crate::cpython::object::truth;
use crate::cpython::types::allocate;
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, OwnedNative, Raised, Res, Slot, names,
};
use crate::handle;
use crate::loop_core::LoopCore;
use crate::loop_core::current_task;
use crate::loop_core::item::Kind;
use crate::loop_core::running_loop;
use crate::task::{self, Task};

/// Where a timeout stands, as `asyncio.timeouts._State` has it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Created = 0,
    Entered,
    /// The task was cancelled, and has not left yet.
    Expiring,
    Expired,
    Exited,
}

impl State {
    pub(super) const ALL: [Self; 5] = [
        Self::Created,
        Self::Entered,
        Self::Expiring,
        Self::Expired,
        Self::Exited,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Entered => "active",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Exited => "finished",
        }
    }
}

/// A timeout's fields. All zero is one that was made and never expires.
pub(super) struct Timeout {
    /// When it expires, as the program gave it; empty if nobody did, or if it never does.
    pub(super) when: Slot,
    /// The same in seconds of the loop's time, if `is_timed`.
    seconds: Cell<f64>,
    is_timed: Cell<bool>,
    state: Cell<State>,
    /// Whether something was put over a method of this instance.
    pub(super) is_patched: Cell<bool>,
    /// How many cancellations the task had been asked for when it entered.
    pub(super) cancelling: Cell<u32>,
    /// The same, of a task that is not ours.
    pub(super) foreign_cancelling: Slot,
    pub(super) timer: Slot,
    pub(super) task: Slot,
}

/// The native base of the class that programs see.
static BASE: Class = Class::new();
/// The class that programs see.
static CLASS: Class = Class::new();
/// What the timer calls: `_on_timeout` of its argument.
static ON_TIMEOUT: Table<Owned> = Table::new();

free_list!(FREE, 256);

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Timeout {}

// SAFETY: the base is made for these fields, and the other class derives from it. (`is_exact` is
// for that one: nothing of its methods is overridden.)
unsafe impl NativeClass for Timeout {
    fn class() -> &'static Class {
        &BASE
    }

    #[inline]
    fn is_exact(object: &Object) -> bool {
        CLASS.is_exact(object)
    }
}

// SAFETY: every object reference is visited.
unsafe impl Collected for Timeout {
    slots!(when, timer, task, foreign_cancelling);

    #[inline]
    fn may_end_others(this: &Native<Self>) -> bool {
        may_end(this.timer.get())
    }

    #[inline]
    unsafe fn keep(object: *mut ffi::PyObject) -> bool {
        // SAFETY: guaranteed by the caller; a dead instance has its type and its fields still.
        unsafe {
            let this = Native::<Self>::from_ptr(object);
            this.renew();
            // What a program has set besides may have left something in front of the header.
            CLASS.is_exact(this.object())
                && !this.is_patched.get()
                && FREE.with(|list| list.keep(object))
        }
    }
}

/// To be called once, with the classes and the function that expires the timeout which it is given.
pub(super) fn init(base: &Object, class: &Object, on_timeout: Owned) {
    BASE.set(base);
    CLASS.set(class);
    ON_TIMEOUT.fill(on_timeout);
}

/// A timeout that never expires, until it is told to.
#[inline]
pub(super) fn new() -> Res<OwnedNative<Timeout>> {
    let class = CLASS.as_ptr();
    let timeout = match FREE.with(|list| list.revive(class, true)) {
        Some(timeout) => timeout,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    // SAFETY: an instance of the class.
    Ok(unsafe { OwnedNative::new(timeout) })
}

impl Timeout {
    #[inline]
    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.set(state);
    }

    /// It expires at this time, in seconds of the loop's.
    #[inline]
    pub(super) fn set_seconds(&self, seconds: f64) {
        self.seconds.set(seconds);
        self.is_timed.set(true);
        self.when.clear();
    }

    /// It expires at the time that a program gives, which may be anything that compares with a
    /// number; or never.
    pub(super) fn set_when(&self, when: &Object) {
        // SAFETY: a live object, read as what it exactly is.
        let seconds = unsafe {
            (ffi::PyFloat_CheckExact(when.as_ptr()) != 0)
                .then(|| ffi::PyFloat_AS_DOUBLE(when.as_ptr()))
        };
        self.is_timed.set(seconds.is_some());
        self.seconds.set(seconds.unwrap_or_default());
        drop(self.when.replace((!when.is_none()).then(|| when.own())));
    }

    /// When it expires, as an object.
    pub(super) fn when(&self) -> Res<Owned> {
        if self.when.is_empty() && self.is_timed.get() {
            self.when.set(Owned::from_f64(self.seconds.get())?);
        }
        Ok(self.when.or_none())
    }

    /// As it is before `__init__`.
    pub(super) fn reset(&self) {
        self.renew();
        self.for_each_slot(&mut Slot::clear);
    }

    /// The state of a timeout that holds nothing.
    #[inline]
    fn renew(&self) {
        self.is_timed.set(false);
        self.state.set(State::Created);
        self.cancelling.set(0);
    }

    pub(super) fn cancelling(&self) -> Res<Owned> {
        match self.foreign_cancelling.cloned() {
            Some(cancelling) => Ok(cancelling),
            None => Owned::from_u64(self.cancelling.get().into()),
        }
    }
}

/// The loop that runs. `RuntimeError` if none does.
#[inline]
pub(super) fn running_loop() -> Res<Owned> {
    let event_loop = running_loop::running_loop()?;
    if event_loop.is_none() {
        return runtime_error("no running event loop");
    }
    Ok(event_loop)
}

/// What `__aenter__` does.
#[inline]
pub(super) fn enter(timeout: &Native<Timeout>) -> Res<()> {
    if timeout.state() != State::Created {
        return runtime_error("Timeout has already been entered");
    }
    let event_loop = running_loop()?;
    let Some(task) = current_task::of_loop(&event_loop)? else {
        return runtime_error("Timeout should be used inside a task");
    };
    if let Some(ours) = task.exact::<Task>() {
        timeout.cancelling.set(task::cancelling(ours));
        timeout.task.set(task);
        timeout.state.set(State::Entered);
    } else {
        timeout.state.set(State::Entered);
        timeout.task.set(task.clone());
        let cancelling = task.call_method(&names().cancelling, &[])?;
        timeout.foreign_cancelling.set(cancelling);
    }
    if is_plain(timeout) {
        return schedule(timeout, &event_loop);
    }
    timeout
        .object()
        .call_method(&names().reschedule, &[&*timeout.when()?])
        .map(drop)
}

/// Whether nothing of it is overridden.
#[inline]
fn is_plain(timeout: &Native<Timeout>) -> bool {
    Timeout::is_exact(timeout.object()) && !timeout.is_patched.get()
}

/// `reschedule(when)`.
pub(super) fn reschedule(timeout: &Native<Timeout>, when: &Object) -> Res<()> {
    match timeout.state() {
        State::Entered => {}
        State::Created => return runtime_error("Timeout has not been entered"),
        state => {
            return runtime_error(&format!("Cannot change state of {} Timeout", state.name()));
        }
    }
    timeout.set_when(when);
    if let Some(timer) = timeout.timer.cloned() {
        handle::cancel_any(&timer)?;
    }
    if when.is_none() {
        timeout.timer.clear();
        return Ok(());
    }
    schedule(timeout, &*running_loop()?)
}

/// Sets the timer for a timeout that was entered.
#[inline]
fn schedule(timeout: &Native<Timeout>, event_loop: &Object) -> Res<()> {
    if !timeout.is_timed.get() && timeout.when.is_empty() {
        return Ok(());
    }
    match LoopCore::of(event_loop) {
        Some(core)
            if timeout.is_timed.get()
                && core.times_directly()
                && core.calls_directly()
                && !core.is_debug()
                && !core.is_closed()
                && is_plain(timeout) =>
        {
            timeout
                .timer
                .set(set_timer(core, timeout, timeout.seconds.get())?);
            Ok(())
        }
        _ => schedule_by_methods(timeout, event_loop),
    }
}

/// A timer of a loop of ours, or a call that is due already.
#[inline]
fn set_timer(core: &LoopCore, timeout: &Native<Timeout>, seconds: f64) -> Res<Owned> {
    let (on_timeout, timeout) = (ON_TIMEOUT.get(), timeout.object());
    if core.has_come(seconds) {
        let soon = handle::new_handle(core.object(), on_timeout, &[timeout], None)?;
        core.push(Kind::Handle, soon.clone().into_owned())?;
        return Ok(soon.into_owned());
    }
    let timer = handle::new_timer(core, seconds, on_timeout, &[timeout], None)?;
    timer.set_scheduled(true);
    core.push_timer(seconds, timer.clone())?;
    Ok(timer.into_owned())
}

fn schedule_by_methods(timeout: &Native<Timeout>, event_loop: &Object) -> Res<()> {
    let names = names();
    let when = timeout.when()?;
    let now = event_loop.call_method(&names.time, &[])?;
    // SAFETY: live objects.
    let is_due =
        truth(unsafe { ffi::PyObject_RichCompareBool(when.as_ptr(), now.as_ptr(), ffi::Py_LE) })?;
    let on_timeout = timeout.object().getattr(&names.on_timeout)?;
    timeout.timer.set(if is_due {
        event_loop.call_method(&names.call_soon, &[&on_timeout])?
    } else {
        event_loop.call_method(&names.call_at, &[&when, &on_timeout])?
    });
    Ok(())
}

/// `_on_timeout`: the time has come.
pub(super) fn expire(timeout: &Native<Timeout>) -> Res<()> {
    if timeout.state() != State::Entered {
        return raise_assertion();
    }
    let task = timeout.task.or_none();
    if let Some(task) = task.exact::<Task>() {
        task::cancel(task, None)?;
    } else {
        task.call_method(&names().cancel, &[])?;
    }
    timeout.state.set(State::Expiring);
    timeout.timer.clear();
    Ok(())
}

#[cold]
fn raise_assertion<T>() -> Res<T> {
    // SAFETY: a built-in class lives as long as the interpreter.
    unsafe { ffi::PyErr_SetNone(ffi::PyExc_AssertionError) };
    Err(Raised)
}

/// What `__aexit__` does. Answers whether the exception is to become a `TimeoutError`.
#[inline]
pub(super) fn leave(timeout: &Native<Timeout>, kind: &Object, error: &Object) -> Res<bool> {
    if !matches!(timeout.state(), State::Entered | State::Expiring) {
        return raise_assertion();
    }
    if let Some(timer) = timeout.timer.take() {
        handle::cancel_any(&timer)?;
    }
    if timeout.state() == State::Entered {
        timeout.state.set(State::Exited);
        return Ok(false);
    }
    timeout.state.set(State::Expired);
    is_ours(timeout, kind, error)
}

/// It has expired. Whether what is raised comes of that, and of nothing else.
#[cold]
fn is_ours(timeout: &Native<Timeout>, kind: &Object, error: &Object) -> Res<bool> {
    let is_alone = uncancel(timeout)?;
    let imports = timeout_imports();
    let cancelled_error = &crate::cpython::imports().cancelled_error;
    if !imports.inserts_timeout_error {
        return Ok(is_alone && kind.is(cancelled_error));
    }
    if !is_alone || kind.is_none() {
        return Ok(false);
    }
    // SAFETY: live objects.
    if truth(unsafe { ffi::PyObject_IsSubclass(kind.as_ptr(), cancelled_error.as_ptr()) })? {
        return Ok(true);
    }
    if !error.is_none() {
        let insert = &names().insert_timeout_error;
        timeout.object().call_method(insert, &[error])?;
        if error.is_instance(&imports.exception_group)? {
            let members = error.getattr(&names().exceptions)?;
            // SAFETY: a live object; what can't be iterated over raises.
            let members = unsafe { Owned::steal(ffi::PySequence_Tuple(members.as_ptr()))? };
            for index in 0..crate::cpython::object::tuple_len(&members) {
                let member = crate::cpython::object::tuple_item(&members, index);
                timeout.object().call_method(insert, &[member])?;
            }
        }
    }
    Ok(false)
}

/// `task.uncancel() <= self._cancelling`.
fn uncancel(timeout: &Native<Timeout>) -> Res<bool> {
    let task = timeout.task.or_none();
    if timeout.foreign_cancelling.is_empty()
        && let Some(task) = task.exact::<Task>()
    {
        return Ok(task::uncancel(task) <= timeout.cancelling.get());
    }
    let left = task.call_method(&names().uncancel, &[])?;
    let before = timeout.cancelling()?;
    // SAFETY: live objects.
    truth(unsafe { ffi::PyObject_RichCompareBool(left.as_ptr(), before.as_ptr(), ffi::Py_LE) })
}

/// `raise TimeoutError from error`. Its context is the exception that is being handled, unless one
/// is given.
#[cold]
pub(super) fn raise_timeout<T>(cause: &Object, context: Option<&Object>) -> Res<T> {
    let error = timeout_imports().timeout_error.call(&[])?;
    // SAFETY: live objects; both functions take over the reference, and the cause is an exception
    // or null.
    unsafe {
        if cause.is_none() {
            ffi::PyException_SetCause(error.as_ptr(), ptr::null_mut());
        } else if ffi::PyExceptionInstance_Check(cause.as_ptr()) == 0 {
            return type_error("exception causes must derive from BaseException");
        } else {
            ffi::PyException_SetCause(error.as_ptr(), cause.own().into_ptr());
        }
        let Some(context) = context else {
            return raise_instance(error);
        };
        ffi::PyException_SetContext(error.as_ptr(), context.own().into_ptr());
    }
    Err(restore(error))
}

/// Whether an exception is a cancellation.
#[cfg(not(Py_3_12))]
pub(super) fn is_cancellation(error: &Object) -> bool {
    crate::cpython::error::exception_matches(error, &crate::cpython::imports().cancelled_error)
}

/// `number <= 0`, for a number of seconds.
pub(super) fn is_over(delay: &Object) -> Res<bool> {
    crate::sleep::is_over(delay)
}
