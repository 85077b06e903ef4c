//! `Lock`: who holds it, and who gets it next.
//!
//! `acquire()` takes a free lock at once. Otherwise its task waits on a future in the lock's queue; `release()`
//! completes the first one, whose task then takes the lock when it runs. A task that is cancelled in between wakes
//! the next.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::async_with;
use super::names::sync_imports;
use super::primitive::{
    self, Bound, Primitive, describe_waiting, native_type, new_waiter, wait_on,
};
use super::waiters::{Waiters, is_done, set_result};
use crate::awaitable::{Class, Next, Steps, init_type as init_awaitable, make};
use crate::cpython::error::{exception_matches, restore, runtime_error, take_exception};
use crate::cpython::freelist::free_list;
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::python_class::make_class;
use crate::cpython::{Object, Owned, Raised, Res, Slot, imports};
use crate::future;

/// A lock's fields.
#[repr(C)]
#[derive(Default)]
pub(super) struct Lock {
    bound: Bound,
    waiters: Waiters,
    locked: Cell<bool>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

#[inline]
fn fields(lock: &Object) -> &Lock {
    primitive::fields(lock)
}

/// Whether an object is a lock of ours whose methods are all its own.
#[inline]
pub(super) fn is_plain(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed)) && !fields(object).bound.is_patched()
}

/// A new lock.
pub(super) fn new() -> Res<Owned> {
    // SAFETY: our live class.
    unsafe { Object::from_ptr(CLASS.load(Ordering::Relaxed).cast()) }.call(&[])
}

// SAFETY: `repr(C)`, with a `Bound` first.
unsafe impl Primitive for Lock {
    fn traverse(&self, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
        self.waiters.traverse(visit, arg)
    }

    fn clear(&self) {
        self.waiters.clear();
    }

    fn init(object: &Object, args: Args<'_>) -> Res<()> {
        let [] = args.parse("Lock.__init__", [], 0, 0)?;
        let this = fields(object);
        this.locked.set(false);
        this.waiters.replace(None)
    }

    fn repr(object: &Object) -> Res<Owned> {
        let this = fields(object);
        let extra = if this.locked.get() {
            "locked"
        } else {
            "unlocked"
        };
        describe_waiting(object, extra, this.waiters.len()?)
    }
}

#[inline]
pub(super) fn is_locked(lock: &Object) -> bool {
    fields(lock).locked.get()
}

/// `Lock.release`.
#[inline]
pub(super) fn release(lock: &Object) -> Res<()> {
    let this = fields(lock);
    if !this.locked.get() {
        return runtime_error("Lock is not acquired.");
    }
    this.locked.set(false);
    this.wake_up_first()
}

impl Lock {
    /// Makes sure that the first waiter will run: one that is done is about to.
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

free_list!(FREE, 256);
static ACQUIRE: Class = Class::new(
    // SAFETY: called by the type's `tp_dealloc` only, with a dead and empty instance.
    |object| FREE.with(|list| unsafe { list.keep(object) }),
    |class| FREE.with(|list| list.revive(class, false)),
);

/// One `acquire()`, or `async with`.
struct Acquire {
    lock: Slot,
    /// The future that is waited on.
    waiter: Slot,
    /// For `async with`, which gives `None`.
    entering: Cell<bool>,
}

impl Steps for Acquire {
    fn name(&self) -> &'static str {
        if self.entering.get() {
            "_ContextManagerMixin.__aenter__"
        } else {
            "Lock.acquire"
        }
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let lock = self.lock.or_none();
        let this = fields(&lock);
        match awaited {
            // Everybody waits for their turn; to jump a queue of cancelled ones takes it from nobody.
            None if this.locked.get() || !this.waiters.all_cancelled()? => {
                let waiter = new_waiter(&lock)?;
                this.waiters.push(&waiter)?;
                self.waiter.set(waiter.clone());
                return wait_on(waiter);
            }
            None => {}
            Some(result) => self.woken(this, result)?,
        }
        this.locked.set(true);
        Ok(Next::Return(if self.entering.get() {
            Owned::none()
        } else {
            Owned::from_bool(true)
        }))
    }

    #[inline(always)]
    fn release(&self) {
        self.waiter.clear();
        self.lock.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.lock);
        see(&self.waiter);
    }

    fn class() -> &'static Class {
        &ACQUIRE
    }
}

impl Acquire {
    #[inline]
    fn woken(&self, lock: &Lock, result: Res<Owned>) -> Res<()> {
        let waiter = self.waiter.take().unwrap_or_else(Owned::none);
        let Err(Raised) = result else {
            lock.waiters.remove(&waiter)?;
            future::give_back(waiter);
            return Ok(());
        };
        let error = take_exception();
        lock.waiters.remove(&waiter)?;
        if exception_matches(&error, &imports().cancelled_error) && !lock.locked.get() {
            // It may have been our turn.
            lock.wake_up_first()?;
        }
        Err(restore(error))
    }
}

/// `Lock.acquire()`, or what `async with` awaits first.
#[inline]
pub(super) fn acquire(lock: &Object, entering: bool) -> Res<Owned> {
    make::<Acquire>(|acquire| {
        acquire.lock.fill(lock.own());
        acquire.entering.set(entering);
    })
}

// ---- the class ----

fn locked_method(lock: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(is_locked(lock)))
}

fn acquire_method(lock: &Object) -> Res<Owned> {
    acquire(lock, false)
}

fn release_method(lock: &Object) -> Res<Owned> {
    release(lock)?;
    Ok(Owned::none())
}

fn wake_up_first_method(lock: &Object) -> Res<Owned> {
    fields(lock).wake_up_first()?;
    Ok(Owned::none())
}

fn enter(lock: &Object) -> Res<Owned> {
    if is_plain(lock) {
        acquire(lock, true)
    } else {
        async_with::enter(lock)
    }
}

fn get_waiters(lock: &Object) -> Res<Owned> {
    fields(lock).waiters.show_if_used()
}

fn set_waiters(lock: &Object, value: Option<&Object>) -> Res<()> {
    fields(lock).waiters.replace(value)
}

fn set_locked(lock: &Object, value: Option<&Object>) -> Res<()> {
    fields(lock)
        .locked
        .set(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"locked" locked_method, c"Whether the lock is held."),
        method!(noargs c"acquire" acquire_method, c"Waits until the lock is free, and takes it. Gives True."),
        method!(noargs c"release" release_method,
            c"Gives the lock back; the first task that waits for it is woken. RuntimeError if nobody holds it."),
        method!(noargs c"_wake_up_first" wake_up_first_method, c"Wakes the first task that waits."),
        method!(noargs c"__aenter__" enter, c"Waits for the lock."),
        method!(fast c"__aexit__(exc_type, exc, tb)" async_with::exit_method, c"Gives the lock back."),
    ]
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    init_awaitable::<Acquire>(c"rondel._rondel.Acquire")?;
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
        &[&native, &sync_imports().stock.lock],
        &methods(),
    )?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}
