//! `TLSTransportCore`: the native base of `rondel._tls.SSLTransport`, whose other base is asyncio's
//! transport over TLS.
//!
//! The methods that a program calls per message are here, the rest is asyncio's. A method that is
//! overridden on an instance is honoured: native callers check with [`plain`] first.

use std::cell::Cell;
use std::ffi::c_int;

use pyo3::ffi;

use super::names::imports;
use super::protocol::Tls;
use super::{reading, writing};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{guard, guard_object, type_error};
use crate::cpython::method::{GetSet, Method, attribute, method};
use crate::cpython::native::{Class, Fields, Native, NativeClass, This};
use crate::cpython::types::{TypeBuilder, allocate, bind_method, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, names, none};
use crate::transport::above::Upper;
use crate::transport::chunk::Chunk;
use crate::transport::loop_calls::take_unless_exit;
use crate::transport::socket;
use crate::transport::unsent::Unsent;
use crate::transport::writing as below;

/// A transport's fields, behind those of `_FlowControlMixin`.
#[repr(C)]
pub(crate) struct Transport {
    event_loop: Slot,
    ssl_protocol: Slot,
    closed: Cell<bool>,
    /// Whether the program has set attributes.
    patched: Cell<bool>,
}

/// `rondel._tls.SSLTransport`.
static CLASS: Class = Class::new();
/// The native base of all of them.
pub(super) static CORE: Class = Class::new();

// SAFETY: the fields stand at that offset; zeroed ones are valid.
unsafe impl Fields for Transport {
    #[inline]
    fn offset() -> usize {
        CORE.offset()
    }
}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Transport {
    slots!(event_loop, ssl_protocol);
}

// SAFETY: instances of derived classes have the fields as well, zeroed at first; the bound class is
// derived.
unsafe impl NativeClass for Transport {
    fn class() -> &'static Class {
        &CORE
    }

    /// Whether it is exactly a `rondel._tls.SSLTransport`.
    #[inline]
    fn is_exact(object: &Object) -> bool {
        CLASS.is_exact(object)
    }
}

/// What streams ask of these.
pub(super) static UPPER: Upper = Upper {
    is_plain: |object| plain(object).is_some(),
    write: |object, data| match object.exact() {
        Some(this) => write(this, data),
        None => object.call_method(&names().write, &[data]),
    },
    is_closing: |object| match object.exact() {
        Some(this) => is_closing(this),
        None => object.call_method(&names().is_closing, &[])?.is_true(),
    },
};

/// An object that is a TLS transport of ours over a protocol of ours, none of whose methods is
/// overridden on the instance.
#[inline]
fn plain(object: &Object) -> Option<&Native<Transport>> {
    object.exact::<Transport>().filter(|this| {
        let protocol = this.ssl_protocol.get();
        !this.patched.get() && protocol.is_some_and(Tls::is_exact)
    })
}

/// `transport.write(data)`.
#[inline]
pub(crate) fn write(this: &Native<Transport>, data: &Object) -> Res<Owned> {
    let owner = this.ssl_protocol.or_none();
    let chunk = match Chunk::exact(data) {
        Some(chunk) => chunk.into(),
        None => {
            check_bytes_like(data)?;
            match Unsent::of_buffer(data) {
                Ok(chunk) => chunk,
                Err(Raised) => return cannot_be_encrypted(this, data),
            }
        }
    };
    if chunk.as_ref().is_empty() {
        return Ok(Owned::none());
    }
    match owner.exact() {
        Some(tls) => writing::write(tls, chunk)?,
        None => {
            let list = Owned::tuple(&[data])?;
            owner.call_method(&names().write_appdata, &[&list])?;
        }
    }
    Ok(Owned::none())
}

/// The buffer cannot be exported, which asyncio notices when it encrypts.
#[cold]
fn cannot_be_encrypted(this: &Native<Transport>, data: &Object) -> Res<Owned> {
    drop(take_unless_exit()?);
    writelines(this, &*Owned::tuple(&[data])?)
}

#[cold]
fn check_bytes_like(data: &Object) -> Res<()> {
    if data.is_bytes_like() {
        return Ok(());
    }
    type_error(&format!(
        "data: expecting a bytes-like instance, got {}",
        data.class_name()?
    ))
}

fn writelines(this: &Native<Transport>, list: &Object) -> Res<Owned> {
    let owner = this.ssl_protocol.or_none();
    match owner.exact() {
        Some(tls) => writing::write_appdata(tls, list),
        None => owner.call_method(&names().write_appdata, &[list]),
    }
}

