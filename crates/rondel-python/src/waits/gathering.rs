//! The future that `gather` returns. It watches its children itself, and is done when they are.
//!
//! A child that succeeds is only counted, as asyncio's callback has no other observable effect
//! then. For the last child, and for each that fails, a watcher item is queued in the loop. When it
//! runs, the results are read or the exception is passed on.

use std::cell::Cell;
use std::ptr;

use pyo3::ffi;

use super::awaited_by::unlink;
use super::names::waits_imports;
use crate::cpython::collected::{Collected, slots};
use crate::cpython::freelist::free_list;
use crate::cpython::method::{Args, attribute, method};
use crate::cpython::native::Class;
use crate::cpython::object::check;
use crate::cpython::types::{TypeBuilder, allocate, is_fresh};
use crate::cpython::{
    Fields, Native, NativeClass, Object, Owned, OwnedNative, Res, Slot, imports, names,
};
use crate::future::kinds::{Cancellable, GATHERING, Waiter};
use crate::future::watch::{self, Arrived, Watcher};
use crate::future::{self, Future, State};

/// The fields of a gathering future, behind those of a future. All-zero fields are valid.
#[repr(C)]
pub(super) struct Gathering {
    /// A list of the arguments as futures, in order.
    pub(super) children: Slot,
    /// The task that called `gather`, if links between futures are kept.
    pub(super) task: Slot,
    /// The number of distinct children, and the number of those that are done.
    pub(super) count: Cell<usize>,
    pub(super) done: Cell<usize>,
    pub(super) return_exceptions: Cell<bool>,
    cancel_requested: Cell<bool>,
    arrived: Arrived,
}

impl Watcher for Native<Gathering> {
    fn name(&self, _: &Object) -> &'static str {
        "gather.<locals>._done_callback"
    }

    fn note(&self, child: &Object) -> Res<Option<bool>> {
        match child.instance() {
            Some(child) => note(self, child),
            None => Ok(None),
        }
    }

    fn act(&self, child: &Object, last: bool) -> Res<()> {
        match child.instance() {
            Some(child) => child_done(self, child, last),
            None => Ok(()),
        }
    }

    fn watches(&self, child: &Object) -> bool {
        child.exact::<Future>().is_some_and(|child| child.is_done())
    }

    fn arrived(&self) -> &Arrived {
        &self.arrived
    }
}

free_list!(FREE, 64);

// SAFETY: the class is made with these fields behind those of a future.
unsafe impl Fields for Gathering {
    #[inline]
    fn offset() -> usize {
        Future::offset() + size_of::<Future>()
    }
}

// SAFETY: as above.
unsafe impl NativeClass for Gathering {
    #[inline]
    fn class() -> &'static Class {
        &GATHERING.class
    }
}

// SAFETY: a class of watchers.
unsafe impl Waiter for Gathering {}

impl Cancellable for Gathering {
    fn cancel(outer: &Native<Self>, message: Option<&Object>) -> Res<bool> {
        cancel(outer, message)
    }
}

impl Native<Gathering> {
    /// The same object as a future.
    #[inline]
    pub(super) fn as_future(&self) -> &Native<Future> {
        // SAFETY: the fields of a future precede this type's own.
        unsafe { self.object().known() }
    }
}

/// Makes a gathering future without children.
pub(super) fn new(event_loop: &Object) -> Res<OwnedNative<Gathering>> {
    let class = GATHERING.class.as_ptr();
    let object = match FREE.with(|list| list.revive(class, true)) {
        Some(object) => object,
        // SAFETY: all-zero fields are valid.
        None => unsafe { allocate(class)? },
    };
    // SAFETY: an instance of the class.
    let outer = unsafe { OwnedNative::<Gathering>::new(object) };
    future::init(outer.as_future(), event_loop)?;
    Ok(outer)
}

/// Counts a child that is done. Returns `Some` if it is the last one or did not succeed, which
/// needs a watcher item; `Some(true)` means the last one.
#[inline]
fn note(this: &Gathering, child: &Native<Future>) -> Res<Option<bool>> {
    this.done.set(this.done.get() + 1);
    if let Some(task) = this.task.cloned() {
        unlink(child.object(), Some(&task))?;
    }
    let last = this.done.get() == this.count.get();
    let succeeded = child.state() == State::Finished && !child.has_failed();
    Ok((last || !succeeded).then_some(last))
}

