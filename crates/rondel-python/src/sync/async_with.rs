//! `async with` on locks, conditions and semaphores: `__aexit__`, and `__aenter__` where `acquire`
//! may be overridden.

use std::cell::Cell;

use super::condition;
use super::lock::{self, Lock};

use super::primitive::plain;
use super::semaphore::{self, Semaphore};
use crate::awaitable::{
    Class, Next, Steps, awaitable_class, init_type as init_awaitable, iterator_of, make,
};
use crate::cpython::method::Args;
use crate::cpython::names;
use crate::cpython::{Object, Owned, Res, Slot};

awaitable_class!(CLASS, 128);

/// The state of one `__aenter__()` or `__aexit__()` call.
struct Scope {
    target: Slot,
    leaving: Cell<bool>,
}

impl Steps for Scope {
    fn name(&self) -> &'static str {
        if self.leaving.get() {
            "_ContextManagerMixin.__aexit__"
        } else {
            "_ContextManagerMixin.__aenter__"
        }
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        if let Some(result) = awaited {
            result?;
            return Ok(Next::Return(Owned::none()));
        }
        let target = self.target.or_none();
        if !self.leaving.get() {
            let acquire = target.call_method(&names().acquire, &[])?;
            return Ok(Next::Await(iterator_of(&acquire)?));
        }
        release(&target)?;
        Ok(Next::Return(Owned::none()))
    }

    #[inline(always)]
    fn release(&self) {
        self.target.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.target);
    }

    fn class() -> &'static Class {
        &CLASS
    }
}

/// `target.release()`.
#[inline]
fn release(target: &Object) -> Res<()> {
    if let Some(lock) = plain::<Lock>(target) {
        lock::release(lock)
    } else if let Some(semaphore) = plain::<Semaphore>(target) {
        semaphore::release(semaphore)
    } else {
        condition::release(target)
    }
}

fn new(target: &Object, leaving: bool) -> Res<Owned> {
    make::<Scope>(|scope| {
        scope.target.fill(target.own());
        scope.leaving.set(leaving);
    })
}

/// Awaits `target.acquire()`.
pub(super) fn enter(target: &Object) -> Res<Owned> {
    new(target, false)
}

/// `__aexit__(exc_type, exc, tb)`.
pub(super) fn exit_method(target: &Object, args: Args<'_>) -> Res<Owned> {
    if args.positional().len() != 3 || args.has_named() {
        let [_, _, _] = args.parse(
            "_ContextManagerMixin.__aexit__",
            ["exc_type", "exc", "tb"],
            3,
            3,
        )?;
    }
    new(target, true)
}

/// Creates the type.
pub(super) fn init_type() -> Res<()> {
    init_awaitable::<Scope>(c"rondel._rondel.Scope")
}
