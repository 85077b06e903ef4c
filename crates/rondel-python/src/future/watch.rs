//! Watchers: native callbacks of futures, used by `gather`, `wait`, `shield`, `as_completed` and
//! task groups.
//!
//! A watcher is a native object in a future's list of callbacks. It has no context, as it runs no
//! user code. On a Rondel loop it *notes* the future as soon as that is done. Only if asyncio's
//! callback would then have an observable effect, the watcher is queued on the ready ring
//! (`Kind::Watcher`), once for each such future. It *acts* when its item runs, which is when
//! asyncio's callback would have run.
//!
//! On other loops, in debug mode, and if `call_soon` is replaced, a watcher is called like any
//! callback ([`callable`]): it then notes and acts at once.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_int;
use std::ops::ControlFlow;
use std::sync::OnceLock;

use pyo3::ffi;

use super::callbacks::wake;
use super::kinds::{TASK, Waiter};
use super::{Future, add_waiter, remove_waiter};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{guard, guard_object, runtime_error, type_error};
use crate::cpython::method::{Args, attribute};
use crate::cpython::native::{Class, Fields, NativeClass};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Native, Object, Owned, OwnedNative, Raised, Res, Slot, context, names};
use crate::handle::{self, call_soon};
use crate::loop_core::LoopCore;
use crate::loop_core::item::{Exit, Kind};

/// What a watcher does: an instance of a class that was [registered](register).
pub(crate) trait Watcher {
    /// The name of asyncio's callback, as the repr of `future` shows it.
    fn name(&self, future: &Object) -> &'static str;
    /// The bound method that represents the watcher as a callable, if it has one.
    fn method(&self) -> Option<Res<Owned>> {
        None
    }
    /// Called when a future is done. `None` if nothing more is needed; otherwise the argument of
    /// [`act`](Self::act).
    fn note(&self, future: &Object) -> Res<Option<bool>>;
    /// Does what is observable of asyncio's callback.
    fn act(&self, future: &Object, noted: bool) -> Res<()>;
    /// Whether the watcher accepts this object, which may be anything: user code has passed it to
    /// the watcher's callable.
    fn watches(&self, _: &Object) -> bool {
        true
    }
    /// The futures that were noted and whose items have not run.
    fn arrived(&self) -> &Arrived;
}

/// An entry of the table of kinds.
struct KnownKind {
    class: Class,
    /// An instance of the class, as a watcher.
    view: unsafe fn(&Object) -> &dyn Watcher,
}

/// All kinds, in the order of their registration.
static KINDS: [OnceLock<KnownKind>; 5] = [const { OnceLock::new() }; 5];

/// Registers the class of watchers that hold a `T`. Called once for each kind, at import.
///
/// # Safety
/// The instances of exactly `class` hold a `T`.
pub(crate) unsafe fn register<T: Waiter + 'static>(class: &Object)
where
    Native<T>: Watcher,
{
    let known = KnownKind {
        class: Class::new(),
        // SAFETY: guaranteed by the caller: an instance of the class.
        view: |object| unsafe { object.known::<T>() },
    };
    known.class.set(class);
    let free = KINDS.iter().find(|entry| entry.get().is_none());
    debug_assert!(free.is_some(), "as many entries as there are kinds");
    if let Some(entry) = free {
        entry.get_or_init(|| known);
    }
}

/// An object as a watcher; `None` for anything else.
#[inline]
fn of(object: &Object) -> Option<&dyn Watcher> {
    let mut known = KINDS.iter().map_while(OnceLock::get);
    let kind = known.find(|kind| kind.class.is_exact(object))?;
    // SAFETY: the class was compared.
    Some(unsafe { (kind.view)(object) })
}

/// Whether an object is a watcher.
pub(crate) fn is_watcher(object: &Object) -> bool {
    of(object).is_some()
}

/// A future that was noted, and the value that `note` returned.
type Entry = (Owned, bool);

/// Futures that were noted, in order.
#[derive(Default)]
pub(crate) struct Arrived {
    /// The first entry; usually the only one, so that no allocation is needed.
    first: Slot,
    noted: Cell<bool>,
    #[allow(
        clippy::box_collection,
        reason = "all zero bytes are to be an empty one"
    )]
    more: Cell<Option<Box<VecDeque<Entry>>>>,
}

