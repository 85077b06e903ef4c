//! `SocketTransport`: the object. asyncio's `_SelectorSocketTransport`, on the engine's `Stream`.
//!
//! The state is the engine's (`rondel_engine::transport::stream`); this type adds what Python sees. What happens to it is
//! told by area: `reading.rs`, `writing.rs`, `closing.rs`; `extra.rs` has `get_extra_info` and the socket object,
//! `attributes.rs` the attributes that libraries read.
//!
//! No borrow of `stream` is ever held while Python code runs.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;
use rondel_engine::transport::address::Address;
use rondel_engine::transport::stream::Stream;

use super::loop_calls::warn_of_resource;
use super::names::imports;
use super::unsent::{Unsent, release_views};
use super::{attributes, closing, extra, reading, writing};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{guard_object, runtime_error, write_unraisable};
use crate::cpython::native::Fields;
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context};
use crate::loop_core::LoopCore;
use crate::loop_core::check_closed;
use crate::loop_core::item::{Kind, Source};
use crate::streams::protocol;
use crate::{handle, tls, transport::names::names};

/// Who owns the descriptor.
pub(crate) enum Descriptor {
    /// We do: it was accepted here, and nobody has asked for its socket object.
    Ours(OwnedFd),
    /// A `socket.socket` does.
    Python(RawFd, Owned),
}

impl AsRawFd for Descriptor {
    #[inline]
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Ours(fd) => fd.as_raw_fd(),
            Self::Python(fd, _) => *fd,
        }
    }
}

/// A transport's fields, behind those of `asyncio.Transport`.
#[repr(C)]
pub(crate) struct Socket {
    /// The instance's dict, once there is one.
    pub(super) dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    pub(crate) stream: RefCell<Stream<Descriptor, Unsent>>,
    /// Empty once the connection is lost.
    pub(super) event_loop: Slot,
    pub(super) protocol: Slot,
    pub(super) server: Slot,
    /// What the maker gave for `get_extra_info`; with [`EXTRA_IS_WHOLE`], all there is.
    pub(super) extra: Slot,
    /// The `TransportSocket`, once it was asked for.
    pub(super) socket_info: Slot,
    /// The limits of the write buffer, if they are no plain integers.
    pub(super) limits: Slot,
    /// Done when reading has started.
    pub(super) waiter: Slot,
    /// Done when everything is sent; `sendfile` waits for it.
    pub(super) empty_waiter: Slot,
    /// What the protocol's `data_received` and so on run in.
    pub(super) context: Slot,
    /// The exception for a `connection_lost` that is scheduled natively.
    pub(super) lost_with: Slot,
    pub(super) peer: RefCell<Option<Address>>,
    pub(super) local: RefCell<Option<Address>>,
    pub(super) fd: Cell<RawFd>,
    flags: Cell<u16>,
}

/// The reactor watches the descriptor for reading.
pub(super) const WATCHED_FOR_READING: u16 = 1;
/// The reactor watches the descriptor for writing.
pub(super) const WATCHED_FOR_WRITING: u16 = 2;
/// The deferred item that starts reading has not run yet.
pub(super) const STARTING: u16 = 4;
/// The protocol is a `BufferedProtocol`.
pub(super) const BUFFERED: u16 = 8;
/// `set_protocol` was called, as it always is.
pub(super) const PROTOCOL_CONNECTED: u16 = 16;
/// `extra` has `socket`, `sockname` and `peername`, too.
pub(super) const EXTRA_IS_WHOLE: u16 = 32;
/// The maker gave an `extra`.
pub(super) const EXTRA_WAS_GIVEN: u16 = 64;
/// The maker gave a context, which all calls run in (from 3.15 on).
pub(super) const CONTEXT_WAS_GIVEN: u16 = 128;

