//! How the loop runs a transport or listener that it has queued: a table with one entry for each
//! class.

use std::ops::ControlFlow;

use super::datagram::Datagram;
use super::listener::Listener;
use super::pipe::{ReadPipe, WritePipe};
use super::socket::Socket;
use crate::cpython::Object;
use crate::cpython::native::{Native, NativeClass};
use crate::loop_core::item::Exit;

/// The events of one class.
pub(super) trait Watched: NativeClass {
    /// asyncio's name for the callback of a readable descriptor.
    const READ_READY: &'static str;

    /// The descriptor can be read.
    fn readable(this: &Native<Self>) -> ControlFlow<Exit>;

    /// The descriptor can be written.
    fn writable(_this: &Native<Self>) -> ControlFlow<Exit> {
        ControlFlow::Continue(())
    }

    /// Something that asyncio does by `call_soon` is due: the start of reading, or
    /// `connection_lost`.
    fn deferred(_this: &Native<Self>) -> ControlFlow<Exit> {
        ControlFlow::Continue(())
    }
}

/// The same, for objects of any class: others are ignored.
struct Ways {
    read_ready: &'static str,
    is_exact: fn(&Object) -> bool,
    readable: fn(&Object) -> ControlFlow<Exit>,
    writable: fn(&Object) -> ControlFlow<Exit>,
    deferred: fn(&Object) -> ControlFlow<Exit>,
}

impl Ways {
    const fn of<T: Watched>() -> Self {
        /// Calls `way` if the object is of the class.
        fn of_class<T: Watched>(
            object: &Object,
            way: fn(&Native<T>) -> ControlFlow<Exit>,
        ) -> ControlFlow<Exit> {
            object.exact::<T>().map_or(ControlFlow::Continue(()), way)
        }
        Self {
            read_ready: T::READ_READY,
            is_exact: T::is_exact,
            readable: |object| of_class(object, T::readable),
            writable: |object| of_class(object, T::writable),
            deferred: |object| of_class(object, T::deferred),
        }
    }
}

static WAYS: [Ways; 5] = [
    Ways::of::<Socket>(),
    Ways::of::<Datagram>(),
    Ways::of::<ReadPipe>(),
    Ways::of::<WritePipe>(),
    Ways::of::<Listener>(),
];

#[inline]
fn ways(object: &Object) -> Option<&'static Ways> {
    WAYS.iter().find(|ways| (ways.is_exact)(object))
}

/// A descriptor can be read: a transport's, or a listener's.
#[inline]
pub(crate) fn readable(object: &Object) -> ControlFlow<Exit> {
    // The most frequent case is called directly.
    if let Some(socket) = object.exact::<Socket>() {
        return Socket::readable(socket);
    }
    match ways(object) {
        Some(ways) => (ways.readable)(object),
        None => ControlFlow::Continue(()),
    }
}

/// A descriptor can be written.
pub(crate) fn writable(object: &Object) -> ControlFlow<Exit> {
    match ways(object) {
        Some(ways) => (ways.writable)(object),
        None => ControlFlow::Continue(()),
    }
}

/// A deferred item of a transport is due.
pub(crate) fn deferred(object: &Object) -> ControlFlow<Exit> {
    match ways(object) {
        Some(ways) => (ways.deferred)(object),
        None => ControlFlow::Continue(()),
    }
}

/// asyncio's name for the callback of a readable descriptor.
pub(crate) fn read_ready_name(object: &Object) -> &'static str {
    ways(object).map_or("_read_ready", |ways| ways.read_ready)
}
