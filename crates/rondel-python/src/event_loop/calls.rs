//! Scheduling: `call_soon`, `call_later` and variants, `create_future`, `create_task`,
//! `run_in_executor`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::run;
use crate::cpython::detach::detached;
use crate::cpython::error::{no_memory, type_error};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::{Object, Owned, OwnedNative, Res, imports, names, none};
use crate::handle::{self, Handle};
use crate::loop_core::LoopCore;
use crate::loop_core::item::{Item, Kind, Remote};
use crate::loop_core::{check_closed, check_thread, this_thread};
use crate::task::functions::{loop_takes_all_keywords, signature_in_loop};
use crate::threads::job::Call;
use crate::threads::submit::submit_to_default;
use crate::{future, task};

fn call_soon(this: &Object, args: Args<'_>) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let ([callback], args, context) = args.of_call("call_soon", ["callback"])?;
    check_closed(core)?;
    if core.is_debug() {
        check_thread(core)?;
        check_callback(callback, "call_soon")?;
    }
    let handle = handle::new_on(core, callback, args, context)?;
    if core.is_debug() {
        handle::note_origin(&handle)?;
    }
    core.push(Kind::Handle, handle.clone().into_owned())?;
    Ok(handle.into_owned())
}

fn call_soon_threadsafe(this: &Object, args: Args<'_>) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let ([callback], args, context) = args.of_call("call_soon_threadsafe", ["callback"])?;
    check_closed(core)?;
    if core.is_debug() {
        check_callback(callback, "call_soon_threadsafe")?;
    }
    let handle = handle::new_thread_safe(this, callback, args, context)?;
    if core.is_debug() {
        handle::note_origin(&handle)?;
    }
    // In the loop's own thread, or with the GIL while the loop does not run, it is queued directly,
    // in order with `call_soon`.
    if core.thread.get() == this_thread() {
        core.push(Kind::Handle, handle.clone().into_owned())?;
    } else if cfg!(not(Py_GIL_DISABLED)) && !core.is_running() {
        core.push(Kind::Handle, handle.clone().into_owned())?;
        // A program's own `_run_once` or selector may be waiting nevertheless.
        core.is_woken.set(true);
        core.engine().inbox().wake();
        if is_crowd(core.engine().ready_len()) {
            // Otherwise the thread that is about to run the loop would wait for the GIL, and then
            // run all these calls in the first turn.
            detached(|| std::thread::sleep(PAUSE));
        }
    } else {
        let item = Remote(Item::new(Kind::Handle, handle.clone().into_owned()));
        let waiting = match core.engine().inbox().try_post(item) {
            Ok(waiting) => waiting,
            Err(item) => {
                drop(item);
                return no_memory();
            }
        };
        core.engine().inbox().wake();
        if is_crowd(waiting) {
            give_way(core);
        }
    }
    Ok(handle.into_owned())
}

/// Above this number of waiting calls, other threads send faster than the loop runs.
const CROWDED: usize = 4096;
/// Above that, the sender of every `CROWD`th call yields.
const CROWD: usize = 256;
/// The longest time that a sender yields: the loop may be blocked by something else.
const PATIENCE: Duration = Duration::from_millis(5);
/// How often a yielding sender checks the inbox.
const PAUSE: Duration = Duration::from_micros(100);

/// Whether the sender of the last of these waiting calls must yield.
#[inline]
fn is_crowd(waiting: usize) -> bool {
    waiting > CROWDED && waiting.is_multiple_of(CROWD)
}

/// Releases the GIL until the loop has caught up. Otherwise sending threads would pass the GIL
/// among themselves, 5 ms each, and the loop's timers would be late. (asyncio makes a system call
/// for each call, during which other threads may take the GIL.)
#[cold]
fn give_way(core: &LoopCore) {
    let inbox = Arc::clone(core.engine().inbox());
    detached(|| {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && inbox.len() > CROWDED {
            std::thread::sleep(PAUSE);
        }
    });
}

fn call_later(this: &Object, args: Args<'_>) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let ([delay, callback], args, context) = args.of_call("call_later", ["delay", "callback"])?;
    if delay.is_none() {
        return type_error("delay must not be None");
    }
    // A replaced `time` is called, as in asyncio's own `call_later`.
    let now = if core.is_time_overridden() {
        this.call_method(&names().time, &[])?.to_f64()?
    } else {
        core.time()
    };
    let timer = set_timer(core, delay.after(now)?, callback, args, context)?;
    Ok(timer.into_owned())
}

fn call_at(this: &Object, args: Args<'_>) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let ([when, callback], args, context) = args.of_call("call_at", ["when", "callback"])?;
    if when.is_none() {
        return type_error("when cannot be None");
    }
    let timer = set_timer(core, when.to_f64()?, callback, args, context)?;
    handle::note_when(&timer, when);
    Ok(timer.into_owned())
}

