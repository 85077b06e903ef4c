//! `Queue`, `PriorityQueue` and `LifoQueue`: the state, and `put` and `get` without waiting.
//!
//! `put_nowait()` wakes the first task that waits in `get()`, and vice versa. The woken task then
//! does what the `_nowait` method does, or waits again if another task was faster. Methods that a
//! subclass overrides (`_init`, `_get`, `_put`, and all others but `_wakeup_next`) are called where
//! asyncio calls them. `class.rs` has the classes that programs see, `queue_calls.rs` the calls
//! that may wait.

mod class;

pub(super) use class::init_types;

use std::cell::Cell;

use pyo3::ffi;

use super::count::compare;
use super::event;
use super::items::{Items, Order};
use super::names::sync_imports;
use super::primitive::{Bound, Primitive, new_instance};
use super::waiters::Waiters;
use crate::cpython::collected::Collected;
use crate::cpython::error::raise_bare;
use crate::cpython::method::Args;
use crate::cpython::names;
use crate::cpython::{Class, Fields, Native, NativeClass, Object, Owned, OwnedNative, Res, Slot};

/// A queue's fields.
#[derive(Default)]
pub(crate) struct Queue {
    bound: Bound,
    pub(super) getters: Waiters,
    pub(super) putters: Waiters,
    items: Items,
    /// `maxsize` as the program gave it.
    maxsize: Slot,
    limit: Cell<Limit>,
    unfinished: Cell<i64>,
    /// Whether all items are done, so that `join()` returns.
    finished: Cell<bool>,
    /// The event `_finished`, once a task waits for it or it was read.
    finished_event: Slot,
    pub(super) shut_down: Cell<bool>,
}

/// `maxsize` as used in comparisons.
#[derive(Clone, Copy, Default)]
enum Limit {
    #[default]
    None,
    Items(usize),
    /// Neither an `int` nor a `float`: compared by Python each time.
    Ask,
}

static CLASS: Class = Class::new();
static LIFO_CLASS: Class = Class::new();
static PRIORITY_CLASS: Class = Class::new();

// SAFETY: the fields lie behind the object header; `tp_new` initializes them.
unsafe impl Fields for Queue {}

// SAFETY: the classes derive from the native class, which is sized for these fields.
unsafe impl NativeClass for Queue {
    fn class() -> &'static Class {
        &CLASS
    }
}

/// A new queue without a limit.
pub(crate) fn new() -> Res<OwnedNative<Queue>> {
    new_instance::<Queue>()
}

/// The order of a queue, if its class is one of Rondel's and no method is overridden on it.
#[inline]
fn plain_order(queue: &Native<Queue>) -> Option<Order> {
    let object = queue.object();
    let order = if CLASS.is_exact(object) {
        Order::Fifo
    } else if LIFO_CLASS.is_exact(object) {
        Order::Lifo
    } else if PRIORITY_CLASS.is_exact(object) {
        Order::Priority
    } else {
        return None;
    };
    (!queue.bound.is_patched()).then_some(order)
}

// SAFETY: every owned object is shown to the visitor.
unsafe impl Collected for Queue {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.bound.event_loop);
        see(&self.maxsize);
        see(&self.finished_event);
        see(self.getters.slot());
        see(self.putters.slot());
        see(self.items.slot());
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.getters.for_each(see);
        self.putters.for_each(see);
        self.items.for_each(see);
    }

    fn release_others(&self) {
        self.getters.clear();
        self.putters.clear();
        self.items.clear();
    }
}

impl Primitive for Queue {
    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn init(this: &Native<Self>, args: Args<'_>) -> Res<()> {
        let [maxsize] = args.parse("Queue.__init__", ["maxsize"], 1, 0)?;
        let maxsize = match maxsize {
            Some(maxsize) => maxsize.own(),
            None => Owned::from_i64(0)?,
        };
        this.set_maxsize(&maxsize);
        this.getters.replace(None)?;
        this.putters.replace(None)?;
        this.unfinished.set(0);
        this.finished.set(true);
        this.finished_event.clear();
        match plain_order(this) {
            Some(order) => this.items.init(order)?,
            None => drop(
                this.object()
                    .call_method(&names().queue_init, &[&*maxsize])?,
            ),
        }
        this.shut_down.set(false);
        Ok(())
    }

    fn repr(this: &Native<Self>) -> Res<Owned> {
        let name = class_name(this.object())?;
        let address = this.as_ptr().addr();
        let text = format(this.object())?;
        Owned::from_str(&format!("<{name} at {address:#x} {text}>"))
    }
}

fn class_name(queue: &Object) -> Res<String> {
    queue
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()
}

/// `self._format()`.
fn format(queue: &Object) -> Res<String> {
    queue.call_method(&names().queue_format, &[])?.to_text()
}

impl Queue {
    fn set_maxsize(&self, maxsize: &Object) {
        self.maxsize.set(maxsize.own());
        // SAFETY: a live object; each conversion is for its exact type, so it can't raise.
        let limit = unsafe {
            if ffi::PyLong_CheckExact(maxsize.as_ptr()) != 0 {
                let mut overflow = 0;
                let n = ffi::PyLong_AsLongLongAndOverflow(maxsize.as_ptr(), &mut overflow);
                match usize::try_from(n) {
                    Ok(n) if n > 0 => Limit::Items(n),
                    // No limit, or one too large to be reached.
                    _ => Limit::None,
                }
            } else if ffi::PyFloat_CheckExact(maxsize.as_ptr()) != 0 {
                let n = ffi::PyFloat_AS_DOUBLE(maxsize.as_ptr());
                if n > 0.0 && n.is_finite() {
                    Limit::Items(n.ceil() as usize)
                } else {
                    Limit::None
                }
            } else {
                Limit::Ask
            }
        };
        self.limit.set(limit);
    }

