//! What all primitives have in common: the loop that one is bound to, the way its class is made, its repr.
//!
//! A class that programs see is made by Python's `type` from two bases, the native one with the fields and asyncio's own:
//! so that `isinstance(rondel.Lock(), asyncio.Lock)` holds, and the instance dict is the interpreter's affair.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use pyo3::ffi;

use super::names::sync_names;
use crate::awaitable::{Next, iterator_of};
use crate::cpython::error::{guard, guard_object, runtime_error};
use crate::cpython::method::{Args, attribute, with_tuple_and_dict};
use crate::cpython::nesting::nested;
use crate::cpython::types::{TypeBuilder, allocate, free, slot_fn, visit};
use crate::cpython::{Object, Owned, Res, Slot, names};
use crate::future;
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;

/// The first fields of every primitive, behind the object header.
#[repr(C)]
#[derive(Default)]
pub(super) struct Bound {
    /// The loop of the first task that had to wait.
    pub(super) event_loop: Slot,
    /// Whether the program has put something over a method of this instance.
    patched: Cell<bool>,
}

const OFFSET: usize = size_of::<ffi::PyObject>();

/// The fields of a primitive of ours.
#[inline]
fn bound(object: &Object) -> &Bound {
    // SAFETY: only called for instances of our classes, which all begin with these fields.
    unsafe { &*object.as_ptr().byte_add(OFFSET).cast::<Bound>() }
}

impl Bound {
    /// Whether one method may stand in for another without a look at the instance.
    #[inline]
    pub(super) fn is_patched(&self) -> bool {
        self.patched.get()
    }
}

/// The fields of one kind of primitive, which stand behind the object header.
///
/// # Safety
/// `Self` is `repr(C)` and begins with a [`Bound`].
pub(super) unsafe trait Primitive: Default + 'static {
    /// Shows the collector what it holds, besides the loop.
    fn traverse(&self, visit: ffi::visitproc, arg: *mut c_void) -> c_int;
    /// Lets go of what it holds, besides the loop.
    fn clear(&self);
    /// `__init__`.
    fn init(object: &Object, args: Args<'_>) -> Res<()>;
    /// `__repr__`.
    fn repr(object: &Object) -> Res<Owned>;
}

/// The fields of a primitive that is known to be of this kind.
#[inline]
pub(super) fn fields<T: Primitive>(object: &Object) -> &T {
    // SAFETY: instances of the type that `native_type` makes have the fields there, filled by `tp_new`.
    unsafe { &*object.as_ptr().byte_add(OFFSET).cast::<T>() }
}

unsafe extern "C" fn new<T: Primitive>(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the fields are filled before anyone sees the object.
    guard_object(|| unsafe {
        let object = allocate(class)?;
        object
            .as_ptr()
            .byte_add(OFFSET)
            .cast::<T>()
            .write(T::default());
        Ok(object)
    })
}

unsafe extern "C" fn init<T: Primitive>(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        unsafe {
            let object = Object::from_ptr(object);
            with_tuple_and_dict(args, kwargs, |args| T::init(object, args))?;
        }
        Ok(0)
    })
}

unsafe extern "C" fn repr<T: Primitive>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    guard_object(|| T::repr(unsafe { Object::from_ptr(object) }))
}

unsafe extern "C" fn traverse<T: Primitive>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance; its type is visited as heap types require.
    let object = unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 {
            return result;
        }
        Object::from_ptr(object)
    };
    visit!(visit, arg, bound(object).event_loop);
    fields::<T>(object).traverse(visit, arg)
}

unsafe extern "C" fn clear<T: Primitive>(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let object = unsafe { Object::from_ptr(object) };
    bound(object).event_loop.clear();
    fields::<T>(object).clear();
    0
}

unsafe extern "C" fn dealloc<T: Primitive>(object: *mut ffi::PyObject) {
    let end = || {
        // SAFETY: the interpreter passes a dead instance; its fields are dropped once.
        unsafe {
            ffi::PyObject_GC_UnTrack(object.cast());
            clear::<T>(object);
            ptr::drop_in_place(object.byte_add(OFFSET).cast::<T>());
            free(object);
        }
    };
    // SAFETY: as above, and nothing was done yet.
    unsafe { nested(object, dealloc::<T>, end) };
}

