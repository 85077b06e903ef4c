//! Native awaitables: what `reader.read()`, `lock.acquire()` and `sleep()` return.
//!
//! Such an object is a coroutine in all but type: `await` it, or make a task of it. Its steps are a
//! [`Steps`] implementation: a state that goes on until it has the result or something else to await first. The
//! way through is here: `send`, `throw`, `close`, `__await__`, the type slots behind them, and the freelist.
//!
//! A step that has its result at once costs no future and no suspension.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::call::iter_send;
use crate::cpython::collected::Collected;
use crate::cpython::error::{
    guard, guard_object, guard_quiet, raise_instance, raised_matches, runtime_error,
    take_exception, type_error, value_error,
};
use crate::cpython::finalize::finalizing;
use crate::cpython::method::{self, Args, GetSet};
use crate::cpython::names::import;
use crate::cpython::stop_iteration::stop_iteration;
use crate::cpython::types::{TypeBuilder, allocate, free, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, imports, names, none};
use crate::future;
use crate::untracked;

/// What a step ends with.
pub(crate) enum Next {
    /// The awaitable is done, with this result.
    Return(Owned),
    /// This has to be awaited first; an iterator as `__await__` gives it.
    Await(Owned),
    /// This future of ours, which was made just now, has to be awaited first: it is pending, and nobody else waits for it.
    Wait(Owned),
    /// Let the loop make a turn first, as `sleep(0)` does.
    Yield,
}

/// The steps of one kind of awaitable. All zero bytes are its state before it is filled.
pub(crate) trait Steps: Sized + 'static {
    /// Whether it may be awaited again once it is done.
    const REUSABLE: bool = false;
    /// The qualified name, which a task's repr shows.
    fn name(&self) -> &'static str;
    /// Goes on. The first time with `None`, then with what was awaited last gave or raised.
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next>;
    /// Lets go of everything: it is done, or will never be.
    fn release(&self);
    /// Calls `see` for each field that holds an object.
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot));
    /// Whether it is certain that no field will hold an object.
    fn holds_nothing(&self) -> bool {
        false
    }
    /// The type and the freelist of these awaitables.
    fn class() -> &'static Class;
}

/// A type of awaitables, once it is made, and its dead instances.
pub(crate) struct Class {
    class: AtomicPtr<ffi::PyTypeObject>,
    keep: fn(*mut ffi::PyObject) -> bool,
    revive: fn(*mut ffi::PyTypeObject) -> Option<Owned>,
}

