//! Replaces functions on Python 3.11, where the evaluation loop ignores a function's own
//! vectorcall.
//!
//! Running the bytecode of `function.rs` takes 30 ns, and 200 where arguments have to be collected,
//! as for `call_soon`. So a function that is not a coroutine function is replaced, in its class or
//! module, by an object of a type of its own. That object is called as fast as a function of later
//! versions, binds like a function, and has the function's attributes, class included.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::collected::{Collected, slots};
use super::error::{guard_object, type_error};
use super::method::{Args, attribute, method};
use super::native::Fields;
use super::object::check;
use super::private::PyMethod_New;
use super::types::{TypeBuilder, allocate, slot_fn};
use super::{Object, Owned, Res, Slot};

#[repr(C)]
struct StandIn {
    vectorcall: Cell<Option<ffi::vectorcallfunc>>,
    function: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
}

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for StandIn {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for StandIn {
    slots!(function);
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// The function itself is called, by the vectorcall that it has for calls from C.
unsafe extern "C" fn call(
    object: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a live instance, which holds a function, and a call's arguments, passed on as they
    // are.
    unsafe {
        let Some(function) = StandIn::of(Object::from_ptr(object)).function.get() else {
            return ffi::PyErr_NoMemory();
        };
        let function = function.as_ptr();
        match (*function.cast::<ffi::PyFunctionObject>()).vectorcall {
            Some(call) => call(function, args, nargs, kwnames),
            None => ffi::PyObject_Vectorcall(function, args, nargs, kwnames),
        }
    }
}

unsafe extern "C" fn get(
    object: *mut ffi::PyObject,
    this: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the slot's contract: a live instance, and an object or null.
    unsafe {
        if this.is_null() || this == ffi::Py_None() {
            return Object::from_ptr(object).own().into_ptr();
        }
        PyMethod_New(object, this)
    }
}

fn function_of(object: &Object) -> Owned {
    StandIn::of(object).function.or_none()
}

unsafe extern "C" fn getattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract.
        let (object, name) = unsafe { (Object::from_ptr(object), Object::from_ptr(name)) };
        if name.to_text()?.starts_with("__reduce") {
            // `pickle` and `copy` look functions up by name.
            // SAFETY: live objects.
            return unsafe {
                Owned::steal(ffi::PyObject_GenericGetAttr(object.as_ptr(), name.as_ptr()))
            };
        }
        function_of(object).getattr(name)
    })
}

unsafe extern "C" fn setattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: the slot's contract: live objects, and a value or null.
    unsafe {
        let function = function_of(Object::from_ptr(object));
        ffi::PyObject_SetAttr(function.as_ptr(), name, value)
    }
}

unsafe extern "C" fn repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the slot's contract.
    guard_object(|| function_of(unsafe { Object::from_ptr(object) }).repr())
}

/// Attributes that are the function's. `getattro` gives them, but tools look for the descriptors.
macro_rules! of_function {
    ($name:literal) => {{
        fn getter(object: &Object) -> Res<Owned> {
            // SAFETY: a live object and a C string.
            unsafe { Owned::steal(ffi::PyObject_GetAttrString(function_of(object).as_ptr(), $name.as_ptr())) }
        }
        fn setter(object: &Object, value: Option<&Object>) -> Res<()> {
            let value = value.map_or(ptr::null_mut(), Object::as_ptr);
            // SAFETY: a live object, a C string, and a live object or null.
            check(unsafe { ffi::PyObject_SetAttrString(function_of(object).as_ptr(), $name.as_ptr(), value) })
        }
        attribute!($name getter, setter)
    }};
}

fn reduce(object: &Object, _: Args<'_>) -> Res<Owned> {
    function_of(object).getattr(&*Owned::from_str("__qualname__")?)
}

/// `stand_in(function)`: what stands for it.
pub(super) fn stand_in(_: &Object, function: &Object) -> Res<Owned> {
    if !ptr::eq(function.type_ptr(), &raw const ffi::PyFunction_Type) {
        return type_error("stand_in() takes a function");
    }
    // SAFETY: all-zero fields are valid.
    let object = unsafe { allocate(CLASS.load(Ordering::Relaxed))? };
    let fields = StandIn::of(&object);
    fields.function.set(function.own());
    fields.vectorcall.set(Some(call));
    Ok(object)
}

/// Makes the type.
pub(super) fn init() -> Res<()> {
    let offset = size_of::<ffi::PyObject>();
    let class = TypeBuilder::new::<StandIn>(c"rondel._rondel.StandIn", None, offset)
        .not_instantiable()
        .method_descriptor()
        .weaklist(offset + std::mem::offset_of!(StandIn, weakrefs))
        .slot(ffi::Py_tp_descr_get, slot_fn!(get, ffi::descrgetfunc))
        .slot(ffi::Py_tp_getattro, slot_fn!(getattro, ffi::getattrofunc))
        .slot(ffi::Py_tp_setattro, slot_fn!(setattro, ffi::setattrofunc))
        .slot(ffi::Py_tp_repr, slot_fn!(repr, ffi::reprfunc))
        .collected::<StandIn>()
        .vectorcall(offset)
        .getset([
            of_function!(c"__code__"),
            of_function!(c"__defaults__"),
            of_function!(c"__kwdefaults__"),
            of_function!(c"__qualname__"),
            of_function!(c"__name__"),
        ])
        .methods([
            method!(fast c"__reduce__" reduce, c"The name by which it is found."),
            method!(fast c"__reduce_ex__" reduce, c"The name by which it is found."),
        ])
        .build()?;
    CLASS.store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}
