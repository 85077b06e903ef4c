//! `Semaphore` and `BoundedSemaphore`.
//!
//! `release()` hands its permit directly to the first waiting task by completing its future. That
//! task owns the permit before it runs. If it is cancelled before that, the permit is returned and
//! handed to the next task.

use super::acquire::{Acquirable, Acquire, acquire};
use super::async_with;
use super::count::Count;
use super::names::sync_imports;
use super::primitive::{Bound, Primitive, describe_waiting, native_type, plain};
use super::waiters::Waiters;
use crate::awaitable::{self, awaitable_class, init_type as init_awaitable};
use crate::cpython::collected::Collected;
use crate::cpython::error::{exception_matches, restore, take_exception, value_error};
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::names;
use crate::cpython::python_class::make_class;
use crate::cpython::types::bind_attribute;
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, Raised, Res, Slot, imports,
};
use crate::future::any::{is_cancelled, is_done, set_result};

/// A semaphore's fields.
#[derive(Default)]
pub(super) struct Semaphore {
    bound: Bound,
    waiters: Waiters,
    value: Count,
    /// For a bounded one: the maximum of `value`.
    limit: Count,
}

static CLASS: Class = Class::new();
static BOUNDED_CLASS: Class = Class::new();

// SAFETY: the fields lie behind the object header; `tp_new` initializes them.
unsafe impl Fields for Semaphore {}

// SAFETY: both classes derive from the native class, which is sized for these fields.
unsafe impl NativeClass for Semaphore {
    fn class() -> &'static Class {
        &CLASS
    }

    #[inline]
    fn is_exact(object: &Object) -> bool {
        CLASS.is_exact(object) || BOUNDED_CLASS.is_exact(object)
    }
}

// SAFETY: every owned object is shown to the visitor.
unsafe impl Collected for Semaphore {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.bound.event_loop);
        see(self.value.slot());
        see(self.limit.slot());
        see(self.waiters.slot());
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.waiters.for_each(see);
    }

    fn release_others(&self) {
        self.waiters.clear();
    }
}

impl Primitive for Semaphore {
    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn init(this: &Native<Self>, args: Args<'_>) -> Res<()> {
        let function = match BOUNDED_CLASS.is_instance(this.object()) {
            false => "Semaphore.__init__",
            true => "BoundedSemaphore.__init__",
        };
        let [value] = args.parse(function, ["value"], 1, 0)?;
        this.init(value)
    }

    fn repr(this: &Native<Self>) -> Res<Owned> {
        let extra = if is_locked(this)? {
            "locked".to_owned()
        } else {
            format!("unlocked, value:{}", this.value.get()?.str()?.to_text()?)
        };
        describe_waiting(this.object(), &extra, this.waiters.len()?)
    }
}

/// `self.locked()`.
#[inline]
fn is_locked(semaphore: &Native<Semaphore>) -> Res<bool> {
    match plain::<Semaphore>(semaphore.object()) {
        Some(semaphore) => semaphore.is_locked(),
        None => {
            let locked = semaphore.object().call_method(&names().locked, &[])?;
            locked.is_true()
        }
    }
}

impl Semaphore {
    fn init(&self, value: Option<&Object>) -> Res<()> {
        let given = Count::default();
        match value {
            Some(value) => given.set(value),
            None => given.add(1)?,
        }
        if given.is_negative()? {
            return value_error("Semaphore initial value must be >= 0");
        }
        let given = given.get()?;
        self.value.set(&given);
        self.limit.set(&given);
        self.waiters.replace(None)
    }

    /// Whether a task would have to wait: there is no permit, or others wait already.
    #[inline]
    fn is_locked(&self) -> Res<bool> {
        Ok(self.value.is_zero()? || !self.waiters.all_cancelled()?)
    }

