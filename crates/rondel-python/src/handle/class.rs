//! `Handle` and `TimerHandle` as programs see them: methods, attributes, comparison, and the slots of the types.

use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::Ordering;

use pyo3::ffi;

use super::run::run_anywhere;
use super::{
    CANCELLED, FREE_HANDLES, FREE_TIMERS, HANDLE, Handle, IN_A_TUPLE, OF_SUBCLASS, OFFSET, TIMER,
    TIMER_HANDLE, cancel, fields, fill, is_handle, note_origin, note_when,
};
#[cfg(Py_3_14)]
use super::{THREAD_SAFE, thread_safe};
use crate::cpython::accept::accept;
use crate::cpython::error::{guard, guard_object, type_error, value_error};
use crate::cpython::method::{Args, GetSet, Method, attribute, method, with_tuple_and_dict};
use crate::cpython::nesting::{may_end, nested};
use crate::cpython::stack::check_stack;
use crate::cpython::types::{
    TypeBuilder, clear_weakrefs, free, has_weakrefs, register_subclasses, slot_fn, visit,
};
use crate::cpython::{Object, Owned, Res, context, imports, none};
use crate::loop_core::is_debug;

fn cancelled(handle: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(handle).is_cancelled()))
}

fn get_context(handle: &Object) -> Res<Owned> {
    let context = fields(handle).own_context()?;
    Ok(context.unwrap_or_else(Owned::none))
}

/// `_rondel.run_handle(handle)`.
pub(crate) fn run_given(_: &Object, handle: &Object) -> Res<Owned> {
    if !is_handle(handle) {
        return type_error("a handle of Rondel's is needed");
    }
    run_method(handle)
}

/// `_run()`, which `python/rondel/_patches.py` puts into the classes as a function.
pub(super) fn run_method(handle: &Object) -> Res<Owned> {
    check_stack()?; // the callback may be another handle's `_run`
    match run_anywhere(handle) {
        ControlFlow::Continue(()) => Ok(Owned::none()),
        ControlFlow::Break(exit) => exit.raise(),
    }
}

fn when(handle: &Object) -> Res<Owned> {
    let this = fields(handle);
    match this.when_object.cloned() {
        Some(when) => Ok(when),
        None => Owned::from_f64(this.when.get()),
    }
}

fn get_callback(handle: &Object) -> Res<Owned> {
    Ok(fields(handle).callback.or_none())
}

fn set_callback(handle: &Object, value: Option<&Object>) -> Res<()> {
    fields(handle).callback.set(value.unwrap_or(none()).own());
    Ok(())
}

fn get_args(handle: &Object) -> Res<Owned> {
    let this = fields(handle);
    if this.is_cancelled() && this.callback.is_empty() {
        return Ok(Owned::none());
    }
    this.args_tuple()
}

fn set_args(handle: &Object, value: Option<&Object>) -> Res<()> {
    let this = fields(handle);
    for arg in &this.args {
        arg.clear();
    }
    this.nargs.set(0);
    if let Some(value) = value.filter(|value| !value.is_none()) {
        // SAFETY: a live object; anything that is no sequence raises.
        let tuple = unsafe { Owned::steal(ffi::PySequence_Tuple(value.as_ptr()))? };
        this.args[0].set(tuple);
        this.nargs.set(IN_A_TUPLE);
    }
    Ok(())
}

fn get_loop(handle: &Object) -> Res<Owned> {
    Ok(fields(handle).event_loop.or_none())
}

fn set_loop(handle: &Object, value: Option<&Object>) -> Res<()> {
    fields(handle).event_loop.set(value.unwrap_or(none()).own());
    Ok(())
}

fn set_cancelled(handle: &Object, value: Option<&Object>) -> Res<()> {
    let this = fields(handle);
    let on = value.map_or(Ok(false), Object::is_true)?;
    let rest = this.flags.get() & !CANCELLED;
    this.flags.set(if on { rest | CANCELLED } else { rest });
    Ok(())
}

fn get_source_traceback(handle: &Object) -> Res<Owned> {
    Ok(fields(handle).source_traceback.or_none())
}

