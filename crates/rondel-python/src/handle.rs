//! `Handle` and `TimerHandle`: a callback with its arguments and context, and whether it is cancelled.
//!
//! Both derive from asyncio's classes and keep their fields behind the larger of the two, so that one offset
//! does for both. Up to three arguments stand in the handle itself; more are a tuple. Dead handles go to a
//! freelist. `event_loop/calls.rs` makes them, `event_loop/host.rs` runs them.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;

use crate::cpython::error::{guard, guard_object, is_exit, restore, take_exception, value_error};
use crate::cpython::frame::source_traceback;
use crate::cpython::freelist::free_list;
use crate::cpython::method::{Args, GetSet, Method, attribute, method, with_tuple_and_dict};
use crate::cpython::types::{TypeBuilder, allocate, clear_weakrefs, free, slot_fn, visit};
use crate::cpython::{Object, Owned, Res, Slot, context, imports, names, none};
use crate::event_loop::core::{LoopCore, is_debug};
use crate::event_loop::host::Exit;

const CANCELLED: u8 = 1;
const TIMER: u8 = 2;
const SCHEDULED: u8 = 4;
/// `context` is a snapshot that others have too.
const SHARES_CONTEXT: u8 = 8;
/// The callback runs no code of a program, whatever its arguments.
const NEEDS_NO_CONTEXT: u8 = 16;

/// The number of arguments that says: the first one is a tuple of all of them.
const IN_A_TUPLE: u8 = u8::MAX;

/// What a handle holds. All zero is a valid, empty one.
#[repr(C)]
pub(crate) struct Handle {
    event_loop: Slot,
    callback: Slot,
    args: [Slot; 3],
    context: Slot,
    source_traceback: Slot,
    /// Its text from before it was cancelled, in debug mode.
    repr: Slot,
    when: Cell<f64>,
    /// What the program gave for `when`, if it was no float.
    when_object: Slot,
    nargs: Cell<u8>,
    flags: Cell<u8>,
}

static HANDLE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static TIMER_HANDLE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static OFFSET: AtomicUsize = AtomicUsize::new(0);

free_list!(FREE_HANDLES, 1024);
free_list!(FREE_TIMERS, 4096);

/// The fields of a handle of ours. Only for objects that are one.
#[inline]
pub(crate) fn fields(handle: &Object) -> &Handle {
    debug_assert!(is_handle(handle));
    // SAFETY: instances of our two classes have these fields at this offset.
    unsafe {
        &*handle
            .as_ptr()
            .byte_add(OFFSET.load(Ordering::Relaxed))
            .cast::<Handle>()
    }
}

/// Whether an object is a handle of ours.
#[inline]
pub(crate) fn is_handle(object: &Object) -> bool {
    let classes = [&TIMER_HANDLE, &HANDLE].map(|class| class.load(Ordering::Relaxed));
    let of_subclass = |class| {
        // SAFETY: live types.
        unsafe { ffi::PyType_IsSubtype(object.type_ptr(), class) != 0 }
    };
    classes.contains(&object.type_ptr()) || classes.into_iter().any(of_subclass)
}

