//! The loop object: the engine and the loop's state.
//!
//! `LoopCore` is directly behind the object header of `rondel._rondel.LoopCore` and of every
//! subclass. It is made by `tp_new` and never moves, so the engine's host may point back to it.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use rondel_engine::event_loop::clock::NANOS_PER_SEC;

use super::current_task::CurrentTask;
use super::files::Files;
use super::item::{Engine, Item, Kind};
use super::task_list::TaskList;
use super::written::{Sends, TurnWrites};
use crate::cpython::context::Contexts;
use crate::cpython::error::{no_memory, runtime_error};
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Res, Slot, names};

/// What a loop wakes other threads by.
pub(crate) trait Notify: Send + Sync {
    /// Wakes one of the threads that wait.
    fn notify(&self);
}

/// A loop's state behind the object header.
#[repr(C)]
pub(crate) struct LoopCore {
    pub(crate) engine: Engine,
    /// The thread that runs the loop, as `threading.get_ident()` has it; 0 if none does.
    pub(crate) thread: Cell<u64>,
    pub(crate) closed: Cell<bool>,
    pub(crate) debug: Cell<bool>,
    /// Items are not just run: debug mode times them, or the program has replaced `Handle._run`.
    pub(crate) watches_items: Cell<bool>,
    /// `select()` has reported that something woke the loop, and `_process_events()` was not called
    /// since.
    pub(crate) is_woken: Cell<bool>,
    /// The run goes on by the program's own `_run_once`, which it has put there meanwhile.
    pub(crate) handed_over: Cell<bool>,
    /// Which methods were replaced on the instance or by a class: internal calls then go there.
    pub(crate) overridden: Cell<u8>,
    /// Like `overridden`, but by a class.
    pub(crate) overridden_by_class: Cell<u8>,
    /// The version of the loop's class when it was last looked at.
    pub(crate) class_version: Cell<u32>,
    pub(crate) task_factory: Slot,
    /// What `event_loop/attributes.rs` keeps: a dict, once there is something.
    pub(crate) attributes: Slot,
    /// The contexts of what is scheduled.
    pub(crate) contexts: Contexts,
    /// Futures of this loop, pending and with no callbacks, that nobody else holds.
    pub(crate) waiters: RefCell<Vec<Owned>>,
    /// Which task `asyncio.current_task()` gives.
    pub(crate) current: CurrentTask,
    /// All tasks of this loop that are not done.
    pub(crate) tasks: TaskList,
    /// What `add_reader` and `add_writer` were given.
    pub(crate) files: Files,
    /// What the running turn has written.
    pub(crate) writes: TurnWrites,
    /// The queue of an executor that got a job in the running step, and whose worker is not woken
    /// yet.
    pub(crate) to_notify: Cell<Option<Arc<dyn Notify>>>,
}

pub(crate) static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// The class that `bind_methods` was called for, which lives forever; `CLASS` before that. Nearly
/// all loops are of it.
pub(crate) static BOUND: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

const OFFSET: usize = size_of::<ffi::PyObject>();

/// How many futures are kept.
const MAX_WAITERS: usize = 64;

impl LoopCore {
    /// The core of a loop, if it is one of ours.
    #[inline]
    pub(crate) fn of(object: &Object) -> Option<&Self> {
        let class = object.type_ptr();
        if !ptr::eq(class, BOUND.load(Ordering::Relaxed)) {
            // SAFETY: live types.
            if unsafe { ffi::PyType_IsSubtype(class, CLASS.load(Ordering::Relaxed)) } == 0 {
                return None;
            }
        }
        Some(Self::of_loop(object))
    }

    /// The core of an object that is known to be a loop of ours.
    #[inline]
    pub(crate) fn of_loop(object: &Object) -> &Self {
        // SAFETY: instances of our class have the core behind the header, filled by `tp_new`.
        unsafe { &*object.as_ptr().byte_add(OFFSET).cast::<Self>() }
    }