fn set_source_traceback(handle: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(fields(handle).source_traceback.replace(value));
    Ok(())
}

fn get_repr(handle: &Object) -> Res<Owned> {
    Ok(fields(handle).repr.or_none())
}

fn set_repr(handle: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(fields(handle).repr.replace(value));
    Ok(())
}

fn set_when(handle: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.unwrap_or(none());
    fields(handle).when.set(value.to_f64()?);
    fields(handle).when_object.clear();
    note_when(handle, value);
    Ok(())
}

fn get_scheduled(handle: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(handle).is_scheduled()))
}

fn set_scheduled(handle: &Object, value: Option<&Object>) -> Res<()> {
    fields(handle).set_scheduled(value.map_or(Ok(false), Object::is_true)?);
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
        let (this, parse) = unsafe { (Object::from_ptr(this), with_tuple_and_dict) };
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
        let this = unsafe { Object::from_ptr(this) };
        // SAFETY: the slot's contract.
        unsafe {
            with_tuple_and_dict(args, kwargs, |args| {
                let names = ["when", "callback", "args", "loop", "context"];
                let [when, callback, args, event_loop, context] =
                    args.parse("TimerHandle.__init__", names, 5, 4)?;
                let when = when.unwrap_or(none());
                let seconds = when.to_f64()?;
                init(this, callback, args, event_loop, context)?;
                fields(this).when.set(seconds);
                note_when(this, when);
                fields(this).flags.set(fields(this).flags.get() | TIMER);
                Ok(())
            })?;
        }
        Ok(0)
    })
}

/// Whether this is exactly a `rondel.Handle` or `rondel.TimerHandle`.
fn is_exact(this: &Object) -> bool {
    [&HANDLE, &TIMER_HANDLE]
        .iter()
        .any(|class| ptr::eq(this.type_ptr(), class.load(Ordering::Relaxed)))
}

fn init(
    this: &Object,
    callback: Option<&Object>,
    args: Option<&Object>,
    event_loop: Option<&Object>,
    context: Option<&Object>,
) -> Res<()> {
    let event_loop = event_loop.unwrap_or(none());
    // SAFETY: a live object; anything that is no sequence raises.
    let args = unsafe { Owned::steal(ffi::PySequence_Tuple(args.unwrap_or(none()).as_ptr()))? };
    let context = match context {
        Some(context) if !context.is_none() => context.own(),
        _ => context::copy_current()?,
    };
    // A program may call it again.
    let flags = if is_exact(this) { 0 } else { OF_SUBCLASS };
    empty(fields(this));
    fill(
        this,
        event_loop,
        callback.unwrap_or(none()),
        &[],
        context,
        flags,
    )?;
    // The very tuple that was given, which `_args` gives back.
    fields(this).args[0].set(args);
    fields(this).nargs.set(IN_A_TUPLE);
    if is_debug(event_loop)? {
        note_origin(this)?;
    }
    Ok(())
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance; its type is visited as heap types require.
    let this = unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 {
            return result;
        }
        fields(Object::from_ptr(object))
    };
    visit!(
        visit,
        arg,
        this.event_loop,
        this.callback,
        this.args[0],
        this.args[1],
        this.args[2],
        this.context,
        this.source_traceback,
        this.repr,
        this.when_object,
    );
    0
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    empty(fields(unsafe { Object::from_ptr(object) }));
    0
}

fn empty(this: &Handle) {
    this.event_loop.clear();
    this.drop_call();
    this.context.clear();
    this.source_traceback.clear();
    this.repr.clear();
    this.when_object.clear();
}

/// Lets go of a handle that has run. Mostly nobody else has it: then it goes to its list without the way through the
/// interpreter.
#[inline]
pub(crate) fn let_go(handle: Owned) {
    let class = HANDLE.load(Ordering::Relaxed);
    if cfg!(Py_GIL_DISABLED)
        || handle.refcount() != 1
        || !ptr::eq(handle.type_ptr(), class)
        || has_weakrefs(&handle)
        || may_end_others(fields(&handle))
    {
        return drop(handle);
    }
    // SAFETY: an object of a collected type, exactly of the class of the list, empty and without weak references by then.
    let left = unsafe {
        ffi::PyObject_GC_UnTrack(handle.as_ptr().cast());
        let this = fields(&handle);
        empty(this);
        this.flags.set(0);
        FREE_HANDLES.with(|list| list.keep_unused(handle))
    };
    if let Some(handle) = left {
        // SAFETY: as `tp_dealloc` expects it.
        unsafe { ffi::PyObject_GC_Track(handle.as_ptr().cast()) };
    }
}

