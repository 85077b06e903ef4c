//! The loop object: the engine and the loop's state.
//!
//! `LoopCore` directly follows the object header of `rondel._rondel.LoopCore` and its subclasses.
//! It is made by `tp_new` and never moves, so the engine's host may point back to it.

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

/// Wakes worker threads.
pub(crate) trait Notify: Send + Sync {
    /// Wakes one of the waiting threads.
    fn notify(&self);
}

/// A loop's state; follows the object header.
#[repr(C)]
pub(crate) struct LoopCore {
    pub(crate) engine: Engine,
    /// The `threading.get_ident()` of the thread that runs the loop; 0 if none does.
    pub(crate) thread: Cell<u64>,
    pub(crate) closed: Cell<bool>,
    pub(crate) debug: Cell<bool>,
    /// Items take a slower path: debug mode times them, or the program has replaced `Handle._run`.
    pub(crate) watches_items: Cell<bool>,
    /// `select()` has reported a wake-up of the loop, and `_process_events()` was not called since.
    pub(crate) is_woken: Cell<bool>,
    /// The run continues with the program's own `_run_once`, which was set during the run.
    pub(crate) handed_over: Cell<bool>,
    /// Bits of the methods replaced on the instance or by a class: internal calls then call these.
    pub(crate) overridden: Cell<u8>,
    /// As `overridden`, but only those replaced by a class.
    pub(crate) overridden_by_class: Cell<u8>,
    /// The version tag of the loop's class when it was last checked.
    pub(crate) class_version: Cell<u32>,
    pub(crate) task_factory: Slot,
    /// The dict of `event_loop/attributes.rs`, made for the first attribute.
    pub(crate) attributes: Slot,
    /// The contexts of scheduled callbacks.
    pub(crate) contexts: Contexts,
    /// Reusable futures of this loop: pending, without callbacks or other references.
    pub(crate) waiters: RefCell<Vec<Owned>>,
    /// The result of `asyncio.current_task()`.
    pub(crate) current: CurrentTask,
    /// All tasks of this loop that are not done.
    pub(crate) tasks: TaskList,
    /// The file objects passed to `add_reader` and `add_writer`.
    pub(crate) files: Files,
    /// The unsent writes of the running turn.
    pub(crate) writes: TurnWrites,
    /// The queue of an executor that got a job in the running step and whose worker has not been
    /// woken yet.
    pub(crate) to_notify: Cell<Option<Arc<dyn Notify>>>,
}

pub(crate) static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// The immortal class that `bind_methods` was called for, and the class of nearly all loops;
/// `CLASS` before that.
pub(crate) static BOUND: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

const OFFSET: usize = size_of::<ffi::PyObject>();

/// How many reusable futures are kept.
const MAX_WAITERS: usize = 64;

impl LoopCore {
    /// The core of a loop, if it is a Rondel loop.
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

    /// The core of an object that is known to be a Rondel loop.
    #[inline]
    pub(crate) fn of_loop(object: &Object) -> &Self {
        // SAFETY: in instances of our class the core follows the header, initialised by `tp_new`.
        unsafe { &*object.as_ptr().byte_add(OFFSET).cast::<Self>() }
    }

