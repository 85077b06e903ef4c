//! `Handle` and `TimerHandle` as Python sees them: methods, attributes, comparison, and the type
//! slots.

use std::ffi::c_int;
use std::ops::ControlFlow;
use std::ptr;

use pyo3::ffi;

use super::run::run_anywhere;
use super::{
    CANCELLED, FREE_HANDLES, FREE_TIMERS, HANDLE, Handle, IN_A_TUPLE, OF_SUBCLASS, TIMER,
    TIMER_HANDLE, cancel, fill, note_origin, note_when,
};
#[cfg(Py_3_14)]
use super::{THREAD_SAFE, thread_safe};
use crate::cpython::accept::accept;
use crate::cpython::collected::Collected;
use crate::cpython::error::{guard, guard_object, type_error, value_error};
use crate::cpython::method::{Args, GetSet, Method, attribute, method, with_tuple_and_dict};
use crate::cpython::nesting::may_end;
use crate::cpython::stack::check_stack;
use crate::cpython::types::{TypeBuilder, has_weakrefs, register_subclasses, slot_fn};
use crate::cpython::{Native, Object, Owned, OwnedNative, Res, Slot, context, imports, none};
use crate::loop_core::is_debug;

fn cancelled(handle: &Native<Handle>) -> Res<Owned> {
    Ok(Owned::from_bool(handle.is_cancelled()))
}

fn get_context(handle: &Native<Handle>) -> Res<Owned> {
    let context = handle.own_context()?;
    Ok(context.unwrap_or_else(Owned::none))
}

/// `_rondel.run_handle(handle)`.
pub(crate) fn run_given(_: &Object, object: &Object) -> Res<Owned> {
    let Some(handle) = object.instance::<Handle>() else {
        return type_error("a handle of Rondel's is needed");
    };
    run_method(handle)
}

/// `_run()`; `python/rondel/_patches.py` adds it to the classes as a Python function.
pub(super) fn run_method(handle: &Native<Handle>) -> Res<Owned> {
    check_stack()?; // the callback may be another handle's `_run`
    match run_anywhere(handle) {
        ControlFlow::Continue(()) => Ok(Owned::none()),
        ControlFlow::Break(exit) => exit.raise(),
    }
}

fn when(this: &Native<Handle>) -> Res<Owned> {
    match this.when_object.cloned() {
        Some(when) => Ok(when),
        None => Owned::from_f64(this.when.get()),
    }
}

fn get_callback(handle: &Native<Handle>) -> Res<Owned> {
    Ok(handle.callback.or_none())
}

fn set_callback(handle: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    handle.callback.set(value.unwrap_or(none()).own());
    Ok(())
}

fn get_args(this: &Native<Handle>) -> Res<Owned> {
    if this.is_cancelled() && this.callback.is_empty() {
        return Ok(Owned::none());
    }
    this.args_tuple()
}

fn set_args(this: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    for arg in &this.args {
        arg.clear();
    }
    this.nargs.set(0);
    if let Some(value) = value.filter(|value| !value.is_none()) {
        // SAFETY: a live object; a non-iterable raises `TypeError`.
        let tuple = unsafe { Owned::steal(ffi::PySequence_Tuple(value.as_ptr()))? };
        this.args[0].set(tuple);
        this.nargs.set(IN_A_TUPLE);
    }
    Ok(())
}

fn get_loop(handle: &Native<Handle>) -> Res<Owned> {
    Ok(handle.event_loop.or_none())
}

fn set_loop(handle: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    handle.event_loop.set(value.unwrap_or(none()).own());
    Ok(())
}

fn set_cancelled(this: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    let on = value.map_or(Ok(false), Object::is_true)?;
    this.flags.set(CANCELLED, on);
    Ok(())
}

fn get_source_traceback(handle: &Native<Handle>) -> Res<Owned> {
    Ok(handle.source_traceback.or_none())
}

fn set_source_traceback(handle: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(handle.source_traceback.replace(value));
    Ok(())
}

fn get_repr(handle: &Native<Handle>) -> Res<Owned> {
    Ok(handle.repr.or_none())
}

fn set_repr(handle: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(handle.repr.replace(value));
    Ok(())
}

fn set_when(handle: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    let value = value.unwrap_or(none());
    handle.when.set(value.to_f64()?);
    handle.when_object.clear();
    note_when(handle, value);
    Ok(())
}

fn get_scheduled(handle: &Native<Handle>) -> Res<Owned> {
    Ok(Owned::from_bool(handle.is_scheduled()))
}

fn set_scheduled(handle: &Native<Handle>, value: Option<&Object>) -> Res<()> {
    handle.set_scheduled(value.map_or(Ok(false), Object::is_true)?);
    Ok(())
}

// ---- the types ----

