//! `SocketTransport`: asyncio's `_SelectorSocketTransport`, on the engine's `Stream`.
//!
//! `reading.rs` and `writing.rs` have the two directions, `extra.rs` `get_extra_info` and the
//! socket object, `attributes.rs` the attributes that libraries read.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use rondel_engine::transport::address::Address;
use rondel_engine::transport::flow_control::FlowControl;
use rondel_engine::transport::intake::Intake;
use rondel_engine::transport::stream::{Close, Stream};

use super::base::{
    self, CONTEXT_WAS_GIVEN, End, OWN_FLAG, Reads, Transport, WATCHED_FOR_READING,
    WATCHED_FOR_WRITING, polling,
};
use super::flow::Writes;
use super::methods;
use super::names::imports;
use super::receiver::{self, Receiver};
use super::unsent::{Unsent, release_views};
use super::{attributes, extra, reading, writing};
use crate::cpython::error::{Builtin, runtime_error};
use crate::cpython::native::{Class, Native, OwnedNative};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, names};
use crate::loop_core::item::Kind;
use crate::loop_core::{LoopCore, check_closed};

/// The owner of the descriptor.
pub(crate) enum Descriptor {
    /// This transport: it was accepted here, and nobody has asked for a socket object.
    Ours(OwnedFd),
    /// A `socket.socket`.
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

/// A connected socket. [`Transport::extra`] has what was given for `get_extra_info`; with
/// [`EXTRA_IS_WHOLE`] it has all entries.
pub(crate) struct StreamSocket {
    pub(super) stream: RefCell<Stream<Descriptor, Unsent>>,
    pub(super) server: Slot,
    /// The `TransportSocket`, once it was asked for.
    pub(super) socket_info: Slot,
    /// Done when everything is sent; `sendfile` waits for it.
    pub(super) empty_waiter: Slot,
    /// The exception for a `connection_lost` that is scheduled natively.
    lost_with: Slot,
    pub(super) peer: RefCell<Option<Address>>,
    pub(super) local: RefCell<Option<Address>>,
}

pub(crate) type Socket = Transport<StreamSocket>;

/// `extra` has `socket`, `sockname` and `peername`, too.
pub(super) const EXTRA_IS_WHOLE: u16 = OWN_FLAG;
/// The transport was made with an `extra`.
const EXTRA_WAS_GIVEN: u16 = OWN_FLAG << 1;

static CLASS: Class = Class::new();

impl End for StreamSocket {
    const NAME: &'static CStr = c"rondel.SocketTransport";
    const DOC: &'static CStr = c"A connected stream socket, as asyncio's socket transport.";
    const FATAL_ERROR: &'static str = "Fatal error on transport";
    const DEFERRED: &'static str = "_call_connection_lost";

