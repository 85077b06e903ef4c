//! `ReadPipeTransport` and `WritePipeTransport`: asyncio's `_UnixReadPipeTransport` and `_UnixWritePipeTransport`, on the
//! engine's `ReadEnd` and `WriteEnd`.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | what both ends have: how they are made, described and finalized, what they are registered for, how they end |
//! | `reading.rs` | the end that is read |
//! | `writing.rs` | the end that is written |
//!
//! The file object owns the descriptor from the beginning to the end, as the program has made it before, and is closed once.

pub(super) mod reading;
pub(super) mod writing;

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;
use rondel_engine::transport::pipe::Kind as PipeKind;

use super::closing::report;
use super::descriptor::Owner;
use super::extra::ask_replaced;
use super::loop_calls::{set_result_unless_cancelled, warn_of_resource, with_exception_kept};
use super::names::names;
use super::socket::call_soon;
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{
    guard_object, raise_os_error, runtime_error, type_error, value_error, write_unraisable,
};
use crate::cpython::method::{Args, GetSet, Method};
use crate::cpython::native::Fields;
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, none};
use crate::handle;
use crate::loop_core::LoopCore;
use crate::loop_core::check_closed;
use crate::loop_core::item::{Kind, Source};

/// A transport's fields, behind those of asyncio's class.
#[repr(C)]
pub(super) struct Pipe<E> {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    /// Empty once the end was told.
    event_loop: Slot,
    protocol: Slot,
    /// The dict of `get_extra_info`.
    extra: Slot,
    /// The limits of the write buffer, if they are no plain integers.
    limits: Slot,
    /// Done when the transport has started.
    waiter: Slot,
    /// What `data_received` runs in; empty at the end that is written.
    context: Slot,
    fd: Cell<RawFd>,
    /// The reactor is to say when it can be read, or that the other end is gone.
    watched: Cell<bool>,
    end: E,
}

/// Where a class and its fields are.
pub(super) struct Place {
    class: AtomicPtr<ffi::PyTypeObject>,
    offset: AtomicUsize,
}

impl Place {
    const fn new() -> Self {
        Self {
            class: AtomicPtr::new(ptr::null_mut()),
            offset: AtomicUsize::new(0),
        }
    }

    /// Whether an object is exactly of this class.
    #[inline]
    fn is_of(&self, object: &Object) -> bool {
        ptr::eq(object.type_ptr(), self.class.load(Ordering::Relaxed))
    }
}

/// One end of a pipe: what is its own about a transport.
pub(super) trait End: Sized + 'static {
    /// What is said of a descriptor that can't be waited for.
    const REFUSAL: &'static str;
    const NAME: &'static CStr;
    const DOC: &'static CStr;

    fn place() -> &'static Place;
    fn new(pipe: Owner, kind: PipeKind) -> Self;
    /// Shows the file object, if there is one and nothing is borrowed.
    fn see_pipe(&self, see: &mut dyn FnMut(&Object));
    /// Takes the file object, if nothing is borrowed.
    fn take_pipe(&self) -> Option<Owner>;
    fn is_closing(&self) -> bool;
    /// Whether a failure is no reason to call the loop's exception handler.
    fn expects(exception: &Object) -> Res<bool>;
    /// What a `repr` says of an open transport on an open loop.
    fn describe(this: &Pipe<Self>) -> Vec<String>;
    /// Ends it at once, with nothing watched any more; whether it had not ended before.
    fn shut(this: &Pipe<Self>) -> bool;
}

// SAFETY: the fields stand at that offset, filled by `make`.
unsafe impl<E: End> Fields for Pipe<E> {
    #[inline]
    fn offset() -> usize {
        E::place().offset.load(Ordering::Relaxed)
    }
}

// SAFETY: it shows all that it holds.
unsafe impl<E: End> Collected for Pipe<E> {
    const FINALIZED: bool = true;

    slots!(dict, event_loop, protocol, extra, limits, waiter, context);

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.end.see_pipe(see);
    }

    fn release_others(&self) {
        drop(self.end.take_pipe());
    }

    /// A transport that nobody has any more closes its pipe, and says that the program should have.
    fn finalize(transport: &Object) -> Res<()> {
        let this = Self::of(transport);
        if this.is_closed() {
            return Ok(());
        }
        let text = format!(
            "unclosed transport {}",
            describe::<E>(transport)?.to_text()?
        );
        if let Err(Raised) = warn_of_resource(&text, Some(transport)) {
            write_unraisable(Some(transport));
        }
        this.close_pipe()
    }
}

