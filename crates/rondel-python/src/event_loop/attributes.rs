//! The attributes that asyncio's own code sets on a Rondel loop.
//!
//! The interpreter's inline cache for `loop.call_soon` works only if the object's `__dict__` was
//! never made; a method call then takes 40 ns less, a fifth of the cost of `call_soon`. But
//! asyncio's `__init__` sets some twenty attributes. `python/rondel/_event_loop.py` puts a
//! [`LoopAttribute`] into the class for each of these: a data descriptor that keeps the value in a
//! dict of the core. A program that sets other attributes loses only this speed.

use std::ffi::c_int;

use pyo3::ffi;

use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{attribute_error, guard, guard_object, type_error};
use crate::cpython::method::with_tuple_and_dict;
use crate::cpython::object::check;
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Fields, Object, Owned, Res, Slot};
use crate::loop_core::LoopCore;

#[repr(C)]
struct LoopAttribute {
    name: Slot,
}

// SAFETY: the fields follow the header, and zeroed fields are valid.
unsafe impl Fields for LoopAttribute {}

// SAFETY: all slots are listed.
unsafe impl Collected for LoopAttribute {
    slots!(name);
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract; all-zero fields are valid.
        unsafe {
            with_tuple_and_dict(args, kwargs, |args| {
                let [name] = args.parse("LoopAttribute", ["name"], 1, 1)?;
                let Some(name) = name else {
                    return type_error("LoopAttribute() needs a name");
                };
                let attribute = allocate(class)?;
                LoopAttribute::of(&attribute).name.set(name.own());
                Ok(attribute)
            })
        }
    })
}

unsafe extern "C" fn get(
    this: *mut ffi::PyObject,
    event_loop: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract: a live descriptor, and an instance or null.
        let (this, event_loop) =
            unsafe { (Object::from_ptr(this), Object::from_nullable(event_loop)) };
        let Some(core) = event_loop.and_then(LoopCore::of) else {
            return Ok(this.own()); // looked up on the class
        };
        let name = LoopAttribute::of(this).name.or_none();
        if let Some(values) = core.attributes.cloned() {
            // SAFETY: a dict and a live key; the result is a borrowed reference, or null without an
            // exception for a missing key.
            let value = unsafe {
                Object::from_nullable(ffi::PyDict_GetItemWithError(values.as_ptr(), name.as_ptr()))
            };
            if let Some(value) = value {
                return Ok(value.own());
            }
        }
        let (class, name) = (core.object().class_name()?, name.to_text()?);
        attribute_error(&format!("'{class}' object has no attribute '{name}'"))
    })
}

unsafe extern "C" fn set(
    this: *mut ffi::PyObject,
    event_loop: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract: a live descriptor and instance, and a value or null.
        let (this, event_loop, value) = unsafe {
            (
                Object::from_ptr(this),
                Object::from_ptr(event_loop),
                Object::from_nullable(value),
            )
        };
        let Some(core) = LoopCore::of(event_loop) else {
            return type_error("a LoopAttribute belongs into a loop's class");
        };
        let values = match core.attributes.cloned() {
            Some(values) => values,
            None => {
                let values = Owned::dict()?;
                core.attributes.set(values.clone());
                values
            }
        };
        let name = LoopAttribute::of(this).name.or_none();
        // SAFETY: a dict, a live key, and a live value.
        let result = unsafe {
            match value {
                Some(value) => ffi::PyDict_SetItem(values.as_ptr(), name.as_ptr(), value.as_ptr()),
                None => ffi::PyDict_DelItem(values.as_ptr(), name.as_ptr()),
            }
        };
        if result < 0 && value.is_none() {
            drop(crate::cpython::error::take_exception());
            return attribute_error(&name.to_text()?);
        }
        check(result)?;
        Ok(0)
    })
}

/// Makes the class.
pub(crate) fn init_type() -> Res<Owned> {
    TypeBuilder::new::<LoopAttribute>(
        c"rondel._rondel.LoopAttribute",
        None,
        LoopAttribute::offset(),
    )
    .doc(c"An attribute of loops that is kept in the native core.")
    .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
    .slot(ffi::Py_tp_descr_get, slot_fn!(get, ffi::descrgetfunc))
    .slot(ffi::Py_tp_descr_set, slot_fn!(set, ffi::descrsetfunc))
    .collected::<LoopAttribute>()
    .build()
}