impl Class {
    pub(crate) const fn new(
        keep: fn(*mut ffi::PyObject) -> bool,
        revive: fn(*mut ffi::PyTypeObject) -> Option<Owned>,
    ) -> Self {
        Self {
            class: AtomicPtr::new(ptr::null_mut()),
            keep,
            revive,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// As zeroed memory is.
    Fresh = 0,
    Suspended,
    Running,
    Done,
}

/// An awaitable behind its object header.
#[repr(C)]
struct Awaitable<T> {
    stage: Cell<Stage>,
    /// The finalizer has run: the collector won't run it again, so the object must not come back from the freelist.
    finalized: Cell<bool>,
    /// The collector knows of it.
    tracked: Cell<bool>,
    /// What is awaited now; empty while a bare yield is.
    inner: Slot,
    steps: T,
}

const OFFSET: usize = size_of::<ffi::PyObject>();

#[inline]
fn fields<T: Steps>(object: &Object) -> &Awaitable<T> {
    // SAFETY: only ever called for instances of the type that was made for `T`.
    unsafe { &*object.as_ptr().byte_add(OFFSET).cast::<Awaitable<T>>() }
}

/// The base class of all types of awaitables, which says no more than that they are of ours.
static BASE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

struct Base;

// SAFETY: no fields.
unsafe impl Collected for Base {
    fn for_each_slot(&self, _: &mut dyn FnMut(&Slot)) {}
}

/// Makes the base class when it is first asked for.
fn base() -> Res<&'static Object> {
    if BASE.load(Ordering::Relaxed).is_null() {
        let class = TypeBuilder::new::<Base>(c"rondel._rondel.Awaitable", None, OFFSET)
            .subclassable()
            .not_instantiable()
            .collected::<Base>()
            .build()?;
        BASE.store(class.into_ptr().cast(), Ordering::Relaxed);
    }
    // SAFETY: made above, and kept for ever.
    Ok(unsafe { Object::from_ptr(BASE.load(Ordering::Relaxed).cast()) })
}

/// Whether an object is an awaitable of ours, of whatever kind.
#[inline]
pub(crate) fn is_awaitable(object: &Object) -> bool {
    // SAFETY: a live object; its type, which can't be subclassed, is read while it is alive.
    let base = unsafe { (*object.type_ptr()).tp_base };
    ptr::eq(base, BASE.load(Ordering::Relaxed))
}

/// A new awaitable, with `fill` setting its state. What `fill` finds is empty.
#[inline]
pub(crate) fn make<T: Steps>(fill: impl FnOnce(&T)) -> Res<Owned> {
    let class = T::class();
    let type_ptr = class.class.load(Ordering::Relaxed);
    let (object, tracked) = match (class.revive)(type_ptr) {
        Some(object) => (object, false),
        // SAFETY: zeroed memory is a valid state, by the trait's word.
        None => (unsafe { allocate(type_ptr)? }, true),
    };
    let this = fields::<T>(&object);
    this.stage.set(Stage::Fresh);
    this.tracked.set(tracked);
    fill(&this.steps);
    if !tracked {
        untracked::note(&object, &this.tracked);
    }
    Ok(object)
}

/// What became of a `send` or `throw`.
enum Progress {
    Yielded(Owned),
    Returned(Owned),
}

impl<T: Steps> Awaitable<T> {
    /// Goes on with `None`, as an `await` in a coroutine does: here is what mostly happens in one piece, without calls
    /// between the parts.
    #[inline(always)]
    fn resume(&self) -> Res<Progress> {
        let next = match self.stage.get() {
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                self.stage.set(Stage::Running);
                self.steps.advance(None)
            }
            Stage::Suspended => {
                let awaited = match self.inner.get() {
                    None => Owned::none(),
                    Some(inner) => match future::value_if_done(inner) {
                        Some(value) => value,
                        None => return self.send(none()),
                    },
                };
                self.stage.set(Stage::Running);
                self.inner.clear();
                self.steps.advance(Some(Ok(awaited)))
            }
            _ => return self.send(none()),
        };
        match next {
            Ok(Next::Return(value)) => {
                self.finish_here();
                Ok(Progress::Returned(value))
            }
            Ok(Next::Yield) => {
                self.suspend();
                Ok(Progress::Yielded(Owned::none()))
            }
            Ok(Next::Wait(future)) => Ok(Progress::Yielded(self.wait_for(future))),
            next => self.go_on(next),
        }
    }