/// The protocol speaks TLS for another one, natively.
pub(super) const TLS: u16 = 256;

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static OFFSET: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the fields stand at that offset, filled by `make`.
unsafe impl Fields for Socket {
    #[inline]
    fn offset() -> usize {
        OFFSET.load(Ordering::Relaxed)
    }
}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Socket {
    const FINALIZED: bool = true;

    slots!(
        dict,
        event_loop,
        protocol,
        server,
        extra,
        socket_info,
        limits,
        waiter,
        empty_waiter,
        context,
        lost_with
    );

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        let Ok(stream) = self.stream.try_borrow() else {
            return;
        };
        if let Some(Descriptor::Python(_, socket)) = stream.socket() {
            see(socket);
        }
        stream
            .queue()
            .chunks()
            .filter_map(Unsent::collected)
            .for_each(see);
    }

    fn release_others(&self) {
        let taken = self.stream.try_borrow_mut().map(|mut stream| {
            let (socket, unsent) = (stream.take_socket(), stream.take_queue());
            (socket, unsent)
        });
        drop(taken);
        release_views();
    }

    /// A transport that nobody has any more closes its socket, and says that the program should have.
    fn finalize(transport: &Object) -> Res<()> {
        let this = fields(transport);
        if this.stream.borrow().socket().is_none() {
            return Ok(());
        }
        let text = format!("unclosed transport {}", describe(transport)?.to_text()?);
        // Where warnings are errors this one is reported, and the descriptor is closed all the same.
        if let Err(Raised) = warn_of_resource(&text, Some(transport)) {
            write_unraisable(Some(transport));
        }
        closing::close_socket(this)?;
        if imports().server_knows_transports
            && let Some(server) = this.server.take()
        {
            server.call_method(&names().detach, &[transport])?;
        }
        Ok(())
    }
}

/// The fields of an object that is known to be a transport of ours.
#[inline]
pub(crate) fn fields(object: &Object) -> &Socket {
    Socket::of(object)
}

#[inline]
pub(crate) fn is_socket(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed))
}

/// The fields of an object that is a transport of ours with no attribute put over a method.
#[inline]
pub(crate) fn exact(object: &Object) -> Option<&Socket> {
    if !is_socket(object) {
        return None;
    }
    let this = fields(object);
    this.dict.is_empty().then_some(this)
}

impl Socket {
    #[inline]
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    #[inline]
    pub(super) fn set(&self, flag: u16, on: bool) {
        let rest = self.flags.get() & !flag;
        self.flags.set(if on { rest | flag } else { rest });
    }

    /// Whether the program has closed it, or the connection is lost.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.stream.borrow().is_closing()
    }

    /// Whether something was written in the running turn.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        self.stream.borrow().is_dirty()
    }

    /// Whether the kernel knows that the connection has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.stream.borrow().has_failed()
    }

    /// Whether `get_extra_info` may know other names than every transport does.
    pub(crate) fn has_given_extra(&self) -> bool {
        self.has(EXTRA_WAS_GIVEN | EXTRA_IS_WHOLE)
    }

    /// The context that its maker gave it.
    pub(super) fn given_context(&self) -> Option<Owned> {
        match self.has(CONTEXT_WAS_GIVEN) {
            true => self.context.cloned(),
            false => None,
        }
    }

    /// The loop, until the connection is lost.
    #[inline]
    pub(super) fn event_loop(&self) -> Option<Owned> {
        self.event_loop.cloned()
    }

    /// Whether `connection_lost` is certain.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.stream.borrow().conn_lost() > 0
    }
}

/// What may be given to a transport when it is made; `None` where it may be Python's `None`, too.
#[derive(Default)]
pub(crate) struct Given<'a> {
    /// A future that is completed after `connection_made`.
    pub(crate) waiter: Option<&'a Object>,
    /// A dict for `get_extra_info`.
    pub(crate) extra: Option<&'a Object>,
    pub(crate) server: Option<&'a Object>,
    pub(crate) context: Option<&'a Object>,
}

