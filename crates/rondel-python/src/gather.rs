//! `gather`: the children are made and watched here.
//!
//! asyncio's `gather` is a closure over its state, called by each child's end through a handle. Here the state is an object
//! that is called in the closure's place, and its children's results are read where they are. What comes out is a
//! `_GatheringFuture` (`python/rondel/gathering.py`), which has asyncio's `cancel`.
//!
//! That is for coroutines, and futures and tasks of ours, each passed once, on a loop of ours. Anything else among the
//! arguments, and a call where no such loop runs, is left to asyncio's own function.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::error::{guard_object, type_error};
use crate::cpython::method::Args;
use crate::cpython::names::import;
use crate::cpython::types::{TypeBuilder, allocate, free, slot_fn, visit};
use crate::cpython::{Object, Owned, Res, Slot, context, imports, names};
use crate::event_loop::core::LoopCore;
use crate::future::{self, State};
use crate::task;

/// One `gather` under way. Called with each child that is done.
#[repr(C)]
struct Gathering {
    vectorcall: Cell<Option<ffi::vectorcallfunc>>,
    /// The `_GatheringFuture`, once it is made.
    outer: Slot,
    /// A list: what was passed, as futures, in order.
    children: Slot,
    /// How many children there are, and how many of them are done.
    count: Cell<usize>,
    done: Cell<usize>,
    return_exceptions: Cell<bool>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
const OFFSET: usize = size_of::<ffi::PyObject>();

fn fields(object: &Object) -> &Gathering {
    // SAFETY: only called for instances of our class.
    unsafe { &*object.as_ptr().byte_add(OFFSET).cast::<Gathering>() }
}

/// `gather(*coros_or_futures, return_exceptions=False)`.
pub(crate) fn gather(_: &Object, args: Args<'_>) -> Res<Owned> {
    let return_exceptions = match args.only_keyword("gather", &names().return_exceptions)? {
        Some(value) => value.is_true()?,
        None => false,
    };
    let event_loop = imports().get_running_loop.call(&[])?;
    let native = LoopCore::of(&event_loop).is_some_and(LoopCore::makes_tasks_directly)
        && !args.positional().is_empty()
        && args.positional().iter().all(|arg| can_take(arg, &event_loop))
        && !has_duplicates(args.positional())
        // From 3.14 on children are linked to the future that awaits them.
        && cfg!(not(Py_3_14));
    if !native {
        return stock(args);
    }
    // SAFETY: all-zero fields are valid.
    let gathering = unsafe { allocate(CLASS.load(Ordering::Relaxed))? };
    let this = fields(&gathering);
    this.vectorcall.set(Some(call));
    this.return_exceptions.set(return_exceptions);
    let children = Owned::list()?;
    let done = start(&gathering, &event_loop, args.positional(), &children)?;
    this.children.set(children.clone());
    let outer =
        gathering_future()?.call_with(&[&children, &event_loop], Some(&imports().kw_loop))?;
    this.outer.set(outer.clone());
    for child in done {
        child_done(&gathering, &child)?;
    }
    Ok(outer)
}

/// A coroutine, or a future of ours on this loop.
fn can_take(arg: &Object, event_loop: &Object) -> bool {
    if future::is_native(arg) {
        return future::fields(arg)
            .event_loop()
            .is_some_and(|other| other.is(event_loop));
    }
    ptr::eq(arg.type_ptr(), imports().coroutine_type.as_type_ptr())
}

/// Makes futures of the arguments and watches them. Gives those that are done already.
fn start(
    gathering: &Object,
    event_loop: &Object,
    args: &[&Object],
    children: &Object,
) -> Res<Vec<Owned>> {
    let mut done = Vec::new();
    // One context does for all callbacks: they run no code of the program's.
    let context = context::copy_current()?;
    for arg in args {
        let child = if future::is_native(arg) {
            (*arg).own()
        } else {
            let child = task::new_task(event_loop, arg, None, None, false)?;
            task::keep_quiet(&child);
            child
        };
        if cfg!(Py_3_12) && future::fields(&child).is_done() {
            done.push(child.clone());
        } else {
            future::add_callback(&child, gathering, &context)?;
        }
        children.append(&child)?;
    }
    fields(gathering).count.set(args.len());
    Ok(done)
}

/// Whether something is passed twice, which asyncio takes as one child with two places.
fn has_duplicates(args: &[&Object]) -> bool {
    let mut addresses: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    addresses.sort_unstable();
    addresses.windows(2).any(|pair| pair[0] == pair[1])
}

fn gathering_future() -> Res<Owned> {
    import("rondel.gathering")?.getattr(&*Owned::from_str("_GatheringFuture")?)
}

/// asyncio's own function.
fn stock(args: Args<'_>) -> Res<Owned> {
    let function = import("rondel.gathering")?.getattr(&*Owned::from_str("_stock_gather")?)?;
    function.call_all(args)
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
        match args.positional() {
            [child] => child_done(this, child)?,
            _ => return type_error("one future was expected"),
        }
        Ok(Owned::none())
    })
}

