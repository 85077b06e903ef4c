//! `wait_for` of Python 3.11: what is awaited becomes a task, and this one waits for its end or for
//! the timer.
//!
//! Whichever comes first completes a future of ours. Without a timeout the task itself awaits; with
//! one of 0 or less, what is not done already is cancelled, which is left to asyncio's own
//! function.

use std::cell::Cell;
use std::ptr;

use super::names::timeout_imports;
use super::timeout::{is_cancellation, is_over, raise_timeout, running_loop};
use crate::awaitable::{
    Class, Next, Steps, await_any, awaitable_class, init_type as init_awaitable, make,
};
use crate::cpython::error::{chain, restore, take_exception};
use crate::cpython::method::{Args, function, method};
use crate::cpython::names::{Table, import};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, imports, names, none};
use crate::future::any::{create_future, is_done, set_result_unless_cancelled};
use crate::future::{self, Future};
use crate::loop_core::LoopCore;
use crate::{handle, task};

awaitable_class!(WAIT_FOR, 128);

/// What a wait is made of.
struct Parts {
    /// Completes a future unless it is done: what the timer and, through a `partial`, the awaited
    /// future call.
    release: Owned,
    /// `functools.partial`.
    partial: Owned,
}

static PARTS: Table<Parts> = Table::new();

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Begin = 0,
    /// Something else is awaited, whose outcome is ours.
    Passing,
    /// For the future that the timer or the end of what is awaited completes.
    Waiting,
    /// What is awaited was cancelled, because time is up, and has not ended yet.
    Cancelling,
    /// As well, because this was cancelled.
    Giving,
}

/// One `wait_for()`.
struct WaitFor {
    awaitable: Slot,
    /// The number of seconds.
    delay: Slot,
    event_loop: Slot,
    timer: Slot,
    /// What `awaitable` became.
    awaited: Slot,
    /// The callback that it has.
    callback: Slot,
    /// The cancellation of this.
    error: Slot,
    stage: Cell<Stage>,
}

impl Steps for WaitFor {
    fn name(&self) -> &'static str {
        "wait_for"
    }

    fn hands_over(&self) -> bool {
        matches!(self.stage.get(), Stage::Passing) && !self.delay.or_none().is_none()
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let Some(result) = awaited else {
            return self.begin();
        };
        if self.stage.get() == Stage::Passing {
            return Ok(Next::Return(result?));
        }
        match self.go_on(result) {
            Ok(Next::Await(inner)) => Ok(Next::Await(inner)),
            Ok(end) => {
                self.stop_timer()?;
                Ok(end)
            }
            Err(Raised) => {
                let error = take_exception();
                self.stop_timer()?;
                Err(restore(error))
            }
        }
    }

    fn release(&self) {
        self.for_each_slot(&mut Slot::clear);
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.awaitable);
        see(&self.delay);
        see(&self.event_loop);
        see(&self.timer);
        see(&self.awaited);
        see(&self.callback);
        see(&self.error);
    }

    fn class() -> &'static Class {
        &WAIT_FOR
    }
}

impl WaitFor {
    fn begin(&self) -> Res<Next> {
        let event_loop = running_loop()?;
        let (awaitable, delay) = (self.awaitable.or_none(), self.delay.or_none());
        if delay.is_none() {
            self.stage.set(Stage::Passing);
            return Ok(Next::Await(await_any(&awaitable)?));
        }
        if is_over(&delay)? {
            self.stage.set(Stage::Passing);
            let stock = timeout_imports().wait_for.call(&[&awaitable, &delay])?;
            return Ok(Next::Await(await_any(&stock)?));
        }
        let waiter = create_future(&event_loop)?;
        self.timer.set(handle::call_later(
            &event_loop,
            &delay,
            release_function(),
            &[&waiter],
            future::is_native(&waiter),
        )?);
        let callback = PARTS.get().partial.call(&[release_function(), &waiter])?;
        let awaited = ensure_future(&event_loop, &awaitable)?;
        if let Some(future) = awaited.exact::<Future>() {
            future::add_callback(future, &callback, &*context::copy_current()?)?;
        } else {
            awaited.call_method(&names().add_done_callback, &[&callback])?;
        }
        self.awaited.set(awaited);
        self.callback.set(callback);
        self.event_loop.set(event_loop);
        self.stage.set(Stage::Waiting);
        Ok(match future::into_plain(waiter) {
            Ok(waiter) => Next::Wait(waiter),
            Err(waiter) => Next::Await(await_any(&waiter)?),
        })
    }

