//! `Condition`: tasks wait, without holding the lock, until another task that holds it notifies
//! them.
//!
//! `wait()` releases the lock, waits on a future in the condition's queue, and reacquires the lock
//! in any case. `wait_for()` repeats that until a predicate holds.

use std::cell::Cell;

use pyo3::ffi;

use super::acquire::acquire as acquire_lock;
use super::async_with;
use super::count::compare;
use super::lock::{self, Lock};
use super::names::sync_imports;
use super::primitive::{
    Bound, Primitive, describe_waiting, native_type, new_instance, new_waiter, plain,
    primitive_class, wait_on,
};
use super::waiters::Waiters;
use crate::awaitable::{
    self, Next, Steps, awaitable_class, init_type as init_awaitable, iterator_of, make,
};
use crate::cpython::error::{chain, exception_matches, restore, runtime_error, take_exception};
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::names;
use crate::cpython::python_class::make_class;
use crate::cpython::{Native, NativeSlot, Object, Owned, OwnedNative, Raised, Res, Slot, imports};
use crate::future::any::{is_done, set_result};

/// A condition's fields.
#[derive(Default)]
pub(super) struct Condition {
    bound: Bound,
    waiters: Waiters,
    lock: Slot,
    /// The lock's bound methods, unless the lock is a plain one of Rondel's.
    locked: Slot,
    acquire: Slot,
    release: Slot,
}

primitive_class!(Condition, lock, locked, acquire, release);

impl Primitive for Condition {
    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn init(this: &Native<Self>, args: Args<'_>) -> Res<()> {
        let [lock] = args.parse("Condition.__init__", ["lock"], 1, 0)?;
        let names = names();
        let lock = match lock.filter(|lock| !lock.is_none()) {
            Some(lock) => lock.own(),
            None => new_instance::<Lock>()?.into_owned(),
        };
        if plain::<Lock>(&lock).is_none() {
            this.locked.set(lock.getattr(&names.locked)?);
            this.acquire.set(lock.getattr(&names.acquire)?);
            this.release.set(lock.getattr(&names.release)?);
        }
        this.lock.set(lock);
        this.waiters.replace(None)
    }

    fn repr(this: &Native<Self>) -> Res<Owned> {
        let extra = if is_locked(this)? {
            "locked"
        } else {
            "unlocked"
        };
        describe_waiting(this.object(), extra, this.waiters.len()?)
    }
}

/// The lock of a condition, if both are exact instances of Rondel's classes and no method is
/// overridden on either.
#[inline]
pub(super) fn plain_lock(condition: &Object) -> Option<OwnedNative<Lock>> {
    let lock = plain::<Condition>(condition)?.lock.get()?;
    plain::<Lock>(lock).map(Native::own)
}

/// `self.locked()`.
fn is_locked(condition: &Native<Condition>) -> Res<bool> {
    let condition = condition.object();
    if let Some(lock) = plain_lock(condition) {
        return Ok(lock::is_locked(&lock));
    }
    condition.call_method(&names().locked, &[])?.is_true()
}

/// `self.release()`.
pub(super) fn release(condition: &Object) -> Res<()> {
    match plain_lock(condition) {
        Some(lock) => lock::release(&lock),
        None => condition.call_method(&names().release, &[]).map(drop),
    }
}

/// The iterator of `await self.acquire()`.
pub(super) fn acquire(condition: &Object) -> Res<Owned> {
    if let Some(lock) = plain_lock(condition) {
        return acquire_lock(&*lock, false);
    }
    iterator_of(&*condition.call_method(&names().acquire, &[])?)
}

impl Condition {
    /// `notify_all()`, for callers that hold the lock.
    pub(super) fn wake_all(&self) -> Res<()> {
        self.wake(|_| Ok(true))
    }

    /// Wakes waiters as long as `more` returns true, given the number of tasks woken so far.
    fn wake(&self, more: impl Fn(usize) -> Res<bool>) -> Res<()> {
        let mut woken = 0;
        for waiter in self.waiters.iter() {
            if !more(woken)? {
                break;
            }
            let waiter = waiter?;
            if !is_done(&waiter)? {
                woken += 1;
                set_result(&waiter, &Owned::from_bool(false))?;
            }
        }
        Ok(())
    }
}

// ---- wait ----

awaitable_class!(WAIT, 256);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Begin = 0,
    /// Waiting for a notification.
    Waiting,
    /// Reacquiring the lock.
    Reacquiring,
}

/// The state of one `wait()` call.
struct Wait {
    condition: NativeSlot<Condition>,
    /// The future that the task waits on.
    waiter: Slot,
    /// The exception raised while waiting for the notification.
    error: Slot,
    /// The last cancellation while reacquiring the lock.
    cancellation: Slot,
    stage: Cell<Stage>,
}