/// Describes the native base class of a primitive's class.
pub(super) fn native_type<T: Primitive>(name: &'static CStr) -> TypeBuilder {
    TypeBuilder::new::<T>(name, None, OFFSET)
        .subclassable()
        .slot(ffi::Py_tp_new, slot_fn!(new::<T>, ffi::newfunc))
        .slot(ffi::Py_tp_init, slot_fn!(init::<T>, ffi::initproc))
        .slot(ffi::Py_tp_repr, slot_fn!(repr::<T>, ffi::reprfunc))
        .slot(ffi::Py_tp_setattro, slot_fn!(setattro, ffi::setattrofunc))
        .slot(
            ffi::Py_tp_traverse,
            slot_fn!(traverse::<T>, ffi::traverseproc),
        )
        .slot(ffi::Py_tp_clear, slot_fn!(clear::<T>, ffi::inquiry))
        .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc::<T>, ffi::destructor))
        .getset([attribute!(c"_loop" get_loop_attribute, set_loop_attribute)])
}

/// The loop that runs, to which `object` is bound from now on.
#[inline]
fn get_loop(object: &Object) -> Res<Owned> {
    let running = running_loop()?;
    let this = bound(object);
    match this.event_loop.get() {
        Some(event_loop) if event_loop.is(&running) => {}
        None if running.is_none() => {}
        None => this.event_loop.set(running.clone()),
        Some(_) => return wrong_loop(object),
    }
    Ok(running)
}

#[cold]
fn wrong_loop<T>(object: &Object) -> Res<T> {
    let text = object.repr()?.to_text()?;
    runtime_error(&format!("{text} is bound to a different event loop"))
}

/// A future to wait on, in the loop that runs.
#[inline]
pub(super) fn new_waiter(object: &Object) -> Res<Owned> {
    let event_loop = get_loop(object)?;
    match LoopCore::of(&event_loop) {
        Some(core) => future::new_waiter(core),
        None => event_loop.call_method(&names().create_future, &[]),
    }
}

/// Waits for what [`new_waiter`] gave.
#[inline]
pub(super) fn wait_on(waiter: Owned) -> Res<Next> {
    if future::is_exact(&waiter) && !future::fields(&waiter).is_done() {
        return Ok(Next::Wait(waiter));
    }
    iterator_of(&waiter).map(Next::Await)
}

fn get_loop_attribute(object: &Object) -> Res<Owned> {
    Ok(bound(object).event_loop.or_none())
}

fn set_loop_attribute(object: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(bound(object).event_loop.replace(value));
    Ok(())
}

/// `tp_setattro`: notes whether a method that others call is replaced.
unsafe extern "C" fn setattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        let (result, object, name) = unsafe {
            (
                ffi::PyObject_GenericSetAttr(object, name, value),
                Object::from_ptr(object),
                Object::from_ptr(name),
            )
        };
        let names = sync_names();
        let called_by_others: [&Object; 11] = [
            &names.acquire,
            &names.release,
            &names.locked,
            &names.wait,
            &names.get_nowait,
            &names.put_nowait,
            &names.get,
            &names.put,
            &names.empty,
            &names.full,
            &names.qsize,
        ];
        if called_by_others.iter().any(|method| method.is(name)) {
            bound(object).patched.set(true);
        }
        Ok(result)
    })
}

/// `<rondel.Lock object at 0x… [extra]>`.
pub(super) fn describe(object: &Object, extra: &str) -> Res<Owned> {
    // SAFETY: a live object; the base class of all others has a repr.
    let plain = unsafe {
        let base = &raw const ffi::PyBaseObject_Type;
        match (*base).tp_repr {
            Some(repr) => Owned::steal(repr(object.as_ptr()))?,
            None => object.class().repr()?,
        }
    };
    let plain = plain.to_text()?;
    let inner = plain
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'));
    Owned::from_str(&format!("<{} [{extra}]>", inner.unwrap_or(&plain)))
}

/// As [`describe`], with the number of waiters behind `extra` if there are any.
pub(super) fn describe_waiting(object: &Object, extra: &str, waiters: usize) -> Res<Owned> {
    match waiters {
        0 => describe(object, extra),
        _ => describe(object, &format!("{extra}, waiters:{waiters}")),
    }
}
