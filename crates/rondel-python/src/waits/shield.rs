//! `shield`: a future that ends as another one does, and can be cancelled without cancelling it.
//!
//! A [`Shield`] watches both. The inner future's outcome is passed on to the outer one. If the
//! outer future is done first, the inner one is no longer watched.

use std::ptr;

use super::awaited_by::{current_task, link, unlink};
use super::names::waits_imports;
use super::parse_one;
use crate::awaitable::is_awaitable;
use crate::cpython::collected::{Collected, slots};
use crate::cpython::method::{Args, function, method};
use crate::cpython::native::Class;
use crate::cpython::native::Fields;
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{Object, Owned, Res, Slot, imports, names, none};
use crate::future::watch::{self, Arrived, Watcher};
use crate::future::{self, State};
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;
use crate::task;

/// The watcher of one `shield`.
struct Shield {
    inner: Slot,
    outer: Slot,
    /// The calling task, if links between futures are kept.
    task: Slot,
    arrived: Arrived,
}

// SAFETY: all-zero fields are valid.
unsafe impl Fields for Shield {}

// SAFETY: every object reference is visited.
unsafe impl Collected for Shield {
    slots!(inner, outer, task);

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.arrived.for_each(see);
    }

    fn release_others(&self) {
        self.arrived.clear();
    }
}

pub(super) static WATCHER: Watcher = Watcher {
    class: Class::new(),
    method: None,
    name: |shield, future| match Shield::of(shield).outer.holds(future) {
        true => "shield.<locals>._outer_done_callback",
        false => "shield.<locals>._inner_done_callback",
    },
    note,
    act,
    watches: |shield, done| {
        let this = Shield::of(shield);
        (this.outer.holds(done) || this.inner.holds(done)) && future::fields(done).is_done()
    },
    arrived: |shield| &Shield::of(shield).arrived,
};

/// `Some(true)`: the outer future is done and the inner one is pending. `Some(false)`: the inner
/// future is done.
fn note(shield: &Object, done: &Object) -> Res<Option<bool>> {
    let this = Shield::of(shield);
    if !this.outer.holds(done) {
        return Ok(Some(false));
    }
    let pending = |inner: &Object| !future::fields(inner).is_done();
    Ok(this.inner.get().is_some_and(pending).then_some(true))
}

fn act(shield: &Object, done: &Object, is_outer: bool) -> Res<()> {
    let this = Shield::of(shield);
    let Some(inner) = this.inner.cloned() else {
        return Ok(());
    };
    if is_outer {
        outer_done(shield, &inner)
    } else {
        debug_assert!(inner.is(done));
        inner_done(this, &inner)
    }
}

fn inner_done(this: &Shield, inner: &Object) -> Res<()> {
    unlink(inner, this.task.cloned().as_deref())?;
    let Some(outer) = this.outer.cloned() else {
        return Ok(());
    };
    let base = future::fields(inner);
    if future::fields(&outer).state() == State::Cancelled {
        if waits_imports().quirks.shield_retrieves {
            base.set_log_traceback(false);
        }
        return Ok(());
    }
    if base.state() == State::Cancelled {
        return future::cancel(&outer, None).map(drop);
    }
    match future::exception(inner) {
        Some(exception) => future::fail(&outer, &exception),
        None => future::finish(&outer, future::take_result(base)?),
    }
}

fn outer_done(shield: &Object, inner: &Object) -> Res<()> {
    let this = Shield::of(shield);
    if future::fields(inner).is_done() {
        return Ok(());
    }
    let (imports, task) = (waits_imports(), this.task.cloned());
    if task.is_none() || imports.quirks.shield_unlinks_with_outer {
        future::remove_waiter(inner, shield);
        unlink(inner, task.as_deref())?;
    } else {
        // The link is removed when the inner future is done.
        this.outer.clear();
    }
    let Some(log_on_exception) = &imports.log_on_exception else {
        return Ok(());
    };
    // One callback suffices, however many shields the future has had.
    inner.call_method(&names().remove_done_callback, &[log_on_exception])?;
    inner
        .call_method(&names().add_done_callback, &[log_on_exception])
        .map(drop)
}

/// The future to shield: a native future on a Rondel loop, or a task made of `arg`. `None` if
/// asyncio's own function must handle `arg`.
fn inner_of(arg: &Object) -> Res<Option<Owned>> {
    if future::is_native(arg) {
        let event_loop = future::fields(arg).event_loop();
        let ours = event_loop.is_some_and(|event_loop| LoopCore::of(event_loop).is_some());
        return Ok(ours.then(|| arg.own()));
    }
    if !is_awaitable(arg) && !ptr::eq(arg.type_ptr(), imports().coroutine_type.as_type_ptr()) {
        return Ok(None);
    }
    let event_loop = running_loop()?;
    match LoopCore::of(&event_loop) {
        Some(core) if core.makes_tasks_directly() => {
            task::new_task(&event_loop, arg, None, None, false).map(Some)
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
    let base = future::fields(&inner);
    if base.is_done() {
        return Ok(inner);
    }
    let event_loop = base.event_loop().unwrap_or(none()).own();
    let outer = future::new_future(&event_loop)?;
    let task = current_task(&event_loop)?;
    link(&inner, task.as_deref())?;
    // SAFETY: all-zero fields are valid.
    let shield = unsafe { allocate(WATCHER.class.as_ptr())? };
    let this = Shield::of(&shield);
    this.inner.set(inner.clone());
    this.outer.set(outer.clone());
    drop(this.task.replace(task));
    watch::add(&inner, &shield)?;
    watch::add(&outer, &shield)?;
    Ok(outer)
}

/// Makes the class and the function.
pub(super) fn init() -> Res<Owned> {
    let class = TypeBuilder::new::<Shield>(c"rondel._rondel.Shield", None, Shield::offset())
        .not_instantiable()
        .collected::<Shield>()
        .build()?;
    watch::register(&WATCHER, &class);
    function(method!(fast c"shield(arg)" shield,
        c"A future that ends as arg does. Cancelling it does not cancel arg."))
}
