//! The protocol factory of `start_server`: for each connection a `StreamReaderProtocol` with its reader.
//!
//! A callable like any other to whoever calls it; a listener of ours makes the protocol without a Python call.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::{protocol, reader};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{guard, guard_object};
use crate::cpython::method::with_tuple_and_dict;
use crate::cpython::native::Fields;
use crate::cpython::types::{TypeBuilder, slot_fn};
use crate::cpython::{Object, Owned, Res, Slot, none};

/// A factory's fields behind the object header.
#[repr(C)]
struct Factory {
    client_connected_cb: Slot,
    event_loop: Slot,
    limit: std::cell::Cell<usize>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
const OFFSET: usize = size_of::<ffi::PyObject>();

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Factory {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Factory {
    slots!(client_connected_cb, event_loop);
}

#[inline]
fn fields(object: &Object) -> &Factory {
    Factory::of(object)
}

/// Whether making a protocol runs no code of the program's.
pub(crate) fn is_native(factory: &Object) -> bool {
    ptr::eq(factory.type_ptr(), CLASS.load(Ordering::Relaxed))
}

/// Makes a protocol: natively if the factory is one of ours.
pub(crate) fn make_protocol(factory: &Object) -> Res<Owned> {
    if !is_native(factory) {
        return factory.call(&[]);
    }
    let this = fields(factory);
    let (callback, event_loop) = (
        this.client_connected_cb.or_none(),
        this.event_loop.or_none(),
    );
    protocol::make_for_server(&callback, this.limit.get(), &event_loop)
}

unsafe extern "C" fn init(
    factory: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        let this = fields(unsafe { Object::from_ptr(factory) });
        // SAFETY: the slot's contract.
        unsafe {
            with_tuple_and_dict(args, kwargs, |args| {
                let parameters = ["client_connected_cb", "limit", "loop"];
                let given = args.parse("StreamFactory.__init__", parameters, 3, 3)?;
                let [callback, limit, event_loop] = given.map(|given| given.unwrap_or(none()));
                // A limit that makes no reader raises here, once, and not for each connection.
                this.limit.set(reader::limit_of(limit)?);
                this.client_connected_cb.set(callback.own());
                this.event_loop.set(event_loop.own());
                Ok(())
            })?;
        }
        Ok(0)
    })
}

unsafe extern "C" fn call(
    factory: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    guard_object(|| make_protocol(unsafe { Object::from_ptr(factory) }))
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    let class = TypeBuilder::new::<Factory>(c"rondel._rondel.StreamFactory", None, OFFSET)
        .doc(c"StreamFactory(client_connected_cb, limit, loop)\n--\n\nThe protocol factory of start_server.")
        .slot(ffi::Py_tp_new, slot_fn!(ffi::PyType_GenericNew, ffi::newfunc))
        .slot(ffi::Py_tp_init, slot_fn!(init, ffi::initproc))
        .slot(ffi::Py_tp_call, slot_fn!(call, ffi::ternaryfunc))
        .collected::<Factory>()
        .build()?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}