    #[inline(never)]
    fn send(&self, value: &Object) -> Res<Progress> {
        match self.stage.get() {
            Stage::Fresh if !value.is_none() => {
                type_error("can't send non-None value to a just-started coroutine")
            }
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                self.advance(None)
            }
            Stage::Suspended => {
                self.stage.set(Stage::Running);
                let Some(inner) = self.inner.cloned() else {
                    return self.advance(Some(Ok(Owned::none())));
                };
                self.after(poll(&inner, value))
            }
            stage => self.misused(stage),
        }
    }

    /// The awaited object has yielded, returned or raised.
    fn after(&self, polled: Res<Progress>) -> Res<Progress> {
        match polled {
            Ok(Progress::Yielded(value)) => {
                self.stage.set(Stage::Suspended);
                Ok(Progress::Yielded(value))
            }
            Ok(Progress::Returned(value)) => {
                self.inner.clear();
                self.advance(Some(Ok(value)))
            }
            Err(Raised) => {
                // The awaited object's destructor must not see the exception.
                if let Some(inner) = self.inner.take() {
                    let exception = take_exception();
                    drop(inner);
                    crate::cpython::error::restore(exception);
                }
                self.advance(Some(Err(Raised)))
            }
        }
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Progress> {
        self.stage.set(Stage::Running);
        self.go_on(self.steps.advance(awaited))
    }

    /// A step has ended in this way.
    #[inline(never)]
    fn go_on(&self, mut next: Res<Next>) -> Res<Progress> {
        loop {
            let awaited = match next {
                Ok(Next::Return(value)) => {
                    self.finish();
                    return Ok(Progress::Returned(value));
                }
                Ok(Next::Yield) => {
                    self.suspend();
                    return Ok(Progress::Yielded(Owned::none()));
                }
                Ok(Next::Wait(future)) => return Ok(Progress::Yielded(self.wait_for(future))),
                Ok(Next::Await(inner)) => match poll(&inner, none()) {
                    Ok(Progress::Yielded(value)) => {
                        self.inner.set(inner);
                        self.suspend();
                        return Ok(Progress::Yielded(value));
                    }
                    Ok(Progress::Returned(value)) => Ok(value),
                    Err(Raised) => Err(Raised),
                },
                Err(Raised) => {
                    let exception = take_exception();
                    self.finish();
                    return Err(crate::cpython::error::restore(exception));
                }
            };
            next = self.steps.advance(Some(awaited));
        }
    }

    /// Waits for a future that was made just now. Gives what is yielded for it.
    #[inline]
    fn wait_for(&self, future: Owned) -> Owned {
        future::begin_wait(&future);
        let yielded = future.clone();
        self.inner.fill(future);
        self.suspend();
        yielded
    }

    /// It stays, and may be part of a cycle.
    #[inline]
    fn suspend(&self) {
        self.stage.set(Stage::Suspended);
        if !self.tracked.get() && !self.steps.holds_nothing() {
            // SAFETY: the fields of an awaitable stand behind its header; it is not tracked yet.
            unsafe {
                let object = ptr::from_ref(self).byte_sub(OFFSET).cast_mut();
                ffi::PyObject_GC_Track(object.cast());
            }
            self.tracked.set(true);
        }
    }

    fn finish(&self) {
        self.finish_here();
    }

    #[inline(always)]
    fn finish_here(&self) {
        self.stage.set(if T::REUSABLE {
            Stage::Fresh
        } else {
            Stage::Done
        });
        self.inner.clear();
        self.steps.release();
    }

    /// The exception to be thrown is set.
    fn throw(&self) -> Res<Progress> {
        match self.stage.get() {
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                let exception = take_exception();
                self.finish();
                Err(crate::cpython::error::restore(exception))
            }
            Stage::Suspended => {
                self.stage.set(Stage::Running);
                let Some(inner) = self.inner.cloned() else {
                    return self.advance(Some(Err(Raised)));
                };
                self.after(throw_into(&inner))
            }
            stage => {
                drop(take_exception());
                self.misused(stage)
            }
        }
    }

    fn close(&self) -> Res<()> {
        match self.stage.get() {
            Stage::Done => Ok(()),
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                self.finish();
                Ok(())
            }
            stage @ Stage::Running => self.misused(stage).map(drop),
            Stage::Suspended => {
                self.stage.set(Stage::Running);
                if let Some(inner) = self.inner.take()
                    && let Some(close) = inner.getattr_optional(&names().close)?
                {
                    close.call(&[])?;
                }
                // SAFETY: a built-in class lives as long as the interpreter.
                let exit = unsafe { Object::from_ptr(ffi::PyExc_GeneratorExit) };
                let _set = raise_instance::<()>(exit.call(&[])?);
                match self.advance(Some(Err(Raised))) {
                    Ok(Progress::Returned(_)) => Ok(()),
                    Ok(Progress::Yielded(_)) => runtime_error("coroutine ignored GeneratorExit"),
                    Err(Raised) if raised_matches(exit) => {
                        drop(take_exception());
                        Ok(())
                    }
                    Err(Raised) => Err(Raised),
                }
            }
        }
    }

    #[cold]
    fn misused(&self, stage: Stage) -> Res<Progress> {
        match stage {
            Stage::Running => value_error("coroutine already executing"),
            _ => runtime_error("cannot reuse already awaited coroutine"),
        }
    }
}