    fn set_finished(&self) -> Res<()> {
        self.finished.set(true);
        match self.finished_event.cloned() {
            Some(event) => event::set(&event),
            None => Ok(()),
        }
    }

    /// Bookkeeping after an item was put.
    #[inline(always)]
    fn note_put(&self) -> Res<()> {
        self.unfinished.set(self.unfinished.get().wrapping_add(1));
        self.clear_finished()?;
        self.getters.pop_and_wake()
    }

    #[inline]
    fn clear_finished(&self) -> Res<()> {
        self.finished.set(false);
        match self.finished_event.cloned() {
            Some(event) => event::clear(&event),
            None => Ok(()),
        }
    }

    /// The event `_finished`.
    pub(super) fn finished_event(&self) -> Res<Owned> {
        if let Some(event) = self.finished_event.cloned() {
            return Ok(event);
        }
        let event = event::new(self.finished.get())?.into_owned();
        self.finished_event.set(event.clone());
        Ok(event)
    }

    pub(super) fn has_unfinished(&self) -> bool {
        self.unfinished.get() > 0
    }
}

// ---- methods that asyncio calls on the queue, which subclasses may override ----

#[inline]
pub(crate) fn is_empty(queue: &Native<Queue>) -> Res<bool> {
    match plain_order(queue) {
        Some(_) => queue.items.is_empty(),
        None => queue.object().call_method(&names().empty, &[])?.is_true(),
    }
}

#[inline]
pub(super) fn is_full(queue: &Native<Queue>) -> Res<bool> {
    match plain_order(queue) {
        Some(_) => is_full_by_size(queue),
        None => queue.object().call_method(&names().full, &[])?.is_true(),
    }
}

#[inline]
fn is_full_by_size(queue: &Native<Queue>) -> Res<bool> {
    match queue.limit.get() {
        Limit::None => Ok(false),
        Limit::Items(limit) => match plain_order(queue) {
            Some(_) => Ok(queue.items.len()? >= limit),
            None => is_full_by_asking(queue),
        },
        Limit::Ask => is_full_by_asking(queue),
    }
}

#[cold]
fn is_full_by_asking(queue: &Native<Queue>) -> Res<bool> {
    let maxsize = queue.maxsize.or_none();
    if compare(&maxsize, &*Owned::from_i64(0)?, ffi::Py_LE)? {
        return Ok(false);
    }
    let size = queue.object().call_method(&names().qsize, &[])?;
    compare(&size, &maxsize, ffi::Py_GE)
}

/// `self.put_nowait(item)`.
#[inline]
pub(crate) fn put_item(queue: &Native<Queue>, item: &Object) -> Res<Owned> {
    match plain_order(queue) {
        Some(_) => put_nowait(queue, item),
        None => queue.object().call_method(&names().put_nowait, &[item]),
    }
}

/// `self.get_nowait()`.
#[inline]
pub(crate) fn get_item(queue: &Native<Queue>) -> Res<Owned> {
    match plain_order(queue) {
        Some(_) => get_nowait(queue),
        None => queue.object().call_method(&names().get_nowait, &[]),
    }
}

/// `raise QueueShutDown`; reached only on versions that have it.
#[cold]
pub(super) fn raise_shut_down<T>() -> Res<T> {
    let imports = sync_imports();
    raise_bare(
        imports
            .queue_shut_down
            .as_deref()
            .unwrap_or(&imports.queue_empty),
    )
}

/// Puts an item, if no method is overridden and there is room. Otherwise the item stays in its slot
/// and the result is false.
#[inline(always)]
pub(super) fn put_at_once(queue: &Native<Queue>, item: &Slot) -> Res<bool> {
    let Some(Order::Fifo | Order::Lifo) = plain_order(queue) else {
        return Ok(false);
    };
    let has_room = match (queue.limit.get(), queue.items.native_len()) {
        (Limit::Items(limit), Some(len)) => len < limit,
        (Limit::None, Some(_)) => true,
        _ => false,
    };
    if !has_room || queue.shut_down.get() {
        return Ok(false);
    }
    queue
        .items
        .push_native(item.take().unwrap_or_else(Owned::none))?;
    queue.note_put()?;
    Ok(true)
}

/// Takes an item, if no method is overridden and there is one.
#[inline(always)]
pub(super) fn get_at_once(queue: &Native<Queue>) -> Res<Option<Owned>> {
    let Some(order) = plain_order(queue) else {
        return Ok(None);
    };
    let item = queue.items.pop_native(order);
    if item.is_some() {
        queue.putters.pop_and_wake()?;
    }
    Ok(item)
}

// ---- putting and getting without waiting ----

fn put_nowait(queue: &Native<Queue>, item: &Object) -> Res<Owned> {
    if queue.shut_down.get() {
        return raise_shut_down();
    }
    if is_full(queue)? {
        return raise_bare(&sync_imports().queue_full);
    }
    match plain_order(queue) {
        Some(order) => queue.items.put(order, item)?,
        None => drop(queue.object().call_method(&names().queue_put, &[item])?),
    }
    queue.note_put()?;
    Ok(Owned::none())
}

fn get_nowait(queue: &Native<Queue>) -> Res<Owned> {
    if is_empty(queue)? {
        if queue.shut_down.get() {
            return raise_shut_down();
        }
        return raise_bare(&sync_imports().queue_empty);
    }
    let item = match plain_order(queue) {
        Some(order) => queue.items.get(order)?,
        None => queue.object().call_method(&names().queue_get, &[])?,
    };
    queue.putters.pop_and_wake()?;
    Ok(item)
}
