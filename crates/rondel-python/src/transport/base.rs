//! [`Transport`]: the object behind every transport, from its creation to its finalizer.
//!
//! An [`End`] holds what is specific to sockets, datagram sockets or pipes, around the engine's
//! state. [`Reads`] and [`Writes`](super::flow::Writes) are for the kinds that read and write.
//! `methods.rs` has what a program calls, `ending.rs` closing and failing, `flow.rs` flow control.
//!
//! No borrow of the engine's state is ever held while Python code runs.

use std::cell::Cell;
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::ptr;

use pyo3::ffi;
use rondel_engine::transport::intake::Intake;
use rondel_engine::transport::stream::Close;

use super::ending;
use super::loop_calls::{
    call_soon, report_callback, set_result_unless_cancelled, warn_of_resource,
};
use super::receiver::{self, Receiver};
use super::ways::Watched;
use crate::cpython::collected::Collected;
use crate::cpython::error::{
    guard_object, raise_os_error, restore, take_exception, write_unraisable,
};
use crate::cpython::flags::Flags;
use crate::cpython::method::{GetSet, Method};
use crate::cpython::native::{Class, Fields, Native, NativeClass, OwnedNative, This};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, names, none};
use crate::handle;
use crate::loop_core::item::{Exit, Kind, Source};
use crate::loop_core::{LoopCore, check_closed};

/// A transport's fields, behind those of asyncio's classes.
#[repr(C)]
pub(crate) struct Transport<E> {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    /// Empty after `connection_lost`.
    pub(super) event_loop: Slot,
    pub(super) protocol: Slot,
    /// How events reach the protocol.
    pub(super) receiver: Cell<&'static Receiver>,
    /// The dict of `get_extra_info`; for a socket see `extra.rs`.
    pub(super) extra: Slot,
    /// The limits of the write buffer, if they are not plain integers.
    pub(super) limits: Slot,
    /// Done when the transport has started.
    pub(super) waiter: Slot,
    /// What the protocol's `data_received` and so on run in.
    pub(super) context: Slot,
    pub(super) fd: Cell<RawFd>,
    flags: Flags<u16>,
    pub(super) end: E,
}

/// The reactor watches the descriptor for reading.
pub(super) const WATCHED_FOR_READING: u16 = 1;
/// The reactor watches the descriptor for writing.
pub(super) const WATCHED_FOR_WRITING: u16 = 2;
/// The deferred item that starts the transport has not run yet.
pub(super) const STARTING: u16 = 4;
/// The transport was made with a context, in which all calls run (from 3.15 on).
pub(super) const CONTEXT_WAS_GIVEN: u16 = 8;
/// The first flag that is free for a kind's own use.
pub(super) const OWN_FLAG: u16 = 16;