/// Sends into what is awaited.
#[inline]
fn poll(inner: &Object, value: &Object) -> Res<Progress> {
    if future::is_exact(inner) {
        // What is awaited most, without the way through its type.
        return Ok(match future::advance(inner)? {
            future::Step::Yield(value) => Progress::Yielded(value),
            future::Step::Return(value) => Progress::Returned(value),
        });
    }
    let mut result = ptr::null_mut();
    // SAFETY: live objects; what comes back is a reference of ours.
    unsafe {
        match iter_send(inner, value, &mut result) {
            ffi::PySendResult::PYGEN_NEXT => Owned::steal(result).map(Progress::Yielded),
            ffi::PySendResult::PYGEN_RETURN => Owned::steal(result).map(Progress::Returned),
            ffi::PySendResult::PYGEN_ERROR => Err(Raised),
        }
    }
}

/// Throws the exception that is set into what is awaited. What has no `throw` raises it itself.
fn throw_into(inner: &Object) -> Res<Progress> {
    let exception = take_exception();
    if future::is_native(inner) {
        return raise_instance(exception); // a future has no `throw`, and looking for it takes longer than the rest
    }
    let Some(throw) = inner.getattr_optional(&names().throw)? else {
        return raise_instance(exception);
    };
    match throw.call(&[&exception]) {
        Ok(value) => Ok(Progress::Yielded(value)),
        Err(Raised) => returned(),
    }
}

/// What a `StopIteration` that is set carries; any other exception stays.
fn returned() -> Res<Progress> {
    // SAFETY: a built-in class lives as long as the interpreter.
    if !raised_matches(unsafe { Object::from_ptr(ffi::PyExc_StopIteration) }) {
        return Err(Raised);
    }
    let stop = take_exception();
    let value = stop.getattr(&*Owned::from_str("value")?)?;
    Ok(Progress::Returned(value))
}

/// The iterator that awaiting `object` goes through.
pub(crate) fn iterator_of(object: &Object) -> Res<Owned> {
    // SAFETY: a live object; its type's slots are read while it is alive.
    unsafe {
        let slots = (*object.type_ptr()).tp_as_async;
        if let Some(am_await) = slots.as_ref().and_then(|slots| slots.am_await) {
            return Owned::steal(am_await(object.as_ptr()));
        }
        // A coroutine made by `async def` under `types.coroutine`: a generator.
        if ffi::PyIter_Check(object.as_ptr()) != 0 {
            return Ok(object.own());
        }
    }
    let class = object
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()?;
    type_error(&format!(
        "object {class} can't be used in 'await' expression"
    ))
}

/// What `await object` goes through, of any object: where it can be had without a frame, that; otherwise a coroutine that
/// awaits it, and has the interpreter's own checks.
#[inline]
pub(crate) fn await_any(object: &Object) -> Res<Owned> {
    if future::is_native(object) || is_awaitable(object) {
        return Ok(object.own());
    }
    if ptr::eq(object.type_ptr(), imports().coroutine_type.as_type_ptr())
        && object.getattr(&names().cr_await)?.is_none()
    {
        return Ok(object.own());
    }
    await_by_coroutine(object)
}

#[cold]
fn await_by_coroutine(object: &Object) -> Res<Owned> {
    import("rondel.awaiting")?
        .getattr(&*Owned::from_str("_await")?)?
        .call(&[object])
}

// ---- slots and methods ----

fn value_of(progress: Progress) -> Res<Owned> {
    match progress {
        Progress::Yielded(value) => Ok(value),
        Progress::Returned(value) if value.is_none() => {
            // SAFETY: a built-in class lives as long as the interpreter.
            raise_instance(unsafe { Object::from_ptr(ffi::PyExc_StopIteration) }.call(&[])?)
        }
        Progress::Returned(value) => Err(stop_iteration(value)),
    }
}

unsafe extern "C" fn send<T: Steps>(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance and argument.
        let (object, value) = unsafe { (Object::from_ptr(object), Object::from_ptr(value)) };
        fields::<T>(object).send(value).and_then(value_of)
    })
}

unsafe extern "C" fn throw<T: Steps>(
    object: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance and a vector as the calling convention has it.
        let (object, args) = unsafe {
            (
                Object::from_ptr(object),
                Args::new(args, nargs as usize, kwnames),
            )
        };
        raise_thrown(args)?;
        fields::<T>(object).throw().and_then(value_of)
    })
}