impl<E: End> Pipe<E> {
    fn pipe(&self) -> Option<Owned> {
        let mut found = None;
        self.end.see_pipe(&mut |pipe| found = Some(pipe.own()));
        found
    }

    fn is_closed(&self) -> bool {
        self.pipe().is_none()
    }

    fn close_pipe(&self) -> Res<()> {
        // Where the other end is on this loop, too, it is to see that in the next turn.
        if let Some(core) = self.event_loop.get().and_then(LoopCore::of) {
            core.engine().poll_next_turn();
        }
        self.end.take_pipe().map_or(Ok(()), Owner::close)
    }

    /// Has the reactor tell the transport when the descriptor can be read, or when the other end is gone.
    fn watch(&self, transport: &Object) -> Res<()> {
        let Some(event_loop) = self.event_loop.cloned() else {
            return Ok(());
        };
        let Some(core) = LoopCore::of(&event_loop) else {
            return Ok(());
        };
        check_closed(core)?;
        let source = Source::Transport(transport.own());
        match core.engine().add_reader(self.fd.get(), source) {
            Ok(before) => drop(before),
            Err(error) => return raise_os_error(&error),
        }
        self.watched.set(true);
        Ok(())
    }

    fn unwatch(&self) {
        if self.watched.replace(false)
            && let Some(event_loop) = self.event_loop.cloned()
            && let Some(core) = LoopCore::of(&event_loop)
            && !core.is_closed()
        {
            drop(core.engine().remove_reader(self.fd.get()));
        }
    }

    /// Tells whoever waits for the transport that it has started.
    fn tell_waiter(&self) -> Res<()> {
        match self.waiter.take() {
            Some(waiter) => set_result_unless_cancelled(&waiter, none()),
            None => Ok(()),
        }
    }
}

/// Looks at a pipe that a transport is to be made for, and makes it non-blocking. `refusal` is the text for what can't be
/// waited for.
fn prepare(pipe: &Object, refusal: &str) -> Res<(Owner, PipeKind)> {
    let owner = Owner::new(pipe)?;
    let fd = owner.as_raw_fd();
    let kind = match PipeKind::of(fd) {
        Ok(Some(kind)) => kind,
        Ok(None) => return value_error(refusal),
        Err(error) => return raise_os_error(&error),
    };
    // SAFETY: system calls without pointers; a bad descriptor gives an error.
    let failed = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0
    };
    if failed {
        return raise_os_error(&std::io::Error::last_os_error());
    }
    Ok((owner, kind))
}

/// The dict of `get_extra_info`.
fn make_extra(extra: &Object, pipe: &Object) -> Res<Owned> {
    let extra = match extra.is_none() {
        true => Owned::dict()?,
        false => extra.own(),
    };
    extra.set(&names().pipe, pipe)?;
    Ok(extra)
}

/// Schedules `connection_made`, and then the transport's own start.
fn introduce(event_loop: &Object, transport: &Object, protocol: &Object) -> Res<()> {
    let Some(core) = LoopCore::of(event_loop) else {
        return runtime_error("the loop is not a rondel.EventLoop");
    };
    let connection_made = protocol.getattr(&names().connection_made)?;
    check_closed(core)?;
    if core.calls_directly() && !core.is_debug() {
        let handle = handle::new_handle(event_loop, &connection_made, &[transport], None)?;
        core.push(Kind::Handle, handle.into_owned())?;
    } else {
        call_soon(event_loop, &connection_made, transport, None)?;
    }
    core.push(Kind::Deferred, transport.own())
}

