//! `drain` and `wait_closed`: the awaitables of a `StreamWriter`, and `_drain_helper` behind the
//! first.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::protocol::{self, Protocol};
use super::reader;
use super::writer::Writer;
use crate::awaitable::{Class, Next, Steps, awaitable_class, iterator_of, make};
use crate::cpython::error::{Builtin, raise, raise_instance, runtime_error};
use crate::cpython::native::{Native, NativeSlot};
use crate::cpython::{Object, Owned, Raised, Res, Slot, names};
use crate::transport::loop_calls::{create_future, with_exception_kept};
use crate::transport::{above, socket, writing};

awaitable_class!(CLASS, 64);
static READY_CLASS: Class = Class::new(|_| false, |_| None);
/// The one awaitable that is ready.
static READY: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// `drain` looks at the reader and the transport.
    Drain = 0,
    /// `_drain_helper` looks whether writing is paused.
    Helper,
    /// The future in `waiter` tells that writing goes on.
    Waiting,
    /// What was awaited last has the result.
    Last,
    /// `wait_closed` asks the protocol what to wait for.
    WaitClosed,
}

/// One `drain`, `_drain_helper` or `wait_closed`.
pub(super) struct Drain {
    /// Empty for `_drain_helper`.
    writer: NativeSlot<Writer>,
    /// For `_drain_helper`.
    protocol: Slot,
    waiter: Slot,
    stage: Cell<Stage>,
}

impl Steps for Drain {
    fn name(&self) -> &'static str {
        match (self.writer.slot().is_empty(), self.stage.get()) {
            (true, _) => "FlowControlMixin._drain_helper",
            (_, Stage::WaitClosed) => "StreamWriter.wait_closed",
            _ => "StreamWriter.drain",
        }
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        if self.stage.get() == Stage::Waiting {
            let result = awaited.unwrap_or(Err(Raised)).map(drop);
            let left = self.leave();
            if let Err(Raised) = result {
                return Err(left.map_or(Raised, |()| Raised));
            }
            left?;
            return Ok(Next::Return(Owned::none()));
        }
        awaited.transpose()?;
        loop {
            match self.stage.get() {
                Stage::Last => return Ok(Next::Return(Owned::none())),
                Stage::Drain => {
                    let Some(writer) = self.writer.cloned() else {
                        return reused();
                    };
                    if let Some(reader) = writer.reader.cloned() {
                        let exception = reader_exception(&reader)?;
                        if !exception.is_none() {
                            return raise_instance(exception);
                        }
                    }
                    let protocol = writer.protocol.or_none();
                    self.stage.set(Stage::Helper);
                    self.protocol.set(protocol);
                    let transport = writer.transport.or_none();
                    if transport.call_method(&names().is_closing, &[])?.is_true()? {
                        // `connection_lost` is scheduled. Without a turn in between, a program that
                        // only writes and drains would never see the error.
                        return Ok(Next::Yield);
                    }
                }
                Stage::Helper => {
                    let protocol = self.protocol.or_none();
                    // A subclass may override the helper, and call this one.
                    let this = match self.writer.get() {
                        None => protocol.instance::<Protocol>(),
                        Some(_) => protocol::plain(&protocol),
                    };
                    let Some(this) = this else {
                        self.stage.set(Stage::Last);
                        let helper = protocol.call_method(&names().drain_helper, &[])?;
                        return Ok(Next::Await(iterator_of(&helper)?));
                    };
                    if this.connection_lost.get() {
                        let class = Builtin::ConnectionReset.class();
                        return raise(class, "Connection lost");
                    }
                    if !this.paused.get() {
                        return Ok(Next::Return(Owned::none()));
                    }
                    let waiter = create_future(&this.event_loop.or_none())?;
                    let iterator = iterator_of(&waiter)?;
                    this.drain_waiters()?
                        .call_method(&names().append, &[&waiter])?;
                    self.waiter.set(waiter);
                    self.stage.set(Stage::Waiting);
                    return Ok(Next::Await(iterator));
                }
                Stage::WaitClosed => {
                    let Some(writer) = self.writer.cloned() else {
                        return reused();
                    };
                    let (protocol, writer) = (writer.protocol.or_none(), writer.object());
                    let waiter = protocol.call_method(&names().get_close_waiter, &[writer])?;
                    self.stage.set(Stage::Last);
                    return Ok(Next::Await(iterator_of(&waiter)?));
                }
                Stage::Waiting => return runtime_error("drain() went on without having waited"),
            }
        }
    }

    fn release(&self) {
        if !self.waiter.is_empty() && self.leave().is_err() {
            crate::cpython::error::write_unraisable(None);
        }
        self.writer.slot().clear();
        self.protocol.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.writer.slot());
        see(&self.protocol);
        see(&self.waiter);
    }

    fn class() -> &'static Class {
        &CLASS
    }
}

