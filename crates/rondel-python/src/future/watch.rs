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
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::callbacks::wake;
use super::kinds::TASK;
use super::{add_waiter, is_native, remove_waiter};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{guard, guard_object, runtime_error, type_error};
use crate::cpython::method::{Args, attribute};
use crate::cpython::native::Class;
use crate::cpython::native::Fields;
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, names};
use crate::handle::{self, call_soon};
use crate::loop_core::LoopCore;
use crate::loop_core::item::{Exit, Kind};

/// A kind of watcher: its class, and what it does.
pub(crate) struct Watcher {
    pub(crate) class: Class,
    /// The name of asyncio's callback, as a future's repr shows it.
    pub(crate) name: fn(watcher: &Object, future: &Object) -> &'static str,
    /// The bound method that represents the watcher as a callable, if it has one.
    pub(crate) method: Option<fn(watcher: &Object) -> Res<Owned>>,
    /// Called when a future is done. `None` if nothing more is needed; otherwise the argument of
    /// `act`.
    pub(crate) note: fn(watcher: &Object, future: &Object) -> Res<Option<bool>>,
    /// Does what is observable of asyncio's callback.
    pub(crate) act: fn(watcher: &Object, future: &Object, noted: bool) -> Res<()>,
    /// Whether the watcher accepts this object, which may be anything: user code has passed it to
    /// the watcher's callable.
    pub(crate) watches: fn(watcher: &Object, object: &Object) -> bool,
    /// The futures that were noted and whose items have not run.
    pub(crate) arrived: fn(watcher: &Object) -> &Arrived,
}

impl Watcher {
    #[inline]
    pub(crate) fn is_exact(&self, object: &Object) -> bool {
        self.class.is_exact(object)
    }
}

/// An entry of the table of kinds.
struct KnownKind {
    class: AtomicPtr<ffi::PyTypeObject>,
    kind: AtomicPtr<Watcher>,
}

/// All kinds, in the order of their registration.
static KINDS: [KnownKind; 5] = [const {
    KnownKind {
        class: AtomicPtr::new(ptr::null_mut()),
        kind: AtomicPtr::new(ptr::null_mut()),
    }
}; 5];

/// Registers a kind and its class. Called once for each kind, at import.
pub(crate) fn register(kind: &'static Watcher, class: &Object) {
    kind.class.set(class);
    let free = KINDS
        .iter()
        .find(|entry| entry.class.load(Ordering::Relaxed).is_null());
    debug_assert!(free.is_some(), "as many entries as there are kinds");
    if let Some(entry) = free {
        entry
            .kind
            .store(ptr::from_ref(kind).cast_mut(), Ordering::Relaxed);
        entry.class.store(kind.class.as_ptr(), Ordering::Relaxed);
    }
}

/// The kind of a watcher; `None` for anything else.
#[inline]
fn of(object: &Object) -> Option<&'static Watcher> {
    let class = object.type_ptr();
    let entry = KINDS
        .iter()
        .find(|entry| ptr::eq(entry.class.load(Ordering::Relaxed), class))?;
    // SAFETY: an entry with a class also has its kind, which is a static.
    unsafe { entry.kind.load(Ordering::Relaxed).as_ref() }
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

/// Notifies a watcher or a task, a callback without a context, that a future is done.
#[inline]
pub(crate) fn notify(event_loop: &Object, target: Owned, done: &Object) -> Res<()> {
    if TASK.is_exact(&target) {
        return wake(event_loop, target, done);
    }
    match of(&target) {
        Some(watcher) => tell(watcher, event_loop, target, done),
        None => wake(event_loop, target, done),
    }
}

#[inline]
fn tell(watcher: &'static Watcher, event_loop: &Object, target: Owned, done: &Object) -> Res<()> {
    if let Some(core) = LoopCore::of(event_loop)
        && core.calls_directly()
        && !core.is_debug()
    {
        if core.is_closed() {
            return runtime_error("Event loop is closed");
        }
        if let Some(noted) = (watcher.note)(&target, done)? {
            (watcher.arrived)(&target).push(done, noted);
            core.push(Kind::Watcher, target)?;
        }
        return Ok(());
    }
    let context = context::copy_current()?;
    call_soon(event_loop, &*callable(&target, done)?, &[done], &context)
}

