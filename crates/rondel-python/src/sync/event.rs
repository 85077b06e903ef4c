//! `Event`: a flag that tasks wait for.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::names::{sync_imports, sync_names};
use super::primitive::{
    self, Bound, Primitive, describe_waiting, native_type, new_waiter, wait_on,
};
use super::waiters::{Waiters, is_done, set_result};
use crate::awaitable::{Class, Next, Steps, init_type as init_awaitable, make};
use crate::cpython::error::{restore, take_exception};
use crate::cpython::freelist::free_list;
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::python_class::make_class;
use crate::cpython::{Object, Owned, Raised, Res, Slot};
use crate::future;

/// An event's fields.
#[repr(C)]
#[derive(Default)]
pub(super) struct Event {
    bound: Bound,
    waiters: Waiters,
    value: Cell<bool>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

#[inline]
fn fields(event: &Object) -> &Event {
    primitive::fields(event)
}

/// Whether an object is exactly an event of ours.
#[inline]
pub(super) fn is_exact(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed))
}

/// A new event.
pub(super) fn new(value: bool) -> Res<Owned> {
    // SAFETY: our live class.
    let class = unsafe { Object::from_ptr(CLASS.load(Ordering::Relaxed).cast()) };
    let event = class.call(&[])?;
    fields(&event).value.set(value);
    Ok(event)
}

// SAFETY: `repr(C)`, with a `Bound` first.
unsafe impl Primitive for Event {
    fn traverse(&self, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
        self.waiters.traverse(visit, arg)
    }

    fn clear(&self) {
        self.waiters.clear();
    }

    fn init(object: &Object, args: Args<'_>) -> Res<()> {
        let [] = args.parse("Event.__init__", [], 0, 0)?;
        let this = fields(object);
        this.value.set(false);
        this.waiters.replace(None)
    }

    fn repr(object: &Object) -> Res<Owned> {
        let this = fields(object);
        let extra = if this.value.get() { "set" } else { "unset" };
        describe_waiting(object, extra, this.waiters.len()?)
    }
}

/// `Event.set`, of an event of any kind.
pub(super) fn set(event: &Object) -> Res<()> {
    if !is_exact(event) {
        return event.call_method(&sync_names().set, &[]).map(drop);
    }
    set_exact(event)
}

#[inline]
fn set_exact(event: &Object) -> Res<()> {
    let this = fields(event);
    if this.value.replace(true) {
        return Ok(());
    }
    for waiter in this.waiters.iter() {
        let waiter = waiter?;
        if !is_done(&waiter)? {
            set_result(&waiter, &Owned::from_bool(true))?;
        }
    }
    Ok(())
}

/// `Event.clear`, of an event of any kind.
pub(super) fn clear(event: &Object) -> Res<()> {
    if !is_exact(event) {
        return event.call_method(&sync_names().clear, &[]).map(drop);
    }
    fields(event).value.set(false);
    Ok(())
}

// ---- wait ----

free_list!(FREE, 256);
static WAIT: Class = Class::new(
    // SAFETY: called by the type's `tp_dealloc` only, with a dead and empty instance.
    |object| FREE.with(|list| unsafe { list.keep(object) }),
    |class| FREE.with(|list| list.revive(class, false)),
);

/// One `wait()`.
struct Wait {
    event: Slot,
    /// The future that is waited on.
    waiter: Slot,
}

impl Steps for Wait {
    fn name(&self) -> &'static str {
        "Event.wait"
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let event = self.event.or_none();
        let this = fields(&event);
        match awaited {
            None if !this.value.get() => {
                let waiter = new_waiter(&event)?;
                this.waiters.push(&waiter)?;
                self.waiter.set(waiter.clone());
                return wait_on(waiter);
            }
            None => {}
            Some(result) => {
                let waiter = self.waiter.take().unwrap_or_else(Owned::none);
                if let Err(Raised) = result {
                    let error = take_exception();
                    this.waiters.remove(&waiter)?;
                    return Err(restore(error));
                }
                this.waiters.remove(&waiter)?;
                future::give_back(waiter);
            }
        }
        Ok(Next::Return(Owned::from_bool(true)))
    }

    #[inline(always)]
    fn release(&self) {
        self.waiter.clear();
        self.event.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.event);
        see(&self.waiter);
    }

    fn class() -> &'static Class {
        &WAIT
    }
}

// ---- the class ----

fn is_set(event: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(event).value.get()))
}

fn set_method(event: &Object) -> Res<Owned> {
    set_exact(event)?;
    Ok(Owned::none())
}

fn clear_method(event: &Object) -> Res<Owned> {
    fields(event).value.set(false);
    Ok(Owned::none())
}

/// `Event.wait`.
pub(super) fn wait(event: &Object) -> Res<Owned> {
    make::<Wait>(|wait| wait.event.fill(event.own()))
}

fn get_waiters(event: &Object) -> Res<Owned> {
    fields(event).waiters.show()
}

fn set_waiters(event: &Object, value: Option<&Object>) -> Res<()> {
    fields(event).waiters.replace(value)
}

fn set_value(event: &Object, value: Option<&Object>) -> Res<()> {
    fields(event)
        .value
        .set(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"is_set" is_set, c"Whether the flag is set."),
        method!(noargs c"set" set_method, c"Sets the flag and wakes all tasks that wait for it."),
        method!(noargs c"clear" clear_method, c"Takes the flag back."),
        method!(noargs c"wait" wait, c"Waits until the flag is set. Gives True."),
    ]
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    init_awaitable::<Wait>(c"rondel._rondel.EventWait")?;
    let native = native_type::<Event>(c"rondel._rondel.NativeEvent")
        .getset([
            attribute!(c"_value" is_set, set_value),
            attribute!(c"_waiters" get_waiters, set_waiters),
        ])
        .build()?;
    let doc = "A flag that tasks can wait for, as asyncio.Event.";
    let class = make_class(
        "Event()",
        doc,
        &[&native, &sync_imports().stock.event],
        &methods(),
    )?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}