impl Drain {
    /// Takes the future out of the protocol's queue; an exception that is set stays so.
    fn leave(&self) -> Res<()> {
        let (Some(waiter), Some(protocol)) = (self.waiter.take(), self.protocol.cloned()) else {
            return Ok(());
        };
        let remove = || {
            let Some(protocol) = protocol.instance::<Protocol>() else {
                return Ok(());
            };
            let waiters = protocol.drain_waiters()?;
            waiters.call_method(&names().remove, &[&waiter]).map(drop)
        };
        // SAFETY: the GIL is held.
        if unsafe { ffi::PyErr_Occurred() }.is_null() {
            return remove();
        }
        with_exception_kept(remove);
        Ok(())
    }
}

fn reader_exception(object: &Object) -> Res<Owned> {
    match reader::plain(object) {
        Some(reader) => Ok(reader.exception.or_none()),
        None => object.call_method(&names().exception, &[]),
    }
}

/// An awaitable that is ready at once, any number of times.
pub(super) struct Ready;

impl Steps for Ready {
    const REUSABLE: bool = true;

    fn name(&self) -> &'static str {
        "StreamWriter.drain"
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        awaited.transpose()?;
        Ok(Next::Return(Owned::none()))
    }

    fn release(&self) {}

    fn for_each_slot(&self, _: &mut dyn FnMut(&Slot)) {}

    fn class() -> &'static Class {
        &READY_CLASS
    }
}

/// Whether `drain()` would return at once. What the program wrote is sent first, to find out; over
/// TLS, the kernel is asked whether sending would fail.
fn is_drained(this: &Writer) -> Res<bool> {
    let Some(transport) = this.transport.cloned() else {
        return Ok(false);
    };
    let (socket, upper) = (socket::plain(&transport), above::upper(&transport));
    if socket.is_none() && upper.is_none() {
        return Ok(false);
    }
    if let Some(reader) = this.reader.get()
        && !reader::plain(reader).is_some_and(|reader| reader.exception.is_empty())
    {
        return Ok(false);
    }
    let is_closing = match (socket, upper) {
        (Some(socket), _) => {
            writing::flush_if_dirty(socket)?;
            socket.is_closing()
        }
        (None, Some(upper)) => (upper.is_closing)(&transport)?,
        (None, None) => return Ok(false),
    };
    Ok(!is_closing
        && this
            .protocol
            .get()
            .and_then(protocol::plain)
            .is_some_and(|protocol| !protocol.connection_lost.get() && !protocol.paused.get()))
}

/// It has been awaited to its end.
#[cold]
fn reused<T>() -> Res<T> {
    runtime_error("cannot reuse already awaited coroutine")
}

/// `StreamWriter.drain()`.
#[inline]
pub(super) fn drain(writer: &Native<Writer>) -> Res<Owned> {
    if is_drained(writer)? {
        // SAFETY: made at import, and kept for ever.
        return Ok(unsafe { Object::from_ptr(READY.load(Ordering::Relaxed)) }.own());
    }
    start(Some(writer), None, Stage::Drain)
}

/// `StreamWriter.wait_closed()`.
pub(super) fn wait_closed(writer: &Native<Writer>) -> Res<Owned> {
    start(Some(writer), None, Stage::WaitClosed)
}

/// `StreamReaderProtocol._drain_helper()`.
pub(super) fn drain_helper(protocol: &Native<Protocol>) -> Res<Owned> {
    start(None, Some(protocol.object()), Stage::Helper)
}

fn start(writer: Option<&Native<Writer>>, protocol: Option<&Object>, stage: Stage) -> Res<Owned> {
    make::<Drain>(|drain| {
        match writer {
            Some(writer) => drain.writer.set(writer.own()),
            None => drain.writer.slot().clear(),
        }
        drop(drain.protocol.replace(protocol.map(Object::own)));
        drain.stage.set(stage);
    })
}

/// Makes the types.
pub(super) fn init_types() -> Res<()> {
    crate::awaitable::init_type::<Drain>(c"rondel._rondel.Drain")?;
    crate::awaitable::init_type::<Ready>(c"rondel._rondel.Ready")?;
    READY.store(make::<Ready>(|_| ())?.into_ptr(), Ordering::Relaxed);
    Ok(())
}
