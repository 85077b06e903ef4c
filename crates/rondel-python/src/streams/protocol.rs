//! `StreamReaderProtocol`: the protocol between a transport and a `StreamReader`.
//!
//! A native transport calls the functions here directly ([`RECEIVER`]). Other transports, and
//! subclasses, use the methods.
//!
//! As in asyncio, a client's protocol holds its reader weakly, and a server's strongly until the
//! connection is made. `_closed` and `_drain_waiters` are made on first use, so that an idle
//! connection never has them.

use std::cell::Cell;

use pyo3::ffi;

use super::attributes::{flag, object};
use super::{drain, handler, reader, writer};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::native::{Class, Fields, Native, NativeClass, OwnedNative};
use crate::cpython::slots::init_slot;
use crate::cpython::types::{TypeBuilder, allocate, derive_from};
use crate::cpython::{Object, Owned, Res, Slot, names, none};
use crate::loop_core::is_debug;
use crate::transport::chunk::Chunk;
use crate::transport::loop_calls::{call_exception_handler, create_future, debug_in_log};
use crate::transport::names::imports;
use crate::transport::receiver::{self, Receiver};
use crate::transport::socket;

/// A protocol's fields, behind those of `asyncio.Protocol`. All zero bytes are its state before
/// `__init__`.
#[repr(C)]
pub(crate) struct Protocol {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    pub(super) event_loop: Slot,
    reader_ref: Slot,
    strong_reader: Slot,
    transport: Slot,
    client_connected_cb: Slot,
    task: Slot,
    writer: Slot,
    source_traceback: Slot,
    closed: Slot,
    /// The exception that the connection was lost with.
    lost_with: Slot,
    waiters: Slot,
    pub(super) paused: Cell<bool>,
    pub(super) connection_lost: Cell<bool>,
    reject_connection: Cell<bool>,
    over_ssl: Cell<bool>,
    /// Whether `connection_lost` was called while `closed` had not been asked for.
    closed_early: Cell<bool>,
}

static CLASS: Class = Class::new();

// SAFETY: the fields stand at that offset; zeroed ones are valid.
unsafe impl Fields for Protocol {
    #[inline]
    fn offset() -> usize {
        CLASS.offset()
    }
}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Protocol {
    const FINALIZED: bool = true;

    slots!(
        dict,
        event_loop,
        reader_ref,
        strong_reader,
        transport,
        client_connected_cb,
        task,
        writer,
        source_traceback,
        closed,
        lost_with,
        waiters
    );

    /// Marks the exception of `_closed` as retrieved, as asyncio does.
    fn finalize(this: &Native<Self>) -> Res<()> {
        let Some(closed) = this.closed.cloned() else {
            return Ok(());
        };
        if closed.call_method(&names().done, &[])?.is_true()?
            && !closed.call_method(&names().cancelled, &[])?.is_true()?
        {
            closed.call_method(&names().exception, &[])?;
        }
        Ok(())
    }
}

// SAFETY: instances of derived classes have the fields as well, zeroed at first.
unsafe impl NativeClass for Protocol {
    #[inline]
    fn class() -> &'static Class {
        &CLASS
    }
}

/// An object that is a protocol of ours, not of a subclass, none of whose methods is overridden on
/// the instance.
#[inline]
pub(crate) fn plain(object: &Object) -> Option<&Native<Protocol>> {
    object
        .exact::<Protocol>()
        .filter(|this| this.dict.is_empty())
}

/// The receiver for such a protocol: its reader is fed without a Python call.
pub(super) static RECEIVER: Receiver = Receiver {
    accepts: Protocol::is_exact,
    receive: None,
    data,
    eof: |protocol| match plain(protocol) {
        Some(this) => eof_received_natively(this),
        None => receiver::eof_received(protocol),
    },
    pause: |protocol| match plain(protocol) {
        Some(this) => pause_writing(this).map(drop),
        None => receiver::pause_writing(protocol),
    },
    resume: |protocol| match plain(protocol) {
        Some(this) => resume_writing(this).map(drop),
        None => receiver::resume_writing(protocol),
    },
    lost: |protocol, exception| match plain(protocol) {
        Some(this) => connection_lost(this, exception).map(drop),
        None => receiver::connection_lost(protocol, exception),
    },
    is_native: |protocol| plain(protocol).is_some(),
};

fn data(protocol: &Object, chunk: Chunk) -> Res<()> {
    if let Some(this) = plain(protocol) {
        let Some(stream_reader) = this.reader() else {
            return Ok(());
        };
        if let Some(stream_reader) = reader::plain(&stream_reader) {
            return reader::feed(stream_reader, chunk);
        }
    }
    receiver::data_received(protocol, chunk)
}

