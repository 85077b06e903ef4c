//! What happens when a transport's descriptor can be read: the way of a byte from the kernel to the
//! protocol.
//!
//! Bytes are received into a buffer that all transports of the thread share and copied from there,
//! or straight into a `bytes` object; the engine decides. `receiver.rs` says who gets them.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;

use rondel_engine::transport::recv_size::{MAX_RECV, Received, Room, SCRATCH_SIZE};

use super::base::{End, Transport, WATCHED_FOR_READING, in_context, unwatch};
use super::chunk::{Chunk, with_writable_buffer};
use super::ending::{close, fatal_error};
use super::loop_calls::take_unless_exit;
use super::methods::log_in_debug;
use super::receiver::Receiver;
use super::socket::Socket;
use crate::cpython::error::{Builtin, os_error, runtime_error};
use crate::cpython::method::{Method, method};
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Raised, Res, names};

/// asyncio's message for a receive that fails.
const READ_FAILED: &str = "Fatal read error on socket transport";

thread_local! {
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> =
        RefCell::new(Box::new_uninit_slice(SCRATCH_SIZE));
}

/// The result of one receive.
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
    let mut stream = this.end.stream.borrow_mut();
    receive_by(stream.room(), |memory| stream.recv(memory))
}

/// Calls `recv` once, with memory as `room` says. It must not run Python code.
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
pub(super) fn read_ready(this: &Native<Socket>) -> Res<()> {
    if !this.has(WATCHED_FOR_READING) || this.is_lost() {
        return Ok(());
    }
    in_context(this.context.cloned(), || read(this))
}

fn read(this: &Native<Socket>) -> Res<()> {
    let mut brought_len = 0;
    loop {
        let receiver = this.receiver.get();
        if let Some(receive) = receiver.receive {
            return receive(this);
        }
        match receive(this) {
            Ok(Brought::Chunk(chunk, more)) => {
                brought_len += chunk.as_ref().len();
                if let Err(Raised) = deliver(this, receiver, chunk) {
                    let exception = take_unless_exit()?;
                    let message = "Fatal error: protocol.data_received() call failed.";
                    return fatal_error(this, &exception, message);
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
            Ok(Brought::Eof) => return eof(this),
            Ok(Brought::Failed(error)) => return read_failed(this, &*os_error(&error)?),
            Err(Raised) => return read_failed(this, &*take_unless_exit()?),
        }
    }
}

/// Receiving has failed.
#[cold]
pub(crate) fn read_failed(this: &Native<Socket>, exception: &Object) -> Res<()> {
    fatal_error(this, exception, READ_FAILED)
}

/// Hands a chunk to the protocol.
#[inline]
pub(super) fn deliver<E: End>(this: &Transport<E>, receiver: &Receiver, chunk: Chunk) -> Res<()> {
    match this.protocol.cloned() {
        Some(protocol) => (receiver.data)(&protocol, chunk),
        None => Ok(()),
    }
}

/// Receives once into `room`, for a receiver that chooses the memory. Runs no Python code.
#[inline]
pub(crate) fn receive_into(this: &Socket, room: &mut [MaybeUninit<u8>]) -> Received {
    this.end.stream.borrow_mut().recv(room)
}

/// Receives into the memory that a `BufferedProtocol` provides.
pub(super) fn read_into_buffer(this: &Native<Socket>) -> Res<()> {
    let protocol = this.protocol.or_none();
    let buffer = match buffer_of(&protocol) {
        Ok(buffer) => buffer,
        Err(Raised) => {
            let exception = take_unless_exit()?;
            let message = "Fatal error: protocol.get_buffer() call failed.";
            return fatal_error(this, &exception, message);
        }
    };
    let received = with_writable_buffer(&buffer, |room| receive_into(this, room))
        .map_err(|Raised| not_a_buffer(&buffer));
    drop(buffer);
    let exception = match received {
        Ok(Received::Data(len)) => {
            let len = Owned::from_u64(len as u64)?;
            return match protocol.call_method(&names().buffer_updated, &[&len]) {
                Ok(_) => Ok(()),
                Err(Raised) => buffer_updated_failed(this),
            };
        }
        Ok(Received::Eof) => return eof(this),
        Ok(Received::Blocked) => return Ok(()),
        Ok(Received::Failed(error)) => os_error(&error)?,
        Err(exception) => exception?,
    };
    read_failed(this, &exception)
}

/// `protocol.get_buffer(-1)`.
fn buffer_of(protocol: &Object) -> Res<Owned> {
    let buffer = protocol.call_method(&names().get_buffer, &[&*Owned::from_i64(-1)?])?;
    match buffer.len()? {
        0 => runtime_error("get_buffer() returned an empty buffer"),
        _ => Ok(buffer),
    }
}

/// `buffer_updated()` has raised: ends the transport.
#[cold]
pub(crate) fn buffer_updated_failed(this: &Native<Socket>) -> Res<()> {
    let exception = take_unless_exit()?;
    let message = "Fatal error: protocol.buffer_updated() call failed.";
    fatal_error(this, &exception, message)
}

/// The exception of `socket.recv_into()` for a buffer that cannot be written.
#[cold]
fn not_a_buffer(buffer: &Object) -> Res<Owned> {
    let exception = take_unless_exit()?;
    let buffer_error = Builtin::Buffer.class();
    if !exception.is_instance(buffer_error)? {
        return Ok(exception);
    }
    let class = buffer.class_name()?;
    Builtin::Type.instance(&format!(
        "recv_into() argument 1 must be read-write bytes-like object, not {class}"
    ))
}

/// End of file. The protocol decides whether the transport stays open for writing.
pub(crate) fn eof(this: &Native<Socket>) -> Res<()> {
    log_in_debug(this, "%r received EOF")?;
    match (this.receiver.get().eof)(&this.protocol.or_none()) {
        Ok(true) => {
            unwatch(this, WATCHED_FOR_READING);
            Ok(())
        }
        Ok(false) => close(this).map(drop),
        Err(Raised) => {
            let exception = take_unless_exit()?;
            let message = "Fatal error: protocol.eof_received() call failed.";
            fatal_error(this, &exception, message)
        }
    }
}

// ---- methods ----

fn read_ready_method(this: &Native<Socket>) -> Res<Owned> {
    read_ready(this)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![method!(noargs c"_read_ready" read_ready_method, c"The socket can be read.")]
}
