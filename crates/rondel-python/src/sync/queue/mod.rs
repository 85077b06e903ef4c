//! `Queue`, `PriorityQueue` and `LifoQueue`: the state, and putting and getting without waiting.
//!
//! `put_nowait()` wakes the first task that waits in `get()`, and the other way round; the woken task then does what the
//! `_nowait` method does, or waits again if somebody was faster. What a subclass overrides (`_init`, `_get`, `_put`,
//! and everything else but `_wakeup_next`) is called where asyncio calls it. `class.rs` has what programs see,
//! `queue_calls.rs` what waits.

mod class;

pub(super) use class::init_types;

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::count::compare;
use super::event;
use super::items::{Items, Order};
use super::names::{sync_imports, sync_names};
use super::primitive::{self, Bound, Primitive};
use super::waiters::Waiters;
use crate::cpython::error::raise_bare;
use crate::cpython::method::Args;
use crate::cpython::types::visit;
use crate::cpython::{Object, Owned, Res, Slot};

/// A queue's fields.
#[repr(C)]
#[derive(Default)]
pub(super) struct Queue {
    bound: Bound,
    pub(super) getters: Waiters,
    pub(super) putters: Waiters,
    items: Items,
    /// As the program gave it.
    maxsize: Slot,
    limit: Cell<Limit>,
    unfinished: Cell<i64>,
    /// Whether `join()` may go on.
    finished: Cell<bool>,
    /// The event that says so as well, once somebody waits for it or looks at it.
    finished_event: Slot,
    pub(super) shut_down: Cell<bool>,
}

/// `maxsize` as it is compared with.
#[derive(Clone, Copy, Default)]
enum Limit {
    #[default]
    None,
    Items(usize),
    /// What is neither an `int` nor a `float` has to be asked each time.
    Ask,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static LIFO_CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static PRIORITY_CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// A new queue without a limit.
pub(crate) fn new() -> Res<Owned> {
    // SAFETY: our live class.
    unsafe { Object::from_ptr(CLASS.load(Ordering::Relaxed).cast()) }.call(&[])
}

#[inline]
pub(super) fn fields(queue: &Object) -> &Queue {
    primitive::fields(queue)
}

/// The order of a queue of ours whose methods are all its own.
#[inline]
fn plain_order(queue: &Object) -> Option<Order> {
    let class = queue.type_ptr();
    let is = |known: &AtomicPtr<ffi::PyTypeObject>| ptr::eq(class, known.load(Ordering::Relaxed));
    let order = if is(&CLASS) {
        Order::Fifo
    } else if is(&LIFO_CLASS) {
        Order::Lifo
    } else if is(&PRIORITY_CLASS) {
        Order::Priority
    } else {
        return None;
    };
    (!fields(queue).bound.is_patched()).then_some(order)
}

// SAFETY: `repr(C)`, with a `Bound` first.
unsafe impl Primitive for Queue {
    fn traverse(&self, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
        visit!(visit, arg, self.maxsize, self.finished_event);
        for waiters in [&self.getters, &self.putters] {
            let result = waiters.traverse(visit, arg);
            if result != 0 {
                return result;
            }
        }
        self.items.traverse(visit, arg)
    }

    fn clear(&self) {
        self.getters.clear();
        self.putters.clear();
        self.items.clear();
        self.maxsize.clear();
        self.finished_event.clear();
    }

    fn init(object: &Object, args: Args<'_>) -> Res<()> {
        let [maxsize] = args.parse("Queue.__init__", ["maxsize"], 1, 0)?;
        let this = fields(object);
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
        match plain_order(object) {
            Some(order) => this.items.init(order)?,
            None => drop(object.call_method(&sync_names().init, &[&*maxsize])?),
        }
        this.shut_down.set(false);
        Ok(())
    }