    #[inline]
    fn class() -> &'static Class {
        &CLASS
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.server);
        see(&self.socket_info);
        see(&self.empty_waiter);
        see(&self.lost_with);
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        let Ok(stream) = self.stream.try_borrow() else {
            return;
        };
        if let Some(Descriptor::Python(_, socket)) = stream.socket() {
            see(socket);
        }
        let chunks = stream.queue().chunks();
        chunks.filter_map(Unsent::collected).for_each(see);
    }

    fn release_others(&self) {
        let taken = self.stream.try_borrow_mut().map(|mut stream| {
            let (socket, unsent) = (stream.take_socket(), stream.take_queue());
            (socket, unsent)
        });
        drop(taken);
        release_views();
    }

    fn describe(this: &Native<Socket>) -> Vec<String> {
        let size = this.end.stream.borrow().queue().len();
        vec![
            format!("read={}", polling(this, WATCHED_FOR_READING)),
            format!(
                "write=<{}, bufsize={size}>",
                polling(this, WATCHED_FOR_WRITING)
            ),
        ]
    }

    fn set_protocol(this: &Native<Socket>, protocol: &Object) -> Res<()> {
        set_protocol(this, protocol)
    }

    fn start(this: &Native<Socket>) -> Res<()> {
        base::start_reading(this)
    }

    #[inline]
    fn read_ready(this: &Native<Socket>) -> Res<()> {
        reading::read_ready(this)
    }

    fn write_ready(this: &Native<Socket>) -> Res<()> {
        writing::write_ready(this)
    }

    /// The end, if it was scheduled by [`lose`](End::lose).
    fn deferred(this: &Native<Socket>) -> Res<()> {
        match this.end.lost_with.take() {
            Some(exception) => super::ending::call_connection_lost(this, &exception).map(drop),
            None => Ok(()),
        }
    }

    fn is_closed(&self) -> bool {
        self.stream.borrow().socket().is_none()
    }

    #[inline]
    fn is_closing(&self) -> bool {
        self.stream.borrow().is_closing()
    }

    #[inline]
    fn conn_lost(&self) -> u32 {
        self.stream.borrow().conn_lost()
    }

    fn close(this: &Native<Socket>) -> Close {
        this.end.stream.borrow_mut().close()
    }

    fn force_close(this: &Native<Socket>) -> Res<bool> {
        let ended = this.end.stream.borrow_mut().force_close();
        let first = ended.is_some();
        drop(ended);
        release_views();
        Ok(first)
    }

    /// Closes the socket. `sockname` is still known after that.
    fn close_descriptor(this: &Socket) -> Res<()> {
        let socket = this.end.stream.borrow_mut().take_socket();
        writing::poll_next_turn(this);
        if let Some(socket) = &socket
            && this.end.local.borrow().is_none()
        {
            *this.end.local.borrow_mut() = Address::of_socket(socket.as_raw_fd()).ok();
        }
        match socket {
            Some(Descriptor::Python(_, socket)) => {
                socket.call_method(&names().close, &[]).map(drop)
            }
            // Closed by being dropped.
            Some(Descriptor::Ours(_)) | None => Ok(()),
        }
    }

    fn lose(this: &Native<Socket>, core: &LoopCore, exception: &Object) -> Res<bool> {
        let is_native = |protocol| (this.receiver.get().is_native)(protocol);
        if !core.calls_directly() || core.is_debug() || !this.protocol.get().is_some_and(is_native)
        {
            return Ok(false);
        }
        check_closed(core)?;
        this.end.lost_with.set(exception.own());
        core.push(Kind::Deferred, this.own().into_owned())?;
        Ok(true)
    }

    fn let_go(this: &Native<Socket>) -> Res<()> {
        leave_server(this)
    }

    fn ended(this: &Native<Socket>) -> Res<()> {
        if let Some(waiter) = this.end.empty_waiter.cloned() {
            let class = Builtin::Connection.class();
            let error = class.call(&[&*Owned::from_str("Connection is closed by peer")?])?;
            waiter.call_method(&names().set_exception, &[&error])?;
        }
        Ok(())
    }

    fn finalized(this: &Native<Socket>) -> Res<()> {
        match imports().server_knows_transports {
            true => leave_server(this),
            false => Ok(()),
        }
    }

    #[inline]
    fn settle(this: &Native<Socket>) -> Res<()> {
        writing::flush_if_dirty(this)
    }

    fn settle_end(this: &Native<Socket>) -> Res<()> {
        writing::flush_before_end(this)
    }

    /// Sending would find out that the connection is lost. But programs call `is_closing()` between
    /// the writes of one message, which should leave together, so the kernel is only asked whether
    /// sending would fail.
    fn settle_failure(this: &Native<Socket>) -> Res<()> {
        match this.is_dirty() && this.has_failed() {
            true => writing::flush_now(this),
            false => Ok(()),
        }
    }
}

impl Reads for StreamSocket {
    #[inline]
    fn intake<R>(&self, look: impl FnOnce(&mut Intake) -> R) -> R {
        look(&mut self.stream.borrow_mut().intake)
    }
}

impl Writes for StreamSocket {
    #[inline]
    fn flow<R>(&self, look: impl FnOnce(&mut FlowControl, usize) -> R) -> R {
        let mut stream = self.stream.borrow_mut();
        let waiting = stream.queue().len();
        look(&mut stream.flow, waiting)
    }
}

/// Tells the server that its connection has ended.
fn leave_server(this: &Native<Socket>) -> Res<()> {
    let Some(server) = this.end.server.take() else {
        return Ok(());
    };
    match imports().server_knows_transports {
        true => server.call_method(&names().detach, &[this.object()])?,
        false => server.call_method(&names().detach, &[])?,
    };
    Ok(())
}

/// An object that is a transport of ours none of whose methods is overridden on the instance.
#[inline]
pub(crate) fn plain(object: &Object) -> Option<&Native<Socket>> {
    object.exact::<Socket>().filter(|this| this.is_plain())
}

impl Socket {
    /// The engine's state.
    #[inline]
    pub(crate) fn stream(&self) -> &RefCell<Stream<Descriptor, Unsent>> {
        &self.end.stream
    }

    /// The protocol.
    pub(crate) fn protocol(&self) -> Owned {
        self.protocol.or_none()
    }

    /// Whether the program has closed it, or the connection is lost.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.end.is_closing()
    }

    /// Whether something was written in the running turn.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        self.end.stream.borrow().is_dirty()
    }

    /// Whether the kernel knows that the connection has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.end.stream.borrow().has_failed()
    }

    /// Whether `get_extra_info` may know other names than every transport does.
    pub(crate) fn has_given_extra(&self) -> bool {
        self.has(EXTRA_WAS_GIVEN | EXTRA_IS_WHOLE)
    }

    /// Whether to receive again in this turn, for the protocol of this receiver.
    #[inline]
    pub(crate) fn goes_on(&self, receiver: &Receiver) -> bool {
        self.has(WATCHED_FOR_READING) && !self.is_lost() && ptr::eq(self.receiver.get(), receiver)
    }
}

