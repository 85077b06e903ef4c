//! `StreamWriter`. It passes everything on to its transport, directly if that is native.
//!
//! `drain` and `wait_closed` are in `drain.rs`; `start_tls` is in `python/rondel/_streams.py`.

use std::cell::Cell;

use pyo3::ffi;

use super::attributes::object;
use super::{drain, reader};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::native::{Class, Fields, Native, NativeClass, OwnedNative};
use crate::cpython::slots::{init_slot, unary_slot};
use crate::cpython::types::{TypeBuilder, allocate, derive_from, slot_fn};
use crate::cpython::{Object, Owned, Res, Slot, names, none};
use crate::transport::loop_calls::{create_future, is_closed, warn_of_resource};
use crate::transport::names::imports;
use crate::transport::{above, socket, writing};

/// A writer's fields behind the object header. All zero bytes are its state before `__init__`.
#[repr(C)]
pub(crate) struct Writer {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    pub(super) transport: Slot,
    pub(super) protocol: Slot,
    pub(super) reader: Slot,
    event_loop: Slot,
    /// `_complete_fut`, a future that is done. Made on first use.
    complete: Slot,
}

static CLASS: Class = Class::new();
const OFFSET: usize = size_of::<ffi::PyObject>();

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Writer {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Writer {
    const FINALIZED: bool = true;

    slots!(dict, transport, protocol, reader, event_loop, complete);

    /// A writer that was never closed closes its transport, and emits a `ResourceWarning`.
    fn finalize(this: &Native<Self>) -> Res<()> {
        let Some(transport) = this.transport.cloned() else {
            return Ok(());
        };
        if socket::plain(&transport).is_some_and(|socket| socket.is_closing())
            || transport.call_method(&names().is_closing, &[])?.is_true()?
        {
            return Ok(());
        }
        if is_closed(&this.event_loop.or_none())? {
            return warn_of_resource("loop is closed", None);
        }
        this.object().call_method(&names().close, &[])?;
        let text = format!("unclosed {}", this.object().repr()?.to_text()?);
        warn_of_resource(&text, None)
    }
}

// SAFETY: instances of derived classes have the fields as well, zeroed at first.
unsafe impl NativeClass for Writer {
    #[inline]
    fn class() -> &'static Class {
        &CLASS
    }
}

/// A new writer.
pub(crate) fn make(
    transport: &Object,
    protocol: &Object,
    reader: Option<&Object>,
    event_loop: &Object,
) -> Res<Owned> {
    // SAFETY: zeroed fields are valid.
    let this = unsafe { OwnedNative::<Writer>::new(allocate(CLASS.as_ptr())?) };
    fill(&this, transport, protocol, reader, event_loop);
    Ok(this.into_owned())
}

fn fill(
    this: &Native<Writer>,
    transport: &Object,
    protocol: &Object,
    reader: Option<&Object>,
    event_loop: &Object,
) {
    this.transport.set(transport.own());
    this.protocol.set(protocol.own());
    drop(this.reader.replace(reader.map(Object::own)));
    this.event_loop.set(event_loop.own());
}

// ---- methods ----

fn write(this: &Native<Writer>, data: &Object) -> Res<Owned> {
    let transport = this.transport.or_none();
    if let Some(socket) = socket::plain(&transport) {
        return writing::write(socket, data);
    }
    if let Some(upper) = above::upper(&transport) {
        return (upper.write)(&transport, data);
    }
    transport.call_method(&names().write, &[data])?;
    Ok(Owned::none())
}

fn writelines(this: &Native<Writer>, data: &Object) -> Res<Owned> {
    let transport = this.transport.or_none();
    transport.call_method(&names().writelines, &[data])?;
    Ok(Owned::none())
}

fn write_eof(this: &Native<Writer>) -> Res<Owned> {
    this.transport
        .or_none()
        .call_method(&names().write_eof, &[])
}

fn can_write_eof(this: &Native<Writer>) -> Res<Owned> {
    this.transport
        .or_none()
        .call_method(&names().can_write_eof, &[])
}

fn close(this: &Native<Writer>) -> Res<Owned> {
    this.transport.or_none().call_method(&names().close, &[])
}

fn is_closing(this: &Native<Writer>) -> Res<Owned> {
    this.transport
        .or_none()
        .call_method(&names().is_closing, &[])
}