/// `make_…_pipe_transport(loop, pipe, protocol, waiter=None, extra=None)`.
fn make<E: End>(args: Args<'_>, function: &str) -> Res<Owned> {
    let parameters = ["loop", "pipe", "protocol", "waiter", "extra"];
    let given = args.parse(function, parameters, 5, 3)?;
    let [event_loop, pipe, protocol, waiter, extra] =
        given.map(|argument| argument.unwrap_or(none()));
    let extra = make_extra(extra, pipe)?;
    let (owner, kind) = prepare(pipe, E::REFUSAL)?;
    let fd = owner.as_raw_fd();
    // SAFETY: the fields are filled before anyone sees the object.
    let transport = unsafe {
        let object = allocate(E::place().class.load(Ordering::Relaxed))?;
        let fields = object.as_ptr().byte_add(Pipe::<E>::offset());
        fields.cast::<Pipe<E>>().write(Pipe {
            dict: Slot::default(),
            weakrefs: Cell::new(ptr::null_mut()),
            event_loop: Slot::default(),
            protocol: Slot::default(),
            extra: Slot::default(),
            limits: Slot::default(),
            waiter: Slot::default(),
            context: Slot::default(),
            fd: Cell::new(fd),
            watched: Cell::new(false),
            end: E::new(owner, kind),
        });
        object
    };
    let this = Pipe::<E>::of(&transport);
    this.event_loop.set(event_loop.own());
    this.protocol.set(protocol.own());
    this.extra.set(extra);
    if !waiter.is_none() {
        this.waiter.set(waiter.own());
    }
    Ok(transport)
}

// ---- the end ----

/// Ends it at once; what waits is not written.
fn end<E: End>(transport: &Object, exception: &Object) -> Res<()> {
    let this = Pipe::<E>::of(transport);
    match E::shut(this) {
        true => schedule_connection_lost(transport, this, exception),
        false => Ok(()),
    }
}

/// `call_soon(self._call_connection_lost, exception)`.
fn schedule_connection_lost<E>(transport: &Object, this: &Pipe<E>, exception: &Object) -> Res<()> {
    let callback = transport.getattr(&names().call_connection_lost)?;
    call_soon(&this.event_loop.or_none(), &callback, exception, None)
}

/// The pipe, or the protocol, has failed.
#[cold]
fn fatal_error<E: End>(transport: &Object, exception: &Object, message: &Object) -> Res<()> {
    let is_expected = E::expects(exception)?;
    let this = Pipe::<E>::of(transport);
    let (event_loop, protocol) = (this.event_loop.cloned(), this.protocol.or_none());
    report(
        transport,
        event_loop,
        protocol,
        exception,
        message,
        is_expected,
    )?;
    end::<E>(transport, exception)
}

fn fatal_error_method<E: End>(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let [exception, message] = args.parse("_fatal_error", ["exc", "message"], 2, 1)?;
    let message = match message {
        Some(message) => message.own(),
        None => Owned::from_str("Fatal error on pipe transport")?,
    };
    fatal_error::<E>(transport, exception.unwrap_or(none()), &message)?;
    Ok(Owned::none())
}

/// Whether an exception is an `OSError`.
fn is_os_error(exception: &Object) -> Res<bool> {
    // SAFETY: a built-in class lives as long as the interpreter.
    exception.is_instance(unsafe { Object::from_ptr(ffi::PyExc_OSError) })
}

/// Tells the protocol, and lets go of everything.
fn call_connection_lost<E: End>(transport: &Object, exception: &Object) -> Res<Owned> {
    let this = Pipe::<E>::of(transport);
    let told = match this.protocol.cloned() {
        Some(owner) => owner.call_method(&names().connection_lost, &[exception]),
        None => Ok(Owned::none()),
    };
    let let_go = || {
        this.close_pipe()?;
        this.protocol.clear();
        this.context.clear();
        this.event_loop.clear();
        Ok(())
    };
    match told {
        Ok(_) => let_go().map(|()| Owned::none()),
        Err(Raised) => Err(with_exception_kept(let_go)),
    }
}

// ---- methods and attributes ----

fn is_closing<E: End>(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(Pipe::<E>::of(transport).end.is_closing()))
}

fn get_protocol<E: End>(transport: &Object) -> Res<Owned> {
    Ok(Pipe::<E>::of(transport).protocol.or_none())
}

fn set_protocol<E: End>(transport: &Object, protocol: &Object) -> Res<Owned> {
    Pipe::<E>::of(transport).protocol.set(protocol.own());
    Ok(Owned::none())
}

fn get_extra_info<E: End>(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let [name, default] = args.parse("get_extra_info", ["name", "default"], 2, 1)?;
    if let Some(answer) = ask_replaced(transport, name, default)? {
        return Ok(answer);
    }
    Pipe::<E>::of(transport).extra.or_none().call_method(
        &names().get,
        &[name.unwrap_or(none()), default.unwrap_or(none())],
    )
}

fn get_extra<E: End>(transport: &Object) -> Res<Owned> {
    Ok(Pipe::<E>::of(transport).extra.or_none())
}

