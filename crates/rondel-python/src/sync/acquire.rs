//! `acquire()` of locks and semaphores: waiting for one's turn.

use std::cell::Cell;

use super::primitive::{Primitive, new_waiter, wait_on};
use super::waiters::Waiters;
use crate::awaitable::{Class, Next, Steps, make};
use crate::cpython::{Native, NativeSlot, Owned, Res, Slot};

/// What a task can acquire.
pub(super) trait Acquirable: Primitive {
    /// The qualified name of its `acquire`.
    const ACQUIRE: &'static str;

    /// Those who wait for it.
    fn waiters(&self) -> &Waiters;

    /// Whether a task that comes now has to wait.
    fn must_wait(this: &Native<Self>) -> Res<bool>;

    /// A task that need not wait takes it.
    fn take(&self) -> Res<()>;

    /// A task that has waited goes on: it takes it, or raises what has ended its waiting.
    fn woken(&self, waiter: Owned, result: Res<Owned>) -> Res<()>;

    /// The type and the freelist of its awaitables.
    fn awaitables() -> &'static Class;
}

/// One `acquire()`, or `async with`.
pub(super) struct Acquire<T> {
    of: NativeSlot<T>,
    /// The future that is waited on.
    waiter: Slot,
    /// For `async with`, which gives `None`.
    entering: Cell<bool>,
}

impl<T: Acquirable> Steps for Acquire<T> {
    fn name(&self) -> &'static str {
        if self.entering.get() {
            "_ContextManagerMixin.__aenter__"
        } else {
            T::ACQUIRE
        }
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        if let Some(this) = self.of.cloned() {
            match awaited {
                None if T::must_wait(&this)? => {
                    let waiter = new_waiter(&*this)?;
                    this.waiters().push(&waiter)?;
                    self.waiter.set(waiter.clone());
                    return wait_on(waiter);
                }
                None => this.take()?,
                Some(result) => {
                    this.woken(self.waiter.take().unwrap_or_else(Owned::none), result)?
                }
            }
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
        self.of.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.of.slot());
        see(&self.waiter);
    }

    fn class() -> &'static Class {
        T::awaitables()
    }
}

/// `acquire()`, or what `async with` awaits first.
#[inline]
pub(super) fn acquire<T: Acquirable>(this: &Native<T>, entering: bool) -> Res<Owned> {
    make::<Acquire<T>>(|acquire| {
        acquire.of.fill(this.own());
        acquire.entering.set(entering);
    })
}
