//! `wait_for`, from Python 3.12 on: the task itself awaits, inside a `Timeout`.
//!
//! With a timeout of 0 or less, what is not done already is cancelled: that is left to asyncio's
//! own function.

use std::cell::Cell;

use super::async_with::timeout_in;
use super::names::timeout_imports;
use super::timeout::{Timeout, enter, is_over, leave, raise_timeout};
use crate::awaitable::{
    Class, Next, Steps, await_any, awaitable_class, init_type as init_awaitable, make,
};
use crate::cpython::error::{restore, take_exception};
use crate::cpython::method::{Args, function, method};
use crate::cpython::{NativeSlot, Object, Owned, Raised, Res, Slot, none};

awaitable_class!(WAIT_FOR, 128);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Begin = 0,
    /// What is awaited runs inside the timeout.
    Inside,
    /// asyncio's function does it.
    Stock,
}

/// One `wait_for()`.
struct WaitFor {
    awaitable: Slot,
    /// The number of seconds.
    delay: Slot,
    timeout: NativeSlot<Timeout>,
    stage: Cell<Stage>,
}

impl Steps for WaitFor {
    fn name(&self) -> &'static str {
        "wait_for"
    }

    fn hands_over(&self) -> bool {
        matches!(self.stage.get(), Stage::Stock)
    }

    #[inline]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        match (self.stage.get(), awaited) {
            (Stage::Inside, Some(result)) => self.end(result),
            (Stage::Stock, Some(result)) => Ok(Next::Return(result?)),
            _ => self.begin(),
        }
    }

    fn release(&self) {
        self.awaitable.clear();
        self.delay.clear();
        self.timeout.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.awaitable);
        see(&self.delay);
        see(self.timeout.slot());
    }

    fn class() -> &'static Class {
        &WAIT_FOR
    }
}

impl WaitFor {
    #[inline]
    fn begin(&self) -> Res<Next> {
        let (awaitable, delay) = (self.awaitable.or_none(), self.delay.or_none());
        if !delay.is_none() && is_over(&delay)? {
            self.stage.set(Stage::Stock);
            let stock = timeout_imports().wait_for.call(&[&awaitable, &delay])?;
            return Ok(Next::Await(await_any(&stock)?));
        }
        let timeout = timeout_in(&delay)?;
        enter(&timeout)?;
        self.timeout.set(timeout);
        self.stage.set(Stage::Inside);
        match await_any(&awaitable) {
            Ok(iterator) => Ok(Next::Await(iterator)),
            Err(Raised) => self.end(Err(Raised)),
        }
    }

    #[inline]
    fn end(&self, result: Res<Owned>) -> Res<Next> {
        let Some(timeout) = self.timeout.take() else {
            return result.map(Next::Return);
        };
        match result {
            Ok(value) => {
                leave(&timeout, none(), none())?;
                Ok(Next::Return(value))
            }
            Err(Raised) => {
                let error = take_exception();
                if leave(&timeout, error.class(), &error)? {
                    return raise_timeout(&error, Some(&error));
                }
                Err(restore(error))
            }
        }
    }
}

fn wait_for(_: &Object, args: Args<'_>) -> Res<Owned> {
    let (awaitable, delay) = match args.positional() {
        [awaitable, delay] if !args.has_named() => (*awaitable, *delay),
        _ => {
            let [awaitable, delay] = args.parse_function("wait_for", ["fut", "timeout"], 2, 2)?;
            (awaitable.unwrap_or(none()), delay.unwrap_or(none()))
        }
    };
    make::<WaitFor>(|wait| {
        wait.awaitable.set(awaitable.own());
        wait.delay.set(delay.own());
        wait.stage.set(Stage::Begin);
    })
}

/// Makes the function `wait_for`.
pub(super) fn init() -> Res<Owned> {
    init_awaitable::<WaitFor>(c"rondel._rondel.WaitFor")?;
    function(method!(fast c"wait_for(fut, timeout)" wait_for,
        c"Waits for fut and returns its result. After timeout seconds, cancels it and raises TimeoutError."))
}