/// What is specific to a kind of transport.
pub(crate) trait End: Sized + 'static {
    const NAME: &'static CStr;
    const DOC: &'static CStr;
    /// The default message of `_fatal_error`.
    const FATAL_ERROR: &'static str;
    /// asyncio's name for the callback of a writable descriptor.
    const WRITE_READY: &'static str = "_write_ready";
    /// asyncio's name for the callback that [`deferred`](Self::deferred) replaces.
    const DEFERRED: &'static str = "";

    fn class() -> &'static Class;

    // ---- the object ----

    /// Visits the slots of the end itself.
    fn for_each_slot(&self, _see: &mut dyn FnMut(&Slot)) {}
    /// Visits other objects that the end holds.
    fn for_each_other(&self, see: &mut dyn FnMut(&Object));
    /// Releases those other objects, unless they are borrowed.
    fn release_others(&self);
    /// What a `repr` says of an open transport on an open loop.
    fn describe(this: &Native<Transport<Self>>) -> Vec<String>;
    /// Whether the `repr` has the form of asyncio's pipe transports: `closed` twice, and `open` on
    /// a closed loop.
    const DESCRIBED_AS_PIPE: bool = false;
    /// Replaces the protocol.
    fn set_protocol(this: &Native<Transport<Self>>, protocol: &Object) -> Res<()> {
        this.receiver.set(receiver::of_chunks(protocol));
        this.protocol.set(protocol.own());
        Ok(())
    }

    // ---- what the loop tells ----

    fn start(this: &Native<Transport<Self>>) -> Res<()>;
    fn read_ready(this: &Native<Transport<Self>>) -> Res<()>;
    fn write_ready(_this: &Native<Transport<Self>>) -> Res<()> {
        Ok(())
    }
    /// Runs a deferred item other than the start.
    fn deferred(_this: &Native<Transport<Self>>) -> Res<()> {
        Ok(())
    }

    // ---- its end ----

    /// Whether the descriptor is closed.
    fn is_closed(&self) -> bool;
    fn is_closing(&self) -> bool;
    /// asyncio's `_conn_lost`: failures, and writes after the connection was lost.
    fn conn_lost(&self) -> u32;
    /// Marks it as closing.
    fn close(this: &Native<Transport<Self>>) -> Close;
    /// Ends it at once and drops what waits to be sent. Returns false if it had ended before.
    fn force_close(this: &Native<Transport<Self>>) -> Res<bool>;
    /// Closes the descriptor.
    fn close_descriptor(this: &Transport<Self>) -> Res<()>;
    /// Whether an error is left to the protocol, and not reported to the loop's exception handler.
    fn is_expected(exception: &Object) -> Res<bool> {
        ending::is_os_error(exception)
    }
    /// Schedules `connection_lost` natively. Returns false where Python code has to be called.
    fn lose(_this: &Native<Transport<Self>>, _core: &LoopCore, _exception: &Object) -> Res<bool> {
        Ok(false)
    }
    /// Releases what the end holds, after `connection_lost`.
    fn let_go(_this: &Native<Transport<Self>>) -> Res<()> {
        Ok(())
    }
    /// Notifies others than the protocol of the end.
    fn ended(_this: &Native<Transport<Self>>) -> Res<()> {
        Ok(())
    }
    /// The end's part of the finalizer, after the descriptor was closed.
    fn finalized(_this: &Native<Transport<Self>>) -> Res<()> {
        Ok(())
    }

    // ---- data written in the running turn ----

    /// Sends it.
    fn settle(_this: &Native<Transport<Self>>) -> Res<()> {
        Ok(())
    }
    /// Sends it, after what was written to other transports: the connection is about to end.
    fn settle_end(this: &Native<Transport<Self>>) -> Res<()> {
        Self::settle(this)
    }
    /// Sends it if the kernel knows that the connection has failed, so that `is_closing()` tells.
    fn settle_failure(_this: &Native<Transport<Self>>) -> Res<()> {
        Ok(())
    }
}

/// A kind that reads.
pub(crate) trait Reads: End {
    /// Calls `look` with the state of reading.
    fn intake<R>(&self, look: impl FnOnce(&mut Intake) -> R) -> R;

    /// Reading was resumed.
    fn resumed(this: &Native<Transport<Self>>) -> Res<()> {
        start_reading(this)
    }
}

// SAFETY: `make` has filled the fields before anyone sees an instance, and no class derives from
// these.
unsafe impl<E: End> Fields for Transport<E> {
    #[inline]
    fn offset() -> usize {
        E::class().offset()
    }
}

// SAFETY: as above.
unsafe impl<E: End> NativeClass for Transport<E> {
    #[inline]
    fn class() -> &'static Class {
        E::class()
    }
}

// SAFETY: it shows all that it holds.
unsafe impl<E: End> Collected for Transport<E> {
    const FINALIZED: bool = true;

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        for slot in [
            &self.dict,
            &self.event_loop,
            &self.protocol,
            &self.extra,
            &self.limits,
            &self.waiter,
            &self.context,
        ] {
            see(slot);
        }
        self.end.for_each_slot(see);
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.end.for_each_other(see);
    }

    fn release_others(&self) {
        self.end.release_others();
    }

    /// A transport that was never closed closes its descriptor, and emits a `ResourceWarning`.
    fn finalize(this: &Native<Self>) -> Res<()> {
        if this.end.is_closed() {
            return Ok(());
        }
        let text = format!("unclosed transport {}", describe(this)?.to_text()?);
        // Where warnings are errors, this one is reported as unraisable; the descriptor is closed
        // anyway.
        if let Err(Raised) = warn_of_resource(&text, Some(this.object())) {
            write_unraisable(Some(this.object()));
        }
        E::close_descriptor(this)?;
        E::finalized(this)
    }
}

