//! `wait`: waits until all of several futures are done, the first one is done, the first one has
//! failed, or a timeout passes.
//!
//! The awaitable holds the futures. A [`Waiting`] watches them and completes the future that the
//! task waits on.

use std::cell::Cell;
use std::ptr;

use pyo3::ffi;

use super::awaited_by::{current_task, link, unlink};
use super::names::waits_imports;
use super::parse_one;
use crate::awaitable::{
    Class, Next, Steps, awaitable_class, init_type as init_awaitable, iterator_of, make,
};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{
    raise, restore, runtime_error, take_exception, type_error, value_error,
};
use crate::cpython::method::{Args, function, method};
use crate::cpython::native::{self, Fields, NativeClass};
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{
    Native, NativeSlot, Object, Owned, OwnedNative, Raised, Res, Slot, imports, none,
};
use crate::future::any::{create_future, has_failed, is_done};
use crate::future::kinds::Waiter;
use crate::future::watch::{self, Arrived, Watcher};
use crate::future::{self, Future};
use crate::handle;
use crate::loop_core::running_loop::running_loop;
use crate::sleep::start_timer;

// ---- the watcher ----

/// What ends a wait before all futures are done.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum Until {
    #[default]
    All = 0,
    First,
    FirstException,
}

/// The watcher of one `wait`.
struct Waiting {
    /// The future that the task waits on.
    waiter: Slot,
    timer: Slot,
    /// The calling task, if links between futures are kept.
    task: Slot,
    left: Cell<usize>,
    until: Cell<Until>,
    /// The first future is done, and the watcher's item is queued.
    fired: Cell<bool>,
    arrived: Arrived,
}

// SAFETY: all-zero fields are valid.
unsafe impl Fields for Waiting {}

// SAFETY: every object reference is visited.
unsafe impl Collected for Waiting {
    slots!(waiter, timer, task);

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.arrived.for_each(see);
    }

    fn release_others(&self) {
        self.arrived.clear();
    }
}

static CLASS: native::Class = native::Class::new();

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for Waiting {
    fn class() -> &'static native::Class {
        &CLASS
    }
}

// SAFETY: a class of watchers.
unsafe impl Waiter for Waiting {}

impl Watcher for Native<Waiting> {
    fn name(&self, _: &Object) -> &'static str {
        "_wait.<locals>._on_completion"
    }

    /// Counts a future that is done. `Some(true)`: its exception ends the wait, and counts as
    /// retrieved.
    fn note(&self, done: &Object) -> Res<Option<bool>> {
        self.left.set(self.left.get().saturating_sub(1));
        if let Some(task) = self.task.cloned() {
            unlink(done, Some(&task))?;
        }
        if self.left.get() == 0 {
            return Ok(Some(false));
        }
        Ok(match self.until.get() {
            Until::All => None,
            Until::First => (!self.fired.replace(true)).then_some(false),
            Until::FirstException => has_failed(done)?.then_some(true),
        })
    }

    fn act(&self, done: &Object, failed: bool) -> Res<()> {
        if failed && let Some(done) = done.exact::<Future>() {
            done.set_log_traceback(false);
        }
        cancel_timer(self)?;
        match self.waiter.cloned() {
            Some(waiter) => release_waiter(&waiter),
            None => Ok(()),
        }
    }

    fn arrived(&self) -> &Arrived {
        &self.arrived
    }
}

fn release_waiter(waiter: &Object) -> Res<()> {
    match waiter.exact::<Future>() {
        Some(waiter) if waiter.is_done() => Ok(()),
        Some(waiter) => future::finish(waiter, Owned::none()),
        None => waits_imports().release_waiter.call(&[waiter]).map(drop),
    }
}

fn cancel_timer(this: &Waiting) -> Res<()> {
    match this.timer.take() {
        Some(timer) => handle::cancel_any(&timer),
        None => Ok(()),
    }
}

// ---- the awaitable ----

awaitable_class!(WAIT, 64);

/// One `wait()` call.
struct Wait {
    /// The argument; once the wait has begun, a tuple of its distinct futures.
    futures: Slot,
    timeout: Slot,
    return_when: Slot,
    /// The set from which the tuple was made.
    set: Slot,
    waiting: NativeSlot<Waiting>,
}

impl Steps for Wait {
    fn name(&self) -> &'static str {
        "wait"
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        match awaited {
            None => self.begin(),
            Some(Ok(_)) => {
                self.stop_watching()?;
                Ok(Next::Return(self.outcome()?))
            }
            Some(Err(Raised)) => {
                let error = take_exception();
                self.stop_watching()?;
                Err(restore(error))
            }
        }
    }

    fn release(&self) {
        self.for_each_slot(&mut Slot::clear);
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.futures);
        see(&self.timeout);
        see(&self.return_when);
        see(&self.set);
        see(self.waiting.slot());
    }

    fn class() -> &'static Class {
        &WAIT
    }
}

