//! The queue from which worker threads take their jobs.
//!
//! It has the methods of `queue.SimpleQueue` that `ThreadPoolExecutor` uses, and two more: `_work`,
//! which runs items until it takes `None`, and `_has_worker`, which says whether a waiting thread
//! exists for each item.
//!
//! It is cheap because threads are woken only when the GIL is free. A worker with a result releases
//! the GIL first and wakes the loop then. A loop that is about to wait does the same with the
//! worker ([`Shared::notify`] from `PyHost::park`). So the woken thread need not wait a second
//! time, for the GIL.
//!
//! Items are put in and taken out only by threads that hold the GIL. A worker without the GIL only
//! claims an item, and takes it once it holds the GIL: a collection that runs meanwhile traverses
//! the queue several times, and would treat an item that it saw at first and misses later as
//! garbage.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use pyo3::ffi;

use super::job::{self, Job, Mailbox};
use crate::cpython::collected::Collected;
use crate::cpython::detach::detached;
use crate::cpython::error::{guard_object, raise};
use crate::cpython::method::{Args, method};
use crate::cpython::names::imported;
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Class, Fields, Native, NativeClass, Object, Owned, Res, Slot, names};
use crate::loop_core::Notify;

/// An item that is passed between threads.
struct Parcel(Owned);

// SAFETY: only threads that hold the GIL put it in, take it out or touch it.
unsafe impl Send for Parcel {}

#[derive(Default)]
struct State {
    items: VecDeque<Parcel>,
    /// The number of items that workers are about to take.
    claimed: usize,
    /// The number of workers that wait or are about to.
    idle: usize,
}

impl State {
    /// The number of items that no worker has claimed.
    fn unclaimed(&self) -> usize {
        // Claimed items may be gone, as `get_nowait` takes any item.
        self.items.len().saturating_sub(self.claimed)
    }

    fn claim(&mut self) -> bool {
        let any = self.unclaimed() > 0;
        self.claimed += usize::from(any);
        any
    }
}

/// The state that the threads share.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    filled: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Only an allocation can panic while the lock is held, so the state is consistent.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn put(&self, item: Owned) {
        self.lock().items.push_back(Parcel(item));
        self.notify();
    }

    /// Puts an item in if a waiting worker is free to take it. Does not wake the worker.
    fn offer(&self, item: &Object) -> bool {
        let mut state = self.lock();
        let free = state.idle > state.unclaimed();
        if free {
            state.items.push_back(Parcel(item.own()));
        }
        free
    }

    /// Whether there is a waiting worker for each item.
    fn has_worker(&self) -> bool {
        let state = self.lock();
        state.idle >= state.unclaimed()
    }

    /// Takes an item that no worker is about to take. From 3.13 on `queue.SimpleQueue` hands an
    /// item to a waiting thread at once, so items for which a thread waits are not available here
    /// either.
    fn try_take(&self) -> Option<Owned> {
        let mut state = self.lock();
        let promised = match cfg!(Py_3_13) {
            true => state.idle + state.claimed,
            false => 0,
        };
        state.items.remove(promised).map(|parcel| parcel.0)
    }

    /// Waits for an item and takes it. Wakes `wake` before the thread sleeps, but after it counts
    /// as idle.
    fn take(&self, mut wake: Option<Mailbox>) -> Owned {
        loop {
            detached(|| self.wait(wake.take()));
            let mut state = self.lock();
            state.claimed -= 1;
            if let Some(item) = state.items.pop_front() {
                return item.0;
            }
        }
    }

    /// Waits without the GIL until there is an item, and claims it.
    fn wait(&self, wake: Option<Mailbox>) {
        let mut state = self.lock();
        if state.claim() {
            drop(state);
            if let Some(inbox) = wake {
                inbox.wake();
            }
            return;
        }
        state.idle += 1;
        if let Some(inbox) = wake {
            drop(state);
            inbox.wake();
            state = self.lock();
        }
        while !state.claim() {
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        state.idle -= 1;
    }
}

impl Notify for Shared {
    /// Wakes a worker.
    fn notify(&self) {
        self.filled.notify_one();
    }
}

#[repr(C)]
struct WorkQueue {
    /// Set from `tp_new` on.
    shared: Option<Arc<Shared>>,
}

// SAFETY: the fields are behind the object header; zeroed ones are valid (an empty `Option<Arc>` is
// null).
unsafe impl Fields for WorkQueue {}

// SAFETY: every object reference is visited.
unsafe impl Collected for WorkQueue {
    fn for_each_slot(&self, _: &mut dyn FnMut(&Slot)) {}

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        // This can't deadlock: no thread that holds the lock waits for the GIL.
        if let Some(shared) = &self.shared {
            let state = shared.lock();
            state.items.iter().for_each(|parcel| see(&parcel.0));
        }
    }

    fn release_others(&self) {
        if let Some(shared) = &self.shared {
            let items = std::mem::take(&mut shared.lock().items);
            drop(items);
        }
    }
}