fn get_extra_info(this: &Native<Writer>, args: Args<'_>) -> Res<Owned> {
    let [name, default] = args.parse("StreamWriter.get_extra_info", ["name", "default"], 2, 1)?;
    let (name, default) = (name.unwrap_or(none()), default.unwrap_or(none()));
    this.transport
        .or_none()
        .call_method(&names().get_extra_info, &[name, default])
}

// ---- attributes ----

object!(Writer: get_transport, set_transport, transport);
object!(Writer: get_protocol, set_protocol, protocol);
object!(Writer: get_reader, set_reader, reader);
object!(Writer: get_loop, set_loop, event_loop);

fn get_complete(this: &Native<Writer>) -> Res<Owned> {
    if let Some(complete) = this.complete.cloned() {
        return Ok(complete);
    }
    let complete = create_future(&this.event_loop.or_none())?;
    complete.call_method(&names().set_result, &[none()])?;
    this.complete.set(complete.clone());
    Ok(complete)
}

// ---- the type ----

fn init(this: &Native<Writer>, args: Args<'_>) -> Res<()> {
    let parameters = ["transport", "protocol", "reader", "loop"];
    let [transport, protocol, reader, event_loop] =
        args.parse("StreamWriter.__init__", parameters, 4, 4)?;
    let reader = reader.filter(|reader| !reader.is_none());
    if let Some(reader) = reader
        && !reader::is_any_reader(reader)?
    {
        return reader::assertion_error("reader must be a StreamReader or None");
    }
    let given = |argument: Option<&Object>| argument.unwrap_or(none()).own();
    fill(
        this,
        &given(transport),
        &given(protocol),
        reader,
        &given(event_loop),
    );
    Ok(())
}

fn describe(this: &Native<Writer>) -> Res<Owned> {
    let class = this.object().class_name()?;
    let transport = this.transport.or_none().repr()?.to_text()?;
    let mut text = format!("<{class} transport={transport}");
    if let Some(reader) = this.reader.cloned() {
        text.push_str(&format!(" reader={}", reader.repr()?.to_text()?));
    }
    text.push('>');
    Owned::from_str(&text)
}

fn methods() -> Vec<Method> {
    vec![
        method!(named c"write" ("data") write, c"Writes bytes, without waiting."),
        method!(named c"writelines" ("data") writelines, c"Writes several bytes objects, without waiting."),
        method!(noargs c"write_eof" write_eof, c"Ends the writing half once everything is sent."),
        method!(noargs c"can_write_eof" can_write_eof, c"Whether the transport has write_eof()."),
        method!(noargs c"close" close, c"Closes the transport once everything is sent."),
        method!(noargs c"is_closing" is_closing, c"Whether the stream is closed or about to be."),
        method!(noargs c"wait_closed" drain::wait_closed, c"Waits until the stream is closed."),
        method!(noargs c"drain" drain::drain, c"Waits until writing may continue."),
        method!(fast c"get_extra_info(name, default=None)" get_extra_info, c"Returns optional information about the transport."),
    ]
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"transport" get_transport),
        attribute!(c"_transport" get_transport, set_transport),
        attribute!(c"_protocol" get_protocol, set_protocol),
        attribute!(c"_reader" get_reader, set_reader),
        attribute!(c"_loop" get_loop, set_loop),
        attribute!(c"_complete_fut" get_complete),
    ]
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    let class = TypeBuilder::new::<Writer>(c"rondel.StreamWriter", None, OFFSET)
        .subclassable()
        .doc(c"StreamWriter(transport, protocol, reader, loop)\n--\n\nThe writing half of a stream, as asyncio.StreamWriter.")
        .dict(OFFSET + std::mem::offset_of!(Writer, dict))
        .weaklist(OFFSET + std::mem::offset_of!(Writer, weakrefs))
        .slot(ffi::Py_tp_new, slot_fn!(ffi::PyType_GenericNew, ffi::newfunc))
        .slot(ffi::Py_tp_init, init_slot!(init))
        .slot(ffi::Py_tp_repr, unary_slot!(describe))
        .collected::<Writer>()
        .methods(methods())
        .getset(attributes())
        .build()?;
    derive_from(&class, &imports().stock_writer)?;
    CLASS.set(&class);
    Ok(class)
}
