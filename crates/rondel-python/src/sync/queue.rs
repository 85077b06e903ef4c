//! `Queue`, `PriorityQueue` and `LifoQueue`: the state, and what happens without waiting.
//!
//! `put_nowait()` wakes the first task that waits in `get()`, and the other way round; the woken task then does what the
//! `_nowait` method does, or waits again if somebody was faster. What a subclass overrides (`_init`, `_get`, `_put`,
//! and everything else but `_wakeup_next`) is called where asyncio calls it. `queue_calls.rs` has what waits.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::bound::{self, Bound, Primitive, native_type};
use super::count::compare;
use super::items::{Items, Order};
use super::names::{sync_imports, sync_names};
use super::waiters::Waiters;
use super::{event, queue_calls};
use crate::cpython::error::{guard_object, raise_bare, value_error};
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::types::{slot_fn, visit};
use crate::cpython::{Object, Owned, Res, Slot, none};

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
    bound::fields(queue)
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

unsafe extern "C" fn tp_str(queue: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance.
        let queue = unsafe { Object::from_ptr(queue) };
        Owned::from_str(&format!("<{} {}>", class_name(queue)?, format(queue)?))
    })
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
        .push_native(item.take().unwrap_or_else(Owned::none));
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

// ---- the methods that don't wait ----

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

fn put_nowait_method(queue: &Object, args: Args<'_>) -> Res<Owned> {
    match args.positional() {
        [item] if !args.has_named() => put_nowait(queue, item),
        _ => {
            let [item] = args.parse("Queue.put_nowait", ["item"], 1, 1)?;
            put_nowait(queue, item.unwrap_or(none()))
        }
    }
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

fn task_done(queue: &Object) -> Res<Owned> {
    let this = fields(queue);
    if this.unfinished.get() <= 0 {
        return value_error("task_done() called too many times");
    }
    this.unfinished.set(this.unfinished.get() - 1);
    if this.unfinished.get() == 0 {
        this.set_finished()?;
    }
    Ok(Owned::none())
}

fn shutdown(queue: &Object, args: Args<'_>) -> Res<Owned> {
    let [immediate] = args.parse("Queue.shutdown", ["immediate"], 1, 0)?;
    let this = fields(queue);
    this.shut_down.set(true);
    if immediate.map_or(Ok(false), Object::is_true)? {
        while !is_empty(queue)? {
            match plain_order(queue) {
                Some(order) => drop(this.items.get(order)?),
                None => drop(queue.call_method(&sync_names().get, &[])?),
            }
            if this.unfinished.get() > 0 {
                this.unfinished.set(this.unfinished.get() - 1);
            }
        }
        if this.unfinished.get() == 0 {
            this.set_finished()?;
        }
    }
    // All of them have to look again.
    while this.getters.len()? > 0 {
        this.getters.pop_and_wake()?;
    }
    while this.putters.len()? > 0 {
        this.putters.pop_and_wake()?;
    }
    Ok(Owned::none())
}

fn qsize(queue: &Object) -> Res<Owned> {
    Owned::from_u64(fields(queue).items.len()? as u64)
}

fn empty(queue: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(queue).items.is_empty()?))
}

fn full(queue: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(is_full_by_size(queue)?))
}

fn format_method(queue: &Object) -> Res<Owned> {
    let this = fields(queue);
    let mut text = format!("maxsize={}", this.maxsize.or_none().repr()?.to_text()?);
    if !this.items.is_empty()? {
        text += &format!(" _queue={}", this.items.to_list()?.repr()?.to_text()?);
    }
    for (name, waiters) in [("_getters", &this.getters), ("_putters", &this.putters)] {
        match waiters.len()? {
            0 => {}
            n => text += &format!(" {name}[{n}]"),
        }
    }
    if this.unfinished.get() != 0 {
        text += &format!(" tasks={}", this.unfinished.get());
    }
    if this.shut_down.get() {
        text += " shutdown";
    }
    Owned::from_str(&text)
}

fn wakeup_next(_: &Object, waiters: &Object) -> Res<Owned> {
    let shown = Waiters::default();
    shown.replace(Some(waiters))?;
    shown.pop_and_wake()?;
    Ok(Owned::none())
}

macro_rules! hooks {
    ($init:ident, $get:ident, $put:ident, $order:expr) => {
        fn $init(queue: &Object, _: &Object) -> Res<Owned> {
            fields(queue).items.init($order)?;
            Ok(Owned::none())
        }
        fn $get(queue: &Object) -> Res<Owned> {
            fields(queue).items.get($order)
        }
        fn $put(queue: &Object, item: &Object) -> Res<Owned> {
            fields(queue).items.put($order, item)?;
            Ok(Owned::none())
        }
    };
}

hooks!(init_fifo, get_fifo, put_fifo, Order::Fifo);
hooks!(init_lifo, get_lifo, put_lifo, Order::Lifo);
hooks!(init_priority, get_priority, put_priority, Order::Priority);

/// `_init`, `_get` and `_put`, which subclasses may override.
fn hooks(order: Order) -> [Method; 3] {
    match order {
        Order::Fifo => [
            method!(onearg c"_init" init_fifo, c"Makes it empty."),
            method!(noargs c"_get" get_fifo, c"Takes the oldest item out."),
            method!(onearg c"_put" put_fifo, c"Puts an item in."),
        ],
        Order::Lifo => [
            method!(onearg c"_init" init_lifo, c"Makes it empty."),
            method!(noargs c"_get" get_lifo, c"Takes the newest item out."),
            method!(onearg c"_put" put_lifo, c"Puts an item in."),
        ],
        Order::Priority => [
            method!(onearg c"_init" init_priority, c"Makes it empty."),
            method!(noargs c"_get" get_priority, c"Takes the smallest item out."),
            method!(onearg c"_put" put_priority, c"Puts an item in."),
        ],
    }
}