impl Arrived {
    fn push(&self, future: &Object, noted: bool) {
        let more = self.more.take();
        if more.is_none() && self.first.is_empty() {
            self.first.set(future.own());
            self.noted.set(noted);
            return;
        }
        let mut more = more.unwrap_or_default();
        more.push_back((future.own(), noted));
        self.more.set(Some(more));
    }

    fn pop(&self) -> Option<Entry> {
        if let Some(first) = self.first.take() {
            return Some((first, self.noted.get()));
        }
        let mut more = self.more.take()?;
        let next = more.pop_front();
        if !more.is_empty() {
            self.more.set(Some(more));
        }
        next
    }

    pub(crate) fn for_each(&self, see: &mut dyn FnMut(&Object)) {
        if let Some(first) = self.first.get() {
            see(first);
        }
        if let Some(more) = self.more.take() {
            more.iter().for_each(|(future, _)| see(future));
            self.more.set(Some(more));
        }
    }

    pub(crate) fn clear(&self) {
        self.first.clear();
        drop(self.more.take());
    }
}

/// Notifies a watcher or a task that a future is done.
///
/// # Safety
/// `target` is a [`Waiter`].
#[inline]
pub(super) unsafe fn notify(event_loop: &Object, target: Owned, done: &Native<Future>) -> Res<()> {
    if !TASK.is_exact(&target)
        && let Some(watcher) = of(&target)
    {
        let queued = tell(event_loop, watcher, &target, done.object())?;
        return match queued {
            Some(core) => core.push(Kind::Watcher, target),
            None => Ok(()),
        };
    }
    // SAFETY: a waiter that is no watcher is a task.
    wake(event_loop, unsafe { OwnedNative::new(target) }, done)
}

/// Notifies a watcher. Gives the loop in which the watcher's item is to be queued, if that is
/// needed.
#[inline]
fn tell<'a>(
    event_loop: &'a Object,
    watcher: &dyn Watcher,
    target: &Object,
    done: &Object,
) -> Res<Option<&'a LoopCore>> {
    if let Some(core) = LoopCore::of(event_loop)
        && core.calls_directly()
        && !core.is_debug()
    {
        if core.is_closed() {
            return runtime_error("Event loop is closed");
        }
        let noted = watcher.note(done)?;
        return Ok(noted.map(|noted| {
            watcher.arrived().push(done, noted);
            core
        }));
    }
    let context = context::copy_current()?;
    call_soon(event_loop, &*callable(target, done)?, &[done], &context)?;
    Ok(None)
}

/// Makes a watcher watch a future of any class. If the future is already done, the watcher is
/// notified at once.
#[inline]
pub(crate) fn add<T: Waiter>(future: &Object, watcher: &Native<T>) -> Res<()> {
    if let Some(future) = future.exact::<Future>() {
        return add_waiter(future, watcher);
    }
    let callable = callable(watcher.object(), future)?;
    future
        .call_method(&names().add_done_callback, &[&callable])
        .map(drop)
}

/// Makes a watcher stop watching a future.
#[inline]
pub(crate) fn remove<T: Waiter>(future: &Object, watcher: &Native<T>) -> Res<()> {
    if let Some(future) = future.exact::<Future>() {
        remove_waiter(future, watcher);
        return Ok(());
    }
    let callable = callable(watcher.object(), future)?;
    future
        .call_method(&names().remove_done_callback, &[&callable])
        .map(drop)
}

/// Runs a watcher's queued item.
pub(crate) fn run(core: &LoopCore, object: &Object) -> ControlFlow<Exit> {
    let Some(watcher) = of(object) else {
        return ControlFlow::Continue(());
    };
    let Some((future, noted)) = watcher.arrived().pop() else {
        return ControlFlow::Continue(());
    };
    match watcher.act(&future, noted) {
        Ok(()) => ControlFlow::Continue(()),
        Err(Raised) => failed(core, object, &future),
    }
}