/// A handle that calls `callback(*args)` in `context`, or in a copy of the current context.
#[inline]
pub(crate) fn new_handle(
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<Owned> {
    let class = HANDLE.load(Ordering::Relaxed);
    let handle = match FREE_HANDLES.with(|list| list.revive(class, true)) {
        Some(handle) => handle,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    let (context, flags) = match (context, LoopCore::of(event_loop)) {
        (Some(context), _) if !context.is_none() => (context.own(), 0),
        (_, Some(core)) => (core.contexts.snapshot()?, SHARES_CONTEXT),
        _ => (context::copy_current()?, 0),
    };
    fill(&handle, event_loop, callback, args, context, flags)?;
    Ok(handle)
}

/// As [`new_handle`], on a loop of ours, to be called at `when` seconds of its time.
#[inline]
pub(crate) fn new_timer(
    core: &LoopCore,
    when: f64,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<Owned> {
    let class = TIMER_HANDLE.load(Ordering::Relaxed);
    let handle = match FREE_TIMERS.with(|list| list.revive(class, true)) {
        Some(handle) => handle,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    let (context, flags) = match context {
        Some(context) if !context.is_none() => (context.own(), TIMER),
        _ => (core.contexts.snapshot()?, TIMER | SHARES_CONTEXT),
    };
    fill(&handle, core.object(), callback, args, context, flags)?;
    fields(&handle).when.set(when);
    Ok(handle)
}

#[inline]
fn fill(
    handle: &Object,
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: Owned,
    flags: u8,
) -> Res<()> {
    let this = fields(handle);
    this.context.set(context);
    this.event_loop.set(event_loop.own());
    this.callback.set(callback.own());
    if args.len() <= this.args.len() {
        for (slot, arg) in this.args.iter().zip(args) {
            slot.set((*arg).own());
        }
        this.nargs.set(args.len() as u8);
    } else {
        this.args[0].set(Owned::tuple(args)?);
        this.nargs.set(IN_A_TUPLE);
    }
    this.flags.set(flags);
    Ok(())
}

/// Notes where the handle was made, for debug mode.
pub(crate) fn note_origin(handle: &Object) -> Res<()> {
    fields(handle).source_traceback.set(source_traceback()?);
    Ok(())
}

impl Handle {
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.flags.get() & CANCELLED != 0
    }

    pub(crate) fn set_scheduled(&self, scheduled: bool) {
        let rest = self.flags.get() & !SCHEDULED;
        self.flags
            .set(if scheduled { rest | SCHEDULED } else { rest });
    }

    /// It need not be run in its context: the callback runs no code of a program.
    pub(crate) fn needs_no_context(&self) {
        self.flags.set(self.flags.get() | NEEDS_NO_CONTEXT);
    }

    /// The context, which is its own from now on.
    #[inline]
    fn own_context(&self) -> Res<Option<Owned>> {
        if self.flags.get() & SHARES_CONTEXT != 0
            && let Some(shared) = self.context.cloned()
        {
            self.context.set(context::copy(&shared)?);
            self.flags.set(self.flags.get() & !SHARES_CONTEXT);
        }
        Ok(self.context.cloned())
    }

    fn is_scheduled(&self) -> bool {
        self.flags.get() & SCHEDULED != 0
    }

    fn drop_call(&self) {
        self.callback.clear();
        for arg in &self.args {
            arg.clear();
        }
        self.nargs.set(0);
    }

    /// The arguments as the tuple that asyncio keeps.
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

    /// The call itself.
    #[inline]
    fn call(&self) -> Res<Owned> {
        let Some(callback) = self.callback.cloned() else {
            return Ok(Owned::none());
        };
        if self.nargs.get() == IN_A_TUPLE {
            let args = self.args[0].or_none();
            // SAFETY: a live callable and a tuple.
            return unsafe {
                Owned::steal(ffi::PyObject_CallObject(callback.as_ptr(), args.as_ptr()))
            };
        }
        // References of our own: the callback may cancel its handle, which empties it.
        let [first, second, third] =
            [&self.args[0], &self.args[1], &self.args[2]].map(Slot::cloned);
        match (&first, &second, &third) {
            (Some(a), Some(b), Some(c)) => callback.call(&[a, b, c]),
            (Some(a), Some(b), _) => callback.call(&[a, b]),
            (Some(a), ..) => callback.call(&[a]),
            _ => callback.call(&[]),
        }
    }
}

/// Runs a handle as `Handle._run` does: in its context; an exception goes to the loop's exception handler,
/// except those that end the program.
#[inline]
pub(crate) fn run(core: &LoopCore, handle: &Object) -> ControlFlow<Exit> {
    let this = fields(handle);
    if this.flags.get() & (SHARES_CONTEXT | CANCELLED | NEEDS_NO_CONTEXT) != SHARES_CONTEXT {
        return run_anywhere(handle);
    }
    match run_in_copy(core, handle, this) {
        Ok(_) => ControlFlow::Continue(()),
        Err(_) => failed(handle),
    }
}

/// As [`run`], for any loop.
fn run_anywhere(handle: &Object) -> ControlFlow<Exit> {
    let this = fields(handle);
    if this.is_cancelled() {
        return ControlFlow::Continue(());
    }
    let result = if this.flags.get() & NEEDS_NO_CONTEXT != 0 {
        this.call()
    } else {
        run_in_context(this)
    };
    match result {
        Ok(_) => ControlFlow::Continue(()),
        Err(_) => failed(handle),
    }
}

/// In a copy of the snapshot that the handle has, which is its own while it runs.
#[inline]
fn run_in_copy(core: &LoopCore, handle: &Object, this: &Handle) -> Res<Owned> {
    let context = core.contexts.copy(&this.context.or_none())?;
    this.flags.set(this.flags.get() & !SHARES_CONTEXT);
    this.context.set(context.clone());
    context::enter(&context)?;
    let result = this.call();
    context::exit(&context)?;
    let result = result?;
    // Who still holds the handle may ask it for its context.
    if handle.refcount() == 1 && this.context.holds(&context) {
        this.context.clear();
        core.contexts.give_back(context);
    }
    Ok(result)
}

fn run_in_context(this: &Handle) -> Res<Owned> {
    let Some(context) = this.own_context()? else {
        return this.call();
    };
    context::enter(&context)?;
    let result = this.call();
    context::exit(&context).and(result)
}

/// A handle's callback has raised: the exception that is set goes where it belongs.
#[cold]
pub(crate) fn failed(handle: &Object) -> ControlFlow<Exit> {
    let exception = take_exception();
    if is_exit(&exception) {
        return ControlFlow::Break(Exit::Raised(restore(exception)));
    }
    match report(handle, &exception) {
        Ok(()) => ControlFlow::Continue(()),
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

/// The callback as a message has it. Newer versions show the arguments in debug mode only.
fn source_of(this: &Handle, args: &Object) -> Res<Owned> {
    let format = &imports().format_callback_source;
    let callback = this.callback.or_none();
    let only_in_debug = format.getattr_optional(&*Owned::from_str("__kwdefaults__")?)?;
    if only_in_debug.is_none_or(|defaults| defaults.is_none()) {
        return format.call(&[&callback, args]);
    }
    let debug = Owned::from_bool(is_debug(&this.event_loop.or_none())?);
    let names = Owned::tuple(&[&*Owned::from_str("debug")?])?;
    format.call_with(&[&callback, args, &debug], Some(&names))
}

fn report(handle: &Object, exception: &Object) -> Res<()> {
    let this = fields(handle);
    let args = this.args_tuple()?;
    let source = source_of(this, &args)?.to_text()?;
    let context = Owned::dict()?;
    context.set_item(
        c"message",
        &*Owned::from_str(&format!("Exception in callback {source}"))?,
    )?;
    context.set_item(c"exception", exception)?;
    context.set_item(c"handle", handle)?;
    if let Some(traceback) = this.source_traceback.cloned() {
        context.set_item(c"source_traceback", &traceback)?;
    }
    this.event_loop
        .or_none()
        .call_method(&names().call_exception_handler, &[&*context])?;
    Ok(())
}

// ---- methods ----

pub(crate) fn cancel(handle: &Object) -> Res<Owned> {
    let this = fields(handle);
    if this.is_cancelled() {
        return Ok(Owned::none());
    }
    let event_loop = this.event_loop.cloned();
    let core = event_loop.as_deref().and_then(LoopCore::of);
    this.flags.set(this.flags.get() | CANCELLED);
    if let Some(event_loop) = &event_loop
        && is_debug(event_loop)?
    {
        this.repr.set(handle.repr()?);
    }
    if this.flags.get() & TIMER != 0 {
        match (core, &event_loop) {
            (Some(core), _) if this.is_scheduled() => core.timer_cancelled(handle),
            (None, Some(event_loop)) => {
                event_loop.call_method(&names().timer_handle_cancelled, &[handle])?;
            }
            _ => {}
        }
    }
    this.drop_call();
    Ok(Owned::none())
}

fn cancelled(handle: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(handle).is_cancelled()))
}

fn get_context(handle: &Object) -> Res<Owned> {
    let context = fields(handle).own_context()?;
    Ok(context.unwrap_or_else(Owned::none))
}

fn run_method(handle: &Object) -> Res<Owned> {
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

/// Keeps a deadline as the program gave it.
pub(crate) fn note_when(handle: &Object, when: &Object) {
    // SAFETY: a live object.
    if unsafe { ffi::PyFloat_CheckExact(when.as_ptr()) } == 0 {
        fields(handle).when_object.set(when.own());
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
                fields(this).flags.set(TIMER);
                Ok(())
            })?;
        }
        Ok(0)
    })
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
    fill(
        this,
        event_loop,
        callback.unwrap_or(none()),
        &[],
        context,
        0,
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
    let this = fields(unsafe { Object::from_ptr(object) });
    this.event_loop.clear();
    this.drop_call();
    this.context.clear();
    this.source_traceback.clear();
    this.repr.clear();
    this.when_object.clear();
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        clear_weakrefs(object);
        clear(object);
        let this = fields(Object::from_ptr(object));
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
        method!(noargs c"_run" run_method, c"Calls the callback in its context."),
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

/// Makes both classes; returns `(Handle, TimerHandle)`.
pub(crate) fn init_types() -> Res<(Owned, Owned)> {
    let (handle_base, timer_base) = (&imports().stock_handle, &imports().stock_timer_handle);
    let offset = handle_base.basicsize().max(timer_base.basicsize());
    OFFSET.store(offset, Ordering::Relaxed);
    let build = |name, base: &Object, init| {
        TypeBuilder::new::<Handle>(name, Some(base), offset)
            .subclassable()
            .slot(ffi::Py_tp_init, init)
            .slot(ffi::Py_tp_traverse, slot_fn!(traverse, ffi::traverseproc))
            .slot(ffi::Py_tp_clear, slot_fn!(clear, ffi::inquiry))
            .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc, ffi::destructor))
            .methods(methods())
            .getset(attributes())
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
    Ok((handle, timer))
}