/// Whether it is closed or about to be.
pub(crate) fn is_closing(this: &Native<Transport>) -> Res<bool> {
    let Some(owner) = this.ssl_protocol.cloned() else {
        return Ok(this.closed.get());
    };
    // As in the transport below, the kernel is asked whether sending would fail.
    if let Some(tls) = owner.exact::<Tls>()
        && let Some(transport) = tls.transport.cloned()
    {
        match socket::plain(&transport) {
            None if tls.is_dirty() => writing::flush(tls)?,
            Some(socket) if (tls.is_dirty() || socket.is_dirty()) && socket.has_failed() => {
                writing::flush(tls)?;
                below::flush_if_dirty(socket)?;
            }
            _ => {}
        }
    }
    if this.closed.get() {
        return Ok(true);
    }
    match imports().asks_below {
        true => owner.call_method(&names().closing, &[])?.is_true(),
        false => Ok(false),
    }
}

fn is_closing_method(this: &Native<Transport>) -> Res<Owned> {
    Ok(Owned::from_bool(is_closing(this)?))
}

fn pause_reading(this: &Native<Transport>) -> Res<Owned> {
    let owner = this.ssl_protocol.or_none();
    match owner.exact() {
        Some(tls) => reading::pause_reading(tls),
        None => owner.call_method(&names().pause_tls_reading, &[]),
    }
}

fn resume_reading(this: &Native<Transport>) -> Res<Owned> {
    let owner = this.ssl_protocol.or_none();
    match owner.exact() {
        Some(tls) => reading::resume_reading(tls),
        None => owner.call_method(&names().resume_tls_reading, &[]),
    }
}

// ---- attributes ----

fn get_loop(this: &Native<Transport>) -> Res<Owned> {
    Ok(this.event_loop.or_none())
}

fn set_loop(this: &Native<Transport>, value: Option<&Object>) -> Res<()> {
    this.event_loop.set(value.unwrap_or(none()).own());
    Ok(())
}

fn get_ssl_protocol(this: &Native<Transport>) -> Res<Owned> {
    Ok(this.ssl_protocol.or_none())
}

fn set_ssl_protocol(this: &Native<Transport>, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(this.ssl_protocol.replace(value));
    Ok(())
}

fn get_closed(this: &Native<Transport>) -> Res<Owned> {
    Ok(Owned::from_bool(this.closed.get()))
}

fn set_closed(this: &Native<Transport>, value: Option<&Object>) -> Res<()> {
    let closed = value.unwrap_or(none()).is_true()?;
    this.closed.set(closed);
    Ok(())
}

fn methods() -> Vec<Method> {
    vec![
        method!(named c"write" ("data") write, c"Writes bytes, without waiting."),
        method!(named c"writelines" ("list_of_data") writelines, c"Writes several bytes objects, without waiting."),
        method!(noargs c"is_closing" is_closing_method, c"Whether it is closed or about to be."),
        method!(noargs c"pause_reading" pause_reading, c"Stops passing data to the protocol until resume_reading()."),
        method!(noargs c"resume_reading" resume_reading, c"Passes received data to the protocol again."),
    ]
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_loop" get_loop, set_loop),
        attribute!(c"_ssl_protocol" get_ssl_protocol, set_ssl_protocol),
        attribute!(c"_closed" get_closed, set_closed),
    ]
}

// ---- the type ----

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: zeroed fields are valid.
    guard_object(|| unsafe { allocate(class) })
}

unsafe extern "C" fn setattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        unsafe {
            let own = [&names().loop_attr, &names().ssl_protocol, &names().closed];
            let name = Object::from_ptr(name);
            if !own.iter().any(|known| known.is(name)) {
                Native::<Transport>::this(object).patched.set(true);
            }
            Ok(ffi::PyObject_GenericSetAttr(object, name.as_ptr(), value))
        }
    })
}

/// Makes the native base.
pub(super) fn init_type() -> Res<Owned> {
    let base = &imports().flow_control;
    let offset = base.basicsize();
    CORE.set_offset(offset);
    let class =
        TypeBuilder::new::<Transport>(c"rondel._rondel.TLSTransportCore", Some(base), offset)
            .subclassable()
            .doc(c"The native half of a transport over TLS.")
            .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
            .slot(ffi::Py_tp_setattro, slot_fn!(setattro, ffi::setattrofunc))
            .collected::<Transport>()
            .methods(methods())
            .getset(attributes())
            .build()?;
    CORE.set(&class);
    Ok(class)
}

/// Adds the methods to the class that programs see.
pub(super) fn bind(class: &Object) -> Res<()> {
    for method in &methods() {
        bind_method(class, method)?;
    }
    CLASS.set(class);
    Ok(())
}
