//! How each kind of queued item runs (`loop_core/item.rs`).
//!
//! A callback runs as follows: `Item` → [`PyHost::run`](Host::run) → `task::step`, `handle::run` or
//! a transport's entry point → the turn's writes are flushed.

use std::ops::ControlFlow;

use pyo3::ffi;
use rondel_engine::event_loop::Host;
use rondel_engine::event_loop::clock::Clock;

use super::item_call::handle_of;
use super::patches;
use crate::cpython::detach::detached;
use crate::cpython::error::{Raised, restore, take_exception};
use crate::cpython::{Object, Owned, OwnedNative, Res, names};
use crate::future::watch;
use crate::loop_core::LoopCore;
use crate::loop_core::item::{Exit, Item, Kind, PyHost, Remote, Source, TimerRef};
use crate::threads::job;
use crate::transport::ways;
use crate::{handle, task};

impl PyHost {
    /// Makes an item of a descriptor's callback. It will probably send or receive, and the peer may
    /// be on this loop, so the next turn polls.
    fn callback_of_descriptor(&self, handle: &Owned) -> Item {
        self.core().engine().poll_next_turn();
        Item::new(Kind::Handle, handle.clone())
    }
}

impl Host for PyHost {
    type Item = Item;
    type Source = Source;
    type Timer = TimerRef;
    type Remote = Remote;
    type Exit = Exit;

    #[inline]
    fn run(&self, item: Item) -> ControlFlow<Exit> {
        let core = self.core();
        if core.watches_items() {
            return run_watched(core, item);
        }
        run_item(core, item)
    }

    #[inline]
    fn readable(&self, source: &Source) -> Option<Item> {
        Some(match source {
            Source::Callback(handle) => self.callback_of_descriptor(handle),
            Source::Transport(transport) => Item::new(Kind::Readable, transport.clone()),
        })
    }

    #[inline]
    fn writable(&self, source: &Source) -> Option<Item> {
        Some(match source {
            Source::Callback(handle) => self.callback_of_descriptor(handle),
            Source::Transport(transport) => Item::new(Kind::Writable, transport.clone()),
        })
    }

    #[inline]
    fn due(&self, timer: TimerRef) -> Option<Item> {
        let this = timer.handle();
        let has_moved = this.is_moved();
        this.left_queue();
        (!this.is_cancelled() && !has_moved).then(|| Item::new(Kind::Handle, timer.into_owned()))
    }

    fn received(&self, remote: Remote) -> Option<Item> {
        Some(remote.0)
    }

    #[inline]
    fn now(&self, clock: &Clock) -> u64 {
        if self.core().is_time_overridden() {
            return self.core().overridden_time().unwrap_or_else(|Raised| {
                // In asyncio a `time()` that raises would leave the timers in an inconsistent
                // state. Here the exception is reported, and the real clock is used.
                crate::cpython::error::write_unraisable(None);
                clock.now()
            });
        }
        clock.now()
    }

    fn due_until(&self, clock: &Clock) -> u64 {
        let core = self.core();
        if !core.is_time_overridden() {
            return clock.now();
        }
        core.overridden_due_until().unwrap_or_else(|Raised| {
            crate::cpython::error::write_unraisable(None); // as in `now`
            clock.now()
        })
    }

    fn select(&self, until_due: Option<u64>) -> Option<ControlFlow<Exit, bool>> {
        self.core().select_by_method(until_due)
    }

    fn moves_time(&self) -> bool {
        self.core().is_time_overridden()
    }

    #[inline]
    fn after_turn(&self) {
        self.core().flush_written();
    }

    fn before_wait(&self) -> ControlFlow<Exit> {
        self.core().leave_task();
        self.core().forget_kept();
        // Otherwise a signal that arrived while no Python code ran would be handled only after the
        // next event.
        self.interrupted()
    }

    fn park<R>(&self, wait: impl FnOnce() -> R) -> R {
        let queue = self.core().worker_to_notify();
        // `wait` is the reactor's system call. A worker woken here can take the GIL at once.
        detached(|| {
            if let Some(queue) = queue {
                queue.notify();
            }
            wait()
        })
    }

