//! The loop object: the engine, the loop's state, and its life as a Python object.
//!
//! `LoopCore` stands directly behind the object header of `rondel._rondel.LoopCore` and of every subclass. It is
//! made by `tp_new` and never moves, so that the engine's host can point back to it.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use rondel::event_loop::clock::{Clock, Jump, NANOS_PER_SEC};

use super::host::{Engine, Item, Kind, PyHost, TimerRef};
use super::running::this_thread;
use super::written::TurnWrites;
use super::{calls, descriptors, running, steps};
use crate::cpython::context::Contexts;
use crate::cpython::error::{guard, guard_object, no_memory, raise_os_error, type_error};
use crate::cpython::method::with_tuple_and_dict;
use crate::cpython::types::{TypeBuilder, allocate, bind_method, free, slot_fn};
use crate::cpython::{Object, Owned, Res, Slot, names};
use crate::handle;
use crate::kernel_calls;
use crate::task::current::CurrentTask;
use crate::task::registry::TaskList;
use crate::threads::{self, Shared};

/// A loop's state behind the object header.
#[repr(C)]
pub(crate) struct LoopCore {
    engine: ManuallyDrop<Engine>,
    /// The thread that runs the loop, as `threading.get_ident()` has it; 0 if none does.
    pub(super) thread: Cell<u64>,
    pub(super) closed: Cell<bool>,
    pub(super) debug: Cell<bool>,
    /// Items are not just run: debug mode times them, or the program has replaced `Handle._run`.
    pub(super) watches_items: Cell<bool>,
    /// `select()` has reported that something woke the loop, and `_process_events()` was not called since.
    pub(super) is_woken: Cell<bool>,
    /// The run goes on by the program's own `_run_once`, which it has put there meanwhile.
    pub(super) handed_over: Cell<bool>,
    /// Which methods were replaced on the instance or by a class: internal calls then go there.
    pub(super) overridden: Cell<u8>,
    /// Like `overridden`, but by a class.
    pub(super) overridden_by_class: Cell<u8>,
    /// The version of the loop's class when it was last looked at.
    pub(super) class_version: Cell<u32>,
    pub(crate) task_factory: Slot,
    /// What [`super::attributes`] keeps: a dict, once there is something.
    pub(super) attributes: Slot,
    /// The contexts of what is scheduled.
    pub(crate) contexts: Contexts,
    /// Futures of this loop, pending and with no callbacks, that nobody else holds.
    waiters: RefCell<Vec<Owned>>,
    /// Which task `asyncio.current_task()` gives.
    pub(crate) current: CurrentTask,
    /// All tasks of this loop that are not done.
    pub(crate) tasks: TaskList,
    /// What `add_reader` and `add_writer` were given.
    pub(super) files: descriptors::Files,
    /// What the running turn has written.
    pub(super) writes: TurnWrites,
    /// The queue of an executor that got a job in the running step, and whose worker is not woken yet.
    to_notify: Cell<Option<Arc<Shared>>>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// The class that [`bind_methods`] was called for, which lives for ever; `CLASS` before that. Nearly all loops are of it.
static BOUND: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

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

    /// As [`push`](Self::push), for who has nobody to tell that there is no memory.
    pub(crate) fn push_surely(&self, kind: Kind, object: Owned) {
        self.engine.call_soon(Item::new(kind, object));
    }

    /// Queues a timer handle.
    #[inline]
    pub(crate) fn push_timer(&self, when: f64, handle: Owned) -> Res<()> {
        match self.engine.try_call_at(nanos(when), TimerRef(handle)) {
            Ok(()) => Ok(()),
            Err(timer) => {
                handle::fields(&timer.0).set_scheduled(false);
                not_queued(timer)
            }
        }
    }