unsafe extern "C" fn close<T: Steps>(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance.
        fields::<T>(unsafe { Object::from_ptr(object) }).close()?;
        Ok(Owned::none())
    })
}

unsafe extern "C" fn itself(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    unsafe { am_await(object) }
}

unsafe extern "C" fn name<T: Steps>(
    object: *mut ffi::PyObject,
    _: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    let object = unsafe { Object::from_ptr(object) };
    guard_object(|| Owned::from_str(fields::<T>(object).steps.name()))
}

unsafe extern "C" fn running<T: Steps>(
    object: *mut ffi::PyObject,
    _: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    let stage = fields::<T>(unsafe { Object::from_ptr(object) }).stage.get();
    Owned::from_bool(stage == Stage::Running).into_ptr()
}

unsafe extern "C" fn awaited<T: Steps>(
    object: *mut ffi::PyObject,
    _: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    fields::<T>(unsafe { Object::from_ptr(object) })
        .inner
        .or_none()
        .into_ptr()
}

unsafe extern "C" fn nothing(_: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    Owned::none().into_ptr()
}

/// `throw(exception)`, or its old form `throw(type, value, traceback)`.
fn raise_thrown(args: Args<'_>) -> Res<()> {
    let [kind, value, traceback] = args.parse("throw", ["type", "value", "traceback"], 3, 1)?;
    let kind = kind.unwrap_or(none());
    let value = value.filter(|value| !value.is_none());
    // SAFETY: a built-in class lives as long as the interpreter.
    let base = unsafe { Object::from_ptr(ffi::PyExc_BaseException) };
    let exception = if kind.is_instance(base)? {
        kind.own()
    } else if kind.is_type() {
        match value {
            Some(value) if value.is_instance(kind)? => value.own(),
            Some(value) => kind.call(&[value])?,
            None => kind.call(&[])?,
        }
    } else {
        return type_error("exceptions must be classes or instances deriving from BaseException");
    };
    if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none()) {
        // SAFETY: a live exception and object; the C API checks the type.
        crate::cpython::object::check(unsafe {
            ffi::PyException_SetTraceback(exception.as_ptr(), traceback.as_ptr())
        })?;
    }
    // Set, and meant to be: the caller goes on with it.
    let _set = raise_instance::<()>(exception);
    Ok(())
}

unsafe extern "C" fn next<T: Steps>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes a live instance.
        match fields::<T>(unsafe { Object::from_ptr(object) }).resume()? {
            Progress::Yielded(value) => Ok(value),
            Progress::Returned(value) => Err(stop_iteration(value)),
        }
    })
}

unsafe extern "C" fn am_send<T: Steps>(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    guard(ffi::PySendResult::PYGEN_ERROR, || {
        // SAFETY: the slot's contract: live objects, and room for a reference.
        unsafe {
            *result = ptr::null_mut();
            let (this, value) = (
                fields::<T>(Object::from_ptr(object)),
                Object::from_ptr(value),
            );
            // Whatever the interpreter's own `await` calls is to be quick.
            let progress = if cfg!(any(not(Py_3_12), Py_3_14)) && value.is_none() {
                this.resume()?
            } else {
                this.send(value)?
            };
            let (value, kind) = match progress {
                Progress::Yielded(value) => (value, ffi::PySendResult::PYGEN_NEXT),
                Progress::Returned(value) => (value, ffi::PySendResult::PYGEN_RETURN),
            };
            *result = value.into_ptr();
            Ok(kind)
        }
    })
}

unsafe extern "C" fn am_await(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    unsafe { Object::from_ptr(object).own().into_ptr() }
}

unsafe extern "C" fn traverse<T: Steps>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance; its type is visited as heap types require.
    unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 {
            return result;
        }
        let this = fields::<T>(Object::from_ptr(object));
        let mut result = 0;
        let mut see = |slot: &Slot| {
            if let (0, Some(held)) = (result, slot.get()) {
                result = visit(held.as_ptr(), arg);
            }
        };
        see(&this.inner);
        this.steps.for_each_slot(&mut see);
        result
    }
}

unsafe extern "C" fn clear<T: Steps>(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = fields::<T>(unsafe { Object::from_ptr(object) });
    guard_quiet(|| this.finish());
    0
}

