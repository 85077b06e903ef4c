//! How the events of a transport reach its protocol.
//!
//! A protocol is called by its methods ([`METHODS`]); a `BufferedProtocol` also provides the memory
//! to receive into ([`BUFFERED`]). The folders above this one register receivers for native
//! protocols ([`register`]): streams are fed without a Python call, and TLS receives for itself.
//! `set_protocol` chooses the receiver.

use std::sync::OnceLock;

use super::chunk::Chunk;
use super::names::imports;
use super::reading;
use super::socket::Socket;
use crate::cpython::native::Native;
use crate::cpython::{Object, Res, names};

/// Receives from a socket that can be read.
pub(crate) type Receive = fn(&Native<Socket>) -> Res<()>;

/// What a transport calls for one kind of protocol. The functions are called with the protocol.
pub(crate) struct Receiver {
    /// Whether this is the receiver for a protocol.
    pub(crate) accepts: fn(&Object) -> bool,
    /// Receives from a socket, for a protocol that chooses the memory.
    pub(crate) receive: Option<Receive>,
    /// Bytes have come.
    pub(crate) data: fn(&Object, Chunk) -> Res<()>,
    /// End of file. Returns whether the transport stays open for writing.
    pub(crate) eof: fn(&Object) -> Res<bool>,
    /// Too much waits to be sent.
    pub(crate) pause: fn(&Object) -> Res<()>,
    /// Writing may go on.
    pub(crate) resume: fn(&Object) -> Res<()>,
    /// The connection has ended, with an exception or None.
    pub(crate) lost: fn(&Object, &Object) -> Res<()>,
    /// Whether none of this runs the program's code.
    pub(crate) is_native: fn(&Object) -> bool,
}

/// Calls the protocol's methods.
pub(crate) static METHODS: Receiver = Receiver {
    accepts: |_| true,
    receive: None,
    data: data_received,
    eof: eof_received,
    pause: pause_writing,
    resume: resume_writing,
    lost: connection_lost,
    is_native: |_| false,
};

/// Calls the methods of a `BufferedProtocol`.
static BUFFERED: Receiver = Receiver {
    receive: Some(reading::read_into_buffer),
    ..METHODS
};

/// `protocol.data_received(data)`.
pub(crate) fn data_received(protocol: &Object, chunk: Chunk) -> Res<()> {
    let received = protocol.call_method(&names().data_received, &[chunk.object()]);
    received.map(drop)
}

/// `protocol.eof_received()`.
pub(crate) fn eof_received(protocol: &Object) -> Res<bool> {
    protocol.call_method(&names().eof_received, &[])?.is_true()
}

/// `protocol.pause_writing()`.
pub(crate) fn pause_writing(protocol: &Object) -> Res<()> {
    protocol.call_method(&names().pause_writing, &[]).map(drop)
}

/// `protocol.resume_writing()`.
pub(crate) fn resume_writing(protocol: &Object) -> Res<()> {
    protocol.call_method(&names().resume_writing, &[]).map(drop)
}

/// `protocol.connection_lost(exception)`.
pub(crate) fn connection_lost(protocol: &Object, exception: &Object) -> Res<()> {
    let lost = protocol.call_method(&names().connection_lost, &[exception]);
    lost.map(drop)
}

/// The receivers of the folders above.
static REGISTERED: [OnceLock<&'static Receiver>; 2] = [const { OnceLock::new() }; 2];

/// Adds a receiver, at import.
pub(crate) fn register(receiver: &'static Receiver) {
    let taken = REGISTERED.iter().any(|place| place.set(receiver).is_ok());
    debug_assert!(taken, "there are more receivers than places");
}

/// The receiver for a protocol that is given chunks of bytes, never a `BufferedProtocol`'s.
pub(crate) fn of_chunks(protocol: &Object) -> &'static Receiver {
    let mut registered = REGISTERED.iter().filter_map(OnceLock::get);
    registered
        .find(|receiver| (receiver.accepts)(protocol))
        .unwrap_or(&&METHODS)
}

/// The receiver for a socket's protocol.
pub(super) fn of(protocol: &Object) -> Res<&'static Receiver> {
    let receiver = of_chunks(protocol);
    if std::ptr::eq(receiver, &METHODS) && protocol.is_instance(&imports().buffered_protocol)? {
        return Ok(&BUFFERED);
    }
    Ok(receiver)
}
