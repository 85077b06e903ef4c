//! `Lock`: a mutex for tasks.
//!
//! `acquire()` takes a free lock at once. Otherwise its task waits on a future in the lock's queue.
//! `release()` completes the first future, whose task takes the lock when it runs. A task that is
//! cancelled in between wakes the next.

use std::cell::Cell;

use super::acquire::{Acquirable, Acquire, acquire};
use super::async_with;
use super::names::sync_imports;
use super::primitive::{Bound, Primitive, describe_waiting, native_type, plain, primitive_class};
use super::waiters::Waiters;
use crate::awaitable::{self, awaitable_class, init_type as init_awaitable};
use crate::cpython::error::{exception_matches, restore, runtime_error, take_exception};
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::python_class::make_class;
use crate::cpython::{Native, Object, Owned, Raised, Res, imports};
use crate::future;
use crate::future::any::{is_done, set_result};

/// A lock's fields.
#[derive(Default)]
pub(super) struct Lock {
    bound: Bound,
    waiters: Waiters,
    locked: Cell<bool>,
}

primitive_class!(Lock);

impl Primitive for Lock {
    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn init(this: &Native<Self>, args: Args<'_>) -> Res<()> {
        let [] = args.parse("Lock.__init__", [], 0, 0)?;
        this.locked.set(false);
        this.waiters.replace(None)
    }

    fn repr(this: &Native<Self>) -> Res<Owned> {
        let extra = if this.locked.get() {
            "locked"
        } else {
            "unlocked"
        };
        describe_waiting(this.object(), extra, this.waiters.len()?)
    }
}

#[inline]
pub(super) fn is_locked(lock: &Lock) -> bool {
    lock.locked.get()
}

/// `Lock.release`.
#[inline]
pub(super) fn release(lock: &Lock) -> Res<()> {
    if !lock.locked.get() {
        return runtime_error("Lock is not acquired.");
    }
    lock.locked.set(false);
    lock.wake_up_first()
}

impl Lock {
    /// Makes sure that the first waiter will run; one that is done will run anyway.
    #[inline]
    fn wake_up_first(&self) -> Res<()> {
        let Some(waiter) = self.waiters.iter().next().transpose()? else {
            return Ok(());
        };
        if is_done(&waiter)? {
            return Ok(());
        }
        set_result(&waiter, &Owned::from_bool(true))
    }
}

// ---- acquire ----

awaitable_class!(ACQUIRE, 256);

impl Acquirable for Lock {
    const ACQUIRE: &'static str = "Lock.acquire";

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// FIFO: a task waits behind earlier waiters, unless all of those are cancelled.
    #[inline]
    fn must_wait(this: &Native<Self>) -> Res<bool> {
        Ok(this.locked.get() || !this.waiters.all_cancelled()?)
    }

    #[inline]
    fn take(&self) -> Res<()> {
        self.locked.set(true);
        Ok(())
    }

    #[inline]
    fn woken(&self, waiter: Owned, result: Res<Owned>) -> Res<()> {
        let Err(Raised) = result else {
            self.waiters.remove(&waiter)?;
            future::give_back(waiter);
            return self.take();
        };
        let error = take_exception();
        self.waiters.remove(&waiter)?;
        if exception_matches(&error, &imports().cancelled_error) && !self.locked.get() {
            // This task may have been woken to take the lock.
            self.wake_up_first()?;
        }
        Err(restore(error))
    }

    fn awaitables() -> &'static awaitable::Class {
        &ACQUIRE
    }
}

// ---- the class ----

fn locked_method(lock: &Native<Lock>) -> Res<Owned> {
    Ok(Owned::from_bool(is_locked(lock)))
}

fn acquire_method(lock: &Native<Lock>) -> Res<Owned> {
    acquire(lock, false)
}

fn release_method(lock: &Native<Lock>) -> Res<Owned> {
    release(lock)?;
    Ok(Owned::none())
}

fn wake_up_first_method(lock: &Native<Lock>) -> Res<Owned> {
    lock.wake_up_first()?;
    Ok(Owned::none())
}

fn enter(lock: &Native<Lock>) -> Res<Owned> {
    match plain::<Lock>(lock.object()) {
        Some(lock) => acquire(lock, true),
        None => async_with::enter(lock.object()),
    }
}

fn get_waiters(lock: &Native<Lock>) -> Res<Owned> {
    lock.waiters.show_if_used()
}

fn set_waiters(lock: &Native<Lock>, value: Option<&Object>) -> Res<()> {
    lock.waiters.replace(value)
}

fn set_locked(lock: &Native<Lock>, value: Option<&Object>) -> Res<()> {
    lock.locked.set(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"locked" locked_method, c"Whether the lock is held."),
        method!(noargs c"acquire" acquire_method, c"Waits until the lock is free, and acquires it. Returns True."),
        method!(noargs c"release" release_method,
            c"Releases the lock and wakes the first task that waits for it. Raises RuntimeError if the lock is not held."),
        method!(noargs c"_wake_up_first" wake_up_first_method, c"Wakes the first task that waits."),
        method!(noargs c"__aenter__" enter, c"Waits for the lock."),
        method!(fast c"__aexit__(exc_type, exc, tb)" async_with::exit_method, c"Releases the lock."),
    ]
}

/// Creates the class.
pub(super) fn init_type() -> Res<Owned> {
    init_awaitable::<Acquire<Lock>>(c"rondel._rondel.Acquire")?;
    let native = native_type::<Lock>(c"rondel._rondel.NativeLock")
        .getset([
            attribute!(c"_locked" locked_method, set_locked),
            attribute!(c"_waiters" get_waiters, set_waiters),
        ])
        .build()?;
    let doc = "A lock for tasks, as asyncio.Lock. It is fair: who waits first gets it first.";
    let class = make_class(
        "Lock()",
        doc,
        &[&native, &sync_imports().stock_lock],
        &methods(),
    )?;
    CLASS.set(&class);
    Ok(class)
}