/// What becomes of one that is not done when nobody holds it any more: as with coroutines, what is suspended is closed,
/// and what was never begun is a mistake that is warned of.
fn finalize_kept<T: Steps>(object: &Object) -> Res<()> {
    let this = fields::<T>(object);
    this.finalized.set(true);
    match this.stage.get() {
        Stage::Fresh if !T::REUSABLE => {
            let text = format!("coroutine '{}' was never awaited", this.steps.name());
            this.finish();
            warn_never_awaited(&text)
        }
        Stage::Suspended => this.close(),
        _ => Ok(()),
    }
}

#[cold]
fn warn_never_awaited(text: &str) -> Res<()> {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: a built-in class and a NUL-terminated text.
    crate::cpython::object::check(unsafe {
        ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, text.as_ptr(), 1)
    })
}

unsafe extern "C" fn finalize<T: Steps>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let object = unsafe { Object::from_ptr(object) };
    finalizing(object, || finalize_kept::<T>(object));
}

unsafe extern "C" fn dealloc<T: Steps>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance.
    unsafe {
        let this = fields::<T>(Object::from_ptr(object));
        if this.stage.get() != Stage::Done && end::<T>(object) {
            return; // resurrected
        }
        if this.tracked.get() {
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        if this.finalized.get() || !(T::class().keep)(object) {
            free(object);
        }
    }
}

/// One that is not done ends. Says whether it was resurrected instead.
///
/// # Safety
/// Only for `tp_dealloc`.
#[inline(never)]
unsafe fn end<T: Steps>(object: *mut ffi::PyObject) -> bool {
    // SAFETY: by the caller's word.
    unsafe {
        if ffi::PyObject_CallFinalizerFromDealloc(object) < 0 {
            return true;
        }
        let this = fields::<T>(Object::from_ptr(object));
        if !this.tracked.get() {
            untracked::forget(&this.tracked);
        }
        // Whatever releases what it holds may start the collector, which must not find it.
        if this.tracked.replace(false) {
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        if this.stage.get() != Stage::Done {
            guard_quiet(|| this.finish());
        }
        false
    }
}

fn read_only(name: &'static CStr, get: method::Getter) -> GetSet {
    GetSet(ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set: None,
        doc: ptr::null(),
        closure: ptr::null_mut(),
    })
}

/// Makes the type.
pub(crate) fn init_type<T: Steps>(type_name: &'static CStr) -> Res<()> {
    let class = TypeBuilder::new::<Awaitable<T>>(type_name, Some(base()?), OFFSET)
        .not_instantiable()
        .slot(
            ffi::Py_tp_traverse,
            slot_fn!(traverse::<T>, ffi::traverseproc),
        )
        .slot(ffi::Py_tp_clear, slot_fn!(clear::<T>, ffi::inquiry))
        .slot(
            ffi::Py_tp_finalize,
            slot_fn!(finalize::<T>, ffi::destructor),
        )
        .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc::<T>, ffi::destructor))
        // What a coroutine's `__await__()` gives can be iterated over.
        .slot(
            ffi::Py_tp_iter,
            slot_fn!(ffi::PyObject_SelfIter, ffi::getiterfunc),
        )
        .slot(ffi::Py_tp_iternext, slot_fn!(next::<T>, ffi::iternextfunc))
        .slot(ffi::Py_am_await, slot_fn!(am_await, ffi::unaryfunc))
        .slot(ffi::Py_am_send, slot_fn!(am_send::<T>, ffi::sendfunc))
        .methods([
            method::onearg(
                c"send",
                send::<T>,
                c"Goes on until something has to be waited for.",
            ),
            method::fast(c"throw", None, throw::<T>, c"Goes on with an exception."),
            method::noargs(c"close", close::<T>, c"Gives up."),
            method::noargs(c"__await__", itself, c"This object.").over_slot(),
        ])
        .getset([
            read_only(c"__name__", name::<T>),
            read_only(c"__qualname__", name::<T>),
            read_only(c"cr_running", running::<T>),
            read_only(c"cr_await", awaited::<T>),
            read_only(c"cr_frame", nothing),
            read_only(c"cr_code", nothing),
        ])
        .build()?;
    T::class()
        .class
        .store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}