    /// Gives a permit to the first waiting task. Returns whether there was one.
    #[inline]
    fn wake_up_next(&self) -> Res<bool> {
        for waiter in self.waiters.iter() {
            let waiter = waiter?;
            if !is_done(&waiter)? {
                self.value.add(-1)?;
                set_result(&waiter, &Owned::from_bool(true))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn wake_up_all_that_can_run(&self) -> Res<()> {
        while self.value.is_positive()? && self.wake_up_next()? {}
        Ok(())
    }

    fn release(&self) -> Res<()> {
        self.value.add(1)?;
        self.wake_up_next().map(drop)
    }

    fn release_bounded(&self) -> Res<()> {
        if self.value.is_at_least(&self.limit)? {
            return value_error("BoundedSemaphore released too many times");
        }
        self.release()
    }
}

/// `release()` of a semaphore without overridden methods.
#[inline]
pub(super) fn release(semaphore: &Native<Semaphore>) -> Res<()> {
    match BOUNDED_CLASS.is_exact(semaphore.object()) {
        true => semaphore.release_bounded(),
        false => semaphore.release(),
    }
}

// ---- acquire ----

awaitable_class!(ACQUIRE, 256);

impl Acquirable for Semaphore {
    const ACQUIRE: &'static str = "Semaphore.acquire";

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    #[inline]
    fn must_wait(this: &Native<Self>) -> Res<bool> {
        is_locked(this)
    }

    #[inline]
    fn take(&self) -> Res<()> {
        self.value.add(-1)
    }

    fn woken(&self, waiter: Owned, result: Res<Owned>) -> Res<()> {
        let passes_on = sync_imports().passes_wakeups_on;
        let Err(Raised) = result else {
            self.waiters.remove(&waiter)?;
            // Tasks that arrived before this one ran had to queue behind it (FIFO).
            return if passes_on {
                self.wake_up_all_that_can_run()
            } else if self.value.is_positive()? {
                self.wake_up_next().map(drop)
            } else {
                Ok(())
            };
        };
        let error = take_exception();
        self.waiters.remove(&waiter)?;
        if exception_matches(&error, &imports().cancelled_error) {
            let had_permit = if passes_on {
                is_done(&waiter)? && !is_cancelled(&waiter)?
            } else {
                !is_cancelled(&waiter)?
            };
            if had_permit {
                self.value.add(1)?;
                if !passes_on {
                    self.wake_up_next()?;
                }
            }
        }
        if passes_on {
            self.wake_up_all_that_can_run()?;
        }
        Err(restore(error))
    }

    fn awaitables() -> &'static awaitable::Class {
        &ACQUIRE
    }
}

// ---- the classes ----

fn locked_method(semaphore: &Native<Semaphore>) -> Res<Owned> {
    Ok(Owned::from_bool(semaphore.is_locked()?))
}

fn acquire_method(semaphore: &Native<Semaphore>) -> Res<Owned> {
    acquire(semaphore, false)
}

fn release_method(semaphore: &Native<Semaphore>) -> Res<Owned> {
    semaphore.release()?;
    Ok(Owned::none())
}

fn release_bounded_method(semaphore: &Native<Semaphore>) -> Res<Owned> {
    semaphore.release_bounded()?;
    Ok(Owned::none())
}

fn wake_up_next_method(semaphore: &Native<Semaphore>) -> Res<Owned> {
    let woke = semaphore.wake_up_next()?;
    Ok(if sync_imports().passes_wakeups_on {
        Owned::from_bool(woke)
    } else {
        Owned::none()
    })
}

fn enter(semaphore: &Native<Semaphore>) -> Res<Owned> {
    match plain::<Semaphore>(semaphore.object()) {
        Some(semaphore) => acquire(semaphore, true),
        None => async_with::enter(semaphore.object()),
    }
}

fn get_value(semaphore: &Native<Semaphore>) -> Res<Owned> {
    semaphore.value.get()
}

fn set_value(semaphore: &Native<Semaphore>, value: Option<&Object>) -> Res<()> {
    semaphore.value.set(value.unwrap_or(crate::cpython::none()));
    Ok(())
}

fn get_limit(semaphore: &Native<Semaphore>) -> Res<Owned> {
    semaphore.limit.get()
}

fn set_limit(semaphore: &Native<Semaphore>, value: Option<&Object>) -> Res<()> {
    semaphore.limit.set(value.unwrap_or(crate::cpython::none()));
    Ok(())
}

fn get_waiters(semaphore: &Native<Semaphore>) -> Res<Owned> {
    semaphore.waiters.show_if_used()
}

fn set_waiters(semaphore: &Native<Semaphore>, value: Option<&Object>) -> Res<()> {
    semaphore.waiters.replace(value)
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"locked" locked_method, c"Whether acquire() would have to wait."),
        method!(noargs c"acquire" acquire_method, c"Waits for a permit, and acquires it. Returns True."),
        method!(noargs c"_wake_up_next" wake_up_next_method, c"Passes a permit to the first task that waits."),
        method!(noargs c"__aenter__" enter, c"Waits for a permit."),
        method!(fast c"__aexit__(exc_type, exc, tb)" async_with::exit_method, c"Releases the permit."),
    ]
}

fn release_as(bounded: bool) -> Method {
    if bounded {
        method!(noargs c"release" release_bounded_method,
            c"Releases a permit and wakes the first task that waits. Raises ValueError if there would be more than the initial value.")
    } else {
        method!(noargs c"release" release_method, c"Releases a permit and wakes the first task that waits.")
    }
}

/// Creates the classes: `(Semaphore, BoundedSemaphore)`.
pub(super) fn init_types() -> Res<(Owned, Owned)> {
    init_awaitable::<Acquire<Semaphore>>(c"rondel._rondel.AcquirePermit")?;
    let imports = sync_imports();
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
        &[&native, &imports.stock_semaphore],
        &all,
    )?;
    CLASS.set(&semaphore);

    let doc = "A semaphore that can't be released more often than it was acquired, as asyncio.BoundedSemaphore.";
    let mut all = methods();
    all.push(release_as(true));
    let bases = [&*semaphore, &*imports.stock_bounded_semaphore];
    let bounded = make_class("BoundedSemaphore(value=1)", doc, &bases, &all)?;
    bind_attribute(&bounded, &attribute!(c"_bound_value" get_limit, set_limit))?;
    BOUNDED_CLASS.set(&bounded);
    Ok((semaphore, bounded))
}