/// Makes a watcher watch a future of any class. If the future is already done, the watcher is
/// notified at once.
#[inline]
pub(crate) fn add(future: &Object, watcher: &Object) -> Res<()> {
    if is_native(future) {
        return add_waiter(future, watcher);
    }
    let callable = callable(watcher, future)?;
    future
        .call_method(&names().add_done_callback, &[&callable])
        .map(drop)
}

/// Makes a watcher stop watching a future.
#[inline]
pub(crate) fn remove(future: &Object, watcher: &Object) -> Res<()> {
    if is_native(future) {
        remove_waiter(future, watcher);
        return Ok(());
    }
    let callable = callable(watcher, future)?;
    future
        .call_method(&names().remove_done_callback, &[&callable])
        .map(drop)
}

/// Runs a watcher's queued item.
pub(crate) fn run(core: &LoopCore, watcher: &Object) -> ControlFlow<Exit> {
    let Some(kind) = of(watcher) else {
        return ControlFlow::Continue(());
    };
    let Some((future, noted)) = (kind.arrived)(watcher).pop() else {
        return ControlFlow::Continue(());
    };
    match (kind.act)(watcher, &future, noted) {
        Ok(()) => ControlFlow::Continue(()),
        Err(Raised) => failed(core, watcher, &future),
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

static CALLABLE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

// SAFETY: all-zero fields are valid.
unsafe impl Fields for Callable {}

// SAFETY: every object reference is visited.
unsafe impl Collected for Callable {
    slots!(watcher);
}

/// A callable that notifies the watcher of `future`: `callable(future)`.
pub(crate) fn callable(watcher: &Object, future: &Object) -> Res<Owned> {
    let kind = of(watcher);
    if let Some(method) = kind.and_then(|kind| kind.method) {
        return method(watcher);
    }
    // SAFETY: all-zero fields are valid.
    let callable = unsafe { allocate(CALLABLE.load(Ordering::Relaxed))? };
    let this = Callable::of(&callable);
    this.vectorcall.set(Some(call));
    this.watcher.set(watcher.own());
    this.name.set(kind.map(|kind| (kind.name)(watcher, future)));
    Ok(callable)
}

unsafe extern "C" fn call(
    this: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the vectorcall protocol.
        let (this, args) = unsafe {
            let count = ffi::PyVectorcall_NARGS(nargs) as usize;
            (Object::from_ptr(this), Args::new(args, count, kwnames))
        };
        let [future] = args.positional() else {
            return type_error("one future was expected");
        };
        if let Some(watcher) = Callable::of(this).watcher.cloned()
            && let Some(kind) = of(&watcher)
        {
            if !(kind.watches)(&watcher, future) {
                return misused(future);
            }
            if let Some(noted) = (kind.note)(&watcher, future)? {
                (kind.act)(&watcher, future, noted)?;
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

fn qualified_name(callable: &Object) -> Res<Owned> {
    Owned::from_str(Callable::of(callable).name.get().unwrap_or_default())
}

unsafe extern "C" fn compare(
    this: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    operation: c_int,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the interpreter passes live objects.
        let (this, other) = unsafe { (Object::from_ptr(this), Object::from_ptr(other)) };
        if !ptr::eq(this.type_ptr(), other.type_ptr())
            || !matches!(operation, ffi::Py_EQ | ffi::Py_NE)
        {
            // SAFETY: the singleton lives as long as the interpreter.
            return Ok(unsafe { Object::from_ptr(ffi::Py_NotImplemented()) }.own());
        }
        let same = match Callable::of(other).watcher.get() {
            Some(watcher) => Callable::of(this).watcher.holds(watcher),
            None => false,
        };
        Ok(Owned::from_bool(same == (operation == ffi::Py_EQ)))
    })
}

unsafe extern "C" fn hash(this: *mut ffi::PyObject) -> ffi::Py_hash_t {
    guard(-1, || {
        // SAFETY: the interpreter passes a live instance.
        let watcher = Callable::of(unsafe { Object::from_ptr(this) })
            .watcher
            .get();
        let address = watcher.map_or(0, |watcher| watcher.as_ptr().addr());
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
    CALLABLE.store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}
