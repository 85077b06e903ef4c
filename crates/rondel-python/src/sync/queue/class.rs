//! The queue classes that programs see: methods that don't wait, hooks that subclasses may
//! override, and attributes.

use pyo3::ffi;

use super::{
    CLASS, LIFO_CLASS, PRIORITY_CLASS, Queue, class_name, format, get_nowait, is_empty,
    is_full_by_size, plain_order, put_nowait,
};
use crate::cpython::error::{guard_object, value_error};
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::names;
use crate::cpython::python_class::make_class;
use crate::cpython::types::slot_fn;
use crate::cpython::{Class, Native, Object, Owned, Res, none};
use crate::sync::items::Order;
use crate::sync::names::sync_imports;
use crate::sync::primitive::native_type;
use crate::sync::queue_calls;
use crate::sync::waiters::Waiters;

fn put_nowait_method(queue: &Native<Queue>, args: Args<'_>) -> Res<Owned> {
    match args.positional() {
        [item] if !args.has_named() => put_nowait(queue, item),
        _ => {
            let [item] = args.parse("Queue.put_nowait", ["item"], 1, 1)?;
            put_nowait(queue, item.unwrap_or(none()))
        }
    }
}

fn task_done(queue: &Native<Queue>) -> Res<Owned> {
    if queue.unfinished.get() <= 0 {
        return value_error("task_done() called too many times");
    }
    queue.unfinished.set(queue.unfinished.get() - 1);
    if queue.unfinished.get() == 0 {
        queue.set_finished()?;
    }
    Ok(Owned::none())
}

fn shutdown(queue: &Native<Queue>, args: Args<'_>) -> Res<Owned> {
    let [immediate] = args.parse("Queue.shutdown", ["immediate"], 1, 0)?;
    queue.shut_down.set(true);
    if immediate.map_or(Ok(false), Object::is_true)? {
        while !is_empty(queue)? {
            match plain_order(queue) {
                Some(order) => drop(queue.items.get(order)?),
                None => drop(queue.object().call_method(&names().queue_get, &[])?),
            }
            if queue.unfinished.get() > 0 {
                queue.unfinished.set(queue.unfinished.get() - 1);
            }
        }
        if queue.unfinished.get() == 0 {
            queue.set_finished()?;
        }
    }
    // Every waiting task has to check again.
    while queue.getters.len()? > 0 {
        queue.getters.pop_and_wake()?;
    }
    while queue.putters.len()? > 0 {
        queue.putters.pop_and_wake()?;
    }
    Ok(Owned::none())
}

fn qsize(queue: &Native<Queue>) -> Res<Owned> {
    Owned::from_u64(queue.items.len()? as u64)
}

fn empty(queue: &Native<Queue>) -> Res<Owned> {
    Ok(Owned::from_bool(queue.items.is_empty()?))
}

fn full(queue: &Native<Queue>) -> Res<Owned> {
    Ok(Owned::from_bool(is_full_by_size(queue)?))
}

fn format_method(queue: &Native<Queue>) -> Res<Owned> {
    let mut text = format!("maxsize={}", queue.maxsize.or_none().repr()?.to_text()?);
    if !queue.items.is_empty()? {
        text += &format!(" _queue={}", queue.items.to_list()?.repr()?.to_text()?);
    }
    for (name, waiters) in [("_getters", &queue.getters), ("_putters", &queue.putters)] {
        match waiters.len()? {
            0 => {}
            n => text += &format!(" {name}[{n}]"),
        }
    }
    if queue.unfinished.get() != 0 {
        text += &format!(" tasks={}", queue.unfinished.get());
    }
    if queue.shut_down.get() {
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
        fn $init(queue: &Native<Queue>, _: &Object) -> Res<Owned> {
            queue.items.init($order)?;
            Ok(Owned::none())
        }
        fn $get(queue: &Native<Queue>) -> Res<Owned> {
            queue.items.get($order)
        }
        fn $put(queue: &Native<Queue>, item: &Object) -> Res<Owned> {
            queue.items.put($order, item)?;
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
            method!(onearg c"_init" init_fifo, c"Creates the empty container of the items."),
            method!(noargs c"_get" get_fifo, c"Removes and returns the oldest item."),
            method!(onearg c"_put" put_fifo, c"Adds an item."),
        ],
        Order::Lifo => [
            method!(onearg c"_init" init_lifo, c"Creates the empty container of the items."),
            method!(noargs c"_get" get_lifo, c"Removes and returns the newest item."),
            method!(onearg c"_put" put_lifo, c"Adds an item."),
        ],
        Order::Priority => [
            method!(onearg c"_init" init_priority, c"Creates the empty container of the items."),
            method!(noargs c"_get" get_priority, c"Removes and returns the smallest item."),
            method!(onearg c"_put" put_priority, c"Adds an item."),
        ],
    }
}