impl Steps for Wait {
    fn name(&self) -> &'static str {
        "Condition.wait"
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let Some(condition) = self.condition.cloned() else {
            return Ok(Next::Return(Owned::none()));
        };
        match (self.stage.get(), awaited) {
            (Stage::Waiting, Some(result)) => self.notified(&condition, result),
            (Stage::Reacquiring, Some(result)) => self.reacquired(&condition, result),
            _ => self.begin(&condition),
        }
    }

    fn release(&self) {
        for slot in [&self.waiter, &self.error, &self.cancellation] {
            slot.clear();
        }
        self.condition.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.condition.slot());
        see(&self.waiter);
        see(&self.error);
        see(&self.cancellation);
    }

    fn class() -> &'static awaitable::Class {
        &WAIT
    }
}

impl Wait {
    fn begin(&self, condition: &Native<Condition>) -> Res<Next> {
        if !is_locked(condition)? {
            return runtime_error("cannot wait on un-acquired lock");
        }
        let waiter = if sync_imports().passes_wakeups_on {
            let waiter = new_waiter(condition)?;
            release(condition.object())?;
            waiter
        } else {
            release(condition.object())?;
            match new_waiter(condition) {
                Ok(waiter) => waiter,
                Err(Raised) => {
                    self.error.set(take_exception());
                    return self.reacquire(condition);
                }
            }
        };
        condition.waiters.push(&waiter)?;
        self.waiter.set(waiter.clone());
        self.stage.set(Stage::Waiting);
        wait_on(waiter)
    }

    fn notified(&self, condition: &Native<Condition>, result: Res<Owned>) -> Res<Next> {
        if let Err(Raised) = result {
            self.error.set(take_exception());
        }
        if let Some(waiter) = self.waiter.take()
            && let Err(Raised) = condition.waiters.remove(&waiter)
        {
            let error = take_exception();
            self.during_first(&error);
            self.error.set(error);
        }
        self.reacquire(condition)
    }

    fn reacquire(&self, condition: &Native<Condition>) -> Res<Next> {
        self.stage.set(Stage::Reacquiring);
        match acquire(condition.object()) {
            Ok(acquire) => Ok(Next::Await(acquire)),
            Err(Raised) => {
                let error = take_exception();
                self.during_first(&error);
                self.fail(condition, error)
            }
        }
    }

    /// Sets the exception that ended the wait as the context of one raised while reacquiring the
    /// lock.
    fn during_first(&self, error: &Object) {
        if let Some(first) = self.error.get() {
            chain(error, first);
        }
    }

    fn reacquired(&self, condition: &Native<Condition>, result: Res<Owned>) -> Res<Next> {
        if let Err(Raised) = result {
            let error = take_exception();
            self.during_first(&error);
            if !exception_matches(&error, &imports().cancelled_error) {
                return self.fail(condition, error);
            }
            // The lock must be reacquired nevertheless.
            self.cancellation.set(error);
            return self.reacquire(condition);
        }
        match (self.cancellation.take(), self.error.take()) {
            (Some(_), first) if !sync_imports().passes_wakeups_on => {
                let error = imports().cancelled_error.call(&[])?;
                if let Some(first) = first {
                    chain(&error, &first);
                }
                Err(restore(error))
            }
            (Some(error), _) | (None, Some(error)) => self.fail(condition, error),
            (None, None) => Ok(Next::Return(Owned::from_bool(true))),
        }
    }

    /// Ends with an exception. This task may have been notified; another one is notified instead.
    fn fail(&self, condition: &Native<Condition>, error: Owned) -> Res<Next> {
        if sync_imports().passes_wakeups_on {
            condition.wake(|woken| Ok(woken < 1))?;
        }
        Err(restore(error))
    }
}

/// `Condition.wait`.
pub(super) fn wait(condition: &Native<Condition>) -> Res<Owned> {
    make::<Wait>(|wait| {
        wait.condition.fill(condition.own());
        wait.stage.set(Stage::Begin);
    })
}

// ---- wait_for ----

awaitable_class!(WAIT_FOR, 64);

/// The state of one `wait_for()` call.
struct WaitFor {
    condition: NativeSlot<Condition>,
    predicate: Slot,
}

impl Steps for WaitFor {
    fn name(&self) -> &'static str {
        "Condition.wait_for"
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        if let Some(result) = awaited {
            result?;
        }
        let result = self.predicate.or_none().call(&[])?;
        if result.is_true()? {
            return Ok(Next::Return(result));
        }
        let Some(condition) = self.condition.cloned() else {
            return Ok(Next::Return(result));
        };
        let condition = condition.object();
        Ok(Next::Await(match plain::<Condition>(condition) {
            Some(condition) => wait(condition)?,
            None => iterator_of(&*condition.call_method(&names().wait, &[])?)?,
        }))
    }

    fn release(&self) {
        self.condition.clear();
        self.predicate.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.condition.slot());
        see(&self.predicate);
    }

    fn class() -> &'static awaitable::Class {
        &WAIT_FOR
    }
}