fn get_loop<E: End>(transport: &Object) -> Res<Owned> {
    Ok(Pipe::<E>::of(transport).event_loop.or_none())
}

fn get_pipe<E: End>(transport: &Object) -> Res<Owned> {
    Ok(Pipe::<E>::of(transport).pipe().unwrap_or_else(Owned::none))
}

/// `transport._pipe = None`: from then on the pipe is the program's to close.
fn set_pipe<E: End>(transport: &Object, value: Option<&Object>) -> Res<()> {
    if !value.unwrap_or(none()).is_none() {
        return type_error("the pipe of a transport can only be taken away");
    }
    drop(Pipe::<E>::of(transport).end.take_pipe());
    Ok(())
}

fn get_fileno<E: End>(transport: &Object) -> Res<Owned> {
    Owned::from_i64(Pipe::<E>::of(transport).fd.get().into())
}

fn describe<E: End>(transport: &Object) -> Res<Owned> {
    let this = Pipe::<E>::of(transport);
    let class = transport
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()?;
    let mut info = vec![class];
    let is_closed = this.is_closed();
    if is_closed {
        info.push("closed".to_owned());
    } else if this.end.is_closing() {
        info.push("closing".to_owned());
    }
    info.push(format!("fd={}", this.fd.get()));
    // With the loop closed nothing is watched any more.
    let event_loop = this.event_loop.get().and_then(LoopCore::of);
    if is_closed {
        info.push("closed".to_owned());
    } else if event_loop.is_none_or(LoopCore::is_closed) {
        info.push("open".to_owned());
    } else {
        info.extend(E::describe(this));
    }
    Owned::from_str(&format!("<{}>", info.join(" ")))
}

unsafe extern "C" fn repr<E: End>(transport: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    guard_object(|| describe::<E>(unsafe { Object::from_ptr(transport) }))
}

/// The methods that both ends have.
macro_rules! common_methods {
    ($end:ty) => {
        vec![
            method!(noargs c"is_closing" super::is_closing::<$end>, c"Whether it is closed or about to be."),
            method!(noargs c"get_protocol" super::get_protocol::<$end>, c"The protocol."),
            method!(named c"set_protocol" ("protocol") super::set_protocol::<$end>, c"Replaces the protocol."),
            method!(fast c"get_extra_info(name, default=None)" super::get_extra_info::<$end>, c"Optional information on the pipe."),
            method!(fast c"_fatal_error(exc, message='Fatal error on pipe transport')" super::fatal_error_method::<$end>, c"Reports an exception and closes at once."),
            method!(onearg c"_call_connection_lost(exc, /)" super::call_connection_lost::<$end>, c"Tells the protocol and closes the pipe."),
        ]
    };
}
use common_methods;

/// The attributes that both ends have.
macro_rules! common_attributes {
    ($end:ty) => {
        vec![
            attribute!(c"_protocol" super::get_protocol::<$end>),
            attribute!(c"_loop" super::get_loop::<$end>),
            attribute!(c"_extra" super::get_extra::<$end>),
            attribute!(c"_pipe" super::get_pipe::<$end>, super::set_pipe::<$end>),
            attribute!(c"_fileno" super::get_fileno::<$end>),
            attribute!(c"_closing" super::is_closing::<$end>),
        ]
    };
}
use common_attributes;

/// Makes the class of one end, which derives from asyncio's `base`.
fn make_class<E: End>(base: &Owned, methods: Vec<Method>, attributes: Vec<GetSet>) -> Res<Owned> {
    let (place, offset) = (E::place(), base.basicsize());
    place.offset.store(offset, Ordering::Relaxed);
    let class = TypeBuilder::new::<Pipe<E>>(E::NAME, Some(base), offset)
        .not_instantiable()
        .doc(E::DOC)
        .dict(offset + std::mem::offset_of!(Pipe<E>, dict))
        .weaklist(offset + std::mem::offset_of!(Pipe<E>, weakrefs))
        .slot(ffi::Py_tp_repr, slot_fn!(repr::<E>, ffi::reprfunc))
        .collected::<Pipe<E>>()
        .methods(methods)
        .getset(attributes)
        .build()?;
    place
        .class
        .store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}

/// The classes and functions that the module exports.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let mut exports = reading::init()?;
    exports.extend(writing::init()?);
    Ok(exports)
}
