//! `Handle` and `TimerHandle`: a callback with its arguments and context, and whether it is
//! cancelled.
//!
//! Both derive from asyncio's classes and keep their fields behind the larger of the two, so that
//! they share one offset. Up to three arguments are stored in the handle itself; more are a tuple.
//! Deallocated handles go to a freelist.
//!
//! | file | what it has |
//! |---|---|
//! | here | the fields; making and cancelling handles, for `event_loop/calls.rs` |
//! | `run.rs` | running a handle, for `event_loop/host.rs`, and reporting its exception |
//! | `any_loop.rs` | `call_soon` and `call_later` of any loop |
//! | `timer.rs` | timer handles in the engine's heap |
//! | `class.rs` | the two classes: methods, attributes, deallocation |
//! | `thread_safe.rs` | the class of handles of `call_soon_threadsafe`, from 3.14 on |

mod any_loop;
mod class;
mod run;
#[cfg(Py_3_14)]
mod thread_safe;
mod timer;

pub(crate) use any_loop::{call_later, call_soon, cancel_any};
pub(crate) use class::{init_types, let_go, run_given};
#[cfg(not(Py_3_14))]
pub(crate) use new_handle as new_thread_safe;
pub(crate) use run::{failed, run};
#[cfg(Py_3_14)]
pub(crate) use thread_safe::new as new_thread_safe;

use std::cell::Cell;

use pyo3::ffi;

use crate::cpython::flags::Flags;
use crate::cpython::frame::source_traceback;
use crate::cpython::freelist::free_list;
use crate::cpython::types::allocate;
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, OwnedNative, Res, Slot, context, names, none,
};
use crate::loop_core::{LoopCore, is_debug};

const CANCELLED: u16 = 1;
const TIMER: u16 = 2;
const SCHEDULED: u16 = 4;
/// `context` is a snapshot shared with other handles.
const SHARES_CONTEXT: u16 = 8;
/// The callback runs no user code, whatever its arguments.
const NEEDS_NO_CONTEXT: u16 = 16;
/// See `thread_safe.rs`.
const THREAD_SAFE: u16 = 32;
/// The class is a subclass from user code, which may override `_run`.
const OF_SUBCLASS: u16 = 64;

/// A timer that user code has removed from the list of timers, but that is still in the engine's
/// heap.
const MOVED: u16 = 128;

/// The handle stands for a handle of a foreign class, which is in `when_object`: user code has put
/// that into the loop's queues.
const FOREIGN: u16 = 256;

/// The value of `nargs` that means: `args[0]` is a tuple of all arguments.
const IN_A_TUPLE: u8 = u8::MAX;

/// A handle's fields. All-zero fields are a valid, empty handle.
#[repr(C)]
pub(crate) struct Handle {
    event_loop: Slot,
    callback: Slot,
    args: [Slot; 3],
    context: Slot,
    source_traceback: Slot,
    /// The repr from before it was cancelled, in debug mode.
    repr: Slot,
    when: Cell<f64>,
    /// The object that was passed as `when`, if it was not a float; see also [`FOREIGN`].
    when_object: Slot,
    nargs: Cell<u8>,
    flags: Flags<u16>,
}

static HANDLE: Class = Class::new();
static TIMER_HANDLE: Class = Class::new();

free_list!(FREE_HANDLES, 1024);
free_list!(FREE_TIMERS, 4096);

/// The classes of handles.
fn classes() -> impl Iterator<Item = &'static Class> {
    [
        &TIMER_HANDLE,
        &HANDLE,
        #[cfg(Py_3_14)]
        &thread_safe::CLASS,
    ]
    .into_iter()
}

// SAFETY: every class of handles is made with the fields at this offset.
unsafe impl Fields for Handle {
    #[inline]
    fn offset() -> usize {
        HANDLE.offset()
    }
}

// SAFETY: instances of all these classes have the fields.
unsafe impl NativeClass for Handle {
    #[inline]
    fn class() -> &'static Class {
        &HANDLE
    }

    /// Whether an object is a native handle, and not an instance of a subclass from user code.
    #[inline]
    fn is_exact(object: &Object) -> bool {
        classes().any(|class| class.is_exact(object))
    }

    /// Whether an object is a native handle or an instance of a subclass.
    #[inline]
    fn is_instance(object: &Object) -> bool {
        Self::is_exact(object) || classes().any(|class| class.is_instance(object))
    }
}