// ---- attributes ----

fn get_maxsize(queue: &Object) -> Res<Owned> {
    Ok(fields(queue).maxsize.or_none())
}

fn set_maxsize(queue: &Object, value: Option<&Object>) -> Res<()> {
    fields(queue).set_maxsize(value.unwrap_or(none()));
    Ok(())
}

fn get_queue(queue: &Object) -> Res<Owned> {
    fields(queue).items.show()
}

fn set_queue(queue: &Object, value: Option<&Object>) -> Res<()> {
    fields(queue).items.replace(value);
    Ok(())
}

fn get_getters(queue: &Object) -> Res<Owned> {
    fields(queue).getters.show()
}

fn set_getters(queue: &Object, value: Option<&Object>) -> Res<()> {
    fields(queue).getters.replace(value)
}

fn get_putters(queue: &Object) -> Res<Owned> {
    fields(queue).putters.show()
}

fn set_putters(queue: &Object, value: Option<&Object>) -> Res<()> {
    fields(queue).putters.replace(value)
}

fn get_unfinished(queue: &Object) -> Res<Owned> {
    Owned::from_i64(fields(queue).unfinished.get())
}

fn set_unfinished(queue: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.unwrap_or(none()).to_isize()?;
    fields(queue).unfinished.set(value as i64);
    Ok(())
}

fn get_finished(queue: &Object) -> Res<Owned> {
    fields(queue).finished_event()
}

fn set_finished(queue: &Object, value: Option<&Object>) -> Res<()> {
    drop(fields(queue).finished_event.replace(value.map(Object::own)));
    Ok(())
}

#[cfg(Py_3_13)]
fn get_shut_down(queue: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(queue).shut_down.get()))
}

#[cfg(Py_3_13)]
fn set_shut_down(queue: &Object, value: Option<&Object>) -> Res<()> {
    fields(queue)
        .shut_down
        .set(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"maxsize" get_maxsize),
        attribute!(c"_maxsize" get_maxsize, set_maxsize),
        attribute!(c"_queue" get_queue, set_queue),
        attribute!(c"_getters" get_getters, set_getters),
        attribute!(c"_putters" get_putters, set_putters),
        attribute!(c"_unfinished_tasks" get_unfinished, set_unfinished),
        attribute!(c"_finished" get_finished, set_finished),
        #[cfg(Py_3_13)]
        attribute!(c"_is_shutdown" get_shut_down, set_shut_down),
    ]
}

fn methods() -> Vec<Method> {
    let mut methods = vec![
        method!(noargs c"qsize" qsize, c"How many items are in it."),
        method!(noargs c"empty" empty, c"Whether it is empty."),
        method!(noargs c"full" full, c"Whether it has maxsize items."),
        method!(fast c"put_nowait(item)" put_nowait_method, c"Puts an item in. QueueFull if there is no room."),
        method!(noargs c"get_nowait" get_nowait, c"Takes the next item out. QueueEmpty if there is none."),
        method!(noargs c"task_done" task_done, c"Tells that the work on an item is done, for join()."),
        method!(noargs c"_format" format_method, c"What its repr shows."),
        method!(onearg c"_wakeup_next" wakeup_next, c"Wakes the first task of a deque that still waits."),
    ];
    methods.extend(queue_calls::methods());
    if sync_imports().queue_shut_down.is_some() {
        methods.push(method!(fast c"shutdown(immediate=False)" shutdown,
            c"From now on put() and, once it is empty, get() raise QueueShutDown. If immediate, it is empty now."));
    }
    methods
}

/// Makes the classes: `(Queue, PriorityQueue, LifoQueue)`.
pub(super) fn init_types() -> Res<(Owned, Owned, Owned)> {
    queue_calls::init_types()?;
    let stock = &sync_imports().stock;
    let native = native_type::<Queue>(c"rondel._rondel.NativeQueue")
        .slot(ffi::Py_tp_str, slot_fn!(tp_str, ffi::reprfunc))
        .getset(attributes())
        .build()?;
    let make = |name, doc, bases: &[&Object], order, class: &AtomicPtr<ffi::PyTypeObject>| {
        let mut all = methods();
        all.extend(hooks(order));
        let made = bound::make_class(name, doc, bases, &all)?;
        class.store(made.clone().into_ptr().cast(), Ordering::Relaxed);
        Ok(made)
    };
    let doc = "A queue between tasks, as asyncio.Queue. With a maxsize of 0 there is always room.";
    let queue = make(
        "Queue(maxsize=0)",
        doc,
        &[&native, &stock.queue],
        Order::Fifo,
        &CLASS,
    )?;
    let doc = "A queue that gives the smallest item first, as asyncio.PriorityQueue.";
    let bases = [&*queue, &*stock.priority_queue];
    let priority = make(
        "PriorityQueue(maxsize=0)",
        doc,
        &bases,
        Order::Priority,
        &PRIORITY_CLASS,
    )?;
    let doc = "A queue that gives the newest item first, as asyncio.LifoQueue.";
    let bases = [&*queue, &*stock.lifo_queue];
    let lifo = make(
        "LifoQueue(maxsize=0)",
        doc,
        &bases,
        Order::Lifo,
        &LIFO_CLASS,
    )?;
    Ok((queue, priority, lifo))
}
