//! What all primitives have in common: the loop that an instance is bound to, the creation of the
//! class, and the repr.
//!
//! A class that programs see is created by Python's `type` from two bases: the native class with
//! the fields, and asyncio's own. So `isinstance(rondel.Lock(), asyncio.Lock)` holds, and the
//! interpreter manages the instance dict.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};

use pyo3::ffi;

use crate::awaitable::{Next, iterator_of};
use crate::cpython::collected::Collected;
use crate::cpython::error::{guard, guard_object, runtime_error};
use crate::cpython::method::{Args, getset, with_tuple_and_dict};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Native, NativeClass, Object, Owned, OwnedNative, Res, Slot, names};
use crate::future;
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;

/// The fields that every primitive has.
#[derive(Default)]
pub(super) struct Bound {
    /// The loop of the first task that had to wait.
    pub(super) event_loop: Slot,
    /// Whether a method that other methods call was overridden on this instance.
    patched: Cell<bool>,
}

impl Bound {
    /// Whether a method that other methods call was overridden on this instance.
    #[inline]
    pub(super) fn is_patched(&self) -> bool {
        self.patched.get()
    }
}

/// A kind of primitive.
pub(super) trait Primitive: NativeClass + Collected + Default {
    /// The common fields.
    fn bound(&self) -> &Bound;
    /// `__init__`.
    fn init(this: &Native<Self>, args: Args<'_>) -> Res<()>;
    /// `__repr__`.
    fn repr(this: &Native<Self>) -> Res<Owned>;
}

/// Declares the class of a primitive with a queue of waiters, in `CLASS`. The collector sees its
/// loop, its waiters, and the slots that are named.
macro_rules! primitive_class {
    ($primitive:ident $(, $slot:ident)*) => {
        static CLASS: $crate::cpython::Class = $crate::cpython::Class::new();

        // SAFETY: the fields lie behind the object header; `tp_new` initializes them.
        unsafe impl $crate::cpython::Fields for $primitive {}

        // SAFETY: the class derives from the native class, which is sized for these fields.
        unsafe impl $crate::cpython::NativeClass for $primitive {
            fn class() -> &'static $crate::cpython::Class {
                &CLASS
            }
        }

        // SAFETY: every owned object is shown to the visitor.
        unsafe impl $crate::cpython::collected::Collected for $primitive {
            fn for_each_slot(&self, see: &mut dyn FnMut(&$crate::cpython::Slot)) {
                $(see(&self.$slot);)*
                see(&self.bound.event_loop);
                see(self.waiters.slot());
            }

            fn for_each_other(&self, see: &mut dyn FnMut(&$crate::cpython::Object)) {
                self.waiters.for_each(see);
            }

            fn release_others(&self) {
                self.waiters.clear();
            }
        }
    };
}
pub(super) use primitive_class;

/// An object as a primitive of this kind, if its class is Rondel's own (not a subclass) and no
/// method is overridden on it.
#[inline]
pub(super) fn plain<T: Primitive>(object: &Object) -> Option<&Native<T>> {
    object
        .exact::<T>()
        .filter(|this| !this.bound().is_patched())
}

/// A new primitive of this kind, with no arguments.
pub(super) fn new_instance<T: Primitive>() -> Res<OwnedNative<T>> {
    let object = T::class().object().call(&[])?;
    // SAFETY: an instance of the class, whose `__new__` is ours: it holds `T`.
    Ok(unsafe { OwnedNative::new(object) })
}

unsafe extern "C" fn new<T: Primitive>(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the fields are initialized before the object is visible to any other code.
    guard_object(|| unsafe {
        let object = allocate(class)?;
        let fields = object.as_ptr().byte_add(T::offset()).cast::<T>();
        fields.write(T::default());
        Ok(object)
    })
}

unsafe extern "C" fn init<T: Primitive>(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the contract of `tp_init`: an instance of the class, a tuple, and a dict or null.
        unsafe {
            let this = Native::from_ptr(object);
            with_tuple_and_dict(args, kwargs, |args| T::init(this, args))?;
        }
        Ok(0)
    })
}

unsafe extern "C" fn repr<T: Primitive>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    guard_object(|| T::repr(unsafe { Native::from_ptr(object) }))
}