unsafe extern "C" fn init_handle(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        let (this, parse) = unsafe { (Native::<Handle>::from_ptr(this), with_tuple_and_dict) };
        // SAFETY: the slot's contract.
        unsafe {
            parse(args, kwargs, |args: Args<'_>| {
                let names = ["callback", "args", "loop", "context"];
                let [callback, args, event_loop, context] =
                    args.parse("Handle.__init__", names, 4, 3)?;
                init(this, callback, args, event_loop, context)
            })?;
        }
        Ok(0)
    })
}

unsafe extern "C" fn init_timer(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        let this = unsafe { Native::<Handle>::from_ptr(this) };
        // SAFETY: the slot's contract.
        unsafe {
            with_tuple_and_dict(args, kwargs, |args| {
                let names = ["when", "callback", "args", "loop", "context"];
                let [when, callback, args, event_loop, context] =
                    args.parse("TimerHandle.__init__", names, 5, 4)?;
                let when = when.unwrap_or(none());
                let seconds = when.to_f64()?;
                init(this, callback, args, event_loop, context)?;
                this.when.set(seconds);
                note_when(this, when);
                this.flags.set(TIMER, true);
                Ok(())
            })?;
        }
        Ok(0)
    })
}

fn init(
    this: &Native<Handle>,
    callback: Option<&Object>,
    args: Option<&Object>,
    event_loop: Option<&Object>,
    context: Option<&Object>,
) -> Res<()> {
    let event_loop = event_loop.unwrap_or(none());
    // SAFETY: a live object; a non-iterable raises `TypeError`.
    let args = unsafe { Owned::steal(ffi::PySequence_Tuple(args.unwrap_or(none()).as_ptr()))? };
    let context = match context {
        Some(context) if !context.is_none() => context.own(),
        _ => context::copy_current()?,
    };
    // User code may call `__init__` again.
    let exact = [&HANDLE, &TIMER_HANDLE]
        .iter()
        .any(|class| class.is_exact(this.object()));
    let flags = if exact { 0 } else { OF_SUBCLASS };
    empty(this);
    fill(
        this,
        event_loop,
        callback.unwrap_or(none()),
        &[],
        context,
        flags,
    )?;
    // The tuple itself is kept, as `_args` must return the same object.
    this.args[0].set(args);
    this.nargs.set(IN_A_TUPLE);
    if is_debug(event_loop)? {
        note_origin(this)?;
    }
    Ok(())
}

// SAFETY: every object reference is visited.
unsafe impl Collected for Handle {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.event_loop);
        see(&self.callback);
        self.args.iter().for_each(&mut *see);
        see(&self.context);
        see(&self.source_traceback);
        see(&self.repr);
        see(&self.when_object);
    }

    fn release_others(&self) {
        self.nargs.set(0);
    }

    #[inline]
    fn may_end_others(this: &Native<Self>) -> bool {
        may_end_others(this)
    }

    #[cfg(Py_3_14)]
    #[inline]
    fn dies(this: &Native<Self>) {
        if this.flags.has(THREAD_SAFE) {
            thread_safe::clear(this);
        }
    }

    #[inline]
    unsafe fn keep(object: *mut ffi::PyObject) -> bool {
        // SAFETY: guaranteed by the caller.
        unsafe {
            Native::<Self>::from_ptr(object).flags.set_all(0);
            let class = ffi::Py_TYPE(object);
            if ptr::eq(class, HANDLE.as_ptr()) {
                FREE_HANDLES.with(|list| list.keep(object))
            } else if ptr::eq(class, TIMER_HANDLE.as_ptr()) {
                FREE_TIMERS.with(|list| list.keep(object))
            } else {
                false
            }
        }
    }
}

fn empty(this: &Handle) {
    this.event_loop.clear();
    this.drop_call();
    this.context.clear();
    this.source_traceback.clear();
    this.repr.clear();
    this.when_object.clear();
}

/// Releases a handle that has run. If no other reference exists, it goes to the freelist directly,
/// without `tp_dealloc`.
#[inline]
pub(crate) fn let_go(handle: OwnedNative<Handle>) {
    if cfg!(Py_GIL_DISABLED)
        || handle.object().refcount() != 1
        || !HANDLE.is_exact(handle.object())
        || has_weakrefs(handle.object())
        || may_end_others(&handle)
    {
        return drop(handle);
    }
    // SAFETY: a collected object, exactly a `Handle`, that is untracked, empty and without weak
    // references when it is kept.
    let left = unsafe {
        ffi::PyObject_GC_UnTrack(handle.as_ptr().cast());
        empty(&handle);
        handle.flags.set_all(0);
        FREE_HANDLES.with(|list| list.keep_unused(handle.into_owned()))
    };
    if let Some(handle) = left {
        // SAFETY: it is untracked, and `tp_dealloc` expects a tracked object.
        unsafe { ffi::PyObject_GC_Track(handle.as_ptr().cast()) };
    }
}

