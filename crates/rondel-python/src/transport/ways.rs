//! What the loop does with a transport or listener that it has queued, by a table with one entry for each class.

use std::ops::ControlFlow;

use super::datagram::Datagram;
use super::listener::Listener;
use super::pipe::{ReadPipe, WritePipe};
use super::socket::Socket;
use crate::cpython::Object;
use crate::cpython::native::{Native, NativeClass};
use crate::loop_core::item::Exit;

/// What the reactor, and the ready ring, tell an object of one class.
pub(super) trait Watched: NativeClass {
    /// What asyncio calls the callback for a descriptor that can be read.
    const READ_READY: &'static str;

    /// The descriptor can be read.
    fn readable(this: &Native<Self>) -> ControlFlow<Exit>;

    /// The descriptor can be written.
    fn writable(_this: &Native<Self>) -> ControlFlow<Exit> {
        ControlFlow::Continue(())
    }

    /// It has something to do that asyncio would do by `call_soon`: start reading, or tell of its end.
    fn deferred(_this: &Native<Self>) -> ControlFlow<Exit> {
        ControlFlow::Continue(())
    }
}

/// The same for any object, which is looked at first: `None` if it is of another class.
struct Ways {
    read_ready: &'static str,
    is_exact: fn(&Object) -> bool,
    readable: fn(&Object) -> ControlFlow<Exit>,
    writable: fn(&Object) -> ControlFlow<Exit>,
    deferred: fn(&Object) -> ControlFlow<Exit>,
}

impl Ways {
    const fn of<T: Watched>() -> Self {
        /// Calls `way` for an object of the class.
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
    // The most frequent case is not worth two indirect calls.
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

/// It is the turn of what a transport has put off.
pub(crate) fn deferred(object: &Object) -> ControlFlow<Exit> {
    match ways(object) {
        Some(ways) => (ways.deferred)(object),
        None => ControlFlow::Continue(()),
    }
}

/// What asyncio calls the callback for a descriptor that can be read.
pub(crate) fn read_ready_name(object: &Object) -> &'static str {
    ways(object).map_or("_read_ready", |ways| ways.read_ready)
}
