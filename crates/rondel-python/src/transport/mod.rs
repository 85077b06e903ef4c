//! Transports: native classes that are asyncio's (`asyncio.Transport`) to whoever looks.
//!
//! The loop queues a transport itself, without a handle, and calls [`readable`], [`writable`] or [`deferred`] here.
//! The state behind is the engine's (`rondel_engine::transport`); what is here is the callbacks around it, to asyncio's
//! letter.
//!
//! The way of a byte in: `reading.rs` → a protocol, or `streams/reader.rs`. Out: `writing.rs`, queued, and sent when
//! the turn is over ([`flush`]).
//!
//! | file | what it has |
//! |---|---|
//! | `socket.rs` | `SocketTransport`: the object and its life |
//! | `reading.rs`, `writing.rs`, `closing.rs` | what happens to it |
//! | `extra.rs`, `attributes.rs`, `address.rs` | what can be asked of it |
//! | `datagram/` | `DatagramTransport` |
//! | `pipe/` | `ReadPipeTransport`, `WritePipeTransport` |
//! | `descriptor.rs`, `flow.rs` | what the last two have in common |
//! | `listener.rs` | accepting connections |
//! | `chunk.rs`, `unsent.rs` | bytes objects as the engine's chunks; what else a transport may have to send |
//! | `loop_calls.rs`, `names.rs` | what these and the streams need of Python |

pub(crate) mod address;
mod attributes;
pub(crate) mod chunk;
mod closing;
mod datagram;
mod descriptor;
mod extra;
mod flow;
mod listener;
pub(crate) mod loop_calls;
pub(crate) mod names;
mod pipe;
mod reading;
pub(crate) mod socket;
pub(crate) mod unsent;
pub(crate) mod writing;

use std::cell::RefCell;
use std::ops::ControlFlow;

use rondel_engine::transport::send_batch::SendBatch;
use rondel_engine::transport::stream::Sent;

use self::pipe::{reading as read_pipe, writing as write_pipe};
use crate::cpython::error::{restore, take_exception};
use crate::cpython::{Object, Owned, Raised, Res};
use crate::loop_core::item::Exit;

pub(crate) use listener::is_listener;

/// A descriptor can be read: a transport's, or a listener's.
#[inline]
pub(crate) fn readable(object: &Object) -> ControlFlow<Exit> {
    if socket::is_socket(object) {
        return finish(reading::read_ready(object), object, "_read_ready");
    }
    if datagram::is_datagram(object) {
        return finish(datagram::read_ready(object), object, "_read_ready");
    }
    if read_pipe::is_read_pipe(object) {
        return finish(read_pipe::read_ready(object), object, "_read_ready");
    }
    if write_pipe::is_write_pipe(object) {
        return finish(write_pipe::read_ready(object), object, "_read_ready");
    }
    listener::accept_ready(object)
}

/// A transport's descriptor can be written.
pub(crate) fn writable(object: &Object) -> ControlFlow<Exit> {
    if datagram::is_datagram(object) {
        return finish(datagram::write_ready(object), object, "_sendto_ready");
    }
    if write_pipe::is_write_pipe(object) {
        return finish(write_pipe::write_ready(object), object, "_write_ready");
    }
    finish(writing::write_ready(object), object, "_write_ready")
}

/// A transport has something to do that asyncio would do by `call_soon`: start reading, or tell of its end.
pub(crate) fn deferred(object: &Object) -> ControlFlow<Exit> {
    if datagram::is_datagram(object) {
        let callback = match datagram::is_starting(object) {
            true => "_add_reader",
            false => "_read_ready",
        };
        return finish(datagram::take_deferred(object), object, callback);
    }
    if read_pipe::is_read_pipe(object) {
        return finish(read_pipe::start(object), object, "_add_reader");
    }
    if write_pipe::is_write_pipe(object) {
        return finish(write_pipe::start(object), object, "_add_reader");
    }
    if !socket::is_socket(object) {
        return ControlFlow::Continue(());
    }
    if socket::fields(object).has(socket::STARTING) {
        return finish(reading::start(object), object, "_add_reader");
    }
    finish(
        closing::deferred_end(object),
        object,
        "_call_connection_lost",
    )
}