    /// Something has happened while the timer was set.
    fn go_on(&self, result: Res<Owned>) -> Res<Next> {
        let awaited = self.awaited.or_none();
        match self.stage.get() {
            Stage::Waiting => match result {
                Err(Raised) => {
                    let error = take_exception();
                    if !is_cancellation(&error) {
                        return Err(restore(error));
                    }
                    if is_done(&awaited)? {
                        return while_handling(&error, || self.result(&awaited));
                    }
                    self.error.set(error);
                    self.cancel(&awaited, Stage::Giving)
                }
                Ok(_) if is_done(&awaited)? => self.result(&awaited),
                Ok(_) => self.cancel(&awaited, Stage::Cancelling),
            },
            Stage::Giving => {
                let error = self.error.take().unwrap_or_else(Owned::none);
                while_handling(&error, || result)?;
                Err(restore(error))
            }
            _ => {
                result?;
                self.result_of_cancelled(&awaited)
            }
        }
    }

    /// Cancels what is awaited, and waits until it has ended.
    fn cancel(&self, awaited: &Object, stage: Stage) -> Res<Next> {
        let callback = self.callback.take().unwrap_or_else(Owned::none);
        awaited.call_method(&*Owned::from_str("remove_done_callback")?, &[&callback])?;
        let event_loop = self.event_loop.or_none();
        let cancel = import("asyncio.tasks")?.getattr(&*Owned::from_str("_cancel_and_wait")?)?;
        let cancel = cancel.call_with(&[awaited, &event_loop], Some(&imports().kw_loop))?;
        self.stage.set(stage);
        Ok(Next::Await(cancel))
    }

    fn result(&self, awaited: &Object) -> Res<Next> {
        if let Some(awaited) = awaited.exact::<Future>() {
            return future::take_result(awaited).map(Next::Return);
        }
        awaited.call_method(&names().result, &[]).map(Next::Return)
    }

    /// The result of what was cancelled: it may have one all the same, or may have failed.
    fn result_of_cancelled(&self, awaited: &Object) -> Res<Next> {
        self.result(awaited).or_else(|Raised| {
            let error = take_exception();
            if is_cancellation(&error) {
                return raise_timeout(&error, Some(&error));
            }
            Err(restore(error))
        })
    }

    fn stop_timer(&self) -> Res<()> {
        match self.timer.take() {
            Some(timer) => handle::cancel_any(&timer),
            None => Ok(()),
        }
    }
}

/// What is raised in an `except` block, whose exception is noted as the context.
fn while_handling<T>(handled: &Object, block: impl FnOnce() -> Res<T>) -> Res<T> {
    block().map_err(|Raised| {
        let error = take_exception();
        chain(&error, handled);
        restore(error)
    })
}

fn release_function() -> &'static Object {
    &PARTS.get().release
}

/// `ensure_future(awaitable, loop=event_loop)`.
fn ensure_future(event_loop: &Object, awaitable: &Object) -> Res<Owned> {
    let core = LoopCore::of(event_loop);
    if core.is_some_and(LoopCore::makes_tasks_directly)
        && ptr::eq(awaitable.type_ptr(), imports().coroutine_type.as_type_ptr())
    {
        let task = task::new_task(event_loop, awaitable, None, None, false)?;
        return Ok(task.into_owned());
    }
    let ensure_future = import("asyncio.tasks")?.getattr(&*Owned::from_str("ensure_future")?)?;
    ensure_future.call_with(&[awaitable, event_loop], Some(&imports().kw_loop))
}

/// `release(waiter, *_)`.
fn release(_: &Object, args: Args<'_>) -> Res<Owned> {
    if let [waiter, ..] = args.positional()
        && !is_done(waiter)?
    {
        set_result_unless_cancelled(waiter, none())?;
    }
    Ok(Owned::none())
}

fn wait_for(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [awaitable, delay] = args.parse_function("wait_for", ["fut", "timeout"], 2, 2)?;
    make::<WaitFor>(|wait| {
        wait.awaitable.set(awaitable.unwrap_or(none()).own());
        wait.delay.set(delay.unwrap_or(none()).own());
        wait.stage.set(Stage::Begin);
    })
}

/// Makes the function `wait_for`.
pub(super) fn init() -> Res<Owned> {
    init_awaitable::<WaitFor>(c"rondel._rondel.WaitFor")?;
    let release = function(
        method!(fast c"release_waiter" release, c"Completes a future, unless it is done."),
    )?;
    let partial = import("functools")?.getattr(&*Owned::from_str("partial")?)?;
    PARTS.fill(Parts { release, partial });
    function(method!(fast c"wait_for(fut, timeout)" wait_for,
        c"Waits for fut and returns its result. After timeout seconds, cancels it and raises TimeoutError."))
}
