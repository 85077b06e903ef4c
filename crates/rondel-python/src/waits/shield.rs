//! `shield`: a future that ends as another one does, and can be cancelled without cancelling it.
//!
//! A [`Shield`] watches both. The inner future's outcome is passed on to the outer one. If the
//! outer future is done first, the inner one is no longer watched.

use std::ptr;

use super::awaited_by::{current_task, link, unlink};
use super::names::waits_imports;
use super::parse_one;
use crate::awaitable::is_awaitable;
use crate::cpython::collected::Collected;
use crate::cpython::method::{Args, function, method};
use crate::cpython::native::{Class, Fields, NativeClass};
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{
    Native, NativeSlot, Object, Owned, OwnedNative, Res, Slot, imports, names, none,
};
use crate::future::kinds::Waiter;
use crate::future::watch::{self, Arrived, Watcher};
use crate::future::{self, Future, State};
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;
use crate::task;

/// The watcher of one `shield`.
struct Shield {
    inner: NativeSlot<Future>,
    outer: NativeSlot<Future>,
    /// The calling task, if links between futures are kept.
    task: Slot,
    arrived: Arrived,
}

// SAFETY: all-zero fields are valid.
unsafe impl Fields for Shield {}

// SAFETY: every object reference is visited.
unsafe impl Collected for Shield {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        for slot in [self.inner.slot(), self.outer.slot(), &self.task] {
            see(slot);
        }
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.arrived.for_each(see);
    }

    fn release_others(&self) {
        self.arrived.clear();
    }
}

static CLASS: Class = Class::new();

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for Shield {
    fn class() -> &'static Class {
        &CLASS
    }
}

// SAFETY: a class of watchers.
unsafe impl Waiter for Shield {}

impl Shield {
    fn is_outer(&self, future: &Object) -> bool {
        self.outer.slot().holds(future)
    }
}

impl Watcher for Native<Shield> {
    fn name(&self, future: &Object) -> &'static str {
        match self.is_outer(future) {
            true => "shield.<locals>._outer_done_callback",
            false => "shield.<locals>._inner_done_callback",
        }
    }

    /// `Some(true)`: the outer future is done and the inner one is pending. `Some(false)`: the
    /// inner future is done.
    fn note(&self, done: &Object) -> Res<Option<bool>> {
        if !self.is_outer(done) {
            return Ok(Some(false));
        }
        let pending = self.inner.get().is_some_and(|inner| !inner.is_done());
        Ok(pending.then_some(true))
    }

    fn act(&self, done: &Object, is_outer: bool) -> Res<()> {
        let Some(inner) = self.inner.cloned() else {
            return Ok(());
        };
        if is_outer {
            outer_done(self, &inner)
        } else {
            debug_assert!(inner.is(done));
            inner_done(self, &inner)
        }
    }

    fn watches(&self, done: &Object) -> bool {
        [&self.outer, &self.inner]
            .into_iter()
            .filter_map(NativeSlot::get)
            .any(|future| future.is(done) && future.is_done())
    }

    fn arrived(&self) -> &Arrived {
        &self.arrived
    }
}

fn inner_done(this: &Shield, inner: &Native<Future>) -> Res<()> {
    unlink(inner.object(), this.task.cloned().as_deref())?;
    let Some(outer) = this.outer.cloned() else {
        return Ok(());
    };
    if outer.state() == State::Cancelled {
        if waits_imports().quirks.shield_retrieves {
            inner.set_log_traceback(false);
        }
        return Ok(());
    }
    if inner.state() == State::Cancelled {
        return future::cancel(&outer, None).map(drop);
    }
    match future::exception(inner) {
        Some(exception) => future::fail(&outer, &exception),
        None => future::finish(&outer, future::take_result(inner)?),
    }
}

fn outer_done(shield: &Native<Shield>, inner: &Native<Future>) -> Res<()> {
    if inner.is_done() {
        return Ok(());
    }
    let (imports, task) = (waits_imports(), shield.task.cloned());
    if task.is_none() || imports.quirks.shield_unlinks_with_outer {
        future::remove_waiter(inner, shield);
        unlink(inner.object(), task.as_deref())?;
    } else {
        // The link is removed when the inner future is done.
        shield.outer.clear();
    }
    let Some(log_on_exception) = &imports.log_on_exception else {
        return Ok(());
    };
    // One callback suffices, however many shields the future has had.
    let inner = inner.object();
    inner.call_method(&names().remove_done_callback, &[log_on_exception])?;
    inner
        .call_method(&names().add_done_callback, &[log_on_exception])
        .map(drop)
}

/// The future to shield: a native future on a Rondel loop, or a task made of `arg`. `None` if
/// asyncio's own function must handle `arg`.
fn inner_of(arg: &Object) -> Res<Option<OwnedNative<Future>>> {
    if let Some(arg) = arg.exact::<Future>() {
        let ours = arg
            .event_loop()
            .is_some_and(|event_loop| LoopCore::of(event_loop).is_some());
        return Ok(ours.then(|| arg.own()));
    }
    if !is_awaitable(arg) && !ptr::eq(arg.type_ptr(), imports().coroutine_type.as_type_ptr()) {
        return Ok(None);
    }
    let event_loop = running_loop()?;
    match LoopCore::of(&event_loop) {
        Some(core) if core.makes_tasks_directly() => {
            let task = task::new_task(&event_loop, arg, None, None, false)?;
            Ok(Some(task.into_future()))
        }
        _ => Ok(None),
    }
}

/// `shield(arg)`.
fn shield(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [arg] = parse_one("shield", ["arg"], args)?;
    let Some(inner) = inner_of(arg.unwrap_or(none()))? else {
        return waits_imports().stock_shield.call_all(args);
    };
    if inner.is_done() {
        return Ok(inner.into_owned());
    }
    let event_loop = inner.event_loop().unwrap_or(none()).own();
    let outer = future::new_future(&event_loop)?;
    let task = current_task(&event_loop)?;
    link(inner.object(), task.as_deref())?;
    // SAFETY: all-zero fields are valid.
    let shield = unsafe { OwnedNative::<Shield>::new(allocate(CLASS.as_ptr())?) };
    shield.inner.set(inner.clone());
    shield.outer.set(outer.clone());
    drop(shield.task.replace(task));
    future::add_waiter(&inner, &shield)?;
    future::add_waiter(&outer, &shield)?;
    Ok(outer.into_owned())
}

/// Makes the class and the function.
pub(super) fn init() -> Res<Owned> {
    let class = TypeBuilder::new::<Shield>(c"rondel._rondel.Shield", None, Shield::offset())
        .not_instantiable()
        .collected::<Shield>()
        .build()?;
    CLASS.set(&class);
    // SAFETY: the class was made for these fields.
    unsafe { watch::register::<Shield>(&class) };
    function(method!(fast c"shield(arg)" shield,
        c"Returns a future with the outcome of arg. Cancelling it does not cancel arg."))
}