/// Sends what a transport was given in the turn that is over, the last step of which may have ended with an exception.
#[inline]
pub(crate) fn flush(object: &Object) {
    if !socket::is_socket(object) {
        if datagram::is_datagram(object) {
            crate::cpython::finalize::finalizing(object, || datagram::flush_turn(object));
        } else {
            crate::tls::flush(object);
        }
        return;
    }
    if socket::fields(object).is_dirty() {
        crate::cpython::finalize::finalizing(object, || writing::flush_own(object));
    }
}

/// Sends what a transport was given in the running turn. Runs no Python code: what comes of it is told by [`flush`].
pub(crate) fn flush_early(object: &Object) {
    if socket::is_socket(object) {
        if let Ok(mut stream) = socket::fields(object).stream.try_borrow_mut() {
            stream.flush_early();
        }
    } else if datagram::is_datagram(object) {
        datagram::flush_early(object);
    } else {
        crate::tls::flush_early(object);
    }
}

/// Whether it may be flushed together with others, by [`flush_together`].
#[inline]
pub(crate) fn sends_together(object: &Object) -> bool {
    socket::is_socket(object)
}

/// How many bytes wait in a transport that is to be flushed; 0 where that is of no account.
#[inline]
pub(crate) fn waiting_len(object: &Object) -> usize {
    if !socket::is_socket(object) {
        return match datagram::is_datagram(object) {
            true => 0,
            false => crate::tls::waiting_len(object),
        };
    }
    let stream = socket::fields(object).stream.try_borrow();
    stream.map_or(0, |stream| stream.queue().len())
}

/// As [`flush`], for several sockets' transports, which send together.
pub(crate) fn flush_together(transports: &[Owned], batch: &RefCell<SendBatch>) {
    let mut together = Vec::with_capacity(transports.len());
    let mut streams = Vec::with_capacity(transports.len());
    for transport in transports {
        // A transport that was flushed and written to again is there twice.
        if let Ok(stream) = socket::fields(transport).stream.try_borrow_mut()
            && stream.is_dirty()
        {
            together.push(transport);
            streams.push(stream);
        }
    }
    let mut sent = Vec::with_capacity(streams.len());
    batch.borrow_mut().flush(&mut streams, &mut sent);
    drop(streams);
    for (transport, sent) in together.into_iter().zip(sent) {
        if !matches!(sent, Sent::All | Sent::Nothing) {
            crate::cpython::finalize::finalizing(transport, || writing::sent(transport, sent));
        }
    }
    // Who was written to meanwhile.
    for transport in transports {
        flush(transport);
    }
}

#[inline]
fn finish(result: Res<()>, transport: &Object, callback: &str) -> ControlFlow<Exit> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(Raised) => {
            let reported = loop_calls::report_callback(transport, loop_of(transport), callback);
            match reported {
                Ok(()) => ControlFlow::Continue(()),
                Err(Raised) => ControlFlow::Break(Exit::Raised(restore(take_exception()))),
            }
        }
    }
}

/// The loop that what a transport raises is reported to.
fn loop_of(transport: &Object) -> Option<Owned> {
    if datagram::is_datagram(transport) {
        datagram::event_loop(transport)
    } else if read_pipe::is_read_pipe(transport) {
        read_pipe::event_loop(transport)
    } else if write_pipe::is_write_pipe(transport) {
        write_pipe::event_loop(transport)
    } else {
        socket::fields(transport).event_loop()
    }
}

/// The classes and functions that the module exports, by name.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    names::init()?;
    let mut exports = vec![("SocketTransport", socket::init_type()?)];
    exports.extend(datagram::init()?);
    exports.extend(pipe::init()?);
    exports.extend(listener::init()?);
    Ok(exports)
}
