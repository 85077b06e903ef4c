//! The callbacks of a future. When it is done, they are scheduled by `call_soon`, in the order in
//! which they were added.
//!
//! The first callback is stored in the future itself, further ones in its rare fields. A waiting
//! native task is pushed directly onto the ready ring
//! ([`Kind::Wakeup`](crate::loop_core::item::Kind)), and a watcher is notified at once
//! (`watch.rs`). Any other callback gets a handle.

use super::kinds::{AnyTask, TASK, Waiter};
use super::watch;
use super::{Future, uninitialized};
use crate::cpython::error::{no_memory, restore, take_exception};
use crate::cpython::{Native, Object, Owned, OwnedNative, Raised, Res};
use crate::handle::call_soon;
use crate::loop_core::item::Kind;
use crate::loop_core::{LoopCore, check_step};

/// One callback of a future.
pub(super) struct Callback {
    /// A [`Waiter`] if there is no context; otherwise a callable.
    pub(super) target: Owned,
    pub(super) context: Option<Owned>,
}

/// Queues all callbacks, in the order in which they were added.
#[inline]
pub(super) fn schedule_callbacks(future: &Native<Future>) -> Res<()> {
    let this: &Future = future;
    // In the common case, the only callback is one waiting task.
    if this.context.is_empty()
        && this.has_no_rare()
        && this
            .callback
            .get()
            .is_some_and(|target| TASK.is_exact(target))
        && let (Some(event_loop), Some(task)) = (this.event_loop.get(), this.callback.take())
    {
        // SAFETY: the class was compared.
        let task = unsafe { OwnedNative::new(task) };
        return wake(event_loop, task, future);
    }
    schedule_all(future)
}

fn schedule_all(future: &Native<Future>) -> Res<()> {
    let this: &Future = future;
    if let Some(target) = this.callback.take() {
        let context = this.context.take();
        if let Err(Raised) = schedule(future, Callback { target, context }) {
            // The loop is closed: the other callbacks are dropped.
            let error = take_exception();
            drop(this.if_rare(|rare| Some(rare.callbacks.take())));
            return Err(restore(error));
        }
    }
    if let Some(callbacks) = this.if_rare(|rare| Some(rare.callbacks.take())) {
        for callback in callbacks {
            schedule(future, callback)?;
        }
    }
    Ok(())
}

pub(super) fn schedule(future: &Native<Future>, callback: Callback) -> Res<()> {
    let Some(event_loop) = future.event_loop.cloned() else {
        return uninitialized();
    };
    match callback.context {
        // SAFETY: without a context it is a waiter.
        None => unsafe { watch::notify(&event_loop, callback.target, future) },
        Some(context) => call_soon(&event_loop, &callback.target, &[future.object()], &context),
    }
}

/// Queues the next step of a task whose awaited future `done` is done.
#[inline(always)]
pub(super) fn wake(
    event_loop: &Object,
    task: OwnedNative<AnyTask>,
    done: &Native<Future>,
) -> Res<()> {
    if let Some(core) = LoopCore::of(event_loop)
        && core.calls_directly()
    {
        check_step(core)?;
        return core.push(Kind::Wakeup, task.into_owned());
    }
    // Owned references: the calls may run user code that reinitializes the future, which holds the
    // loop.
    let (event_loop, context) = (event_loop.own(), task.context());
    call_soon(
        &event_loop,
        &*task.wakeup_callable()?,
        &[done.object()],
        &context,
    )
}

/// Makes a native task or a watcher wait for a native future. If the future is already done, the
/// task is queued or the watcher notified at once.
#[inline]
pub(crate) fn add_waiter<T: Waiter>(future: &Native<Future>, waiter: &Native<T>) -> Res<()> {
    let (this, waiter): (&Future, _) = (future, waiter.object());
    // In the common case, no other callback is registered.
    if !this.is_done() && this.callback.is_empty() && this.has_no_rare() {
        this.callback.fill(waiter.own());
        drop(this.context.take());
        return Ok(());
    }
    let callback = Callback {
        target: waiter.own(),
        context: None,
    };
    add(future, callback)
}

/// `add_done_callback(callable, context=context)`.
#[cfg(not(Py_3_12))]
pub(crate) fn add_callback(
    future: &Native<Future>,
    callable: &Object,
    context: &Object,
) -> Res<()> {
    let callback = Callback {
        target: callable.own(),
        context: Some(context.own()),
    };
    add(future, callback)
}

/// Reverts [`add_waiter`].
pub(crate) fn remove_waiter<T: Waiter>(this: &Future, waiter: &Native<T>) {
    let waiter = waiter.object();
    if this.context.is_empty() && this.callback.holds(waiter) {
        this.callback.clear();
    }
    let removed = this.if_rare(|rare| {
        let mut callbacks = rare.callbacks.borrow_mut();
        let is_it = |callback: &Callback| callback.context.is_none() && callback.target.is(waiter);
        let place = callbacks.iter().position(is_it)?;
        Some(callbacks.remove(place))
    });
    drop(removed);
}

pub(super) fn add(future: &Native<Future>, callback: Callback) -> Res<()> {
    let this: &Future = future;
    if this.is_done() {
        return schedule(future, callback);
    }
    let first = this.callback.is_empty()
        && this
            .if_rare(|rare| Some(rare.callbacks.borrow().is_empty()))
            .unwrap_or(true);
    if first {
        this.callback.fill(callback.target);
        drop(this.context.replace(callback.context));
    } else {
        let more = this.with_rare(|rare| {
            let mut callbacks = rare.callbacks.borrow_mut();
            match callbacks.try_reserve(1) {
                Ok(()) => {
                    callbacks.push(callback);
                    Ok(())
                }
                Err(_) => Err(callback),
            }
        });
        if let Err(callback) = more {
            drop(callback);
            return no_memory();
        }
    }
    Ok(())
}

/// The callback at an index.
pub(super) fn nth(this: &Future, index: usize) -> Option<Callback> {
    let index = match this.callback.cloned() {
        Some(target) if index == 0 => {
            let context = this.context.cloned();
            return Some(Callback { target, context });
        }
        Some(_) => index - 1,
        None => index,
    };
    this.if_rare(|rare| {
        rare.callbacks.borrow().get(index).map(|callback| Callback {
            target: callback.target.clone(),
            context: callback.context.clone(),
        })
    })
}

/// All callbacks, in order.
pub(super) fn callbacks(this: &Future) -> Vec<Callback> {
    let mut all = Vec::new();
    if let Some(target) = this.callback.cloned() {
        all.push(Callback {
            target,
            context: this.context.cloned(),
        });
    }
    let more = this.if_rare(|rare| {
        Some(
            rare.callbacks
                .borrow()
                .iter()
                .map(|callback| Callback {
                    target: callback.target.clone(),
                    context: callback.context.clone(),
                })
                .collect::<Vec<_>>(),
        )
    });
    all.extend(more.into_iter().flatten());
    all
}

pub(super) fn set_callbacks(this: &Future, all: Vec<Callback>) {
    let mut all = all.into_iter();
    let (target, context) = match all.next() {
        Some(callback) => (Some(callback.target), callback.context),
        None => (None, None),
    };
    let before = (this.callback.replace(target), this.context.replace(context));
    let rest: Vec<_> = all.collect();
    let rest_before = if rest.is_empty() {
        this.if_rare(|rare| Some(rare.callbacks.take()))
    } else {
        Some(this.with_rare(|rare| rare.callbacks.replace(rest)))
    };
    drop((before, rest_before));
}