impl<E: End> Transport<E> {
    #[inline]
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags.has(flag)
    }

    #[inline]
    pub(super) fn set(&self, flag: u16, on: bool) {
        self.flags.set(flag, on);
    }

    /// The loop's core, until `connection_lost`.
    #[inline]
    pub(super) fn core(&self) -> Option<&LoopCore> {
        self.event_loop.get().and_then(LoopCore::of)
    }

    /// Whether no method is overridden on the instance.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.dict.is_empty()
    }

    /// Whether `connection_lost` is certain.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.end.conn_lost() > 0
    }

    /// The context that its maker gave it.
    pub(super) fn given_context(&self) -> Option<Owned> {
        match self.has(CONTEXT_WAS_GIVEN) {
            true => self.context.cloned(),
            false => None,
        }
    }
}

// ---- its beginning ----

/// A new transport, without a protocol and not scheduled yet.
pub(super) fn make<E: End>(
    event_loop: &Object,
    fd: RawFd,
    end: E,
    flags: u16,
) -> Res<OwnedNative<Transport<E>>> {
    // SAFETY: the fields are filled before anyone sees the object.
    let this: OwnedNative<Transport<E>> = unsafe {
        let object = allocate(E::class().as_ptr())?;
        let fields = object.as_ptr().byte_add(E::class().offset());
        fields.cast::<Transport<E>>().write(Transport {
            dict: Slot::default(),
            weakrefs: Cell::new(ptr::null_mut()),
            event_loop: Slot::default(),
            protocol: Slot::default(),
            receiver: Cell::new(&receiver::METHODS),
            extra: Slot::default(),
            limits: Slot::default(),
            waiter: Slot::default(),
            context: Slot::default(),
            fd: Cell::new(fd),
            flags: Flags::new(STARTING | flags),
            end,
        });
        OwnedNative::new(object)
    };
    this.event_loop.set(event_loop.own());
    Ok(this)
}

/// Schedules `connection_made`, then the start of the transport. `prepare` runs after the checks
/// and before anything is scheduled.
pub(super) fn introduce<E: End>(
    this: &Native<Transport<E>>,
    core: &LoopCore,
    prepare: impl FnOnce() -> Res<()>,
) -> Res<()> {
    let protocol = this.protocol.or_none();
    let connection_made = protocol.getattr(&names().connection_made)?;
    check_closed(core)?;
    prepare()?;
    let given = this.given_context();
    if core.calls_directly() && !core.is_debug() {
        let args = [this.object()];
        let handle = handle::new_handle(core.object(), &connection_made, &args, given.as_deref())?;
        core.push(Kind::Handle, handle.into_owned())?;
    } else {
        call_soon(
            core.object(),
            &connection_made,
            this.object(),
            given.as_deref(),
        )?;
    }
    core.push(Kind::Deferred, this.own().into_owned())
}

/// The deferred start: `connection_made` has been called.
fn start<E: End>(this: &Native<Transport<E>>) -> Res<()> {
    this.set(STARTING, false);
    let started = E::start(this);
    if let Some(waiter) = this.waiter.take() {
        set_result_unless_cancelled(&waiter, none())?;
    }
    started
}

// ---- the reactor ----

/// Registers the descriptor with the reactor, for reading or for writing.
pub(super) fn watch<E: End>(this: &Native<Transport<E>>, side: u16) -> Res<()> {
    let Some(event_loop) = this.event_loop.cloned() else {
        return Ok(());
    };
    let Some(core) = LoopCore::of(&event_loop) else {
        return Ok(());
    };
    check_closed(core)?;
    let source = Source::Transport(this.own().into_owned());
    let before = match side {
        WATCHED_FOR_READING => core.engine().add_reader(this.fd.get(), source),
        _ => core.engine().add_writer(this.fd.get(), source),
    };
    match before {
        Ok(before) => drop(before),
        Err(error) => return raise_os_error(&error),
    }
    this.set(side, true);
    Ok(())
}

/// Removes that registration.
pub(super) fn unwatch<E: End>(this: &Transport<E>, side: u16) {
    if !this.has(side) {
        return;
    }
    this.set(side, false);
    if let Some(event_loop) = this.event_loop.cloned()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        drop(match side {
            WATCHED_FOR_READING => core.engine().remove_reader(this.fd.get()),
            _ => core.engine().remove_writer(this.fd.get()),
        });
    }
}

