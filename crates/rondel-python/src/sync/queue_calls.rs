//! `Queue.get`, `Queue.put` and `Queue.join`, which may have to wait.
//!
//! An item is taken or put only when the task runs and the result is certain, so a cancelled call
//! loses nothing. If a cancelled call had been woken already, it wakes the next waiter instead.

use std::cell::Cell;

use super::event::{self, Event};

use super::primitive::{new_waiter, wait_on};
use super::queue::{
    Queue, get_at_once, get_item, is_empty, is_full, put_at_once, put_item, raise_shut_down,
};
use super::waiters::Waiters;
use crate::awaitable::{
    self, Next, Steps, awaitable_class, init_type as init_awaitable, iterator_of, make,
};
use crate::cpython::error::{restore, take_exception};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::names;
use crate::cpython::{Native, NativeSlot, Object, Owned, Raised, Res, Slot, none};
use crate::future;
use crate::future::any::{is_cancelled, is_done};

awaitable_class!(CALL, 256);

/// The state of one `get()` or `put()` call.
struct Call {
    queue: NativeSlot<Queue>,
    /// The item to put.
    item: Slot,
    /// The future that the task waits on.
    waiter: Slot,
    putting: Cell<bool>,
}

impl Steps for Call {
    fn name(&self) -> &'static str {
        if self.putting.get() {
            "Queue.put"
        } else {
            "Queue.get"
        }
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        if awaited.is_none()
            && let Some(result) = self.at_once()?
        {
            return Ok(Next::Return(result));
        }
        self.advance_waiting(awaited)
    }

    #[inline(always)]
    fn release(&self) {
        self.waiter.clear();
        self.item.clear();
        self.queue.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.queue.slot());
        see(&self.item);
        see(&self.waiter);
    }

    fn class() -> &'static awaitable::Class {
        &CALL
    }
}

impl Call {
    /// The common case: there is room, or an item.
    #[inline(always)]
    fn at_once(&self) -> Res<Option<Owned>> {
        let Some(queue) = self.queue.get() else {
            return Ok(None);
        };
        if self.putting.get() {
            Ok(put_at_once(queue, &self.item)?.then(Owned::none))
        } else {
            get_at_once(queue)
        }
    }

    fn advance_waiting(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let Some(queue) = self.queue.cloned() else {
            return Ok(Next::Return(Owned::none()));
        };
        let putting = self.putting.get();
        let waiters = if putting {
            &queue.putters
        } else {
            &queue.getters
        };
        if let Some(result) = awaited {
            let waiter = self.waiter.take();
            if let Err(Raised) = result {
                return self.give_up(&queue, waiters, waiter);
            }
            if let Some(waiter) = waiter {
                future::give_back(waiter);
            }
        }
        if self.must_wait(&queue)? {
            if queue.shut_down.get() && (putting || is_empty(&queue)?) {
                return raise_shut_down();
            }
            let waiter = new_waiter(&*queue)?;
            waiters.push(&waiter)?;
            self.waiter.set(waiter.clone());
            return wait_on(waiter);
        }
        Ok(Next::Return(if putting {
            put_item(&queue, &self.item.or_none())?
        } else {
            get_item(&queue)?
        }))
    }

    #[inline]
    fn must_wait(&self, queue: &Native<Queue>) -> Res<bool> {
        if self.putting.get() {
            is_full(queue)
        } else {
            is_empty(queue)
        }
    }

    /// Ends with the exception that is set. If the task had been woken, the next waiter is woken
    /// instead.
    fn give_up(
        &self,
        queue: &Native<Queue>,
        waiters: &Waiters,
        waiter: Option<Owned>,
    ) -> Res<Next> {
        let error = take_exception();
        if let Some(waiter) = waiter {
            if !is_done(&waiter)? {
                future::cancel_any(&waiter, None)?;
            }
            // If it was woken, it has been removed already.
            waiters.discard(&waiter)?;
            if !self.must_wait(queue)? && !is_cancelled(&waiter)? {
                waiters.pop_and_wake()?;
            }
        }
        Err(restore(error))
    }
}

fn call(queue: &Native<Queue>, item: Option<&Object>) -> Res<Owned> {
    make::<Call>(|call| {
        call.queue.fill(queue.own());
        call.putting.set(item.is_some());
        if let Some(item) = item {
            call.item.fill(item.own());
        }
    })
}

/// `queue.get()`.
pub(crate) fn get(queue: &Native<Queue>) -> Res<Owned> {
    call(queue, None)
}

fn put(queue: &Native<Queue>, args: Args<'_>) -> Res<Owned> {
    match args.positional() {
        [item] if !args.has_named() => call(queue, Some(item)),
        _ => {
            let [item] = args.parse("Queue.put", ["item"], 1, 1)?;
            call(queue, Some(item.unwrap_or(none())))
        }
    }
}

// ---- join ----

static JOIN: awaitable::Class = awaitable::Class::new(|_| false, |_| None);

/// The state of one `join()` call.
struct Join {
    queue: NativeSlot<Queue>,
}

impl Steps for Join {
    fn name(&self) -> &'static str {
        "Queue.join"
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        if let Some(result) = awaited {
            result?;
            return Ok(Next::Return(Owned::none()));
        }
        let Some(queue) = self.queue.cloned().filter(|queue| queue.has_unfinished()) else {
            return Ok(Next::Return(Owned::none()));
        };
        let finished = queue.finished_event()?;
        Ok(Next::Await(match finished.exact::<Event>() {
            Some(event) => event::wait(event)?,
            None => iterator_of(&*finished.call_method(&names().wait, &[])?)?,
        }))
    }

    #[inline(always)]
    fn release(&self) {
        self.queue.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.queue.slot());
    }

    fn class() -> &'static awaitable::Class {
        &JOIN
    }
}

fn join(queue: &Native<Queue>) -> Res<Owned> {
    make::<Join>(|join| join.queue.fill(queue.own()))
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"get" get, c"Removes and returns an item. Waits until there is one."),
        method!(fast c"put(item)" put, c"Adds an item. Waits until there is room."),
        method!(noargs c"join" join, c"Waits until task_done() was called for every item."),
    ]
}

/// Creates the types of the awaitables.
pub(super) fn init_types() -> Res<()> {
    init_awaitable::<Call>(c"rondel._rondel.QueueCall")?;
    init_awaitable::<Join>(c"rondel._rondel.QueueJoin")
}