    /// A timer handle was marked as cancelled.
    pub(crate) fn timer_cancelled(&self, handle: &Object) {
        self.engine.timer_cancelled(|timer| timer.0.is(handle));
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

    /// A future to wait on, if there is one. In debug mode each is new, and knows where it was made.
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
    pub(super) fn forget_kept(&self) {
        self.contexts.forget();
        if !self.waiters.borrow().is_empty() {
            drop(self.waiters.take());
        }
    }

    // ---- workers of an executor ----

    /// A worker of this queue has something to do. It is woken when the loop lets go of the interpreter, as it could not
    /// begin before; at the latest when the next step begins.
    pub(crate) fn notify_later(&self, queue: Arc<Shared>) {
        if let Some(before) = self.to_notify.replace(Some(queue)) {
            before.notify();
        }
    }

    /// The queue whose worker has something to do, if there is one. The caller wakes it.
    #[inline]
    pub(crate) fn worker_to_notify(&self) -> Option<Arc<Shared>> {
        self.to_notify.take()
    }

    /// Wakes the worker that has something to do, if there is one.
    #[inline]
    pub(crate) fn notify_worker(&self) {
        if let Some(queue) = self.worker_to_notify() {
            queue.notify();
        }
    }

    // ---- writes of a turn: see `written.rs` ----

    /// A transport has something to send when the running turn ends. Answers whether a step is running that may
    /// wait; otherwise the transport must send at once.
    #[inline]
    pub(crate) fn note_written(&self, transport: &Object) -> bool {
        // From another thread, too: the loop may be waiting, and nobody would tell it.
        let noted = self.thread.get() == this_thread() && self.writes.note(transport);
        if !noted {
            self.flush_in_order();
        }
        noted
    }

    /// To be asked before more is written to a transport that waits already: sends all, unless this may wait with the rest.
    #[inline]
    pub(crate) fn before_more(&self, transport: &Object) {
        if !self.writes.may_follow(transport) {
            self.flush_in_order();
        }
    }

    /// A step is over.
    #[inline]
    pub(crate) fn step_over(&self) {
        if self.writes.step_over() {
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

    /// Sends what was written, before this transport sends: what it has itself, too, unless nobody else has anything.
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
    pub(super) fn forget_send_ring(&self) {
        self.writes.forget_ring();
    }
}

/// There is no memory to queue one more.
#[cold]
fn not_queued<T>(item: T) -> Res<()> {
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

// ---- the type ----

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract.
        let clock = unsafe {
            with_tuple_and_dict(args, kwargs, |args| {
                let [virtual_start] = args.parse("LoopCore", ["virtual_start"], 0, 0)?;
                match virtual_start.filter(|start| !start.is_none()) {
                    Some(start) => Ok(Clock::at(nanos(start.to_f64()?), Jump::Always)),
                    None => Ok(Clock::Monotonic),
                }
            })?
        };
        // SAFETY: the object is not seen by anyone before the core is whole; should making the engine fail, the
        // zeroed object is freed without its destructor.
        unsafe {
            kernel_calls::init()?;
            let object = allocate(class)?;
            let core = object.as_ptr().byte_add(OFFSET).cast::<LoopCore>();
            let engine = match Engine::new(PyHost::new(NonNull::new_unchecked(core)), clock) {
                Ok(engine) => engine,
                Err(error) => {
                    let object = object.into_ptr();
                    ffi::PyObject_GC_UnTrack(object.cast());
                    free(object);
                    return raise_os_error(&error);
                }
            };
            core.write(LoopCore {
                engine: ManuallyDrop::new(engine),
                thread: Cell::new(0),
                closed: Cell::new(false),
                debug: Cell::new(false),
                watches_items: Cell::new(false),
                is_woken: Cell::new(false),
                handed_over: Cell::new(false),
                overridden: Cell::new(0),
                overridden_by_class: Cell::new(0),
                class_version: Cell::new(0),
                task_factory: Slot::default(),
                attributes: Slot::default(),
                contexts: Contexts::default(),
                waiters: RefCell::default(),
                current: CurrentTask::default(),
                tasks: TaskList::default(),
                files: descriptors::Files::default(),
                writes: TurnWrites::new(NonNull::new_unchecked(&raw mut (*core).writes)),
                to_notify: Cell::new(None),
            });
            (*core).current.init(&object)?;
            (*core).note_class()?;
            Ok(object)
        }
    })
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let core = unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 {
            return result;
        }
        LoopCore::of_loop(Object::from_ptr(object))
    };
    let mut result = 0;
    let mut see = |object: &Object| {
        if result == 0 {
            // SAFETY: the collector's own visitor, with a live object.
            result = unsafe { visit(object.as_ptr(), arg) };
        }
    };
    core.engine.for_each_ready(|item| see(item.object()));
    core.engine.for_each_timer(|timer| see(&timer.0));
    core.engine.for_each_source(|source| see(source.object()));
    core.files.for_each(&mut see);
    for slot in [&core.task_factory, &core.attributes, core.contexts.slot()] {
        if let Some(object) = slot.get() {
            see(object);
        }
    }
    core.writes.for_each(&mut see);
    result
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let core = LoopCore::of_loop(unsafe { Object::from_ptr(object) });
    core.release();
    0
}

impl LoopCore {
    /// Drops whatever the loop holds, with no borrow of it held while destructors run.
    pub(super) fn release(&self) {
        drop(self.engine.drain());
        self.task_factory.clear();
        self.attributes.clear();
        self.forget_kept();
        self.files.forget_all();
        self.writes.release();
    }
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance; the core is dropped once and not used after that.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let core = object.byte_add(OFFSET).cast::<LoopCore>();
        (*core).release();
        (*core).tasks.orphan();
        (*core).current.end();
        ManuallyDrop::drop(&mut (*core).engine);
        (*core).notify_worker();
        // The tables that are empty by now have memory.
        ptr::drop_in_place(core);
        free(object);
    }
}

unsafe extern "C" fn setattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        unsafe {
            let result = ffi::PyObject_GenericSetAttr(object, name, value);
            if result == 0 {
                let (core, name) = (
                    LoopCore::of_loop(Object::from_ptr(object)),
                    Object::from_ptr(name),
                );
                core.note_override(name, !value.is_null());
                core.note_attribute(name)?;
            }
            Ok(result)
        }
    })
}

/// Makes the class.
pub(crate) fn init_type() -> Res<Owned> {
    let class = TypeBuilder::new::<LoopCore>(c"rondel._rondel.LoopCore", None, OFFSET)
        .subclassable()
        .doc(c"The native half of rondel.EventLoop.")
        .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
        .slot(ffi::Py_tp_traverse, slot_fn!(traverse, ffi::traverseproc))
        .slot(ffi::Py_tp_clear, slot_fn!(clear, ffi::inquiry))
        .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc, ffi::destructor))
        .slot(ffi::Py_tp_setattro, slot_fn!(setattro, ffi::setattrofunc))
        .methods(calls::methods())
        .methods(descriptors::methods())
        .methods(running::methods())
        .methods(steps::methods())
        .methods(threads::submit::methods())
        .getset(running::attributes())
        .build()?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    BOUND.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}

/// `_rondel.bind_methods(cls)`: puts the hot methods into a subclass as its own.
pub(crate) fn bind_methods(_: &Object, class: &Object) -> Res<Owned> {
    if !class.derives_from(&CLASS) {
        return type_error("bind_methods() takes a class that derives from LoopCore");
    }
    for method in &calls::methods() {
        bind_method(class, method)?;
    }
    BOUND.store(class.own().into_ptr().cast(), Ordering::Relaxed);
    Ok(Owned::none())
}