fn wait_for(condition: &Native<Condition>, args: Args<'_>) -> Res<Owned> {
    let [predicate] = args.parse("Condition.wait_for", ["predicate"], 1, 1)?;
    make::<WaitFor>(|wait| {
        wait.condition.fill(condition.own());
        drop(wait.predicate.replace(predicate.map(Object::own)));
    })
}

// ---- the class ----

/// `notify(n)`, with 1 as the default of `n`. `RuntimeError` if the lock is not held.
fn notify_with(condition: &Native<Condition>, n: Option<&Object>) -> Res<Owned> {
    if !is_locked(condition)? {
        return runtime_error("cannot notify on un-acquired lock");
    }
    notify_locked(condition, n)
}

fn notify_locked(condition: &Native<Condition>, n: Option<&Object>) -> Res<Owned> {
    match n {
        None => condition.wake(|woken| Ok(woken < 1))?,
        Some(n) => condition
            .wake(|woken| Ok(!compare(&*Owned::from_u64(woken as u64)?, n, ffi::Py_GE)?))?,
    }
    Ok(Owned::none())
}

fn notify(condition: &Native<Condition>, args: Args<'_>) -> Res<Owned> {
    let [n] = args.parse("Condition.notify", ["n"], 1, 0)?;
    notify_with(condition, n)
}

fn notify_private(condition: &Native<Condition>, n: &Object) -> Res<Owned> {
    notify_locked(condition, Some(n))
}

fn notify_all(condition: &Native<Condition>) -> Res<Owned> {
    let n = Owned::from_u64(condition.waiters.len()? as u64)?;
    if let Some(condition) = plain::<Condition>(condition.object()) {
        return notify_with(condition, Some(&n));
    }
    condition.object().call_method(&names().notify, &[&n])?;
    Ok(Owned::none())
}

fn enter(condition: &Native<Condition>) -> Res<Owned> {
    match plain_lock(condition.object()) {
        Some(lock) => acquire_lock(&*lock, true),
        None => async_with::enter(condition.object()),
    }
}

macro_rules! of_lock {
    ($get:ident, $set:ident, $field:ident) => {
        fn $get(condition: &Native<Condition>) -> Res<Owned> {
            match condition.$field.cloned() {
                Some(method) => Ok(method),
                None => condition.lock.or_none().getattr(&names().$field),
            }
        }
        fn $set(condition: &Native<Condition>, value: Option<&Object>) -> Res<()> {
            drop(condition.$field.replace(value.map(Object::own)));
            Ok(())
        }
    };
}

of_lock!(get_locked, set_locked, locked);
of_lock!(get_acquire, set_acquire, acquire);
of_lock!(get_release, set_release, release);

fn get_lock(condition: &Native<Condition>) -> Res<Owned> {
    Ok(condition.lock.or_none())
}

fn set_lock(condition: &Native<Condition>, value: Option<&Object>) -> Res<()> {
    drop(condition.lock.replace(value.map(Object::own)));
    Ok(())
}

fn get_waiters(condition: &Native<Condition>) -> Res<Owned> {
    condition.waiters.show()
}

fn set_waiters(condition: &Native<Condition>, value: Option<&Object>) -> Res<()> {
    condition.waiters.replace(value)
}

fn methods() -> Vec<Method> {
    let mut methods = vec![
        method!(noargs c"wait" wait,
            c"Releases the lock, waits until it is notified, and acquires the lock again. Returns True."),
        method!(fast c"wait_for(predicate)" wait_for,
            c"Waits until predicate() is true. Returns its value."),
        method!(fast c"notify(n=1)" notify, c"Wakes n tasks that wait. The lock must be held."),
        method!(noargs c"notify_all" notify_all, c"Wakes all tasks that wait. The lock must be held."),
        method!(noargs c"__aenter__" enter, c"Acquires the lock."),
        method!(fast c"__aexit__(exc_type, exc, tb)" async_with::exit_method, c"Releases the lock."),
    ];
    if sync_imports().passes_wakeups_on {
        methods.push(
            method!(onearg c"_notify(n, /)" notify_private, c"Wakes n tasks that wait, whoever has the lock."),
        );
    }
    methods
}

/// Creates the class.
pub(super) fn init_type() -> Res<Owned> {
    init_awaitable::<Wait>(c"rondel._rondel.ConditionWait")?;
    init_awaitable::<WaitFor>(c"rondel._rondel.ConditionWaitFor")?;
    let native = native_type::<Condition>(c"rondel._rondel.NativeCondition")
        .getset([
            attribute!(c"_waiters" get_waiters, set_waiters),
            attribute!(c"_lock" get_lock, set_lock),
            attribute!(c"locked" get_locked, set_locked),
            attribute!(c"acquire" get_acquire, set_acquire),
            attribute!(c"release" get_release, set_release),
        ])
        .build()?;
    let doc = "Lets tasks wait until others notify them, as asyncio.Condition.";
    let bases = [&*native, &*sync_imports().stock_condition];
    let class = make_class("Condition(lock=None)", doc, &bases, &methods())?;
    CLASS.set(&class);
    Ok(class)
}