    fn repr(object: &Object) -> Res<Owned> {
        let name = class_name(object)?;
        let address = object.as_ptr().addr();
        let text = format(object)?;
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
    queue.call_method(&sync_names().format, &[])?.to_text()
}

impl Queue {
    fn set_maxsize(&self, maxsize: &Object) {
        self.maxsize.set(maxsize.own());
        // SAFETY: a live object; each conversion is of exactly the type that it is for, and can't raise then.
        let limit = unsafe {
            if ffi::PyLong_CheckExact(maxsize.as_ptr()) != 0 {
                let mut overflow = 0;
                let n = ffi::PyLong_AsLongLongAndOverflow(maxsize.as_ptr(), &mut overflow);
                match usize::try_from(n) {
                    Ok(n) if n > 0 => Limit::Items(n),
                    // Too small, or too large to be reached.
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

    /// An item was put in.
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
        let event = event::new(self.finished.get())?;
        self.finished_event.set(event.clone());
        Ok(event)
    }

    pub(super) fn has_unfinished(&self) -> bool {
        self.unfinished.get() > 0
    }
}

// ---- what asyncio asks the queue itself for, so that subclasses can answer ----

#[inline]
pub(crate) fn is_empty(queue: &Object) -> Res<bool> {
    match plain_order(queue) {
        Some(_) => fields(queue).items.is_empty(),
        None => queue.call_method(&sync_names().empty, &[])?.is_true(),
    }
}

#[inline]
pub(super) fn is_full(queue: &Object) -> Res<bool> {
    match plain_order(queue) {
        Some(_) => is_full_by_size(queue),
        None => queue.call_method(&sync_names().full, &[])?.is_true(),
    }
}

#[inline]
fn is_full_by_size(queue: &Object) -> Res<bool> {
    let this = fields(queue);
    match this.limit.get() {
        Limit::None => Ok(false),
        Limit::Items(limit) => match plain_order(queue) {
            Some(_) => Ok(this.items.len()? >= limit),
            None => is_full_by_asking(queue),
        },
        Limit::Ask => is_full_by_asking(queue),
    }
}

#[cold]
fn is_full_by_asking(queue: &Object) -> Res<bool> {
    let maxsize = fields(queue).maxsize.or_none();
    if compare(&maxsize, &*Owned::from_i64(0)?, ffi::Py_LE)? {
        return Ok(false);
    }
    let size = queue.call_method(&sync_names().qsize, &[])?;
    compare(&size, &maxsize, ffi::Py_GE)
}

/// `self.put_nowait(item)`.
#[inline]
pub(crate) fn put_item(queue: &Object, item: &Object) -> Res<Owned> {
    match plain_order(queue) {
        Some(_) => put_nowait(queue, item),
        None => queue.call_method(&sync_names().put_nowait, &[item]),
    }
}

/// `self.get_nowait()`.
#[inline]
pub(crate) fn get_item(queue: &Object) -> Res<Owned> {
    match plain_order(queue) {
        Some(_) => get_nowait(queue),
        None => queue.call_method(&sync_names().get_nowait, &[]),
    }
}

/// `raise QueueShutDown`, which only versions that have it ask for.
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

/// Puts an item in, if nothing is overridden and there is room. Otherwise the item is left where it is.
#[inline(always)]
pub(super) fn put_at_once(queue: &Object, item: &Slot) -> Res<bool> {
    let this = fields(queue);
    let Some(Order::Fifo | Order::Lifo) = plain_order(queue) else {
        return Ok(false);
    };
    let has_room = match (this.limit.get(), this.items.native_len()) {
        (Limit::Items(limit), Some(len)) => len < limit,
        (Limit::None, Some(_)) => true,
        _ => false,
    };
    if !has_room || this.shut_down.get() {
        return Ok(false);
    }
    this.items
        .push_native(item.take().unwrap_or_else(Owned::none))?;
    this.note_put()?;
    Ok(true)
}

/// Takes an item out, if nothing is overridden and there is one.
#[inline(always)]
pub(super) fn get_at_once(queue: &Object) -> Res<Option<Owned>> {
    let this = fields(queue);
    let Some(order) = plain_order(queue) else {
        return Ok(None);
    };
    let item = this.items.pop_native(order);
    if item.is_some() {
        this.putters.pop_and_wake()?;
    }
    Ok(item)
}

// ---- putting and getting without waiting ----

fn put_nowait(queue: &Object, item: &Object) -> Res<Owned> {
    let this = fields(queue);
    if this.shut_down.get() {
        return raise_shut_down();
    }
    if is_full(queue)? {
        return raise_bare(&sync_imports().queue_full);
    }
    match plain_order(queue) {
        Some(order) => this.items.put(order, item)?,
        None => drop(queue.call_method(&sync_names().put, &[item])?),
    }
    this.note_put()?;
    Ok(Owned::none())
}

fn get_nowait(queue: &Object) -> Res<Owned> {
    let this = fields(queue);
    if is_empty(queue)? {
        if this.shut_down.get() {
            return raise_shut_down();
        }
        return raise_bare(&sync_imports().queue_empty);
    }
    let item = match plain_order(queue) {
        Some(order) => this.items.get(order)?,
        None => queue.call_method(&sync_names().get, &[])?,
    };
    this.putters.pop_and_wake()?;
    Ok(item)
}