/// Optional arguments of a new transport. Python's `None` counts as missing.
#[derive(Default)]
pub(crate) struct Given<'a> {
    /// A future that is completed after `connection_made`.
    pub(crate) waiter: Option<&'a Object>,
    /// A dict for `get_extra_info`.
    pub(crate) extra: Option<&'a Object>,
    pub(crate) server: Option<&'a Object>,
    pub(crate) context: Option<&'a Object>,
}

/// A transport for a connected, non-blocking socket. Schedules `connection_made`, then the start of
/// reading, then the waiter, as asyncio's does.
pub(crate) fn make(
    event_loop: &Object,
    descriptor: Descriptor,
    protocol: &Object,
    given: Given<'_>,
    peer: Option<Address>,
) -> Res<OwnedNative<Socket>> {
    let Some(core) = LoopCore::of(event_loop) else {
        return runtime_error("the loop is not a rondel.EventLoop");
    };
    let fd = descriptor.as_raw_fd();
    let accepted = peer.is_some();
    let end = StreamSocket {
        stream: RefCell::new(Stream::new(descriptor)),
        server: Slot::default(),
        socket_info: Slot::default(),
        empty_waiter: Slot::default(),
        lost_with: Slot::default(),
        peer: RefCell::new(peer),
        local: RefCell::new(None),
    };
    let this = base::make(event_loop, fd, end, 0)?;
    if !accepted {
        // After the peer has reset the connection, the kernel no longer knows.
        *this.end.peer.borrow_mut() = Address::of_peer(fd).ok();
    }
    if let Some(extra) = given.extra.filter(|extra| !extra.is_none()) {
        this.extra.set(extra.own());
        this.set(EXTRA_WAS_GIVEN, true);
    }
    if let Some(context) = given.context.filter(|context| !context.is_none()) {
        this.context.set(context.own());
        this.set(CONTEXT_WAS_GIVEN, true);
    }
    if let Some(waiter) = given.waiter.filter(|waiter| !waiter.is_none()) {
        this.waiter.set(waiter.own());
    }
    match introduce(&this, core, protocol, given.server) {
        Ok(()) => Ok(this),
        Err(Raised) if accepted => {
            // Nobody has seen the transport: close the connection without a `ResourceWarning`.
            drop(this.end.stream.borrow_mut().take_socket());
            Err(Raised)
        }
        Err(Raised) => Err(Raised),
    }
}

/// Introduces a new transport to its protocol and its server, and schedules its first calls.
fn introduce(
    this: &Native<Socket>,
    core: &LoopCore,
    protocol: &Object,
    server: Option<&Object>,
) -> Res<()> {
    set_protocol(this, protocol)?;
    // Attached only after the protocol's `connection_made` was found: up to 3.12 the server would
    // count a failed connection forever.
    base::introduce(this, core, || {
        if let Some(server) = server.filter(|server| !server.is_none()) {
            match imports().server_knows_transports {
                true => server.call_method(&names().attach, &[this.object()])?,
                false => server.call_method(&names().attach, &[])?,
            };
            this.end.server.set(server.own());
        }
        set_nodelay(this.fd.get());
        Ok(())
    })
}

/// Small writes of ours leave together anyway; waiting for the peer's acknowledgement only adds
/// latency.
fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    // Anything but TCP fails, which does no harm.
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

/// Replaces the protocol. One that runs the program's code gets a context to run it in.
pub(super) fn set_protocol(this: &Native<Socket>, protocol: &Object) -> Res<()> {
    let receiver = receiver::of(protocol)?;
    if this.context.is_empty() && !(receiver.is_native)(protocol) {
        this.context.set(context::copy_current()?);
    }
    this.receiver.set(receiver);
    this.protocol.set(protocol.own());
    Ok(())
}

pub(crate) use super::methods::{pause_reading, resume_reading};

// ---- the type ----

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    let methods = [
        methods::methods!(
            StreamSocket,
            c"_fatal_error(exc, message='Fatal error on transport')"
        ),
        methods::reading_methods!(StreamSocket),
        super::flow::writing_methods!(StreamSocket),
        reading::methods(),
        writing::methods(),
        extra::methods(),
    ];
    let class = base::make_class::<StreamSocket>(
        &[&imports().transport],
        methods,
        attributes::attributes(),
    )?;
    let set = |name, value: &Object| crate::cpython::types::set_type_attribute(&class, name, value);
    set(c"_start_tls_compatible", &Owned::from_bool(true))?;
    set(c"_sendfile_compatible", &imports().sendfile_try_native)?;
    base::set_max_size(&class)?;
    Ok(class)
}
