//! The queue that worker threads take their jobs from.
//!
//! It has the methods of `queue.SimpleQueue` that `ThreadPoolExecutor` uses, and two more: `_work`,
//! which runs jobs until it takes something that is none, and `_has_worker`, which says whether a
//! thread waits for each item.
//!
//! What makes it cheap is when threads are woken. A worker that has a result releases the GIL first
//! and wakes the loop then; the loop, where it is about to wait, does the same with the worker
//! ([`Shared::notify`] from `PyHost::park`). So whoever wakes finds the interpreter free, and does
//! not have to wait for it once more.
//!
//! An item changes hands only between threads that hold the GIL. A detached worker claims one, and
//! takes it out when it has the interpreter: a collection that runs meanwhile looks into the queue
//! more than once, and what it saw at first and misses then is garbage to it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use pyo3::ffi;

use super::job::{self, Job, Mailbox};
use crate::cpython::collected::Collected;
use crate::cpython::detach::detached;
use crate::cpython::error::{guard_object, raise};
use crate::cpython::method::{Args, method};
use crate::cpython::names::{Table, import, intern};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Class, Fields, Native, NativeClass, Object, Owned, Res, Slot};
use crate::loop_core::Notify;

/// An item on its way between threads.
struct Parcel(Owned);

// SAFETY: put in and taken out by threads that hold the GIL; a detached one does not touch it.
unsafe impl Send for Parcel {}

#[derive(Default)]
struct State {
    items: VecDeque<Parcel>,
    /// How many of them workers are about to take.
    claimed: usize,
    /// How many workers wait, or are about to.
    idle: usize,
}

impl State {
    /// How many items no worker has claimed.
    fn unclaimed(&self) -> usize {
        // What is claimed may be gone: `get_nowait` takes whatever there is.
        self.items.len().saturating_sub(self.claimed)
    }

    fn claim(&mut self) -> bool {
        let any = self.unclaimed() > 0;
        self.claimed += usize::from(any);
        any
    }
}

/// What the threads share.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    filled: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held can only be an allocation: the state is whole.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn put(&self, item: Owned) {
        self.lock().items.push_back(Parcel(item));
        self.notify();
    }

    /// Puts an item in if a worker waits for it, who is not woken yet.
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
    /// item to a waiting thread at once, so that those for which one waits are not to be had any
    /// more.
    fn try_take(&self) -> Option<Owned> {
        let mut state = self.lock();
        let promised = match cfg!(Py_3_13) {
            true => state.idle + state.claimed,
            false => 0,
        };
        state.items.remove(promised).map(|parcel| parcel.0)
    }

    /// Waits for an item, and takes it. Before the thread sleeps, and after it counts as idle,
    /// `wake` is woken.
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

    /// Waits until there is an item, detached, and claims it.
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
    /// From `tp_new` on.
    shared: Option<Arc<Shared>>,
}

// SAFETY: the fields stand behind the header; zeroed ones are valid (an empty `Option` of a pointer
// is null).
unsafe impl Fields for WorkQueue {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for WorkQueue {
    fn for_each_slot(&self, _: &mut dyn FnMut(&Slot)) {}

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        // Nobody who holds the lock waits for the interpreter.
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

struct Imports {
    empty: Owned,
    run: Owned,
}

static IMPORTS: Table<Imports> = Table::new();

/// What the threads share, of a queue of ours.
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

/// Puts a job in if a worker waits for it. It is woken by [`Shared::notify`].
pub(super) fn offer(shared: &Shared, job: &Object) -> bool {
    shared.offer(job)
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the fields are filled before anyone sees the object.
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
        None => raise(&IMPORTS.get().empty, ""),
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

/// Runs items until `None` is taken. The thread counts as idle while it waits.
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
            None => drop(item.call_method(&IMPORTS.get().run, &[])?),
        }
    }
}

/// In the child of a fork no other thread is there to give the lock back.
fn at_fork_reinit(queue: &Native<WorkQueue>) -> Res<Owned> {
    queue.alive()?;
    // SAFETY: a queue of ours, in a process with one thread. What it held is given up, not dropped:
    // whether the lock was held in the middle of a change is not known.
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
    IMPORTS.fill(Imports {
        empty: import("queue")?.getattr(&*intern("Empty")?)?,
        run: intern("run")?,
    });
    let class = TypeBuilder::new::<WorkQueue>(
        c"rondel._rondel.WorkQueue",
        None,
        WorkQueue::offset(),
    )
    .doc(c"The queue that the threads of an executor take their work from.")
    .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
    .collected::<WorkQueue>()
    .methods([
        method!(fast c"put(item, block=True, timeout=None)" put, c"Puts an item in."),
        method!(fast c"get(block=True)" get, c"Takes an item, waiting for one."),
        method!(noargs c"get_nowait" get_nowait, c"Takes an item, or raises queue.Empty."),
        method!(noargs c"qsize" qsize, c"How many items there are."),
        method!(noargs c"empty" empty, c"Whether there is none."),
        method!(noargs c"_work" work, c"Runs items until None is taken."),
        method!(noargs c"_has_worker" has_worker, c"Whether a thread waits for each item."),
        method!(noargs c"_at_fork_reinit" at_fork_reinit, c"Makes it usable in the child of a fork."),
    ])
    .build()?;
    CLASS.set(&class);
    Ok(class)
}