fn child_done(gathering: &Object, child: &Object) -> Res<()> {
    let this = fields(gathering);
    this.done.set(this.done.get() + 1);
    let base = future::fields(child);
    let outer = this.outer.cloned();
    let Some(outer) = outer.filter(|outer| !future::fields(outer).is_done()) else {
        // Nobody will ask for it any more: its exception counts as retrieved.
        base.set_log_traceback(false);
        return Ok(());
    };
    if !this.return_exceptions.get() {
        if base.state() == State::Cancelled {
            return future::fail(&outer, &*base.cancelled_error()?);
        }
        if let Some(exception) = future::exception(child) {
            return future::fail(&outer, &exception);
        }
    }
    if this.done.get() < this.count.get() {
        return Ok(());
    }
    let results = results(this)?;
    if outer.getattr(&names().cancel_requested)?.is_true()? {
        // asyncio raises the error of whichever child stands last.
        let last = this.last_child().unwrap_or_else(|| child.own());
        return future::fail(&outer, &*future::fields(&last).cancelled_error()?);
    }
    future::finish(&outer, results)
}

impl Gathering {
    fn for_each_child(&self, mut f: impl FnMut(&Object) -> Res<()>) -> Res<()> {
        let Some(children) = self.children.cloned() else {
            return Ok(());
        };
        // SAFETY: a list; a program may have changed it, so its length is read each time and a reference is taken.
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

    fn last_child(&self) -> Option<Owned> {
        let mut last = None;
        let _ = self.for_each_child(|child| {
            last = Some(child.own());
            Ok(())
        });
        last
    }
}

/// The results of all children; those that failed or were cancelled give the exception.
fn results(this: &Gathering) -> Res<Owned> {
    let list = Owned::list()?;
    this.for_each_child(|child| {
        let base = future::fields(child);
        if base.state() == State::Cancelled {
            let message = match base.cancel_message() {
                Some(message) => message,
                None => Owned::from_str("")?,
            };
            return list.append(&*imports().cancelled_error.call(&[&message])?);
        }
        match future::exception(child) {
            Some(exception) => list.append(&exception),
            None => list.append(&*future::take_result(base)?),
        }
    })?;
    Ok(list)
}

// ---- the type ----

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 {
            return result;
        }
        fields(Object::from_ptr(object))
    };
    visit!(visit, arg, this.outer, this.children);
    0
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let this = fields(unsafe { Object::from_ptr(object) });
    this.outer.clear();
    this.children.clear();
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        clear(object);
        free(object);
    }
}

/// Makes the class.
pub(crate) fn init_type() -> Res<()> {
    let class = TypeBuilder::new::<Gathering>(c"rondel.Gathering", None, OFFSET)
        .not_instantiable()
        .vectorcall(OFFSET)
        .slot(ffi::Py_tp_traverse, slot_fn!(traverse, ffi::traverseproc))
        .slot(ffi::Py_tp_clear, slot_fn!(clear, ffi::inquiry))
        .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc, ffi::destructor))
        .build()?;
    CLASS.store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}
