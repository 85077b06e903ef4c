//! `sleep`: a timer of the loop that wakes the task.
//!
//! `sleep(0)`, or less, lets the loop make one turn. Anything longer waits on a future that a timer
//! completes; on loops of ours without a Python call, on others, and where `call_later` is
//! replaced, by the loop's own methods.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::awaitable::{
    Class, Next, Steps, awaitable_class, init_type as init_awaitable, iterator_of, make,
};
use crate::cpython::error::{restore, runtime_error, take_exception, type_error};
use crate::cpython::method::{self, Args, method};
use crate::cpython::object::truth;
use crate::cpython::{Object, Owned, Raised, Res, Slot, none};
use crate::future::any::{create_future, set_result_unless_cancelled};
use crate::loop_core::running_loop::running_loop;
use crate::{future, handle};

awaitable_class!(SLEEP, 512);

/// What a timer calls: completes a future, with a result, unless it was cancelled.
static WAKE: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Begin = 0,
    /// The delay is known to be 0.
    BeginZero,
    /// The loop makes a turn.
    Yielded,
    /// The timer runs.
    Waiting,
}

/// The `int` 0.
static ZERO: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// One `sleep()`.
struct Sleep {
    delay: Slot,
    result: Slot,
    timer: Slot,
    stage: Cell<Stage>,
}

impl Steps for Sleep {
    fn name(&self) -> &'static str {
        "sleep"
    }

    #[inline(always)]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        match (self.stage.get(), awaited) {
            (Stage::BeginZero, _) => {
                self.stage.set(Stage::Yielded);
                Ok(Next::Yield)
            }
            (Stage::Yielded, Some(turn)) => {
                turn?;
                Ok(Next::Return(self.result.or_none()))
            }
            (Stage::Waiting, Some(Ok(result))) => {
                self.cancel_timer()?;
                Ok(Next::Return(result))
            }
            (Stage::Waiting, Some(Err(Raised))) => {
                let error = take_exception();
                self.cancel_timer()?;
                Err(restore(error))
            }
            _ => self.begin(),
        }
    }

    #[inline(always)]
    fn release(&self) {
        self.delay.clear();
        self.result.clear();
        self.timer.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.delay);
        see(&self.result);
        see(&self.timer);
    }

    fn holds_nothing(&self) -> bool {
        self.stage.get() == Stage::Yielded && self.result.is_empty()
    }

    fn class() -> &'static Class {
        &SLEEP
    }
}

impl Sleep {
    #[inline]
    fn begin(&self) -> Res<Next> {
        let delay = self.delay.or_none();
        if is_over(&delay)? {
            self.stage.set(Stage::Yielded);
            return Ok(Next::Yield);
        }
        if cfg!(Py_3_13) && delay.to_f64()?.is_nan() {
            return crate::cpython::error::value_error("Invalid delay: NaN (not a number)");
        }
        let event_loop = running_loop()?;
        if event_loop.is_none() {
            return runtime_error("no running event loop");
        }
        let future = create_future(&event_loop)?;
        let result = self.result.or_none();
        // SAFETY: made at import, and kept forever.
        let wake = unsafe { Object::from_ptr(WAKE.load(Ordering::Relaxed)) };
        self.timer
            .set(start_timer(&event_loop, &delay, wake, &[&future, &result])?);
        self.stage.set(Stage::Waiting);
        Ok(Next::Await(iterator_of(&future)?))
    }

    fn cancel_timer(&self) -> Res<()> {
        match self.timer.take() {
            Some(timer) => handle::cancel_any(&timer),
            None => Ok(()),
        }
    }
}

/// `delay <= 0`.
#[inline]
pub(crate) fn is_over(delay: &Object) -> Res<bool> {
    // SAFETY: a live object; each is read as what it exactly is, which can't raise.
    unsafe {
        if ffi::PyLong_CheckExact(delay.as_ptr()) != 0 {
            let mut overflow = 0;
            let seconds = ffi::PyLong_AsLongLongAndOverflow(delay.as_ptr(), &mut overflow);
            return Ok(if overflow == 0 {
                seconds <= 0
            } else {
                overflow < 0
            });
        }
        if ffi::PyFloat_CheckExact(delay.as_ptr()) != 0 {
            return Ok(ffi::PyFloat_AS_DOUBLE(delay.as_ptr()) <= 0.0);
        }
    }
    let zero = Owned::from_i64(0)?;
    // SAFETY: live objects.
    truth(unsafe { ffi::PyObject_RichCompareBool(delay.as_ptr(), zero.as_ptr(), ffi::Py_LE) })
}

/// `loop.call_later(delay, callback, *args)`, with at most three arguments.
pub(crate) fn start_timer(
    event_loop: &Object,
    delay: &Object,
    callback: &Object,
    args: &[&Object],
) -> Res<Owned> {
    let wakes = ptr::eq(callback.as_ptr(), WAKE.load(Ordering::Relaxed));
    let is_plain = wakes && args.first().is_some_and(|future| future::is_native(future));
    handle::call_later(event_loop, delay, callback, args, is_plain)
}

fn wake(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [future, result] = args.positional() else {
        return type_error("a sleep's timer takes a future and a result");
    };
    // As asyncio's own: what a program completed itself is an error.
    set_result_unless_cancelled(future, result)?;
    Ok(Owned::none())
}

fn sleep(_: &Object, args: Args<'_>) -> Res<Owned> {
    let (delay, result) = match args.positional() {
        // `sleep(0)`, which is one object: nothing to keep, and nothing to find out later.
        [delay] if delay.as_ptr() == ZERO.load(Ordering::Relaxed) && !args.has_named() => {
            return make::<Sleep>(|sleep| sleep.stage.set(Stage::BeginZero));
        }
        [delay] if !args.has_named() => (Some(*delay), None),
        [_, _, _, ..] => {
            return type_error(&format!(
                "sleep() takes from 1 to 2 positional arguments but {} were given",
                args.positional().len()
            ));
        }
        _ => {
            let [delay, result] = args.parse("sleep", ["delay", "result"], 2, 1)?;
            (delay, result)
        }
    };
    make::<Sleep>(|sleep| {
        sleep.delay.fill(delay.unwrap_or(none()).own());
        if let Some(result) = result {
            sleep.result.fill(result.own());
        }
        sleep.stage.set(Stage::Begin);
    })
}

/// Makes the function `sleep`.
pub(crate) fn init() -> Res<Owned> {
    init_awaitable::<Sleep>(c"rondel._rondel.Sleep")?;
    ZERO.store(Owned::from_i64(0)?.into_ptr(), Ordering::Relaxed);
    let callable = method::function(
        method!(fast c"wake_sleeper" wake, c"Completes the future of a sleep that is over."),
    )?;
    WAKE.store(callable.into_ptr(), Ordering::Relaxed);
    method::function(method!(fast c"sleep(delay, result=None)" sleep,
        c"Waits for delay seconds and returns result. A delay of 0 or less lets other tasks run once."))
}
