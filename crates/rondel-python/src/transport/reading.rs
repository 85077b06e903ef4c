//! What happens when a transport's descriptor can be read: the way of a byte from the kernel to the protocol.
//!
//! Bytes come into the buffer that all transports of the thread share, and are copied out of it, or straight into a
//! `bytes` object, as the engine says. A `StreamReaderProtocol` of ours doesn't hear of it: its reader is fed here.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;

use rondel_engine::transport::recv_size::{MAX_RECV, Received, Room, SCRATCH_SIZE};

use super::chunk::{Chunk, with_writable_buffer};
use super::closing::{close, fatal_error};
use super::loop_calls::{debug_in_log, take_unless_exit};
use super::names::names;
use super::socket::{
    BUFFERED, CONTEXT_WAS_GIVEN, STARTING, Socket, TLS, WATCHED_FOR_READING, fields, start_reading,
    stop_reading,
};
use crate::cpython::error::{Builtin, os_error, runtime_error};
use crate::cpython::method::{Method, method};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, none};
use crate::loop_core::is_debug;
use crate::streams::{protocol, reader};
use crate::tls::{self, reading::Fed};

thread_local! {
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> =
        RefCell::new(Box::new_uninit_slice(SCRATCH_SIZE));
}

/// What one receive brought.
pub(super) enum Brought {
    /// Bytes, and whether there may be more.
    Chunk(Chunk, bool),
    Eof,
    Nothing,
    Failed(io::Error),
}

/// Receives once.
#[inline]
fn receive(this: &Socket) -> Res<Brought> {
    let mut stream = this.stream.borrow_mut();
    receive_by(stream.room(), |memory| stream.recv(memory))
}

/// Receives once by `recv`, where `room` says. No Python code may run in it.
#[inline]
pub(super) fn receive_by(
    room: Room,
    recv: impl FnOnce(&mut [MaybeUninit<u8>]) -> Received,
) -> Res<Brought> {
    match room {
        Room::Scratch => SCRATCH.with_borrow_mut(|scratch| {
            Ok(match recv(scratch) {
                Received::Data(len) => {
                    // SAFETY: the kernel has written `len` bytes there.
                    let bytes = unsafe { std::slice::from_raw_parts(scratch.as_ptr().cast(), len) };
                    Brought::Chunk(Chunk::copy(bytes)?, len == SCRATCH_SIZE)
                }
                Received::Eof => Brought::Eof,
                Received::Blocked => Brought::Nothing,
                Received::Failed(error) => Brought::Failed(error),
            })
        }),
        Room::Direct(room) => {
            let filled = Chunk::fill(room, |memory| match recv(memory) {
                Received::Data(len) => Ok(len),
                Received::Eof => Err(Brought::Eof),
                Received::Blocked => Err(Brought::Nothing),
                Received::Failed(error) => Err(Brought::Failed(error)),
            })?;
            Ok(match filled {
                Ok(chunk) => {
                    let more = chunk.as_ref().len() == room;
                    Brought::Chunk(chunk, more)
                }
                Err(other) => other,
            })
        }
    }
}

/// The descriptor can be read.
#[inline]
pub(super) fn read_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.has(WATCHED_FOR_READING) || this.is_lost() {
        return Ok(());
    }
    match this.context.cloned() {
        None => read(transport, this),
        Some(own) => {
            context::enter(&own)?;
            let result = read(transport, this);
            context::exit(&own).and(result)
        }
    }
}

