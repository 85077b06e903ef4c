//! What the engine queues for Python, and how each kind of item runs.
//!
//! An [`Item`] is one word: an owned pointer with its kind in the low bits. A task's step is the task itself,
//! with no handle around it. This is the way of a callback: `Item` → [`PyHost::run`] → `task::step`,
//! `handle::run` or one of a transport's entry points → the writes of the turn are flushed.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
use std::ptr::NonNull;

use pyo3::ffi;
use rondel::event_loop::clock::Clock;
use rondel::event_loop::timers::Timer;
use rondel::event_loop::{EventLoop, Host};

use super::core::LoopCore;
use super::patches;
use crate::cpython::detach::detached;
use crate::cpython::error::{Raised, raise_os_error, restore, take_exception};
use crate::cpython::{Object, Owned, Res, names};
use crate::threads::job;
use crate::waits::watch;
use crate::{handle, task, transport};

/// The engine as it is compiled for Python.
pub(crate) type Engine = EventLoop<PyHost>;

/// The kinds of items. At most eight: objects are aligned to eight bytes or more.
#[repr(usize)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A task takes its next step.
    Step = 0,
    /// A task takes its next step, because the future that it waits for is done.
    Wakeup = 1,
    /// A handle runs.
    Handle = 2,
    /// A transport's descriptor can be read.
    Readable = 3,
    /// A transport's descriptor can be written.
    Writable = 4,
    /// A transport has something to do that asyncio would do by `call_soon`; it knows what.
    Deferred = 5,
    /// A watcher acts, because a future that it watches is done.
    Watcher = 6,
    /// A function that ran in a thread has ended.
    Job = 7,
}

const KIND_MASK: usize = 7;

/// An entry of the ready ring.
pub(crate) struct Item(NonNull<u8>);

impl Item {
    #[inline]
    pub(crate) fn new(kind: Kind, object: Owned) -> Self {
        let ptr = object.into_ptr().cast::<u8>();
        debug_assert_eq!(ptr.addr() & KIND_MASK, 0);
        // SAFETY: an object's address is not null, and setting low bits keeps it so.
        Self(unsafe { NonNull::new_unchecked(ptr.map_addr(|addr| addr | kind as usize)) })
    }

    #[inline]
    fn kind(&self) -> Kind {
        Kind::from_bits(self.0.as_ptr().addr())
    }
}

impl Kind {
    /// The kind that these low bits say.
    #[inline]
    pub(crate) fn from_bits(bits: usize) -> Self {
        match bits & KIND_MASK {
            0 => Kind::Step,
            1 => Kind::Wakeup,
            2 => Kind::Handle,
            3 => Kind::Readable,
            4 => Kind::Writable,
            5 => Kind::Deferred,
            6 => Kind::Watcher,
            _ => Kind::Job,
        }
    }
}

impl Item {
    /// The object that it is about.
    #[inline]
    pub(crate) fn object(&self) -> &Object {
        let ptr = self.0.as_ptr().map_addr(|addr| addr & !KIND_MASK);
        // SAFETY: the item owns a reference to it.
        unsafe { Object::from_ptr(ptr.cast()) }
    }

    #[inline]
    pub(crate) fn into_parts(self) -> (Kind, Owned) {
        let this = ManuallyDrop::new(self);
        // SAFETY: the item's reference goes over to the result.
        (this.kind(), unsafe {
            Owned::steal_unchecked(this.object().as_ptr())
        })
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        // SAFETY: the item owns a reference, given up here.
        drop(unsafe { Owned::steal_unchecked(self.object().as_ptr()) });
    }
}

/// What a descriptor is registered with.
pub(crate) enum Source {
    /// `add_reader`, `add_writer`: a handle.
    Callback(Owned),
    /// A transport of ours.
    Transport(Owned),
}

impl Source {
    pub(crate) fn object(&self) -> &Object {
        match self {
            Self::Callback(object) | Self::Transport(object) => object,
        }
    }
}

/// An entry of the timer heap: a `TimerHandle`.
pub(crate) struct TimerRef(pub(crate) Owned);

impl Timer for TimerRef {
    #[inline]
    fn is_cancelled(&self) -> bool {
        handle::fields(&self.0).is_cancelled()
    }
}

/// An item on its way from another thread.
pub(crate) struct Remote(pub(crate) Item);

// SAFETY: made and received by attached threads; in between nobody touches it.
unsafe impl Send for Remote {}

/// Why a run of the loop ends early.
pub(crate) enum Exit {
    /// An exception that must leave `run_forever` is set.
    Raised(Raised),
    /// The reactor failed.
    Os(io::Error),
}