/// Handles a child that was already done when it was passed.
pub(super) fn child_was_done(outer: &Native<Gathering>, child: &Native<Future>) -> Res<()> {
    match note(outer, child)? {
        Some(last) => child_done(outer, child, last),
        None => Ok(()),
    }
}

fn child_done(outer: &Native<Gathering>, child: &Native<Future>, last: bool) -> Res<()> {
    let this: &Gathering = outer;
    if outer.as_future().is_done() {
        // No code will read this exception: it counts as retrieved.
        child.set_log_traceback(false);
        return Ok(());
    }
    if !this.return_exceptions.get() {
        if child.state() == State::Cancelled {
            let error = child.cancelled_error()?;
            return fail(outer, &error);
        }
        if let Some(exception) = future::exception(child) {
            return fail(outer, &exception);
        }
    }
    if !last {
        return Ok(());
    }
    let results = results(this)?;
    if this.cancel_requested.get() {
        // asyncio raises the error of the child that is last in the list.
        let last = last_child(this).unwrap_or_else(|| child.own());
        return future::fail(outer.as_future(), &*last.cancelled_error()?);
    }
    future::finish(outer.as_future(), results)
}

fn fail(outer: &Native<Gathering>, exception: &Object) -> Res<()> {
    let this: &Gathering = outer;
    if let Some(task) = this.task.cloned()
        && waits_imports().quirks.gather_unlinks_at_failure
    {
        for_each_child(this, |child| unlink(child, Some(&task)))?;
    }
    future::fail(outer.as_future(), exception)
}

fn for_each_child(this: &Gathering, mut f: impl FnMut(&Object) -> Res<()>) -> Res<()> {
    let Some(children) = this.children.cloned() else {
        return Ok(());
    };
    // SAFETY: `children` is always a list. User code may change it, so its length is read each time
    // and the item is kept by an owned reference.
    unsafe {
        let mut index = 0;
        while index < ffi::PyList_GET_SIZE(children.as_ptr()) {
            let child = Object::from_ptr(ffi::PyList_GET_ITEM(children.as_ptr(), index)).own();
            f(&child)?;
            index += 1;
        }
    }
    Ok(())
}

fn last_child(this: &Gathering) -> Option<OwnedNative<Future>> {
    let children = this.children.get()?;
    // SAFETY: `children` is always a list.
    unsafe {
        let count = ffi::PyList_GET_SIZE(children.as_ptr());
        let last = (count > 0).then(|| ffi::PyList_GET_ITEM(children.as_ptr(), count - 1))?;
        Object::from_ptr(last).exact().map(Native::own)
    }
}

/// The results of all children; a child that failed or was cancelled gives its exception.
fn results(this: &Gathering) -> Res<Owned> {
    let children = this.children.or_none();
    // SAFETY: `children` is always a list.
    let count = || unsafe { ffi::PyList_GET_SIZE(children.as_ptr()) } as usize;
    // SAFETY: a list, and the caller checks the index against `count`.
    let child = |index| unsafe {
        Object::from_ptr(ffi::PyList_GET_ITEM(children.as_ptr(), index as isize))
    };
    let expected = count();
    let mut asked = 0;
    let results = Owned::list_of(expected, |index| {
        // `result_of` may run user code that changes the list.
        if index >= count() {
            return Ok(Owned::none());
        }
        asked = index + 1;
        result_of(child(index))
    })?;
    if asked < expected {
        // SAFETY: `results` is a list.
        check(unsafe {
            ffi::PyList_SetSlice(
                results.as_ptr(),
                asked as isize,
                expected as isize,
                ptr::null_mut(),
            )
        })?;
    }
    while asked < count() {
        results.append(&*result_of(child(asked))?)?;
        asked += 1;
    }
    Ok(results)
}

/// The result of a child, which may be referenced by the list alone. Where a call into Python reads
/// it, which may change the list, an owned reference keeps it alive.
#[inline]
fn result_of(child: &Object) -> Res<Owned> {
    let Some(base) = child.exact::<Future>() else {
        return result_of_foreign(&child.own());
    };
    if base.state() == State::Finished && !base.has_failed() {
        return future::take_result(base);
    }
    if base.state() == State::Pending {
        // User code has called the done callback more often than children have finished.
        return child.own().call_method(&names().exception, &[]);
    }
    if base.state() == State::Cancelled {
        let message = match base.cancel_message() {
            Some(message) => message,
            None => Owned::from_str("")?,
        };
        return imports().cancelled_error.call(&[&message]);
    }
    Ok(future::exception(base).unwrap_or_else(Owned::none))
}

