//! The protocol factory of `start_server`: for each connection a `StreamReaderProtocol` with its
//! reader.
//!
//! It can be called like any factory. A native listener makes the protocol without a Python call.

use pyo3::ffi;

use super::{protocol, reader};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::method::Args;
use crate::cpython::native::{Class, Fields, Native, NativeClass};
use crate::cpython::slots::{call_slot, init_slot};
use crate::cpython::types::{TypeBuilder, slot_fn};
use crate::cpython::{Owned, Res, Slot, none};
use crate::transport::above::Factories;

/// A factory's fields behind the object header.
#[repr(C)]
struct Factory {
    client_connected_cb: Slot,
    event_loop: Slot,
    limit: std::cell::Cell<usize>,
}

static CLASS: Class = Class::new();
const OFFSET: usize = size_of::<ffi::PyObject>();

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Factory {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Factory {
    slots!(client_connected_cb, event_loop);
}

// SAFETY: no class derives from it.
unsafe impl NativeClass for Factory {
    fn class() -> &'static Class {
        &CLASS
    }
}

/// What a listener asks of these.
pub(super) static FACTORIES: Factories = Factories {
    is_native: Factory::is_exact,
    make_protocol: |factory| match factory.exact::<Factory>() {
        Some(this) => make_protocol(this),
        None => factory.call(&[]),
    },
};

/// Makes a protocol.
fn make_protocol(this: &Native<Factory>) -> Res<Owned> {
    let (callback, event_loop) = (
        this.client_connected_cb.or_none(),
        this.event_loop.or_none(),
    );
    protocol::make_for_server(&callback, this.limit.get(), &event_loop)
}

fn init(this: &Native<Factory>, args: Args<'_>) -> Res<()> {
    let parameters = ["client_connected_cb", "limit", "loop"];
    let given = args.parse("StreamFactory.__init__", parameters, 3, 3)?;
    let [callback, limit, event_loop] = given.map(|given| given.unwrap_or(none()));
    // An invalid limit raises here, and not for each connection.
    this.limit.set(reader::limit_of(limit)?);
    this.client_connected_cb.set(callback.own());
    this.event_loop.set(event_loop.own());
    Ok(())
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    let class = TypeBuilder::new::<Factory>(c"rondel._rondel.StreamFactory", None, OFFSET)
        .doc(c"StreamFactory(client_connected_cb, limit, loop)\n--\n\nThe protocol factory of start_server.")
        .slot(ffi::Py_tp_new, slot_fn!(ffi::PyType_GenericNew, ffi::newfunc))
        .slot(ffi::Py_tp_init, init_slot!(init))
        .slot(ffi::Py_tp_call, call_slot!(make_protocol))
        .collected::<Factory>()
        .build()?;
    CLASS.set(&class);
    Ok(class)
}