/// Reports an exception that a watcher raised, as that of a handle.
#[cold]
fn failed(core: &LoopCore, watcher: &Object, future: &Object) -> ControlFlow<Exit> {
    let exception = crate::cpython::error::take_exception();
    core.leave_task();
    let made = callable(watcher, future)
        .and_then(|callable| handle::new_handle(core.object(), &callable, &[future], None));
    match made {
        Ok(handle) => {
            let Raised = crate::cpython::error::restore(exception);
            handle::failed(&handle)
        }
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

// ---- a watcher as a callable ----

/// A watcher as user code, other loops and foreign futures see it. Two callables of the same
/// watcher are equal.
#[repr(C)]
struct Callable {
    vectorcall: Cell<Option<ffi::vectorcallfunc>>,
    watcher: Slot,
    name: Cell<Option<&'static str>>,
}

static CALLABLE: Class = Class::new();

// SAFETY: all-zero fields are valid.
unsafe impl Fields for Callable {}

// SAFETY: every object reference is visited.
unsafe impl Collected for Callable {
    slots!(watcher);
}

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for Callable {
    fn class() -> &'static Class {
        &CALLABLE
    }
}

/// A callable that notifies the watcher of `future`: `callable(future)`.
pub(crate) fn callable(object: &Object, future: &Object) -> Res<Owned> {
    let watcher = of(object);
    if let Some(method) = watcher.and_then(Watcher::method) {
        return method;
    }
    // SAFETY: all-zero fields are valid.
    let callable = unsafe { OwnedNative::<Callable>::new(allocate(CALLABLE.as_ptr())?) };
    callable.vectorcall.set(Some(call));
    callable.watcher.set(object.own());
    callable
        .name
        .set(watcher.map(|watcher| watcher.name(future)));
    Ok(callable.into_owned())
}

unsafe extern "C" fn call(
    this: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the vectorcall protocol, for an instance of the class.
        let (this, args) = unsafe {
            let count = ffi::PyVectorcall_NARGS(nargs) as usize;
            (
                Native::<Callable>::from_ptr(this),
                Args::new(args, count, kwnames),
            )
        };
        let [future] = args.positional() else {
            return type_error("one future was expected");
        };
        if let Some(watcher) = this.watcher.cloned()
            && let Some(watcher) = of(&watcher)
        {
            if !watcher.watches(future) {
                return misused(future);
            }
            if let Some(noted) = watcher.note(future)? {
                watcher.act(future, noted)?;
            }
        }
        Ok(Owned::none())
    })
}

/// User code has called the callable with an object that the watcher does not accept. asyncio's
/// callbacks ask the object for its outcome, which raises the object's own error; so does this.
#[cold]
fn misused(object: &Object) -> Res<Owned> {
    if !object.call_method(&names().cancelled, &[])?.is_true()? {
        object.call_method(&names().exception, &[])?;
    }
    type_error("a future that is watched was expected")
}

fn qualified_name(callable: &Native<Callable>) -> Res<Owned> {
    Owned::from_str(callable.name.get().unwrap_or_default())
}

unsafe extern "C" fn compare(
    this: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    operation: c_int,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes live objects; the first is an instance of the class.
        let (this, other) =
            unsafe { (Native::<Callable>::from_ptr(this), Object::from_ptr(other)) };
        let other = other.exact::<Callable>();
        let (Some(other), ffi::Py_EQ | ffi::Py_NE) = (other, operation) else {
            // SAFETY: the singleton lives as long as the interpreter.
            return Ok(unsafe { Object::from_ptr(ffi::Py_NotImplemented()) }.own());
        };
        let same = match other.watcher.get() {
            Some(watcher) => this.watcher.holds(watcher),
            None => false,
        };
        Ok(Owned::from_bool(same == (operation == ffi::Py_EQ)))
    })
}

unsafe extern "C" fn hash(this: *mut ffi::PyObject) -> ffi::Py_hash_t {
    guard(-1, || {
        // SAFETY: the interpreter passes an instance of the class.
        let this = unsafe { Native::<Callable>::from_ptr(this) };
        let address = this
            .watcher
            .get()
            .map_or(0, |watcher| watcher.as_ptr().addr());
        Ok((address >> 4) as ffi::Py_hash_t)
    })
}

/// Makes the class of callables.
pub(crate) fn init() -> Res<()> {
    let class =
        TypeBuilder::new::<Callable>(c"rondel._rondel.DoneCallback", None, Callable::offset())
            .not_instantiable()
            .vectorcall(Callable::offset())
            .slot(ffi::Py_tp_richcompare, slot_fn!(compare, ffi::richcmpfunc))
            .slot(ffi::Py_tp_hash, slot_fn!(hash, ffi::hashfunc))
            .getset([
                attribute!(c"__name__" qualified_name),
                attribute!(c"__qualname__" qualified_name),
            ])
            .collected::<Callable>()
            .build()?;
    CALLABLE.set(&class);
    Ok(())
}