/// A transport for a connected, non-blocking socket. Schedules `connection_made`, then the start of reading, then
/// the waiter, as asyncio's does.
pub(crate) fn make(
    event_loop: &Object,
    descriptor: Descriptor,
    protocol: &Object,
    given: Given<'_>,
    peer: Option<Address>,
) -> Res<Owned> {
    let Some(core) = LoopCore::of(event_loop) else {
        return runtime_error("the loop is not a rondel.EventLoop");
    };
    let fd = descriptor.as_raw_fd();
    let accepted = peer.is_some();
    // SAFETY: the fields are filled before anyone sees the object.
    let transport = unsafe {
        let object = allocate(CLASS.load(Ordering::Relaxed))?;
        let this = object
            .as_ptr()
            .byte_add(OFFSET.load(Ordering::Relaxed))
            .cast::<Socket>();
        this.write(Socket {
            dict: Slot::default(),
            weakrefs: Cell::new(ptr::null_mut()),
            stream: RefCell::new(Stream::new(descriptor)),
            event_loop: Slot::default(),
            protocol: Slot::default(),
            server: Slot::default(),
            extra: Slot::default(),
            socket_info: Slot::default(),
            limits: Slot::default(),
            waiter: Slot::default(),
            empty_waiter: Slot::default(),
            context: Slot::default(),
            lost_with: Slot::default(),
            peer: RefCell::new(peer),
            local: RefCell::new(None),
            fd: Cell::new(fd),
            flags: Cell::new(STARTING),
        });
        object
    };
    let this = fields(&transport);
    this.event_loop.set(event_loop.own());
    if !accepted {
        // Once the peer has reset the connection, nobody could tell any more.
        *this.peer.borrow_mut() = Address::of_peer(fd).ok();
    }
    if let Some(extra) = given.extra.filter(|extra| !extra.is_none()) {
        this.extra.set(extra.own());
        this.set(EXTRA_WAS_GIVEN, true);
    }
    if let Some(context) = given.context.filter(|context| !context.is_none()) {
        this.context.set(context.own());
        this.set(CONTEXT_WAS_GIVEN, true);
    }
    drop(
        this.waiter.replace(
            given
                .waiter
                .filter(|waiter| !waiter.is_none())
                .map(Object::own),
        ),
    );
    match introduce(core, &transport, protocol, given.server) {
        Ok(()) => Ok(transport),
        Err(Raised) if accepted => {
            // Nobody has seen it: the connection is closed without the warning that a lost transport deserves.
            drop(this.stream.borrow_mut().take_socket());
            Err(Raised)
        }
        Err(Raised) => Err(Raised),
    }
}

/// `event_loop.call_soon(callback, argument, context=context)`, as the loop's method.
pub(super) fn call_soon(
    event_loop: &Object,
    callback: &Object,
    argument: &Object,
    context: Option<&Object>,
) -> Res<()> {
    let call_soon = &names().call_soon;
    match context {
        None => event_loop.call_method(call_soon, &[callback, argument]),
        Some(context) => event_loop.call_method_with(
            call_soon,
            &[callback, argument, context],
            Some(&crate::cpython::imports().kw_context),
        ),
    }
    .map(drop)
}

/// Introduces a new transport to its protocol and its server, and schedules its first calls.
fn introduce(
    core: &LoopCore,
    transport: &Object,
    protocol: &Object,
    server: Option<&Object>,
) -> Res<()> {
    let this = fields(transport);
    set_protocol(transport, protocol)?;
    // Before the server counts the connection: up to 3.12 it would count one that comes to nothing for ever.
    let connection_made = protocol.getattr(&names().connection_made)?;
    check_closed(core)?;
    if let Some(server) = server.filter(|server| !server.is_none()) {
        match imports().server_knows_transports {
            true => server.call_method(&names().attach, &[transport])?,
            false => server.call_method(&names().attach, &[])?,
        };
        this.server.set(server.own());
    }
    set_nodelay(this.fd.get());
    let given = this.given_context();
    if core.calls_directly() && !core.is_debug() {
        let context = given.as_deref();
        let handle = handle::new_handle(core.object(), &connection_made, &[transport], context)?;
        core.push(Kind::Handle, handle.into_owned())?;
    } else {
        call_soon(core.object(), &connection_made, transport, given.as_deref())?;
    }
    core.push(Kind::Deferred, transport.own())
}

/// Small writes of ours leave together anyway; waiting for the peer's acknowledgement only adds latency.
fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    // Fails for anything but TCP, which is fine.
    // SAFETY: a readable `int` of that size.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Lets another protocol have what comes.
pub(super) fn set_protocol(transport: &Object, protocol: &Object) -> Res<Owned> {
    let this = fields(transport);
    this.set(
        BUFFERED,
        protocol.is_instance(&imports().buffered_protocol)?,
    );
    this.set(TLS, tls::protocol::exact(protocol).is_some());
    this.set(PROTOCOL_CONNECTED, true);
    if this.context.is_empty() && protocol::exact(protocol).is_none() {
        this.context.set(context::copy_current()?);
    }
    this.protocol.set(protocol.own());
    Ok(Owned::none())
}

// ---- the reactor ----