impl Wait {
    fn begin(&self) -> Res<Next> {
        let passed = self.futures.or_none();
        check_passed(&passed)?;
        let until = until(&self.return_when.or_none())?;
        // SAFETY: a live object; a non-iterable raises `TypeError`.
        let set = unsafe { Owned::steal(ffi::PySet_New(passed.as_ptr()))? };
        // SAFETY: `set` is a live set.
        let futures = unsafe { Owned::steal(ffi::PySequence_Tuple(set.as_ptr()))? };
        self.futures.set(futures.clone());
        self.set.set(set);
        let all = || (0..tuple_len(&futures)).map(|index| tuple_item(&futures, index));
        for future in all() {
            if !future::is_native(future) && imports().iscoroutine.call(&[future])?.is_true()? {
                return type_error("Passing coroutines is forbidden, use tasks explicitly.");
            }
        }
        let event_loop = running_loop()?;
        if event_loop.is_none() {
            return runtime_error("no running event loop");
        }
        if tuple_len(&futures) == 0 {
            // SAFETY: a built-in class lives as long as the interpreter.
            let class = unsafe { Object::from_ptr(ffi::PyExc_AssertionError) };
            return raise(class, "Set of Futures is empty.");
        }
        let waiter = create_future(&event_loop)?;
        // SAFETY: all-zero fields are valid.
        let waiting = unsafe { OwnedNative::<Waiting>::new(allocate(CLASS.as_ptr())?) };
        waiting.waiter.set(waiter.clone());
        waiting.left.set(tuple_len(&futures));
        waiting.until.set(until);
        let timeout = self.timeout.or_none();
        if !timeout.is_none() {
            let release = &waits_imports().release_waiter;
            waiting
                .timer
                .set(start_timer(&event_loop, &timeout, release, &[&waiter])?);
        }
        let task = current_task(&event_loop)?;
        drop(waiting.task.replace(task.clone()));
        for future in all() {
            watch::add(future, &waiting)?;
            link(future, task.as_deref())?;
        }
        self.waiting.set(waiting);
        Ok(Next::Await(iterator_of(&waiter)?))
    }

    fn stop_watching(&self) -> Res<()> {
        let (Some(futures), Some(waiting)) = (self.futures.cloned(), self.waiting.cloned()) else {
            return Ok(());
        };
        cancel_timer(&waiting)?;
        let task = waiting
            .task
            .cloned()
            .filter(|_| waits_imports().quirks.wait_unlinks_at_end);
        for index in 0..tuple_len(&futures) {
            let future = tuple_item(&futures, index);
            watch::remove(future, &waiting)?;
            unlink(future, task.as_deref())?;
        }
        Ok(())
    }

    /// `(done, pending)`.
    fn outcome(&self) -> Res<Owned> {
        let (futures, set) = (self.futures.or_none(), self.set.or_none());
        // SAFETY: null makes an empty set.
        let pending = unsafe { Owned::steal(ffi::PySet_New(ptr::null_mut()))? };
        for index in 0..tuple_len(&futures) {
            let future = tuple_item(&futures, index);
            if !is_done(future)? {
                // SAFETY: sets that no other code has seen, and a live object.
                unsafe {
                    crate::cpython::object::check(ffi::PySet_Add(
                        pending.as_ptr(),
                        future.as_ptr(),
                    ))?;
                    crate::cpython::object::truth(ffi::PySet_Discard(
                        set.as_ptr(),
                        future.as_ptr(),
                    ))?;
                }
            }
        }
        Owned::tuple(&[&*set, &*pending])
    }
}

/// Raises `TypeError` if a single future or coroutine was passed, and `ValueError` if the argument
/// is empty.
fn check_passed(passed: &Object) -> Res<()> {
    // SAFETY: a live object.
    let usual = unsafe {
        ffi::PyList_CheckExact(passed.as_ptr()) != 0
            || ffi::PyTuple_CheckExact(passed.as_ptr()) != 0
            || ffi::PyAnySet_CheckExact(passed.as_ptr()) != 0
    };
    if !usual
        && (waits_imports().isfuture.call(&[passed])?.is_true()?
            || imports().iscoroutine.call(&[passed])?.is_true()?)
    {
        let class = passed.class_name()?;
        return type_error(&format!("expect a list of futures, not {class}"));
    }
    if !passed.is_true()? {
        return value_error("Set of Tasks/Futures is empty.");
    }
    Ok(())
}

/// Translates `return_when`. Raises `ValueError` if it is unknown.
fn until(return_when: &Object) -> Res<Until> {
    let imports = waits_imports();
    for (constant, until) in [
        (&imports.all_completed, Until::All),
        (&imports.first_completed, Until::First),
        (&imports.first_exception, Until::FirstException),
    ] {
        if return_when.is(constant) || return_when.equals(constant)? {
            return Ok(until);
        }
    }
    // SAFETY: live objects; a null specification formats as an f-string without one does.
    let text =
        unsafe { Owned::steal(ffi::PyObject_Format(return_when.as_ptr(), ptr::null_mut()))? };
    value_error(&format!("Invalid return_when value: {}", text.to_text()?))
}

/// `wait(fs, *, timeout=None, return_when=ALL_COMPLETED)`.
fn wait(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [futures, timeout, return_when] =
        parse_one("wait", ["fs", "timeout", "return_when"], args)?;
    make::<Wait>(|wait| {
        wait.futures.set(futures.unwrap_or(none()).own());
        wait.timeout.set(timeout.unwrap_or(none()).own());
        let return_when = return_when.unwrap_or(&waits_imports().all_completed);
        wait.return_when.set(return_when.own());
    })
}

/// Makes the classes and the function.
pub(super) fn init() -> Res<Owned> {
    let class = TypeBuilder::new::<Waiting>(c"rondel._rondel.Waiting", None, Waiting::offset())
        .not_instantiable()
        .collected::<Waiting>()
        .build()?;
    CLASS.set(&class);
    // SAFETY: the class was made for these fields.
    unsafe { watch::register::<Waiting>(&class) };
    init_awaitable::<Wait>(c"rondel._rondel.Wait")?;
    function(
        method!(fast c"wait(fs, *, timeout=None, return_when='ALL_COMPLETED')" wait,
        c"Waits for futures. Returns two sets: those that are done, and those that are not."),
    )
}
