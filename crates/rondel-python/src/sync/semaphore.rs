//! `Semaphore` and `BoundedSemaphore`: permits, and who gets the next one.
//!
//! A `release()` gives its permit right to the first task that waits, by completing its future; that task owns the
//! permit before it runs. If it is cancelled by then, the permit goes back, and on to the next.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::async_with;
use super::count::Count;
use super::names::{sync_imports, sync_names};
use super::primitive::{
    self, Bound, Primitive, describe_waiting, native_type, new_waiter, wait_on,
};
use super::waiters::{Waiters, is_cancelled, is_done};
use crate::awaitable::{Class, Next, Steps, init_type as init_awaitable, make};
use crate::cpython::error::{exception_matches, restore, take_exception, value_error};
use crate::cpython::freelist::free_list;
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::python_class::make_class;
use crate::cpython::types::{bind_attribute, visit};
use crate::cpython::{Object, Owned, Raised, Res, Slot, imports};

/// A semaphore's fields.
#[repr(C)]
#[derive(Default)]
pub(super) struct Semaphore {
    bound: Bound,
    waiters: Waiters,
    value: Count,
    /// Of a bounded one: what `value` must not exceed.
    limit: Count,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static BOUNDED_CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

#[inline]
fn fields(semaphore: &Object) -> &Semaphore {
    primitive::fields(semaphore)
}

#[inline]
fn is_bounded(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), BOUNDED_CLASS.load(Ordering::Relaxed))
}

/// Whether an object is a semaphore of ours whose methods are all its own.
#[inline]
pub(super) fn is_plain(object: &Object) -> bool {
    (ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed)) || is_bounded(object))
        && !fields(object).bound.is_patched()
}

// SAFETY: `repr(C)`, with a `Bound` first.
unsafe impl Primitive for Semaphore {
    fn traverse(&self, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
        visit!(visit, arg, self.value.slot(), self.limit.slot());
        self.waiters.traverse(visit, arg)
    }

    fn clear(&self) {
        self.waiters.clear();
        self.value.slot().clear();
        self.limit.slot().clear();
    }

    fn init(object: &Object, args: Args<'_>) -> Res<()> {
        let bounded = BOUNDED_CLASS.load(Ordering::Relaxed);
        // SAFETY: live types; objects are made when both classes are there.
        let function = match unsafe { ffi::PyType_IsSubtype(object.type_ptr(), bounded) } {
            0 => "Semaphore.__init__",
            _ => "BoundedSemaphore.__init__",
        };
        let [value] = args.parse(function, ["value"], 1, 0)?;
        init(object, value)
    }

    fn repr(object: &Object) -> Res<Owned> {
        let this = fields(object);
        let extra = if is_locked(object)? {
            "locked".to_owned()
        } else {
            format!("unlocked, value:{}", this.value.get()?.str()?.to_text()?)
        };
        describe_waiting(object, &extra, this.waiters.len()?)
    }
}

fn init(object: &Object, value: Option<&Object>) -> Res<()> {
    let this = fields(object);
    let given = Count::default();
    match value {
        Some(value) => given.set(value),
        None => given.add(1)?,
    }
    if given.is_negative()? {
        return value_error("Semaphore initial value must be >= 0");
    }
    let given = given.get()?;
    this.value.set(&given);
    this.limit.set(&given);
    this.waiters.replace(None)
}

/// `self.locked()`.
#[inline]
fn is_locked(semaphore: &Object) -> Res<bool> {
    if is_plain(semaphore) {
        return fields(semaphore).is_locked();
    }
    semaphore.call_method(&sync_names().locked, &[])?.is_true()
}

impl Semaphore {
    /// Whether the next one would have to wait: there is no permit, or others wait for theirs.
    #[inline]
    fn is_locked(&self) -> Res<bool> {
        Ok(self.value.is_zero()? || !self.waiters.all_cancelled()?)
    }

    /// Gives a permit to the first one that waits. Answers whether there was one.
    #[inline]
    fn wake_up_next(&self) -> Res<bool> {
        for waiter in self.waiters.iter() {
            let waiter = waiter?;
            if !is_done(&waiter)? {
                self.value.add(-1)?;
                super::waiters::set_result(&waiter, &Owned::from_bool(true))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn wake_up_all_that_can_run(&self) -> Res<()> {
        while self.value.is_positive()? && self.wake_up_next()? {}
        Ok(())
    }
}

/// `release()` of a plain semaphore.
#[inline]
pub(super) fn release(semaphore: &Object) -> Res<()> {
    let this = fields(semaphore);
    if is_bounded(semaphore) {
        return release_bounded(this);
    }
    this.value.add(1)?;
    this.wake_up_next().map(drop)
}

fn release_bounded(this: &Semaphore) -> Res<()> {
    if this.value.is_at_least(&this.limit)? {
        return value_error("BoundedSemaphore released too many times");
    }
    this.value.add(1)?;
    this.wake_up_next().map(drop)
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
    semaphore: Slot,
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
            "Semaphore.acquire"
        }
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let semaphore = self.semaphore.or_none();
        let this = fields(&semaphore);
        match awaited {
            None if is_locked(&semaphore)? => {
                let waiter = new_waiter(&semaphore)?;
                this.waiters.push(&waiter)?;
                self.waiter.set(waiter.clone());
                return wait_on(waiter);
            }
            None => this.value.add(-1)?,
            Some(result) => self.woken(this, result)?,
        }
        Ok(Next::Return(if self.entering.get() {
            Owned::none()
        } else {
            Owned::from_bool(true)
        }))
    }

    #[inline(always)]
    fn release(&self) {
        self.waiter.clear();
        self.semaphore.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.semaphore);
        see(&self.waiter);
    }