/// Watches for reading, if bytes are wanted.
pub(super) fn start_reading(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let Some(event_loop) = this.event_loop() else {
        return Ok(());
    };
    let Some(core) = LoopCore::of(&event_loop) else {
        return Ok(());
    };
    if !this.stream.borrow().is_reading() {
        return Ok(());
    }
    check_closed(core)?;
    match core
        .engine()
        .add_reader(this.fd.get(), Source::Transport(transport.own()))
    {
        Ok(before) => drop(before),
        Err(error) => return crate::cpython::error::raise_os_error(&error),
    }
    this.set(WATCHED_FOR_READING, true);
    Ok(())
}

/// Watches for reading no more.
pub(super) fn stop_reading(this: &Socket) {
    if !this.has(WATCHED_FOR_READING) {
        return;
    }
    this.set(WATCHED_FOR_READING, false);
    if let Some(event_loop) = this.event_loop()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        drop(core.engine().remove_reader(this.fd.get()));
    }
}

/// Watches for writing.
pub(super) fn start_writing(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let Some(event_loop) = this.event_loop() else {
        return Ok(());
    };
    let Some(core) = LoopCore::of(&event_loop) else {
        return Ok(());
    };
    check_closed(core)?;
    match core
        .engine()
        .add_writer(this.fd.get(), Source::Transport(transport.own()))
    {
        Ok(before) => drop(before),
        Err(error) => return crate::cpython::error::raise_os_error(&error),
    }
    this.set(WATCHED_FOR_WRITING, true);
    Ok(())
}

/// Watches for writing no more.
pub(super) fn stop_writing(this: &Socket) {
    if !this.has(WATCHED_FOR_WRITING) {
        return;
    }
    this.set(WATCHED_FOR_WRITING, false);
    if let Some(event_loop) = this.event_loop()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        drop(core.engine().remove_writer(this.fd.get()));
    }
}

pub(crate) use reading::{pause_reading, resume_reading};
pub(crate) use writing::flush_now;

// ---- the type ----

fn describe(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let class = transport
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()?;
    let mut info = vec![class];
    let (closed, closing) = {
        let stream = this.stream.borrow();
        (stream.socket().is_none(), stream.is_closing())
    };
    if closed {
        info.push("closed".to_owned());
    } else if closing {
        info.push("closing".to_owned());
    }
    info.push(format!("fd={}", this.fd.get()));
    if this
        .event_loop()
        .is_some_and(|event_loop| LoopCore::of(&event_loop).is_some_and(|core| !core.is_closed()))
    {
        let polling = |flag| if this.has(flag) { "polling" } else { "idle" };
        info.push(format!("read={}", polling(WATCHED_FOR_READING)));
        let size = this.stream.borrow().queue().len();
        info.push(format!(
            "write=<{}, bufsize={size}>",
            polling(WATCHED_FOR_WRITING)
        ));
    }
    Owned::from_str(&format!("<{}>", info.join(" ")))
}

unsafe extern "C" fn repr(transport: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    guard_object(|| describe(unsafe { Object::from_ptr(transport) }))
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    let base = &imports().transport;
    let offset = base.basicsize();
    OFFSET.store(offset, Ordering::Relaxed);
    let class = TypeBuilder::new::<Socket>(c"rondel.SocketTransport", Some(base), offset)
        .not_instantiable()
        .doc(c"A connected stream socket, as asyncio's socket transport.")
        .dict(offset + std::mem::offset_of!(Socket, dict))
        .weaklist(offset + std::mem::offset_of!(Socket, weakrefs))
        .slot(ffi::Py_tp_repr, slot_fn!(repr, ffi::reprfunc))
        .collected::<Socket>()
        .methods(reading::methods())
        .methods(writing::methods())
        .methods(closing::methods())
        .methods(extra::methods())
        .methods(attributes::methods())
        .getset(attributes::attributes())
        .getset(extra::attributes())
        .build()?;
    let set = |name, value: &Object| crate::cpython::types::set_type_attribute(&class, name, value);
    set(c"_start_tls_compatible", &Owned::from_bool(true))?;
    set(c"_sendfile_compatible", &imports().sendfile_try_native)?;
    set(
        c"max_size",
        &*Owned::from_u64(rondel_engine::transport::recv_size::MAX_RECV as u64)?,
    )?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}