/// Whether deallocating a handle may deallocate objects that it holds. The callback is not checked:
/// if only the handle holds it, it is mostly a bound method, and a chain through callbacks contains
/// types whose nesting the interpreter bounds itself.
#[inline]
fn may_end_others(this: &Handle) -> bool {
    may_end(this.args[0].get())
        || may_end(this.args[1].get())
        || may_end(this.args[2].get())
        || may_end(this.context.get())
}

unsafe extern "C" fn hash_timer(object: *mut ffi::PyObject) -> ffi::Py_hash_t {
    guard(-1, || {
        // SAFETY: the interpreter passes a live instance.
        let when = when(unsafe { Native::from_ptr(object) })?;
        // SAFETY: a live object.
        Ok(unsafe { ffi::PyObject_Hash(when.as_ptr()) })
    })
}

unsafe extern "C" fn compare_timers(
    left: *mut ffi::PyObject,
    right: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes live objects.
        let (left, right) = unsafe { (Object::from_ptr(left), Object::from_ptr(right)) };
        // SAFETY: a live singleton.
        let not_implemented = unsafe { Object::from_ptr(ffi::Py_NotImplemented()) };
        let (Some(a), Some(b)) = (left.instance::<Handle>(), right.instance::<Handle>()) else {
            return Ok(not_implemented.own());
        };
        if !b.flags.has(TIMER) {
            return Ok(not_implemented.own());
        }
        let same = || -> Res<bool> {
            Ok(a.when.get() == b.when.get()
                && get_callback(a)?.equals(&*get_callback(b)?)?
                && get_args(a)?.equals(&*get_args(b)?)?
                && a.is_cancelled() == b.is_cancelled())
        };
        let answer = match op {
            ffi::Py_LT => a.when.get() < b.when.get(),
            ffi::Py_LE => a.when.get() < b.when.get() || same()?,
            ffi::Py_GT => a.when.get() > b.when.get(),
            ffi::Py_GE => a.when.get() > b.when.get() || same()?,
            ffi::Py_EQ => same()?,
            ffi::Py_NE => !same()?,
            _ => return value_error("no such comparison"),
        };
        Ok(Owned::from_bool(answer))
    })
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"cancel" cancel, c"Cancels the callback."),
        method!(noargs c"cancelled" cancelled, c"Whether cancel() was called."),
        #[cfg(Py_3_12)]
        method!(noargs c"get_context" get_context, c"The context that the callback runs in."),
    ]
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_callback" get_callback, set_callback),
        attribute!(c"_args" get_args, set_args),
        attribute!(c"_loop" get_loop, set_loop),
        attribute!(c"_cancelled" cancelled, set_cancelled),
        attribute!(c"_context" get_context),
        attribute!(c"_source_traceback" get_source_traceback, set_source_traceback),
        attribute!(c"_repr" get_repr, set_repr),
    ]
}

/// Adds what all classes of handles share.
pub(super) fn common(builder: TypeBuilder) -> TypeBuilder {
    builder
        .collected::<Handle>()
        .methods(methods())
        .getset(attributes())
}

/// Makes the classes; returns `(Handle, TimerHandle)`.
pub(crate) fn init_types() -> Res<(Owned, Owned)> {
    let (handle_base, timer_base) = (&imports().stock_handle, &imports().stock_timer_handle);
    let offset = handle_base.basicsize().max(timer_base.basicsize());
    HANDLE.set_offset(offset);
    let build = |name, base: &Object, init| {
        let builder = TypeBuilder::new::<Handle>(name, Some(base), offset)
            .subclassable()
            .slot(ffi::Py_tp_init, init);
        common(builder)
    };
    let handle = build(
        c"rondel.Handle",
        handle_base,
        slot_fn!(init_handle, ffi::initproc),
    )
    .doc(c"Handle(callback, args, loop, context=None)\n--\n\nA callback that was scheduled, as asyncio.Handle.")
    .build()?;
    let timer = build(c"rondel.TimerHandle", timer_base, slot_fn!(init_timer, ffi::initproc))
        .doc(c"TimerHandle(when, callback, args, loop, context=None)\n--\n\nA callback that was scheduled for a time, as asyncio.TimerHandle.")
        .slot(ffi::Py_tp_hash, slot_fn!(hash_timer, ffi::hashfunc))
        .slot(ffi::Py_tp_richcompare, slot_fn!(compare_timers, ffi::richcmpfunc))
        .methods([method!(noargs c"when" when, c"The time of the callback, in seconds of the loop's clock.")])
        .getset([
            attribute!(c"_when" when, set_when),
            attribute!(c"_scheduled" get_scheduled, set_scheduled),
        ])
        .build()?;
    HANDLE.set(&handle);
    TIMER_HANDLE.set(&timer);
    let others = [
        timer.clone(),
        #[cfg(Py_3_14)]
        thread_safe::init_type()?,
    ];
    let others = others.each_ref().map(|class| &**class);
    register_subclasses(&handle, &others)?;
    accept(&handle, &others, &imports().stock_handle)?;
    accept(&timer, &[], &imports().stock_timer_handle)?;
    Ok((handle, timer))
}