/// Watches for reading, unless reading is paused or the transport is closing.
pub(super) fn start_reading<E: Reads>(this: &Native<Transport<E>>) -> Res<()> {
    match this.end.intake(|intake| intake.is_reading()) {
        true => watch(this, WATCHED_FOR_READING),
        false => Ok(()),
    }
}

impl<E: End> Watched for Transport<E> {
    const READ_READY: &'static str = "_read_ready";

    #[inline]
    fn readable(this: &Native<Self>) -> ControlFlow<Exit> {
        finish(this, E::read_ready(this), Self::READ_READY)
    }

    fn writable(this: &Native<Self>) -> ControlFlow<Exit> {
        finish(this, E::write_ready(this), E::WRITE_READY)
    }

    fn deferred(this: &Native<Self>) -> ControlFlow<Exit> {
        match this.has(STARTING) {
            true => finish(this, start(this), "_add_reader"),
            false => finish(this, E::deferred(this), E::DEFERRED),
        }
    }
}

/// Reports an exception of a callback. Only `KeyboardInterrupt` and `SystemExit` leave the loop.
#[inline]
fn finish<E: End>(
    this: &Native<Transport<E>>,
    result: Res<()>,
    callback: &str,
) -> ControlFlow<Exit> {
    if let Err(Raised) = result
        && let Err(Raised) = report_callback(this.object(), this.event_loop.cloned(), callback)
    {
        return ControlFlow::Break(Exit::Raised(restore(take_exception())));
    }
    ControlFlow::Continue(())
}

/// Runs `body` in a context, if there is one.
#[inline]
pub(super) fn in_context(own: Option<Owned>, body: impl FnOnce() -> Res<()>) -> Res<()> {
    match own {
        None => body(),
        Some(own) => {
            context::enter(&own)?;
            let result = body();
            context::exit(&own).and(result)
        }
    }
}

// ---- the type ----

/// `"polling"` or `"idle"`.
pub(super) fn polling<E: End>(this: &Transport<E>, side: u16) -> &'static str {
    match this.has(side) {
        true => "polling",
        false => "idle",
    }
}

fn describe<E: End>(this: &Native<Transport<E>>) -> Res<Owned> {
    let mut info = vec![this.object().class_name()?];
    let is_closed = this.end.is_closed();
    if is_closed {
        info.push("closed".to_owned());
    } else if this.end.is_closing() {
        info.push("closing".to_owned());
    }
    info.push(format!("fd={}", this.fd.get()));
    // A closed loop watches nothing.
    let is_open = this.core().is_some_and(|core| !core.is_closed());
    if E::DESCRIBED_AS_PIPE && is_closed {
        info.push("closed".to_owned());
    } else if E::DESCRIBED_AS_PIPE && !is_open {
        info.push("open".to_owned());
    } else if is_open {
        info.extend(E::describe(this));
    }
    Owned::from_str(&format!("<{}>", info.join(" ")))
}

unsafe extern "C" fn repr<E: End>(transport: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an instance of the class that has this slot.
    let this = unsafe { Native::<Transport<E>>::this(transport) };
    guard_object(|| describe(this))
}

/// Makes the class of a kind, which derives from asyncio's `bases`.
pub(super) fn make_class<E: End>(
    bases: &[&Object],
    methods: impl IntoIterator<Item = Vec<Method>>,
    attributes: Vec<GetSet>,
) -> Res<Owned> {
    let offset = bases[0].basicsize();
    E::class().set_offset(offset);
    let builder = TypeBuilder::new::<Transport<E>>(E::NAME, Some(bases[0]), offset)
        .bases(bases)
        .not_instantiable()
        .doc(E::DOC)
        .dict(offset + std::mem::offset_of!(Transport<E>, dict))
        .weaklist(offset + std::mem::offset_of!(Transport<E>, weakrefs))
        .slot(ffi::Py_tp_repr, slot_fn!(repr::<E>, ffi::reprfunc))
        .collected::<Transport<E>>()
        .getset(attributes);
    let builder = methods
        .into_iter()
        .fold(builder, |builder, methods| builder.methods(methods));
    let class = builder.build()?;
    E::class().set(&class);
    Ok(class)
}

/// asyncio's `max_size`: the most bytes that are read at a time.
pub(super) fn set_max_size(class: &Object) -> Res<()> {
    let max_size = Owned::from_u64(rondel_engine::transport::recv_size::MAX_RECV as u64)?;
    crate::cpython::types::set_type_attribute(class, c"max_size", &max_size)
}