impl Exit {
    pub(crate) fn raise<T>(self) -> Res<T> {
        match self {
            Self::Raised(raised) => Err(raised),
            Self::Os(error) => raise_os_error(&error),
        }
    }
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

/// The host: a way back to the loop object that the engine is embedded in.
pub(crate) struct PyHost {
    core: NonNull<LoopCore>,
}

impl PyHost {
    /// # Safety
    /// `core` outlives the engine, and does not move.
    pub(crate) unsafe fn new(core: NonNull<LoopCore>) -> Self {
        Self { core }
    }

    #[inline]
    fn core(&self) -> &LoopCore {
        // SAFETY: by the word given to `new`.
        unsafe { self.core.as_ref() }
    }

    /// It will probably send or receive, and the other end may be a descriptor of this loop.
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
        let this = handle::fields(&timer.0);
        let has_moved = this.is_moved();
        this.left_queue();
        (!this.is_cancelled() && !has_moved).then(|| Item::new(Kind::Handle, timer.0))
    }

    fn received(&self, remote: Remote) -> Option<Item> {
        Some(remote.0)
    }

    #[inline]
    fn now(&self, clock: &Clock) -> u64 {
        if self.core().is_time_overridden() {
            return self.core().overridden_time().unwrap_or_else(|Raised| {
                // A `time()` that raises would do so in the middle of asyncio's loop as well, but there it
                // would leave timers half-moved. The real clock goes on, and the exception is shown.
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
    fn turn_over(&self) {
        self.core().flush_written();
    }

    fn before_wait(&self) -> ControlFlow<Exit> {
        self.core().leave_task();
        self.core().forget_kept();
        // A signal that came while no Python code ran would otherwise wait for the next event.
        self.interrupted()
    }

    fn park<R>(&self, wait: impl FnOnce() -> R) -> R {
        let queue = self.core().worker_to_notify();
        // `wait` is the reactor's system call. A worker that is woken here finds the interpreter free.
        detached(|| {
            if let Some(queue) = queue {
                queue.notify();
            }
            wait()
        })
    }

    fn interrupted(&self) -> ControlFlow<Exit> {
        // SAFETY: attached. Runs the Python-level signal handlers, on the main thread.
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
    // The loop goes on without having let go of the interpreter.
    core.notify_worker();
    let (kind, object) = item.into_parts();
    let flow = match kind {
        Kind::Step | Kind::Wakeup => task::step(core, object, kind == Kind::Wakeup),
        Kind::Watcher => watch::run(core, &object),
        kind => {
            // What is no task's step must not find the last step's task as the current one.
            core.leave_task();
            match kind {
                Kind::Readable => transport::readable(&object),
                Kind::Writable => transport::writable(&object),
                Kind::Deferred => transport::deferred(&object),
                Kind::Job => job::deliver(core, &object),
                _ => {
                    let flow = handle::run(core, &object);
                    handle::let_go(object);
                    flow
                }
            }
        }
    };
    core.step_over();
    flow
}

/// An item of a loop in debug mode, or while the program has replaced `Handle._run`.
#[cold]
fn run_watched(core: &LoopCore, item: Item) -> ControlFlow<Exit> {
    if core.is_debug() {
        return run_timed(core, item);
    }
    run_as_handle(core, item)
}

/// Runs an item, by the program's `Handle._run` if there is one.
fn run_as_handle(core: &LoopCore, item: Item) -> ControlFlow<Exit> {
    let Some(run) = patches::handle_run() else {
        return run_item(core, item);
    };
    core.notify_worker();
    core.leave_task();
    let call = || -> Res<()> {
        let handle = handle::handle_of(core, item)?;
        if handle.getattr(&names().cancelled_attr)?.is_true()? {
            return Ok(());
        }
        run.call(&[&handle]).map(drop)
    };
    let result = call();
    core.step_over();
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

/// Debug mode: what takes longer than `slow_callback_duration` is logged, as `BaseEventLoop._run_once` does.
#[cold]
fn run_timed(core: &LoopCore, item: Item) -> ControlFlow<Exit> {
    let object = item.object().own();
    let (kind, begin) = (item.kind(), core.engine().clock().now());
    // Its text must be made before it runs: a handle that cancels itself would lose it.
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
    let class = transport
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()?;
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
        Kind::Readable if transport::is_listener(object) => {
            transport_call(object, "_accept_connection()")?
        }
        Kind::Readable => transport_call(object, "_read_ready()")?,
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