/// Starts the native base class of a primitive's class.
pub(super) fn native_type<T: Primitive>(name: &'static CStr) -> TypeBuilder {
    TypeBuilder::new::<T>(name, None, T::offset())
        .subclassable()
        .slot(ffi::Py_tp_new, slot_fn!(new::<T>, ffi::newfunc))
        .slot(ffi::Py_tp_init, slot_fn!(init::<T>, ffi::initproc))
        .slot(ffi::Py_tp_repr, slot_fn!(repr::<T>, ffi::reprfunc))
        .slot(
            ffi::Py_tp_setattro,
            slot_fn!(setattro::<T>, ffi::setattrofunc),
        )
        .collected::<T>()
        .getset([getset(
            c"_loop",
            get_loop_attribute::<T>,
            Some(set_loop_attribute::<T>),
        )])
}

/// The running loop, to which the primitive is bound from now on. `RuntimeError` if it is bound to
/// another.
#[inline]
fn get_loop<T: Primitive>(this: &Native<T>) -> Res<Owned> {
    let running = running_loop()?;
    let bound = this.bound();
    match bound.event_loop.get() {
        Some(event_loop) if event_loop.is(&running) => {}
        None if running.is_none() => {}
        None => bound.event_loop.set(running.clone()),
        Some(_) => return wrong_loop(this.object()),
    }
    Ok(running)
}

#[cold]
fn wrong_loop<T>(object: &Object) -> Res<T> {
    let text = object.repr()?.to_text()?;
    runtime_error(&format!("{text} is bound to a different event loop"))
}

/// Creates a future to wait on, in the running loop.
#[inline]
pub(super) fn new_waiter<T: Primitive>(this: &Native<T>) -> Res<Owned> {
    let event_loop = get_loop(this)?;
    match LoopCore::of(&event_loop) {
        Some(core) => future::new_waiter(core).map(OwnedNative::into_owned),
        None => event_loop.call_method(&names().create_future, &[]),
    }
}

/// Waits for a future from [`new_waiter`].
#[inline]
pub(super) fn wait_on(waiter: Owned) -> Res<Next> {
    match future::into_plain(waiter) {
        Ok(waiter) if !waiter.is_done() => Ok(Next::Wait(waiter)),
        Ok(waiter) => iterator_of(waiter.object()).map(Next::Await),
        Err(waiter) => iterator_of(&waiter).map(Next::Await),
    }
}

unsafe extern "C" fn get_loop_attribute<T: Primitive>(
    this: *mut ffi::PyObject,
    _: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class.
    let this = unsafe { Native::<T>::from_ptr(this) };
    guard_object(|| Ok(this.bound().event_loop.or_none()))
}

unsafe extern "C" fn set_loop_attribute<T: Primitive>(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _: *mut c_void,
) -> c_int {
    guard(-1, || {
        // SAFETY: the interpreter passes an instance of the class, and a value or null.
        let (this, value) = unsafe { (Native::<T>::from_ptr(this), Object::from_nullable(value)) };
        let value = value.filter(|value| !value.is_none()).map(Object::own);
        drop(this.bound().event_loop.replace(value));
        Ok(0)
    })
}

/// `tp_setattro`: records whether a method that other methods call is overridden.
unsafe extern "C" fn setattro<T: Primitive>(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the contract of `tp_setattro`: an instance of the class, a name, and a value or
        // null.
        let (result, this, name) = unsafe {
            (
                ffi::PyObject_GenericSetAttr(object, name, value),
                Native::<T>::from_ptr(object),
                Object::from_ptr(name),
            )
        };
        let names = names();
        let called_by_others: [&Object; 11] = [
            &names.acquire,
            &names.release,
            &names.locked,
            &names.wait,
            &names.get_nowait,
            &names.put_nowait,
            &names.queue_get,
            &names.queue_put,
            &names.empty,
            &names.full,
            &names.qsize,
        ];
        if called_by_others.iter().any(|method| method.is(name)) {
            this.bound().patched.set(true);
        }
        Ok(result)
    })
}

/// `<rondel.Lock object at 0x… [extra]>`.
pub(super) fn describe(object: &Object, extra: &str) -> Res<Owned> {
    // SAFETY: a live object; `object` has a repr.
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

/// Like [`describe`], with the number of waiters after `extra` unless it is 0.
pub(super) fn describe_waiting(object: &Object, extra: &str, waiters: usize) -> Res<Owned> {
    match waiters {
        0 => describe(object, extra),
        _ => describe(object, &format!("{extra}, waiters:{waiters}")),
    }
}