    fn interrupted(&self) -> ControlFlow<Exit> {
        // SAFETY: the GIL is held. The call runs Python signal handlers, on the main thread only.
        let result = unsafe { ffi::PyErr_CheckSignals() };
        self.core().flush_written();
        if result < 0 {
            return ControlFlow::Break(Exit::Raised(Raised));
        }
        ControlFlow::Continue(())
    }
}

#[inline]
pub(crate) fn run_item(core: &LoopCore, item: Item) -> ControlFlow<Exit> {
    #[cfg(feature = "panic-probe")]
    crate::panic_probe::fire();
    // The loop continues without releasing the GIL, so the worker is woken now.
    core.notify_worker();
    let (kind, object) = item.into_parts();
    let flow = match kind {
        Kind::Step | Kind::Wakeup => {
            // SAFETY: items of kind `Step` and `Wakeup` hold tasks.
            let task = unsafe { OwnedNative::new(object) };
            task::step(core, task, kind == Kind::Wakeup)
        }
        Kind::Watcher => watch::run(core, &object),
        kind => {
            // Code that is not a task's step must not see the last step's task as the current one.
            core.leave_task();
            match kind {
                Kind::Readable => ways::readable(&object),
                Kind::Writable => ways::writable(&object),
                Kind::Deferred => ways::deferred(&object),
                Kind::Job => job::deliver(core, &object),
                _ => {
                    // SAFETY: items of kind `Handle` hold handles.
                    let handle = unsafe { OwnedNative::new(object) };
                    let flow = handle::run(core, &handle);
                    handle::let_go(handle);
                    flow
                }
            }
        }
    };
    core.after_step();
    flow
}

/// Runs an item in debug mode, or while the program has replaced `Handle._run`.
#[cold]
fn run_watched(core: &LoopCore, item: Item) -> ControlFlow<Exit> {
    if core.is_debug() {
        return run_timed(core, item);
    }
    run_as_handle(core, item)
}

/// Runs an item, with the program's `Handle._run` if there is one.
fn run_as_handle(core: &LoopCore, item: Item) -> ControlFlow<Exit> {
    let Some(run) = patches::handle_run() else {
        return run_item(core, item);
    };
    core.notify_worker();
    core.leave_task();
    let call = || -> Res<()> {
        let handle = handle_of(core, item)?;
        if handle.getattr(&names().cancelled_attr)?.is_true()? {
            return Ok(());
        }
        run.call(&[&handle]).map(drop)
    };
    let result = call();
    core.after_step();
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

/// Debug mode: logs items that take longer than `slow_callback_duration`, as
/// `BaseEventLoop._run_once` does.
#[cold]
fn run_timed(core: &LoopCore, item: Item) -> ControlFlow<Exit> {
    let object = item.object().own();
    let (kind, begin) = (item.kind(), core.engine().clock().now());
    // A handle that cancels itself has saved its text for the warning (`_repr`).
    let flow = run_as_handle(core, item);
    let seconds = (core.engine().clock().now() - begin) as f64 / 1e9;
    if let ControlFlow::Continue(()) = flow
        && let Err(Raised) = warn_if_slow(core, kind, &object, seconds)
    {
        return ControlFlow::Break(Exit::Raised(restore(take_exception())));
    }
    flow
}

/// The text of the handle that asyncio has for a transport's descriptor.
fn transport_call(transport: &Object, call: &str) -> Res<Owned> {
    let class = transport.class_name()?;
    Owned::from_str(&format!("<Handle {class}.{call}>"))
}

fn warn_if_slow(core: &LoopCore, kind: Kind, object: &Object, seconds: f64) -> Res<()> {
    let limit = core
        .object()
        .getattr(&names().slow_callback_duration)?
        .to_f64()?;
    if seconds < limit {
        return Ok(());
    }
    let what = match kind {
        Kind::Handle => crate::cpython::names::import("asyncio.base_events")?
            .getattr(&*Owned::from_str("_format_handle")?)?
            .call(&[object])?,
        Kind::Readable => transport_call(object, &format!("{}()", ways::read_ready_name(object)))?,
        Kind::Writable => transport_call(object, "_write_ready()")?,
        _ => object.repr()?,
    };
    let format = Owned::from_str("Executing %s took %.3f seconds")?;
    crate::cpython::imports().logger.call_method(
        &names().warning,
        &[&*format, &*what, &*Owned::from_f64(seconds)?],
    )?;
    Ok(())
}