/// The result of a foreign object that user code has put into the list.
#[cold]
fn result_of_foreign(child: &Object) -> Res<Owned> {
    let names = names();
    if child.call_method(&names.cancelled, &[])?.is_true()? {
        let mut message = child.getattr(&names.cancel_message)?;
        if message.is_none() {
            message = Owned::from_str("")?;
        }
        return imports().cancelled_error.call(&[&message]);
    }
    let exception = child.call_method(&names.exception, &[])?;
    match exception.is_none() {
        true => child.call_method(&names.result, &[]),
        false => Ok(exception),
    }
}

/// `cancel`: cancels the children. The future itself ends when they have ended.
fn cancel(outer: &Native<Gathering>, message: Option<&Object>) -> Res<bool> {
    let this: &Gathering = outer;
    if outer.as_future().is_done() {
        return Ok(false);
    }
    let mut requested = false;
    for_each_child(this, |child| {
        requested |= future::cancel_any(child, message)?;
        Ok(())
    })?;
    if requested {
        // Raised once the children are done, whatever `return_exceptions` is.
        this.cancel_requested.set(true);
    }
    Ok(requested)
}

// ---- what Python sees ----

fn cancel_method(outer: &Native<Gathering>, args: Args<'_>) -> Res<Owned> {
    let message = future::message_of(args, "_GatheringFuture.cancel")?;
    Ok(Owned::from_bool(cancel(outer, message)?))
}

fn get_children(outer: &Native<Gathering>) -> Res<Owned> {
    Ok(outer.children.or_none())
}

fn get_cancel_requested(outer: &Native<Gathering>) -> Res<Owned> {
    Ok(Owned::from_bool(outer.cancel_requested.get()))
}

fn set_cancel_requested(outer: &Native<Gathering>, value: Option<&Object>) -> Res<()> {
    let value = value.map_or(Ok(false), Object::is_true)?;
    outer.cancel_requested.set(value);
    Ok(())
}

// ---- life as an object ----

// SAFETY: every object reference is visited.
unsafe impl Collected for Gathering {
    const FINALIZED: bool = true;

    slots!(children, task);

    /// asyncio's class, whose part of an instance holds the `__dict__`.
    fn base() -> Option<&'static Object> {
        Some(&imports().stock_future)
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.arrived.for_each(see);
    }

    fn release_others(&self) {
        self.arrived.clear();
    }

    fn for_each_inherited(this: &Native<Self>, see: &mut dyn FnMut(&Object)) {
        this.as_future().for_each(see);
    }

    fn release_inherited(this: &Native<Self>) {
        future::release(this.as_future());
    }

    #[inline]
    fn needs_finalizer(this: &Native<Self>) -> bool {
        this.as_future().logs_traceback()
    }

    unsafe fn keep(object: *mut ffi::PyObject) -> bool {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let this = Native::<Self>::from_ptr(object);
            this.as_future().renew();
            this.done.set(0);
            this.cancel_requested.set(false);
            is_fresh(object) && FREE.with(|list| list.keep(object))
        }
    }

    fn finalize(outer: &Native<Self>) -> Res<()> {
        future::finalize(outer.as_future())
    }
}

/// Makes the class.
pub(super) fn init_type() -> Res<()> {
    #[repr(C)]
    struct All(Future, Gathering);
    let base = future::class();
    let builder = TypeBuilder::new::<All>(
        c"rondel._rondel._GatheringFuture",
        Some(base),
        Future::offset(),
    )
    .not_instantiable()
    .doc(c"The future that gather() returns.")
    .collected::<Gathering>()
    .methods([method!(fast c"cancel(msg=None)" cancel_method,
                c"Cancels the children. Returns False if all are done already.")])
    .getset([
        attribute!(c"_children" get_children),
        attribute!(c"_cancel_requested" get_cancel_requested, set_cancel_requested),
    ]);
    let class = future::build_iterable(builder)?;
    // SAFETY: the class was made for these fields.
    unsafe { watch::register::<Gathering>(&class) };
    GATHERING.fill::<Gathering>(&class);
    Ok(())
}