/// The class `Handle`.
pub(crate) fn class() -> *mut ffi::PyTypeObject {
    HANDLE.as_ptr()
}

/// A handle that runs a handle of a foreign class, as asyncio's loop would.
pub(crate) fn new_for_foreign(event_loop: &Object, foreign: &Object) -> Res<OwnedNative<Handle>> {
    let handle = new_handle(event_loop, none(), &[], None)?;
    handle.stand_for(foreign);
    Ok(handle)
}

/// A timer handle that stands for one of a foreign class.
pub(crate) fn new_timer_for_foreign(
    core: &LoopCore,
    when: f64,
    foreign: &Object,
) -> Res<OwnedNative<Handle>> {
    let handle = new_timer(core, when, none(), &[], None)?;
    handle.stand_for(foreign);
    Ok(handle)
}

/// Whether a native handle stands for this foreign one.
pub(crate) fn stands_for(handle: &Handle, foreign: &Object) -> bool {
    handle.flags.has(FOREIGN) && handle.when_object.holds(foreign)
}

/// The object that user code sees for a handle: the foreign handle that it stands for, or itself.
pub(crate) fn shown(handle: &Native<Handle>) -> Owned {
    foreign_of(handle).unwrap_or_else(|| handle.object().own())
}

/// The foreign handle that this one stands for.
fn foreign_of(handle: &Handle) -> Option<Owned> {
    handle
        .flags
        .has(FOREIGN)
        .then(|| handle.when_object.cloned())
        .flatten()
}