/// Whether the end of a handle may be the end of others that it holds. (A callback that is made for it is a bound method
/// mostly, which costs nothing here; none leads on but through what the interpreter ends with care.)
#[inline]
fn may_end_others(this: &Handle) -> bool {
    may_end(this.args[0].get())
        || may_end(this.args[1].get())
        || may_end(this.args[2].get())
        || may_end(this.context.get())
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance; it ends once.
    unsafe {
        match may_end_others(fields(Object::from_ptr(object))) {
            true => end_nested(object),
            false => end(object),
        }
    }
}

/// # Safety
/// Only for `tp_dealloc`.
#[cold]
#[inline(never)]
unsafe fn end_nested(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe { nested(object, dealloc, || end(object)) };
}

/// # Safety
/// Only for `tp_dealloc`.
#[inline(always)]
unsafe fn end(object: *mut ffi::PyObject) {
    // SAFETY: by the caller's word.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        clear_weakrefs(object);
        clear(object);
        let this = fields(Object::from_ptr(object));
        #[cfg(Py_3_14)]
        if this.flags.get() & THREAD_SAFE != 0 {
            thread_safe::clear(Object::from_ptr(object));
        }
        this.flags.set(0);
        let class = ffi::Py_TYPE(object);
        let kept = if ptr::eq(class, HANDLE.load(Ordering::Relaxed)) {
            FREE_HANDLES.with(|list| list.keep(object))
        } else if ptr::eq(class, TIMER_HANDLE.load(Ordering::Relaxed)) {
            FREE_TIMERS.with(|list| list.keep(object))
        } else {
            false
        };
        if !kept {
            free(object);
        }
    }
}

unsafe extern "C" fn hash_timer(object: *mut ffi::PyObject) -> ffi::Py_hash_t {
    guard(-1, || {
        // SAFETY: the interpreter passes a live instance.
        let when = when(unsafe { Object::from_ptr(object) })?;
        // SAFETY: a live float.
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
        if !is_handle(right) || fields(right).flags.get() & TIMER == 0 {
            return Ok(not_implemented.own());
        }
        let (a, b) = (fields(left), fields(right));
        let same = || -> Res<bool> {
            Ok(a.when.get() == b.when.get()
                && get_callback(left)?.equals(&*get_callback(right)?)?
                && get_args(left)?.equals(&*get_args(right)?)?
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
        method!(noargs c"cancel" cancel, c"Prevents the callback from being called."),
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

/// What all classes of handles have.
pub(super) fn common(builder: TypeBuilder) -> TypeBuilder {
    builder
        .slot(ffi::Py_tp_traverse, slot_fn!(traverse, ffi::traverseproc))
        .slot(ffi::Py_tp_clear, slot_fn!(clear, ffi::inquiry))
        .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc, ffi::destructor))
        .methods(methods())
        .getset(attributes())
}

/// Makes the classes; returns `(Handle, TimerHandle)`.
pub(crate) fn init_types() -> Res<(Owned, Owned)> {
    let (handle_base, timer_base) = (&imports().stock_handle, &imports().stock_timer_handle);
    let offset = handle_base.basicsize().max(timer_base.basicsize());
    OFFSET.store(offset, Ordering::Relaxed);
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
        .methods([method!(noargs c"when" when, c"The time at which the callback is due, in seconds of the loop's time.")])
        .getset([
            attribute!(c"_when" when, set_when),
            attribute!(c"_scheduled" get_scheduled, set_scheduled),
        ])
        .build()?;
    HANDLE.store(handle.clone().into_ptr().cast(), Ordering::Relaxed);
    TIMER_HANDLE.store(timer.clone().into_ptr().cast(), Ordering::Relaxed);
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
