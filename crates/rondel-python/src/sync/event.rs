//! `Event`: a flag that tasks wait for.

use std::cell::Cell;

use super::names::sync_imports;
use super::primitive::{
    Bound, Primitive, describe_waiting, native_type, new_instance, new_waiter, primitive_class,
    wait_on,
};
use super::waiters::Waiters;
use crate::awaitable::{self, Next, Steps, awaitable_class, init_type as init_awaitable, make};
use crate::cpython::error::{restore, take_exception};
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::names;
use crate::cpython::python_class::make_class;
use crate::cpython::{Native, NativeSlot, Object, Owned, OwnedNative, Raised, Res, Slot};
use crate::future;
use crate::future::any::{is_done, set_result};

/// An event's fields.
#[derive(Default)]
pub(super) struct Event {
    bound: Bound,
    waiters: Waiters,
    value: Cell<bool>,
}

primitive_class!(Event);

impl Primitive for Event {
    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn init(this: &Native<Self>, args: Args<'_>) -> Res<()> {
        let [] = args.parse("Event.__init__", [], 0, 0)?;
        this.value.set(false);
        this.waiters.replace(None)
    }

    fn repr(this: &Native<Self>) -> Res<Owned> {
        let extra = if this.value.get() { "set" } else { "unset" };
        describe_waiting(this.object(), extra, this.waiters.len()?)
    }
}

/// A new event.
pub(super) fn new(value: bool) -> Res<OwnedNative<Event>> {
    let event = new_instance::<Event>()?;
    event.value.set(value);
    Ok(event)
}

/// `Event.set`, on an event of any class.
pub(super) fn set(event: &Object) -> Res<()> {
    match event.exact::<Event>() {
        Some(event) => event.set(),
        None => event.call_method(&names().set, &[]).map(drop),
    }
}

/// `Event.clear`, on an event of any class.
pub(super) fn clear(event: &Object) -> Res<()> {
    match event.exact::<Event>() {
        Some(event) => event.value.set(false),
        None => drop(event.call_method(&names().clear, &[])?),
    }
    Ok(())
}

impl Event {
    #[inline]
    fn set(&self) -> Res<()> {
        if self.value.replace(true) {
            return Ok(());
        }
        for waiter in self.waiters.iter() {
            let waiter = waiter?;
            if !is_done(&waiter)? {
                set_result(&waiter, &Owned::from_bool(true))?;
            }
        }
        Ok(())
    }
}

// ---- wait ----

awaitable_class!(WAIT, 256);

/// The state of one `wait()` call.
struct Wait {
    event: NativeSlot<Event>,
    /// The future that the task waits on.
    waiter: Slot,
}

impl Steps for Wait {
    fn name(&self) -> &'static str {
        "Event.wait"
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        if let Some(event) = self.event.cloned() {
            match awaited {
                None if !event.value.get() => {
                    let waiter = new_waiter(&*event)?;
                    event.waiters.push(&waiter)?;
                    self.waiter.set(waiter.clone());
                    return wait_on(waiter);
                }
                None => {}
                Some(result) => self.woken(&event, result)?,
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
        see(self.event.slot());
        see(&self.waiter);
    }

    fn class() -> &'static awaitable::Class {
        &WAIT
    }
}

impl Wait {
    #[inline]
    fn woken(&self, event: &Event, result: Res<Owned>) -> Res<()> {
        let waiter = self.waiter.take().unwrap_or_else(Owned::none);
        if let Err(Raised) = result {
            let error = take_exception();
            event.waiters.remove(&waiter)?;
            return Err(restore(error));
        }
        event.waiters.remove(&waiter)?;
        future::give_back(waiter);
        Ok(())
    }
}

// ---- the class ----

fn is_set(event: &Native<Event>) -> Res<Owned> {
    Ok(Owned::from_bool(event.value.get()))
}

fn set_method(event: &Native<Event>) -> Res<Owned> {
    event.set()?;
    Ok(Owned::none())
}

fn clear_method(event: &Native<Event>) -> Res<Owned> {
    event.value.set(false);
    Ok(Owned::none())
}

/// `Event.wait`.
pub(super) fn wait(event: &Native<Event>) -> Res<Owned> {
    make::<Wait>(|wait| wait.event.fill(event.own()))
}

fn get_waiters(event: &Native<Event>) -> Res<Owned> {
    event.waiters.show()
}

fn set_waiters(event: &Native<Event>, value: Option<&Object>) -> Res<()> {
    event.waiters.replace(value)
}

fn set_value(event: &Native<Event>, value: Option<&Object>) -> Res<()> {
    event.value.set(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"is_set" is_set, c"Whether the flag is set."),
        method!(noargs c"set" set_method, c"Sets the flag and wakes all tasks that wait for it."),
        method!(noargs c"clear" clear_method, c"Resets the flag."),
        method!(noargs c"wait" wait, c"Waits until the flag is set. Returns True."),
    ]
}

/// Creates the class.
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
        &[&native, &sync_imports().stock_event],
        &methods(),
    )?;
    CLASS.set(&class);
    Ok(class)
}
