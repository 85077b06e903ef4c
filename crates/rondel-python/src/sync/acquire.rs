//! `acquire()` of locks and semaphores.

use std::cell::Cell;

use super::primitive::{Primitive, new_waiter, wait_on};
use super::waiters::Waiters;
use crate::awaitable::{Class, Next, Steps, make};
use crate::cpython::{Native, NativeSlot, Owned, Res, Slot};

/// A primitive that a task can acquire.
pub(super) trait Acquirable: Primitive {
    /// The qualified name of its `acquire`.
    const ACQUIRE: &'static str;

    /// The waiters.
    fn waiters(&self) -> &Waiters;

    /// Whether a task that calls `acquire()` now has to wait.
    fn must_wait(this: &Native<Self>) -> Res<bool>;

    /// Acquires it for a task that need not wait.
    fn take(&self) -> Res<()>;

    /// Continues a task that has waited: acquires, or raises the exception that ended the wait.
    fn woken(&self, waiter: Owned, result: Res<Owned>) -> Res<()>;

    /// The type and the freelist of the awaitables.
    fn awaitables() -> &'static Class;
}

/// The state of one `acquire()` call or `async with` entry.
pub(super) struct Acquire<T> {
    of: NativeSlot<T>,
    /// The future that the task waits on.
    waiter: Slot,
    /// Whether this is for `async with`, where the result is `None`.
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

/// `acquire()`, or the first awaitable of `async with`.
#[inline]
pub(super) fn acquire<T: Acquirable>(this: &Native<T>, entering: bool) -> Res<Owned> {
    make::<Acquire<T>>(|acquire| {
        acquire.of.fill(this.own());
        acquire.entering.set(entering);
    })
}