/// The protocol of one connection that a server accepts, with its reader.
pub(crate) fn make_for_server(
    client_connected_cb: &Object,
    limit: usize,
    event_loop: &Object,
) -> Res<Owned> {
    let reader = reader::make(limit, event_loop)?;
    // SAFETY: zeroed fields are valid.
    let this = unsafe { OwnedNative::<Protocol>::new(allocate(CLASS.as_ptr())?) };
    let reader = Some(reader.object());
    fill(&this, reader, Some(client_connected_cb), event_loop)?;
    Ok(this.into_owned())
}

fn fill(
    this: &Native<Protocol>,
    stream_reader: Option<&Object>,
    client_connected_cb: Option<&Object>,
    event_loop: &Object,
) -> Res<()> {
    this.event_loop.set(event_loop.own());
    if let Some(stream_reader) = stream_reader {
        this.reader_ref.set(Owned::weakref(stream_reader)?);
        if let Some(native) = reader::plain(stream_reader) {
            drop(
                this.source_traceback
                    .replace(native.source_traceback.cloned()),
            );
        } else {
            let traceback = stream_reader.getattr(&names().source_traceback)?;
            set_source_traceback(this, Some(&*traceback))?;
        }
        if client_connected_cb.is_some() {
            this.strong_reader.set(stream_reader.own());
        }
    }
    drop(
        this.client_connected_cb
            .replace(client_connected_cb.map(Object::own)),
    );
    Ok(())
}

impl Protocol {
    /// The reader, if it is still alive.
    #[inline]
    pub(crate) fn reader(&self) -> Option<Owned> {
        let weak = self.reader_ref.get()?;
        #[cfg(Py_3_13)]
        // SAFETY: a live weak reference; what comes out is a reference of ours, or null.
        unsafe {
            let mut reader = std::ptr::null_mut();
            ffi::compat::PyWeakref_GetRef(weak.as_ptr(), &mut reader);
            Owned::steal(reader).ok()
        }
        #[cfg(not(Py_3_13))]
        // SAFETY: a live weak reference; it gives a borrowed object, or None.
        unsafe {
            let reader = Object::from_ptr(ffi::PyWeakref_GetObject(weak.as_ptr()));
            (!reader.is_none()).then(|| reader.own())
        }
    }

    /// The queue of futures that `drain` waits on.
    pub(super) fn drain_waiters(&self) -> Res<Owned> {
        if let Some(waiters) = self.waiters.cloned() {
            return Ok(waiters);
        }
        let waiters = imports().deque.call(&[])?;
        self.waiters.set(waiters.clone());
        Ok(waiters)
    }

    /// Completes the futures that `drain` waits on.
    fn release_drains(&self, exception: Option<&Object>) -> Res<()> {
        let Some(waiters) = self.waiters.cloned() else {
            return Ok(());
        };
        // A copy, since completing a future may run code that changes the queue.
        // SAFETY: a live iterable.
        let list = waiters.to_tuple()?;
        for index in 0..crate::cpython::object::tuple_len(&list) {
            let waiter = crate::cpython::object::tuple_item(&list, index);
            if waiter.call_method(&names().done, &[])?.is_true()? {
                continue;
            }
            match exception {
                None => waiter.call_method(&names().set_result, &[none()])?,
                Some(exception) => waiter.call_method(&names().set_exception, &[exception])?,
            };
        }
        Ok(())
    }
}

/// `protocol.connection_made(transport)`.
pub(crate) fn connection_made(this: &Native<Protocol>, transport: &Object) -> Res<Owned> {
    let event_loop = this.event_loop.or_none();
    if this.reject_connection.get() {
        let message = "An open stream was garbage collected prior to establishing network connection; \
                       call \"stream.close()\" explicitly.";
        match this.source_traceback.cloned() {
            Some(origin) => {
                call_exception_handler(&event_loop, message, &[(c"source_traceback", &origin)])?;
            }
            None => call_exception_handler(&event_loop, message, &[])?,
        }
        transport.call_method(&names().abort, &[])?;
        return Ok(Owned::none());
    }
    this.transport.set(transport.own());
    let stream_reader = this.reader();
    if let Some(stream_reader) = &stream_reader {
        match reader::plain(stream_reader) {
            Some(native) => reader::set_transport(native, transport)?,
            None => stream_reader.call_method(&names().set_transport, &[transport])?,
        };
    }
    this.over_ssl.set(is_over_ssl(transport)?);
    if let Some(callback) = this.client_connected_cb.cloned() {
        let protocol = this.object();
        let stream_writer =
            writer::make(transport, protocol, stream_reader.as_deref(), &event_loop)?;
        if imports().protocol_keeps_writer {
            this.writer.set(stream_writer.clone());
        }
        let stream_reader = stream_reader.unwrap_or_else(Owned::none);
        let task = handler::start(
            &event_loop,
            transport,
            &callback,
            &stream_reader,
            &stream_writer,
        )?;
        drop(this.task.replace(task));
        this.strong_reader.clear();
    }
    Ok(Owned::none())
}