fn read(transport: &Object, this: &Socket) -> Res<()> {
    let mut brought_len = 0;
    loop {
        if this.has(TLS) {
            return read_tls(transport, this);
        }
        if this.has(BUFFERED) {
            return read_into_buffer(transport, this);
        }
        match receive(this) {
            Ok(Brought::Chunk(chunk, more)) => {
                brought_len += chunk.as_ref().len();
                if let Err(Raised) = deliver_to(&this.protocol, chunk) {
                    let exception = take_unless_exit()?;
                    let message = "Fatal error: protocol.data_received() call failed.";
                    return fatal_error(transport, &exception, message);
                }
                if !more
                    || brought_len >= MAX_RECV
                    || !this.has(WATCHED_FOR_READING)
                    || this.is_lost()
                {
                    return Ok(());
                }
            }
            Ok(Brought::Nothing) => return Ok(()),
            Ok(Brought::Eof) => return eof(transport, this),
            Ok(Brought::Failed(error)) => {
                return fatal_error(
                    transport,
                    &*os_error(&error)?,
                    "Fatal read error on socket transport",
                );
            }
            Err(Raised) => {
                let exception = take_unless_exit()?;
                return fatal_error(
                    transport,
                    &exception,
                    "Fatal read error on socket transport",
                );
            }
        }
    }
}

/// Hands a chunk to the protocol.
#[inline]
pub(super) fn deliver_to(protocol: &Slot, chunk: Chunk) -> Res<()> {
    let Some(owner) = protocol.cloned() else {
        return Ok(());
    };
    if let Some(stream) = protocol::exact(&owner) {
        let Some(stream_reader) = stream.reader() else {
            return Ok(());
        };
        if reader::is_exact(&stream_reader) {
            return reader::feed(&stream_reader, chunk);
        }
    }
    owner
        .call_method(&names().data_received, &[chunk.object()])
        .map(drop)
}

/// A `BufferedProtocol` says where the bytes go.
fn read_into_buffer(transport: &Object, this: &Socket) -> Res<()> {
    let owner = this.protocol.or_none();
    let buffer = (|| {
        let buffer = owner.call_method(&names().get_buffer, &[&*Owned::from_i64(-1)?])?;
        // SAFETY: a live object.
        match unsafe { pyo3::ffi::PyObject_Size(buffer.as_ptr()) } {
            -1 => Err(Raised),
            0 => runtime_error("get_buffer() returned an empty buffer"),
            _ => Ok(buffer),
        }
    })();
    let buffer = match buffer {
        Ok(buffer) => buffer,
        Err(Raised) => {
            let exception = take_unless_exit()?;
            let message = "Fatal error: protocol.get_buffer() call failed.";
            return fatal_error(transport, &exception, message);
        }
    };
    let received = with_writable_buffer(&buffer, |room| this.stream.borrow_mut().recv(room))
        .map_err(|Raised| not_a_buffer(&buffer));
    drop(buffer);
    let exception = match received {
        Ok(Received::Data(len)) => {
            let len = Owned::from_u64(len as u64)?;
            if let Err(Raised) = owner.call_method(&names().buffer_updated, &[&len]) {
                let exception = take_unless_exit()?;
                let message = "Fatal error: protocol.buffer_updated() call failed.";
                return fatal_error(transport, &exception, message);
            }
            return Ok(());
        }
        Ok(Received::Eof) => return eof(transport, this),
        Ok(Received::Blocked) => return Ok(()),
        Ok(Received::Failed(error)) => os_error(&error)?,
        Err(exception) => exception?,
    };
    fatal_error(
        transport,
        &exception,
        "Fatal read error on socket transport",
    )
}

/// A TLS protocol of ours takes the bytes out of the shared memory itself.
fn read_tls(transport: &Object, this: &Socket) -> Res<()> {
    let owner = this.protocol.or_none();
    let mut brought_len = 0;
    loop {
        let received = tls::reading::receive(&owner, |room| {
            let received = this.stream.borrow_mut().recv(room);
            if let Received::Data(len) = received {
                brought_len += len;
            }
            received
        });
        let exception = match received {
            Ok(Fed::Bytes(more, drained)) => {
                if let Err(Raised) = tls::reading::received(&owner, drained) {
                    let exception = take_unless_exit()?;
                    let message = "Fatal error: protocol.buffer_updated() call failed.";
                    return fatal_error(transport, &exception, message);
                }
                if !more
                    || brought_len >= MAX_RECV
                    || !this.has(WATCHED_FOR_READING)
                    || !this.has(TLS)
                    || this.is_lost()
                {
                    return Ok(());
                }
                continue;
            }
            Ok(Fed::Other(Received::Eof)) => return eof(transport, this),
            Ok(Fed::Other(Received::Failed(error))) => os_error(&error)?,
            Ok(Fed::Other(_)) => return Ok(()),
            Err(Raised) => take_unless_exit()?,
        };
        return fatal_error(
            transport,
            &exception,
            "Fatal read error on socket transport",
        );
    }
}