/// Makes a handle that calls `callback(*args)` in `context`, or in a copy of the current context.
#[inline]
pub(crate) fn new_handle(
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<OwnedNative<Handle>> {
    let handle = empty_handle()?;
    fill_new(&handle, event_loop, callback, args, context, 0)?;
    Ok(handle)
}

/// Like [`new_handle`], on a Rondel loop.
#[inline]
pub(crate) fn new_on(
    core: &LoopCore,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<OwnedNative<Handle>> {
    let (context, flags) = match context {
        Some(context) if !context.is_none() => (context.own(), 0),
        _ => (core.contexts.snapshot()?, SHARES_CONTEXT),
    };
    let handle = empty_handle()?;
    fill(&handle, core.object(), callback, args, context, flags)?;
    Ok(handle)
}

#[inline]
fn empty_handle() -> Res<OwnedNative<Handle>> {
    let class = HANDLE.as_ptr();
    // SAFETY: all-zero fields are valid, and an instance of the class has them.
    unsafe {
        let handle = match FREE_HANDLES.with(|list| list.revive(class, true)) {
            Some(handle) => handle,
            None => allocate(class)?,
        };
        Ok(OwnedNative::new(handle))
    }
}

#[inline]
fn fill_new(
    handle: &Handle,
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
    flags: u16,
) -> Res<()> {
    let (context, shares) = match (context, LoopCore::of(event_loop)) {
        (Some(context), _) if !context.is_none() => (context.own(), 0),
        (_, Some(core)) => (core.contexts.snapshot()?, SHARES_CONTEXT),
        _ => (context::copy_current()?, 0),
    };
    fill(handle, event_loop, callback, args, context, flags | shares)
}

/// Makes a timer handle on a Rondel loop, due at `when` seconds of the loop's time.
#[inline]
pub(crate) fn new_timer(
    core: &LoopCore,
    when: f64,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<OwnedNative<Handle>> {
    let class = TIMER_HANDLE.as_ptr();
    // SAFETY: all-zero fields are valid, and an instance of the class has them.
    let handle: OwnedNative<Handle> = unsafe {
        let handle = match FREE_TIMERS.with(|list| list.revive(class, true)) {
            Some(handle) => handle,
            None => allocate(class)?,
        };
        OwnedNative::new(handle)
    };
    let (context, flags) = match context {
        Some(context) if !context.is_none() => (context.own(), TIMER),
        _ => (core.contexts.snapshot()?, TIMER | SHARES_CONTEXT),
    };
    fill(&handle, core.object(), callback, args, context, flags)?;
    handle.when.set(when);
    Ok(handle)
}

/// Fills an empty handle.
#[inline]
fn fill(
    this: &Handle,
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: Owned,
    flags: u16,
) -> Res<()> {
    this.context.fill(context);
    this.event_loop.fill(event_loop.own());
    this.callback.fill(callback.own());
    if args.len() <= this.args.len() {
        for (slot, arg) in this.args.iter().zip(args) {
            slot.fill((*arg).own());
        }
        this.nargs.set(args.len() as u8);
    } else {
        this.args[0].fill(Owned::tuple(args)?);
        this.nargs.set(IN_A_TUPLE);
    }
    this.flags.set_all(flags);
    Ok(())
}

/// Records where the handle was made, for debug mode.
pub(crate) fn note_origin(handle: &Handle) -> Res<()> {
    handle.source_traceback.set(source_traceback()?);
    Ok(())
}

impl Handle {
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.flags.has(CANCELLED)
    }

    pub(crate) fn set_scheduled(&self, scheduled: bool) {
        self.flags.set(SCHEDULED, scheduled);
    }

    /// When it is due, in seconds of the loop's time.
    pub(crate) fn when(&self) -> f64 {
        self.when.get()
    }

    /// If it is in the timer heap, marks it to be dropped from there.
    pub(crate) fn note_moved(&self) {
        if self.is_scheduled() {
            self.flags.set(MOVED, true);
        }
    }

    pub(crate) fn is_moved(&self) -> bool {
        self.flags.has(MOVED)
    }

    /// Records that it has left the timer heap.
    pub(crate) fn left_queue(&self) {
        self.flags.set(SCHEDULED | MOVED, false);
    }

    /// Declares that the callback runs no user code, so that it need not run in the handle's
    /// context.
    pub(crate) fn needs_no_context(&self) {
        self.flags.set(NEEDS_NO_CONTEXT, true);
    }

    /// The context, which is no longer shared after this call.
    #[inline]
    fn own_context(&self) -> Res<Option<Owned>> {
        if self.flags.has(SHARES_CONTEXT)
            && let Some(shared) = self.context.cloned()
        {
            self.context.set(context::copy(&shared)?);
            self.flags.set(SHARES_CONTEXT, false);
        }
        Ok(self.context.cloned())
    }

    /// Makes it run a handle of a foreign class.
    fn stand_for(&self, foreign: &Object) {
        self.when_object.set(foreign.own());
        self.flags.set(NEEDS_NO_CONTEXT | FOREIGN, true);
    }

    fn is_scheduled(&self) -> bool {
        self.flags.has(SCHEDULED)
    }

    fn drop_call(&self) {
        self.callback.clear();
        for arg in &self.args {
            arg.clear();
        }
        self.nargs.set(0);
    }

    /// The arguments as a tuple, as asyncio keeps them.
    fn args_tuple(&self) -> Res<Owned> {
        if self.nargs.get() == IN_A_TUPLE {
            return Ok(self.args[0].or_none());
        }
        let items: Vec<_> = self.args[..self.nargs.get().into()]
            .iter()
            .filter_map(Slot::get)
            .collect();
        Owned::tuple(&items)
    }
}

/// Keeps the deadline object that user code passed, unless it is a float.
pub(crate) fn note_when(handle: &Handle, when: &Object) {
    // SAFETY: a live object.
    if unsafe { ffi::PyFloat_CheckExact(when.as_ptr()) } == 0 {
        handle.when_object.set(when.own());
    }
}

/// `cancel()`.
pub(crate) fn cancel(this: &Native<Handle>) -> Res<Owned> {
    if this.is_cancelled() {
        return Ok(Owned::none());
    }
    let event_loop = this.event_loop.cloned();
    let core = event_loop.as_deref().and_then(LoopCore::of);
    this.flags.set(CANCELLED, true);
    if let Some(event_loop) = &event_loop
        && is_debug(event_loop)?
    {
        this.repr.set(this.object().repr()?);
    }
    if this.flags.has(TIMER) {
        match (core, &event_loop) {
            (Some(core), _) if this.is_scheduled() => core.timer_cancelled(this.object()),
            (None, Some(event_loop)) => {
                event_loop.call_method(&names().timer_handle_cancelled, &[this.object()])?;
            }
            _ => {}
        }
    }
    this.drop_call();
    Ok(Owned::none())
}