fn is_over_ssl(transport: &Object) -> Res<bool> {
    if socket::plain(transport).is_some_and(|transport| !transport.has_given_extra()) {
        return Ok(false);
    }
    let context = transport.call_method(&names().get_extra_info, &[&names().sslcontext])?;
    Ok(!context.is_none())
}

/// `protocol.connection_lost(exception)`.
pub(crate) fn connection_lost(this: &Native<Protocol>, exception: &Object) -> Res<Owned> {
    let exception = (!exception.is_none()).then_some(exception);
    if let Some(stream_reader) = this.reader() {
        match (reader::plain(&stream_reader), exception) {
            (Some(native), None) => reader::feed_eof(native)?,
            (Some(native), Some(exception)) => reader::set_exception(native, exception)?,
            (None, None) => stream_reader.call_method(&names().feed_eof, &[])?,
            (None, Some(exception)) => {
                stream_reader.call_method(&names().set_exception, &[exception])?
            }
        };
    }
    match this.closed.cloned() {
        Some(closed) => {
            if !closed.call_method(&names().done, &[])?.is_true()? {
                settle(&closed, exception)?;
            }
        }
        None => {
            this.closed_early.set(true);
            drop(this.lost_with.replace(exception.map(Object::own)));
        }
    }
    this.connection_lost.set(true);
    if this.paused.get() {
        this.release_drains(exception)?;
    }
    this.reader_ref.clear();
    this.writer.clear();
    this.task.clear();
    this.transport.clear();
    Ok(Owned::none())
}

fn settle(closed: &Object, exception: Option<&Object>) -> Res<()> {
    match exception {
        None => closed.call_method(&names().set_result, &[none()]),
        Some(exception) => closed.call_method(&names().set_exception, &[exception]),
    }
    .map(drop)
}

/// `protocol.eof_received()`: whether the transport stays open for writing.
pub(crate) fn eof_received_natively(this: &Protocol) -> Res<bool> {
    if let Some(stream_reader) = this.reader() {
        match reader::plain(&stream_reader) {
            Some(native) => reader::feed_eof(native)?,
            None => stream_reader.call_method(&names().feed_eof, &[])?,
        };
    }
    // A TLS transport closes anyway, and would warn.
    Ok(!this.over_ssl.get())
}

// ---- methods ----

fn data_received(this: &Native<Protocol>, data: &Object) -> Res<Owned> {
    if let Some(stream_reader) = this.reader() {
        stream_reader.call_method(&names().feed_data, &[data])?;
    }
    Ok(Owned::none())
}

fn eof_received(this: &Native<Protocol>) -> Res<Owned> {
    Ok(Owned::from_bool(eof_received_natively(this)?))
}

pub(crate) fn pause_writing(this: &Native<Protocol>) -> Res<Owned> {
    if this.paused.replace(true) {
        return reader::assertion_error("");
    }
    if is_debug(&this.event_loop.or_none())? {
        debug_in_log("%r pauses writing", &[this.object()])?;
    }
    Ok(Owned::none())
}

pub(crate) fn resume_writing(this: &Native<Protocol>) -> Res<Owned> {
    if !this.paused.replace(false) {
        return reader::assertion_error("");
    }
    if is_debug(&this.event_loop.or_none())? {
        debug_in_log("%r resumes writing", &[this.object()])?;
    }
    this.release_drains(None)?;
    Ok(Owned::none())
}

fn close_waiter(this: &Native<Protocol>, _stream: &Object) -> Res<Owned> {
    get_closed(this)
}

fn replace_transport(this: &Native<Protocol>, transport: &Object) -> Res<Owned> {
    this.transport.set(transport.own());
    this.over_ssl.set(is_over_ssl(transport)?);
    Ok(Owned::none())
}

/// The same before 3.13 (and late patch releases of 3.12): the writer has the new transport.
fn replace_writer(this: &Native<Protocol>, stream_writer: &Object) -> Res<Owned> {
    let transport = stream_writer.getattr(&names().transport)?;
    this.writer.set(stream_writer.own());
    replace_transport(this, &transport)
}

// ---- attributes ----

fn get_closed(this: &Native<Protocol>) -> Res<Owned> {
    if let Some(closed) = this.closed.cloned() {
        return Ok(closed);
    }
    let closed = create_future(&this.event_loop.or_none())?;
    this.closed.set(closed.clone());
    if this.closed_early.get() {
        let exception = this.lost_with.take();
        settle(&closed, exception.as_deref())?;
    }
    Ok(closed)
}

fn get_drain_waiters(this: &Native<Protocol>) -> Res<Owned> {
    this.drain_waiters()
}