/// What `socket.recv_into()` says of a buffer that can't be filled.
#[cold]
fn not_a_buffer(buffer: &Object) -> Res<Owned> {
    let exception = take_unless_exit()?;
    // SAFETY: a built-in class lives as long as the interpreter.
    let buffer_error = unsafe { Object::from_ptr(pyo3::ffi::PyExc_BufferError) };
    if !exception.is_instance(buffer_error)? {
        return Ok(exception);
    }
    let class = buffer.class();
    let class = class.getattr(&*Owned::from_str("__name__")?)?.to_text()?;
    Builtin::Type.instance(&format!(
        "recv_into() argument 1 must be read-write bytes-like object, not {class}"
    ))
}

/// The peer sends no more. The protocol says whether the transport stays open for writing.
fn eof(transport: &Object, this: &Socket) -> Res<()> {
    if let Some(event_loop) = this.event_loop()
        && is_debug(&event_loop)?
    {
        debug_in_log("%r received EOF", &[transport])?;
    }
    let owner = this.protocol.or_none();
    let keep_open = match protocol::exact(&owner) {
        Some(stream) => protocol::eof_received_natively(stream),
        None => owner
            .call_method(&names().eof_received, &[])
            .and_then(|answer| answer.is_true()),
    };
    match keep_open {
        Ok(true) => {
            stop_reading(this);
            Ok(())
        }
        Ok(false) => close(transport).map(drop),
        Err(Raised) => {
            let exception = take_unless_exit()?;
            let message = "Fatal error: protocol.eof_received() call failed.";
            fatal_error(transport, &exception, message)
        }
    }
}

/// The deferred start: `connection_made` has been called, so bytes may come now.
pub(super) fn start(transport: &Object) -> Res<()> {
    let this = fields(transport);
    this.set(STARTING, false);
    let started = start_reading(transport);
    if let Some(waiter) = this.waiter.take() {
        super::loop_calls::set_result_unless_cancelled(&waiter, none())?;
    }
    started
}

// ---- methods ----

fn is_reading(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).stream.borrow().is_reading(),
    ))
}

fn log_in_debug(this: &Socket, format: &str, transport: &Object) -> Res<()> {
    if let Some(event_loop) = this.event_loop()
        && is_debug(&event_loop)?
    {
        debug_in_log(format, &[transport])?;
    }
    Ok(())
}

pub(crate) fn pause_reading(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let paused = this.stream.borrow_mut().pause_reading();
    if paused {
        stop_reading(this);
        log_in_debug(this, "%r pauses reading", transport)?;
    }
    Ok(Owned::none())
}

pub(crate) fn resume_reading(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let resumed = this.stream.borrow_mut().resume_reading();
    if resumed {
        if !this.context.is_empty() && !this.has(CONTEXT_WAS_GIVEN) {
            this.context.set(context::copy_current()?);
        }
        start_reading(transport)?;
        log_in_debug(this, "%r resumes reading", transport)?;
    }
    Ok(Owned::none())
}

fn read_ready_method(transport: &Object) -> Res<Owned> {
    read_ready(transport)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"is_reading" is_reading, c"Whether bytes that come are passed to the protocol."),
        method!(noargs c"pause_reading" pause_reading, c"Passes nothing to the protocol until resume_reading()."),
        method!(noargs c"resume_reading" resume_reading, c"Passes bytes to the protocol again."),
        method!(noargs c"_read_ready" read_ready_method, c"The socket can be read."),
    ]
}