static CLASS: Class = Class::new();

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for WorkQueue {
    fn class() -> &'static Class {
        &CLASS
    }
}

imported! {
    fn queue_imports() -> Imports {
        empty: "queue" "Empty",
    } and {}
}

/// The shared state of a `WorkQueue`; `None` for any other object.
pub(super) fn shared(queue: &Object) -> Option<&Arc<Shared>> {
    queue.exact::<WorkQueue>()?.shared.as_ref()
}

impl WorkQueue {
    fn alive(&self) -> Res<&Arc<Shared>> {
        match &self.shared {
            Some(shared) => Ok(shared),
            None => crate::cpython::error::runtime_error("a WorkQueue was expected"),
        }
    }
}

/// Puts a job in if a waiting worker is free to take it. [`Shared::notify`] wakes the worker.
pub(super) fn offer(shared: &Shared, job: &Object) -> bool {
    shared.offer(job)
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the fields are initialized before other code sees the object.
    guard_object(|| unsafe {
        let queue = allocate(class)?;
        queue
            .as_ptr()
            .byte_add(WorkQueue::offset())
            .cast::<WorkQueue>()
            .write(WorkQueue {
                shared: Some(Arc::default()),
            });
        Ok(queue)
    })
}

fn put(queue: &Native<WorkQueue>, args: Args<'_>) -> Res<Owned> {
    let [item, _, _] = args.parse("put", ["item", "block", "timeout"], 3, 1)?;
    queue
        .alive()?
        .put(item.map_or_else(Owned::none, Object::own));
    Ok(Owned::none())
}

fn get_nowait(queue: &Native<WorkQueue>) -> Res<Owned> {
    match queue.alive()?.try_take() {
        Some(item) => Ok(item),
        None => raise(&queue_imports().empty, ""),
    }
}

fn get(queue: &Native<WorkQueue>, args: Args<'_>) -> Res<Owned> {
    let [block] = args.parse("get", ["block"], 1, 0)?;
    if !block.map_or(Ok(true), Object::is_true)? {
        return get_nowait(queue);
    }
    let shared = Arc::clone(queue.alive()?);
    Ok(shared.take(None))
}

fn qsize(queue: &Native<WorkQueue>) -> Res<Owned> {
    Owned::from_u64(queue.alive()?.lock().unclaimed() as u64)
}

fn empty(queue: &Native<WorkQueue>) -> Res<Owned> {
    Ok(Owned::from_bool(queue.alive()?.lock().unclaimed() == 0))
}

/// Whether there is a waiting thread for each item.
fn has_worker(queue: &Native<WorkQueue>) -> Res<Owned> {
    Ok(Owned::from_bool(queue.alive()?.has_worker()))
}

/// Runs items until it takes `None`. The thread counts as idle while it waits.
fn work(queue: &Native<WorkQueue>) -> Res<Owned> {
    let shared = Arc::clone(queue.alive()?);
    let mut wake: Option<Mailbox> = None;
    loop {
        let item = shared.take(wake.take());
        if item.is_none() {
            return Ok(item);
        }
        match item.exact::<Job>() {
            Some(job) => wake = job::run(job),
            None => drop(item.call_method(&names().run, &[])?),
        }
    }
}

/// Makes the queue usable in the child of a fork, where no other thread exists to release the lock.
fn at_fork_reinit(queue: &Native<WorkQueue>) -> Res<Owned> {
    queue.alive()?;
    // SAFETY: a `WorkQueue`, in a process with one thread. The old state is leaked, not dropped:
    // the fork may have happened in the middle of a change.
    unsafe {
        queue
            .as_ptr()
            .byte_add(WorkQueue::offset())
            .cast::<WorkQueue>()
            .write(WorkQueue {
                shared: Some(Arc::default()),
            });
    }
    Ok(Owned::none())
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    Imports::fill()?;
    let class = TypeBuilder::new::<WorkQueue>(
        c"rondel._rondel.WorkQueue",
        None,
        WorkQueue::offset(),
    )
    .doc(c"The queue that the threads of an executor take their work from.")
    .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
    .collected::<WorkQueue>()
    .methods([
        method!(fast c"put(item, block=True, timeout=None)" put, c"Adds an item."),
        method!(fast c"get(block=True)" get, c"Removes and returns an item. Waits until there is one."),
        method!(noargs c"get_nowait" get_nowait, c"Removes and returns an item, or raises queue.Empty."),
        method!(noargs c"qsize" qsize, c"The number of items."),
        method!(noargs c"empty" empty, c"Whether the queue is empty."),
        method!(noargs c"_work" work, c"Runs items until None is taken."),
        method!(noargs c"_has_worker" has_worker, c"Whether a thread waits for each item."),
        method!(noargs c"_at_fork_reinit" at_fork_reinit, c"Makes it usable in the child of a fork."),
    ])
    .build()?;
    CLASS.set(&class);
    Ok(class)
}