    fn class() -> &'static Class {
        &ACQUIRE
    }
}

impl Acquire {
    fn woken(&self, semaphore: &Semaphore, result: Res<Owned>) -> Res<()> {
        let waiter = self.waiter.take().unwrap_or_else(Owned::none);
        let passes_on = sync_imports().passes_wakeups_on;
        let Err(Raised) = result else {
            semaphore.waiters.remove(&waiter)?;
            // Those who came while this task was about to run had to wait for it.
            return if passes_on {
                semaphore.wake_up_all_that_can_run()
            } else if semaphore.value.is_positive()? {
                semaphore.wake_up_next().map(drop)
            } else {
                Ok(())
            };
        };
        let error = take_exception();
        semaphore.waiters.remove(&waiter)?;
        if exception_matches(&error, &imports().cancelled_error) {
            let had_permit = if passes_on {
                is_done(&waiter)? && !is_cancelled(&waiter)?
            } else {
                !is_cancelled(&waiter)?
            };
            if had_permit {
                semaphore.value.add(1)?;
                if !passes_on {
                    semaphore.wake_up_next()?;
                }
            }
        }
        if passes_on {
            semaphore.wake_up_all_that_can_run()?;
        }
        Err(restore(error))
    }
}

fn acquire(semaphore: &Object, entering: bool) -> Res<Owned> {
    make::<Acquire>(|acquire| {
        acquire.semaphore.set(semaphore.own());
        acquire.entering.set(entering);
    })
}

// ---- the classes ----

fn locked_method(semaphore: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(semaphore).is_locked()?))
}

fn acquire_method(semaphore: &Object) -> Res<Owned> {
    acquire(semaphore, false)
}

fn release_method(semaphore: &Object) -> Res<Owned> {
    let this = fields(semaphore);
    this.value.add(1)?;
    this.wake_up_next()?;
    Ok(Owned::none())
}

fn release_bounded_method(semaphore: &Object) -> Res<Owned> {
    release_bounded(fields(semaphore))?;
    Ok(Owned::none())
}

fn wake_up_next_method(semaphore: &Object) -> Res<Owned> {
    let woke = fields(semaphore).wake_up_next()?;
    Ok(if sync_imports().passes_wakeups_on {
        Owned::from_bool(woke)
    } else {
        Owned::none()
    })
}

fn enter(semaphore: &Object) -> Res<Owned> {
    if is_plain(semaphore) {
        acquire(semaphore, true)
    } else {
        async_with::enter(semaphore)
    }
}

fn get_value(semaphore: &Object) -> Res<Owned> {
    fields(semaphore).value.get()
}

fn set_value(semaphore: &Object, value: Option<&Object>) -> Res<()> {
    fields(semaphore)
        .value
        .set(value.unwrap_or(crate::cpython::none()));
    Ok(())
}

fn get_limit(semaphore: &Object) -> Res<Owned> {
    fields(semaphore).limit.get()
}

fn set_limit(semaphore: &Object, value: Option<&Object>) -> Res<()> {
    fields(semaphore)
        .limit
        .set(value.unwrap_or(crate::cpython::none()));
    Ok(())
}

fn get_waiters(semaphore: &Object) -> Res<Owned> {
    fields(semaphore).waiters.show_if_used()
}

fn set_waiters(semaphore: &Object, value: Option<&Object>) -> Res<()> {
    fields(semaphore).waiters.replace(value)
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"locked" locked_method, c"Whether acquire() would have to wait."),
        method!(noargs c"acquire" acquire_method, c"Waits for a permit, and takes it. Gives True."),
        method!(noargs c"_wake_up_next" wake_up_next_method, c"Gives a permit to the first task that waits."),
        method!(noargs c"__aenter__" enter, c"Waits for a permit."),
        method!(fast c"__aexit__(exc_type, exc, tb)" async_with::exit_method, c"Gives the permit back."),
    ]
}

fn release_as(bounded: bool) -> Method {
    if bounded {
        method!(noargs c"release" release_bounded_method,
            c"Gives a permit back, to the first task that waits. ValueError if there would be more than at first.")
    } else {
        method!(noargs c"release" release_method, c"Gives a permit back, to the first task that waits.")
    }
}

/// Makes the classes: `(Semaphore, BoundedSemaphore)`.
pub(super) fn init_types() -> Res<(Owned, Owned)> {
    init_awaitable::<Acquire>(c"rondel._rondel.AcquirePermit")?;
    let stock = &sync_imports().stock;
    let native = native_type::<Semaphore>(c"rondel._rondel.NativeSemaphore")
        .getset([
            attribute!(c"_value" get_value, set_value),
            attribute!(c"_waiters" get_waiters, set_waiters),
        ])
        .build()?;
    let doc = "A number of permits for tasks, as asyncio.Semaphore. It is fair: who waits first gets one first.";
    let mut all = methods();
    all.push(release_as(false));
    let semaphore = make_class(
        "Semaphore(value=1)",
        doc,
        &[&native, &stock.semaphore],
        &all,
    )?;
    CLASS.store(semaphore.clone().into_ptr().cast(), Ordering::Relaxed);

    let doc = "A semaphore that can't be released more often than it was acquired, as asyncio.BoundedSemaphore.";
    let mut all = methods();
    all.push(release_as(true));
    let bases = [&*semaphore, &*stock.bounded_semaphore];
    let bounded = make_class("BoundedSemaphore(value=1)", doc, &bases, &all)?;
    bind_attribute(&bounded, &attribute!(c"_bound_value" get_limit, set_limit))?;
    BOUNDED_CLASS.store(bounded.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok((semaphore, bounded))
}