fn set_timer(
    core: &LoopCore,
    when: f64,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<OwnedNative<Handle>> {
    check_closed(core)?;
    if core.is_debug() {
        check_thread(core)?;
        // asyncio's `call_later` leaves this to `call_at`.
        check_callback(callback, "call_at")?;
    }
    let timer = handle::new_timer(core, when, callback, args, context)?;
    if core.is_debug() {
        handle::note_origin(&timer)?;
    }
    timer.set_scheduled(true);
    core.push_timer(when, timer.clone())?;
    Ok(timer)
}

#[cold]
fn check_callback(callback: &Object, function: &str) -> Res<()> {
    let imports = imports();
    if imports.iscoroutine.call(&[callback])?.is_true()?
        || imports.iscoroutinefunction.call(&[callback])?.is_true()?
    {
        return type_error(&format!("coroutines cannot be used with {function}()"));
    }
    if !callback.is_callable() {
        let callback = callback.repr()?.to_text()?;
        return type_error(&format!(
            "a callable object was expected by {function}(), got {callback}"
        ));
    }
    Ok(())
}

/// Queues a handle that asyncio's own code made, e.g. for a signal.
fn add_callback(this: &Object, handle: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    core.push(Kind::Handle, core.handle_for(handle)?.into_owned())?;
    core.engine().inbox().wake();
    Ok(Owned::none())
}

fn write_to_self(this: &Object) -> Res<Owned> {
    LoopCore::of_loop(this).engine().inbox().wake();
    Ok(Owned::none())
}

fn time(this: &Object) -> Res<Owned> {
    Owned::from_f64(LoopCore::of_loop(this).time())
}

fn create_future(this: &Object) -> Res<Owned> {
    future::new_future(this).map(OwnedNative::into_owned)
}

fn create_task(this: &Object, args: Args<'_>) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    if let Some(factory) = core.task_factory.cloned() {
        check_closed(core)?;
        if let Some(task) = task::functions::create_eagerly(this, &factory, args)? {
            return Ok(task.into_owned());
        }
        // How a factory is called differs between versions, so asyncio's own method does it.
        return run::base_method(this, c"create_task", args);
    }
    let (mut name, mut context, mut eager_start) = (None, None, None);
    let [coroutine] = args.positional() else {
        return create_task_by_keyword(this, args);
    };
    let names = names();
    for (keyword, value) in args.named() {
        // Keyword names in source code are interned.
        if keyword.is(&names.name) {
            name = Some(value);
        } else if keyword.is(&names.context) {
            context = Some(value);
        } else if loop_takes_all_keywords() && keyword.is(&names.eager_start) {
            eager_start = Some(value);
        } else {
            return create_task_by_keyword(this, args);
        }
    }
    check_closed(core)?;
    let eager_start = eager_start.map_or(Ok(false), Object::is_true)?;
    task::new_task(this, coroutine, name, context, eager_start).map(OwnedNative::into_owned)
}

/// Handles calls that do not pass exactly the coroutine by position, or with other keywords.
#[cold]
fn create_task_by_keyword(this: &Object, args: Args<'_>) -> Res<Owned> {
    let [coroutine, name, context, eager_start] = if loop_takes_all_keywords() {
        args.parse(
            "create_task",
            ["coro", "name", "context", "eager_start"],
            1,
            1,
        )?
    } else {
        let [coroutine, name, context] =
            args.parse("create_task", ["coro", "name", "context"], 1, 1)?;
        [coroutine, name, context, None]
    };
    check_closed(LoopCore::of_loop(this))?;
    let eager_start = eager_start.map_or(Ok(false), Object::is_true)?;
    task::new_task(
        this,
        coroutine.unwrap_or(none()),
        name,
        context,
        eager_start,
    )
    .map(OwnedNative::into_owned)
}

/// `run_in_executor(executor, func, *args)`.
fn run_in_executor(event_loop: &Object, args: Args<'_>) -> Res<Owned> {
    let ([executor, function, rest @ ..], false) = (args.positional(), args.has_named()) else {
        return run::base_method(event_loop, c"run_in_executor", args);
    };
    let core = LoopCore::of_loop(event_loop);
    check_closed(core)?;
    if !executor.is_none() {
        return run::base_method(event_loop, c"run_in_executor", args);
    }
    if core.is_debug() {
        check_callback(function, "run_in_executor")?;
    }
    let call = Call {
        function,
        args: Owned::tuple(rest)?,
        kwargs: None,
        context: None,
    };
    match submit_to_default(event_loop, call)? {
        Some(future) => {
            // The program may block on the thread's result in this step.
            core.notify_worker();
            Ok(future)
        }
        None => run::base_method(event_loop, c"run_in_executor", args),
    }
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"call_soon(callback, *args, context=None)" call_soon,
            c"Schedules a callback for the next turn of the loop. Returns a Handle."),
        method!(fast c"call_soon_threadsafe(callback, *args, context=None)" call_soon_threadsafe,
            c"As call_soon(), for any thread. Wakes the loop."),
        method!(fast c"call_later(delay, callback, *args, context=None)" call_later,
            c"Schedules a callback after delay seconds. Returns a TimerHandle."),
        method!(fast c"call_at(when, callback, *args, context=None)" call_at,
            c"Schedules a callback for a time of the loop's clock. Returns a TimerHandle."),
        method!(onearg c"_add_callback" add_callback, c"Queues a handle."),
        method!(onearg c"_add_callback_signalsafe" add_callback, c"Queues a handle and wakes the loop."),
        method!(noargs c"_write_to_self" write_to_self, c"Wakes the loop."),
        method!(noargs c"time" time, c"Returns the time of the loop's clock, in seconds."),
        method!(noargs c"create_future" create_future, c"Creates a future on this loop."),
        method!(fast (signature_in_loop()) create_task,
            c"Creates a task from a coroutine."),
        method!(fast c"run_in_executor(executor, func, *args)" run_in_executor,
            c"Calls func(*args) in a thread. Returns a future of its result."),
    ]
}