    /// The loop object.
    #[inline]
    pub(crate) fn object(&self) -> &Object {
        // SAFETY: the core stands behind its object's header and dies with it.
        unsafe {
            Object::from_ptr(
                ptr::from_ref(self)
                    .byte_sub(OFFSET)
                    .cast::<ffi::PyObject>()
                    .cast_mut(),
            )
        }
    }

    #[inline]
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    #[inline]
    pub(crate) fn is_debug(&self) -> bool {
        self.debug.get()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.thread.get() != 0
    }

    /// Queues a task's step, or whatever else runs next.
    #[inline]
    pub(crate) fn push(&self, kind: Kind, object: Owned) -> Res<()> {
        match self.engine.try_call_soon(Item::new(kind, object)) {
            Ok(()) => Ok(()),
            Err(item) => not_queued(item),
        }
    }

    /// As [`push`](Self::push); without memory the object comes back.
    #[inline]
    pub(crate) fn try_push(&self, kind: Kind, object: Owned) -> Result<(), Owned> {
        let queued = self.engine.try_call_soon(Item::new(kind, object));
        queued.map_err(|item| item.into_parts().1)
    }

    /// As [`push`](Self::push), for callers that cannot report a lack of memory.
    pub(crate) fn push_surely(&self, kind: Kind, object: Owned) {
        self.engine.call_soon(Item::new(kind, object));
    }

    /// A timer handle was marked as cancelled.
    pub(crate) fn timer_cancelled(&self, handle: &Object) {
        self.engine
            .timer_cancelled(|timer| timer.object().is(handle));
    }

    /// The loop's time in seconds.
    #[inline]
    pub(crate) fn time(&self) -> f64 {
        self.engine.clock().now() as f64 / NANOS_PER_SEC as f64
    }

    /// `seconds <= self.time()`, with a look at the precise clock only where it may matter.
    #[inline]
    pub(crate) fn has_come(&self, seconds: f64) -> bool {
        !self.engine.clock().is_far(nanos(seconds)) && seconds <= self.time()
    }

    // ---- the current task ----

    /// No task is the current one any more.
    #[inline]
    pub(crate) fn leave_task(&self) {
        self.current.leave(self.object());
    }

    // ---- what is kept for the next one who needs it ----

    /// A future to wait on, if there is one. In debug mode each is new, and knows where it was
    /// made.
    #[inline]
    pub(crate) fn take_waiter(&self) -> Option<Owned> {
        if self.is_debug() {
            return None;
        }
        self.waiters.borrow_mut().pop()
    }

    /// Keeps a future that is as good as new.
    #[inline(always)]
    pub(crate) fn keep_waiter(&self, future: Owned) {
        let mut waiters = self.waiters.borrow_mut();
        if waiters.len() < MAX_WAITERS {
            waiters.push(future);
        }
    }

    /// Lets go of what is kept, as the loop is about to wait or has stopped.
    #[inline]
    pub(crate) fn forget_kept(&self) {
        self.contexts.forget();
        if !self.waiters.borrow().is_empty() {
            drop(self.waiters.take());
        }
    }

    // ---- workers of an executor ----

    /// A worker of this queue has a job. It is woken when the loop releases the GIL, as it could
    /// not begin earlier; at the latest when the next step begins.
    pub(crate) fn notify_later(&self, queue: Arc<dyn Notify>) {
        if let Some(before) = self.to_notify.replace(Some(queue)) {
            before.notify();
        }
    }

    /// The queue whose worker has something to do, if there is one. The caller wakes it.
    #[inline]
    pub(crate) fn worker_to_notify(&self) -> Option<Arc<dyn Notify>> {
        self.to_notify.take()
    }

    /// Wakes the worker that has something to do, if there is one.
    #[inline]
    pub(crate) fn notify_worker(&self) {
        // SAFETY: looked at, and nothing else happens meanwhile. (Asked for each item, so without a
        // store.)
        let any = unsafe { (*self.to_notify.as_ptr()).is_some() };
        if any && let Some(queue) = self.worker_to_notify() {
            queue.notify();
        }
    }

    // ---- writes of a turn: see `written.rs` ----