fn get_stream_reader(this: &Native<Protocol>) -> Res<Owned> {
    Ok(this.reader().unwrap_or_else(Owned::none))
}

flag!(Protocol: get_paused, set_paused, paused);
flag!(Protocol: get_connection_lost, set_connection_lost, connection_lost);
flag!(Protocol: get_reject, set_reject, reject_connection);
flag!(Protocol: get_over_ssl, set_over_ssl, over_ssl);
object!(Protocol: get_loop, set_loop, event_loop);
object!(Protocol: get_reader_ref, set_reader_ref, reader_ref);
object!(Protocol: get_strong_reader, set_strong_reader, strong_reader);
object!(Protocol: get_transport, set_transport, transport);
object!(
    Protocol: get_client_connected_cb,
    set_client_connected_cb,
    client_connected_cb
);
object!(Protocol: get_task, set_task, task);
object!(Protocol: get_writer, set_writer, writer);
object!(Protocol: get_source_traceback, set_source_traceback, source_traceback);

fn set_closed(this: &Native<Protocol>, value: Option<&Object>) -> Res<()> {
    drop(this.closed.replace(value.map(Object::own)));
    Ok(())
}

// ---- the type ----

fn init(this: &Native<Protocol>, args: Args<'_>) -> Res<()> {
    let parameters = ["stream_reader", "client_connected_cb", "loop"];
    let given = args.parse("StreamReaderProtocol.__init__", parameters, 3, 1)?;
    let [stream_reader, callback, event_loop] =
        given.map(|argument| argument.filter(|argument| !argument.is_none()));
    let event_loop = match event_loop {
        Some(event_loop) => event_loop.own(),
        None => imports().get_event_loop.call(&[])?,
    };
    fill(this, stream_reader, callback, &event_loop)
}

fn methods() -> Vec<Method> {
    let mut methods = vec![
        method!(named c"connection_made" ("transport") connection_made, c"The connection was made."),
        method!(named c"connection_lost" ("exc") connection_lost, c"The connection was lost or closed."),
        method!(named c"data_received" ("data") data_received, c"Data was received."),
        method!(noargs c"eof_received" eof_received, c"The peer has closed its sending side."),
        method!(noargs c"pause_writing" pause_writing, c"The transport's buffer is over its high-water mark."),
        method!(noargs c"resume_writing" resume_writing, c"The transport's buffer has drained."),
        method!(noargs c"_drain_helper" drain::drain_helper, c"Waits until writing may continue."),
        method!(onearg c"_get_close_waiter" close_waiter, c"The future that is done when the connection was lost or closed."),
    ];
    methods.push(match imports().protocol_keeps_writer {
        true => method!(onearg c"_replace_writer" replace_writer, c"Uses the transport of another writer."),
        false => method!(onearg c"_replace_transport" replace_transport, c"Changes the transport."),
    });
    methods
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_stream_reader" get_stream_reader),
        attribute!(c"_stream_reader_wr" get_reader_ref, set_reader_ref),
        attribute!(c"_strong_reader" get_strong_reader, set_strong_reader),
        attribute!(c"_loop" get_loop, set_loop),
        attribute!(c"_transport" get_transport, set_transport),
        attribute!(c"_client_connected_cb" get_client_connected_cb, set_client_connected_cb),
        attribute!(c"_task" get_task, set_task),
        attribute!(c"_source_traceback" get_source_traceback, set_source_traceback),
        attribute!(c"_closed" get_closed, set_closed),
        attribute!(c"_drain_waiters" get_drain_waiters),
        attribute!(c"_paused" get_paused, set_paused),
        attribute!(c"_connection_lost" get_connection_lost, set_connection_lost),
        attribute!(c"_reject_connection" get_reject, set_reject),
        attribute!(c"_over_ssl" get_over_ssl, set_over_ssl),
        attribute!(c"_stream_writer" get_writer, set_writer),
    ]
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    let base = &imports().protocol;
    let offset = base.basicsize();
    CLASS.set_offset(offset);
    let class = TypeBuilder::new::<Protocol>(c"rondel.StreamReaderProtocol", Some(base), offset)
        .subclassable()
        .doc(c"StreamReaderProtocol(stream_reader, client_connected_cb=None, loop=None)\n--\n\nFeeds a StreamReader from a transport, as asyncio.StreamReaderProtocol.")
        .dict(offset + std::mem::offset_of!(Protocol, dict))
        .weaklist(offset + std::mem::offset_of!(Protocol, weakrefs))
        .slot(ffi::Py_tp_init, init_slot!(init))
        .collected::<Protocol>()
        .methods(methods())
        .getset(attributes())
        .build()?;
    derive_from(&class, &imports().stock_protocol)?;
    CLASS.set(&class);
    Ok(class)
}