    /// The loop object.
    #[inline]
    pub(crate) fn object(&self) -> &Object {
        // SAFETY: the core follows its object's header and lives as long as the object.
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

    /// Queues an item of this kind.
    #[inline]
    pub(crate) fn push(&self, kind: Kind, object: Owned) -> Res<()> {
        match self.engine.try_call_soon(Item::new(kind, object)) {
            Ok(()) => Ok(()),
            Err(item) => not_queued(item),
        }
    }

    /// As [`push`](Self::push), but returns the object if memory runs out.
    #[inline]
    pub(crate) fn try_push(&self, kind: Kind, object: Owned) -> Result<(), Owned> {
        let queued = self.engine.try_call_soon(Item::new(kind, object));
        queued.map_err(|item| item.into_parts().1)
    }

    /// As [`push`](Self::push), for callers that can't report a `MemoryError`.
    pub(crate) fn push_surely(&self, kind: Kind, object: Owned) {
        self.engine.call_soon(Item::new(kind, object));
    }

    /// Must be called after a timer handle was marked as cancelled.
    pub(crate) fn timer_cancelled(&self, handle: &Object) {
        self.engine
            .timer_cancelled(|timer| timer.object().is(handle));
    }

    /// The loop's time in seconds.
    #[inline]
    pub(crate) fn time(&self) -> f64 {
        self.engine.clock().now() as f64 / NANOS_PER_SEC as f64
    }

    /// `seconds <= self.time()`, but reads the precise clock only if necessary.
    #[inline]
    pub(crate) fn has_come(&self, seconds: f64) -> bool {
        !self.engine.clock().is_far(nanos(seconds)) && seconds <= self.time()
    }

    // ---- the current task ----

    /// Resets the current task to none.
    #[inline]
    pub(crate) fn leave_task(&self) {
        self.current.leave(self.object());
    }

    // ---- reusable objects ----

    /// A reusable future, if there is one. In debug mode there is none, because each future records
    /// where it was made.
    #[inline]
    pub(crate) fn take_waiter(&self) -> Option<Owned> {
        if self.is_debug() {
            return None;
        }
        self.waiters.borrow_mut().pop()
    }

    /// Keeps a future in its initial state for reuse.
    #[inline(always)]
    pub(crate) fn keep_waiter(&self, future: Owned) {
        let mut waiters = self.waiters.borrow_mut();
        if waiters.len() < MAX_WAITERS {
            waiters.push(future);
        }
    }

    /// Drops the reusable objects when the loop is about to wait or has stopped.
    #[inline]
    pub(crate) fn forget_kept(&self) {
        self.contexts.forget();
        if !self.waiters.borrow().is_empty() {
            drop(self.waiters.take());
        }
    }

    // ---- workers of an executor ----

    /// Records that a worker of this queue has a job. It is woken when the loop releases the GIL,
    /// because it can't run earlier; at the latest when the next step begins.
    pub(crate) fn notify_later(&self, queue: Arc<dyn Notify>) {
        if let Some(before) = self.to_notify.replace(Some(queue)) {
            before.notify();
        }
    }

    /// Takes the queue whose worker has a job, if there is one. The caller must wake it.
    #[inline]
    pub(crate) fn worker_to_notify(&self) -> Option<Arc<dyn Notify>> {
        self.to_notify.take()
    }

    /// Wakes the worker that has a job, if there is one.
    #[inline]
    pub(crate) fn notify_worker(&self) {
        // SAFETY: only this thread uses the cell, and the borrow ends here. (Called for each item,
        // so it avoids a store.)
        let any = unsafe { (*self.to_notify.as_ptr()).is_some() };
        if any && let Some(queue) = self.worker_to_notify() {
            queue.notify();
        }
    }

    // ---- writes of a turn: see `written.rs` ----

    /// Records that a transport has data to send at the end of the running turn. If it returns
    /// false, the write can't wait, and the transport must send at once.
    #[inline]
    pub(crate) fn note_written<T: Sends>(&self, transport: &Native<T>) -> bool {
        // A write from another thread can't wait: the loop may be waiting and would not send it.
        let noted = self.thread.get() == this_thread() && self.writes.note(transport);
        if !noted {
            self.flush_in_order();
        }
        noted
    }

    /// Must be called before more is written to a transport that is on the list: sends everything
    /// unless the write may join the list.
    #[inline]
    pub(crate) fn before_more(&self, transport: &Object) {
        if !self.writes.may_follow(transport) {
            self.flush_in_order();
        }
    }

    /// Must be called after each step.
    #[inline]
    pub(crate) fn after_step(&self) {
        if self.writes.after_step() {
            self.engine().poll_next_turn();
        }
    }

    /// Sends the turn's writes.
    #[inline]
    pub(crate) fn flush_written(&self) {
        if self.writes.flush() {
            self.engine().poll_next_turn();
        }
    }

    /// Sends the turn's writes before this transport sends. If it is the only transport with data,
    /// it is only taken off the list.
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

    /// Sends the turn's writes before another operation reaches the kernel.
    #[inline]
    pub(crate) fn flush_in_order(&self) {
        if !self.writes.any() {
            return;
        }
        match self.thread.get() == this_thread() {
            true => self.flush_written(),
            // The result is reported in the loop's thread.
            false => self.writes.send_early(),
        }
    }

    /// Closes the `io_uring`, if there is one.
    pub(crate) fn forget_send_ring(&self) {
        self.writes.forget_ring();
    }
}

/// Drops the item and raises `MemoryError`.
#[cold]
pub(crate) fn not_queued<T>(item: T) -> Res<()> {
    drop(item);
    no_memory()
}

/// Converts seconds to nanoseconds, saturating at 0 and `u64::MAX`.
#[inline]
pub(crate) fn nanos(seconds: f64) -> u64 {
    // The conversion of a float saturates, and maps NaN to 0.
    (seconds * NANOS_PER_SEC as f64) as u64
}

/// `loop.get_debug()` of any loop.
pub(crate) fn is_debug(event_loop: &Object) -> Res<bool> {
    match LoopCore::of(event_loop) {
        Some(core) => Ok(core.is_debug()),
        None => event_loop.call_method(&names().get_debug, &[])?.is_true(),
    }
}

impl LoopCore {
    /// Drops everything the loop holds. No borrow is held while destructors run.
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

/// The checks of `call_soon`, for a step that is queued without it.
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
