//! Wraps a queued item in the handle that asyncio would have queued, for programs that inspect or
//! run ready items.
//!
//! The ready ring holds tasks and transports themselves, without a handle (`event_loop/host.rs`). A
//! program that asks for a handle gets one whose callback is an [`ItemCall`], whose `__self__` is
//! the task or the transport, as with asyncio's own callbacks.

use std::cell::Cell;
use std::ffi::c_int;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::host::run_item;
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::guard_object;
use crate::cpython::method::attribute;
use crate::cpython::native::Fields;
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Native, Object, Owned, Res, Slot, context};
use crate::handle::{new_handle, shown};
use crate::loop_core::LoopCore;
use crate::loop_core::item::{Exit, Item, Kind};
use crate::task::{self, Task};

#[repr(C)]
struct ItemCall {
    event_loop: Slot,
    about: Slot,
    kind: Cell<u8>,
}

// SAFETY: the fields follow the header, and zeroed fields are valid.
unsafe impl Fields for ItemCall {}

// SAFETY: all slots are listed.
unsafe impl Collected for ItemCall {
    slots!(event_loop, about);
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// The task whose step an item is.
fn task_of(kind: Kind, about: &Object) -> Option<&Native<Task>> {
    // SAFETY: items of kind `Step` and `Wakeup` hold tasks.
    matches!(kind, Kind::Step | Kind::Wakeup).then(|| unsafe { about.known() })
}

/// Converts an item to a handle of the loop.
pub(super) fn handle_of(core: &LoopCore, item: Item) -> Res<Owned> {
    let (kind, about) = item.into_parts();
    if kind == Kind::Handle {
        // SAFETY: items of kind `Handle` hold handles.
        return Ok(shown(unsafe { about.known() }));
    }
    // SAFETY: all-zero fields are valid.
    let call = unsafe { allocate(CLASS.load(Ordering::Relaxed))? };
    let this = ItemCall::of(&call);
    this.event_loop.set(core.object().own());
    this.kind.set(kind as u8);
    let context = task_of(kind, &about).map(|task| task::context_of(task));
    this.about.set(about);
    let handle = new_handle(core.object(), &call, &[], context.as_deref())?;
    // The item enters its context itself.
    handle.needs_no_context();
    Ok(handle.into_owned())
}

fn run(this: &ItemCall) -> ControlFlow<Exit> {
    let (Some(event_loop), Some(about)) = (this.event_loop.cloned(), this.about.cloned()) else {
        return ControlFlow::Continue(()); // cleared by the garbage collector
    };
    let Some(core) = LoopCore::of(&event_loop) else {
        return ControlFlow::Continue(());
    };
    let kind = Kind::from_bits(this.kind.get().into());
    // asyncio's `Handle._run` calls the callback in the handle's context, and a step enters it
    // itself.
    let entered = task_of(kind, &about)
        .map(|task| task::context_of(task))
        .filter(|context| context::is_current(context));
    let flow = core.current.aside(&event_loop, || {
        if let Some(entered) = &entered
            && let Err(raised) = context::exit(entered)
        {
            return ControlFlow::Break(Exit::Raised(raised));
        }
        run_item(core, Item::new(kind, about))
    });
    if let Some(entered) = &entered
        && let Err(raised) = context::enter(entered)
    {
        return ControlFlow::Break(Exit::Raised(raised));
    }
    flow
}

unsafe extern "C" fn call(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract.
        let this = unsafe { Object::from_ptr(this) };
        match run(ItemCall::of(this)) {
            ControlFlow::Continue(()) => Ok(Owned::none()),
            ControlFlow::Break(exit) => exit.raise(),
        }
    })
}

unsafe extern "C" fn repr(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract.
        let this = ItemCall::of(unsafe { Object::from_ptr(this) });
        let what = match Kind::from_bits(this.kind.get().into()) {
            Kind::Step => "next step of",
            Kind::Wakeup => "wake-up of",
            Kind::Readable => "reading of",
            Kind::Writable => "writing of",
            _ => "call of",
        };
        let about = this.about.or_none().repr()?.to_text()?;
        Owned::from_str(&format!("<{what} {about}>"))
    })
}

unsafe extern "C" fn compare(
    left: *mut ffi::PyObject,
    right: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract; a live singleton.
        let (left, right, not_implemented) = unsafe {
            (
                Object::from_ptr(left),
                Object::from_ptr(right),
                Object::from_ptr(ffi::Py_NotImplemented()),
            )
        };
        if !ptr::eq(left.type_ptr(), right.type_ptr()) || !matches!(op, ffi::Py_EQ | ffi::Py_NE) {
            return Ok(not_implemented.own());
        }
        let (a, b) = (ItemCall::of(left), ItemCall::of(right));
        let same = a.kind.get() == b.kind.get() && a.about.or_none().is(&b.about.or_none());
        Ok(Owned::from_bool(same == (op == ffi::Py_EQ)))
    })
}

unsafe extern "C" fn hash(this: *mut ffi::PyObject) -> ffi::Py_hash_t {
    // SAFETY: the slot's contract.
    let this = ItemCall::of(unsafe { Object::from_ptr(this) });
    (this.about.or_none().as_ptr().addr() >> 4) as ffi::Py_hash_t
}

fn about(this: &Object) -> Res<Owned> {
    Ok(ItemCall::of(this).about.or_none())
}

/// Makes the class.
pub(super) fn init_type() -> Res<()> {
    let class = TypeBuilder::new::<ItemCall>(c"rondel._rondel.ItemCall", None, ItemCall::offset())
        .not_instantiable()
        .doc(c"The callback of a handle that stands for a queued task or transport.")
        .slot(ffi::Py_tp_call, slot_fn!(call, ffi::ternaryfunc))
        .slot(ffi::Py_tp_repr, slot_fn!(repr, ffi::reprfunc))
        .slot(ffi::Py_tp_richcompare, slot_fn!(compare, ffi::richcmpfunc))
        .slot(ffi::Py_tp_hash, slot_fn!(hash, ffi::hashfunc))
        .getset([attribute!(c"__self__" about)])
        .collected::<ItemCall>()
        .build()?;
    CLASS.store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}