    /// A transport has something to send when the running turn ends. Answers whether a step is
    /// running that may wait; otherwise the transport must send at once.
    #[inline]
    pub(crate) fn note_written<T: Sends>(&self, transport: &Native<T>) -> bool {
        // From another thread, too: the loop may be waiting, and nobody would tell it.
        let noted = self.thread.get() == this_thread() && self.writes.note(transport);
        if !noted {
            self.flush_in_order();
        }
        noted
    }

    /// To be asked before more is written to a transport that waits already: sends all, unless this
    /// may wait with the rest.
    #[inline]
    pub(crate) fn before_more(&self, transport: &Object) {
        if !self.writes.may_follow(transport) {
            self.flush_in_order();
        }
    }

    /// A step is over.
    #[inline]
    pub(crate) fn after_step(&self) {
        if self.writes.after_step() {
            self.engine().poll_next_turn();
        }
    }

    /// Sends what was written.
    #[inline]
    pub(crate) fn flush_written(&self) {
        if self.writes.flush() {
            self.engine().poll_next_turn();
        }
    }

    /// Sends what was written, before this transport sends: what it has itself, too, unless nobody
    /// else has anything.
    #[inline]
    pub(crate) fn flush_before(&self, transport: &Object) {
        if !self.writes.any() {
            return;
        }
        match self.thread.get() == this_thread() {
            true if self.writes.leave_alone(transport) => {}
            true => self.flush_written(),
            false => self.writes.send_early(),
        }
    }

    /// Sends what was written, before something else reaches the kernel.
    #[inline]
    pub(crate) fn flush_in_order(&self) {
        if !self.writes.any() {
            return;
        }
        match self.thread.get() == this_thread() {
            true => self.flush_written(),
            // What comes of it is told in the loop's own thread.
            false => self.writes.send_early(),
        }
    }

    /// Lets go of what the kernel keeps for sending.
    pub(crate) fn forget_send_ring(&self) {
        self.writes.forget_ring();
    }
}

/// There is no memory to queue one more.
#[cold]
pub(crate) fn not_queued<T>(item: T) -> Res<()> {
    drop(item);
    no_memory()
}

/// Seconds as nanoseconds: what is before zero is zero, what is too late is never.
#[inline]
pub(crate) fn nanos(seconds: f64) -> u64 {
    // A float's conversion saturates, and gives 0 for NaN.
    (seconds * NANOS_PER_SEC as f64) as u64
}

/// `loop.get_debug()`, of any loop.
pub(crate) fn is_debug(event_loop: &Object) -> Res<bool> {
    match LoopCore::of(event_loop) {
        Some(core) => Ok(core.is_debug()),
        None => event_loop.call_method(&names().get_debug, &[])?.is_true(),
    }
}

impl LoopCore {
    /// Drops whatever the loop holds, with no borrow of it held while destructors run.
    pub(crate) fn release(&self) {
        drop(self.engine.drain());
        self.task_factory.clear();
        self.attributes.clear();
        self.forget_kept();
        self.files.forget_all();
        self.writes.release();
    }
}

/// `threading.get_ident()`.
pub(crate) fn this_thread() -> u64 {
    // SAFETY: no preconditions.
    unsafe { ffi::PyThread_get_thread_ident() }
}

#[inline]
pub(crate) fn check_closed(core: &LoopCore) -> Res<()> {
    if core.is_closed() {
        return runtime_error("Event loop is closed");
    }
    Ok(())
}

/// Whether a step may be queued without `call_soon`, which would ask the same.
#[inline]
pub(crate) fn check_step(core: &LoopCore) -> Res<()> {
    if core.is_closed() || core.is_debug() {
        check_closed(core)?;
        check_thread(core)?;
    }
    Ok(())
}

#[cold]
pub(crate) fn check_thread(core: &LoopCore) -> Res<()> {
    if core.is_running() && core.thread.get() != this_thread() {
        return runtime_error(
            "Non-thread-safe operation invoked on an event loop other than the current one",
        );
    }
    Ok(())
}