unsafe extern "C" fn tp_str(queue: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance.
        let queue = unsafe { Object::from_ptr(queue) };
        Owned::from_str(&format!("<{} {}>", class_name(queue)?, format(queue)?))
    })
}

// ---- attributes ----

fn get_maxsize(queue: &Native<Queue>) -> Res<Owned> {
    Ok(queue.maxsize.or_none())
}

fn set_maxsize(queue: &Native<Queue>, value: Option<&Object>) -> Res<()> {
    queue.set_maxsize(value.unwrap_or(none()));
    Ok(())
}

fn get_queue(queue: &Native<Queue>) -> Res<Owned> {
    queue.items.show()
}

fn set_queue(queue: &Native<Queue>, value: Option<&Object>) -> Res<()> {
    queue.items.replace(value);
    Ok(())
}

fn get_getters(queue: &Native<Queue>) -> Res<Owned> {
    queue.getters.show()
}

fn set_getters(queue: &Native<Queue>, value: Option<&Object>) -> Res<()> {
    queue.getters.replace(value)
}

fn get_putters(queue: &Native<Queue>) -> Res<Owned> {
    queue.putters.show()
}

fn set_putters(queue: &Native<Queue>, value: Option<&Object>) -> Res<()> {
    queue.putters.replace(value)
}

fn get_unfinished(queue: &Native<Queue>) -> Res<Owned> {
    Owned::from_i64(queue.unfinished.get())
}

fn set_unfinished(queue: &Native<Queue>, value: Option<&Object>) -> Res<()> {
    let value = value.unwrap_or(none()).to_isize()?;
    queue.unfinished.set(value as i64);
    Ok(())
}

fn get_finished(queue: &Native<Queue>) -> Res<Owned> {
    queue.finished_event()
}

fn set_finished(queue: &Native<Queue>, value: Option<&Object>) -> Res<()> {
    drop(queue.finished_event.replace(value.map(Object::own)));
    Ok(())
}

#[cfg(Py_3_13)]
fn get_shut_down(queue: &Native<Queue>) -> Res<Owned> {
    Ok(Owned::from_bool(queue.shut_down.get()))
}

#[cfg(Py_3_13)]
fn set_shut_down(queue: &Native<Queue>, value: Option<&Object>) -> Res<()> {
    queue
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
        method!(noargs c"qsize" qsize, c"The number of items."),
        method!(noargs c"empty" empty, c"Whether it is empty."),
        method!(noargs c"full" full, c"Whether the queue has maxsize items."),
        method!(fast c"put_nowait(item)" put_nowait_method, c"Adds an item. Raises QueueFull if there is no room."),
        method!(noargs c"get_nowait" get_nowait, c"Removes and returns an item. Raises QueueEmpty if there is none."),
        method!(noargs c"task_done" task_done, c"Marks an item as processed, for join()."),
        method!(noargs c"_format" format_method, c"The parts of the repr."),
        method!(onearg c"_wakeup_next" wakeup_next, c"Wakes the first task of a deque that still waits."),
    ];
    methods.extend(queue_calls::methods());
    if sync_imports().queue_shut_down.is_some() {
        methods.push(method!(fast c"shutdown(immediate=False)" shutdown,
            c"Shuts the queue down: put() raises QueueShutDown, and get() does when the queue is empty. immediate empties it now."));
    }
    methods
}

/// Creates the classes: `(Queue, PriorityQueue, LifoQueue)`.
pub(in crate::sync) fn init_types() -> Res<(Owned, Owned, Owned)> {
    queue_calls::init_types()?;
    let imports = sync_imports();
    let native = native_type::<Queue>(c"rondel._rondel.NativeQueue")
        .slot(ffi::Py_tp_str, slot_fn!(tp_str, ffi::reprfunc))
        .getset(attributes())
        .build()?;
    let make = |name, doc, bases: &[&Object], order, class: &Class| {
        let mut all = methods();
        all.extend(hooks(order));
        let made = make_class(name, doc, bases, &all)?;
        class.set(&made);
        Ok(made)
    };
    let doc = "A queue between tasks, as asyncio.Queue. With a maxsize of 0 there is always room.";
    let queue = make(
        "Queue(maxsize=0)",
        doc,
        &[&native, &imports.stock_queue],
        Order::Fifo,
        &CLASS,
    )?;
    let doc = "A queue that gives the smallest item first, as asyncio.PriorityQueue.";
    let bases = [&*queue, &*imports.stock_priority_queue];
    let priority = make(
        "PriorityQueue(maxsize=0)",
        doc,
        &bases,
        Order::Priority,
        &PRIORITY_CLASS,
    )?;
    let doc = "A queue that gives the newest item first, as asyncio.LifoQueue.";
    let bases = [&*queue, &*imports.stock_lifo_queue];
    let lifo = make(
        "LifoQueue(maxsize=0)",
        doc,
        &bases,
        Order::Lifo,
        &LIFO_CLASS,
    )?;
    Ok((queue, priority, lifo))
}
