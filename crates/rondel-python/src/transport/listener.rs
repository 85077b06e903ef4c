//! Accepting connections: a listener is registered with the reactor like a transport, and makes a
//! transport and a protocol for each connection that waits, natively.
//!
//! asyncio accepts in a callback and starts a task for each connection; the only observable effect
//! is the order of calls: factory, `connection_made`, reading. In debug mode each connection gets
//! the `socket.socket` that asyncio would make, as it is logged, and failures are reported.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use rondel_engine::transport::address::Address;
use rondel_engine::transport::listener::{AcceptError, accept_batch};

use super::loop_calls::{
    call_exception_handler, debug_in_log, take_unless_exit, with_exception_kept,
};
use super::names::imports;
use super::socket::{self, Descriptor, Given};
use super::ways::Watched;
use super::{above, address};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{
    os_error, raise_os_error, restore, runtime_error, take_exception, type_error,
};
use crate::cpython::method::{self, Args, method};
use crate::cpython::names::import;
use crate::cpython::native::{Class, Fields, Native, NativeClass, OwnedNative};
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, names, none};
use crate::loop_core::check_closed;
use crate::loop_core::item::{Exit, Source};
use crate::loop_core::{LoopCore, is_debug};

/// A listener's fields behind the object header. All zero bytes are its state before it is filled.
#[repr(C)]
pub(super) struct Listener {
    event_loop: Slot,
    protocol_factory: Slot,
    /// The listening `socket.socket`, which owns the descriptor.
    sock: Slot,
    server: Slot,
    /// For TLS: a tuple of the `ssl.SSLContext`, and the timeouts of handshake and shutdown, in
    /// seconds.
    tls: Slot,
    /// The context in which connections are made: that of the caller of `start_serving`.
    context: Slot,
    backlog: Cell<usize>,
    fd: Cell<RawFd>,
}

static CLASS: Class = Class::new();

/// asyncio's message for what fails before there is a connection.
const ACCEPT_FAILED: &str = "Exception in callback BaseSelectorEventLoop._accept_connection()";

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Listener {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Listener {
    slots!(event_loop, protocol_factory, sock, server, tls, context);
}

// SAFETY: no class derives from it.
unsafe impl NativeClass for Listener {
    fn class() -> &'static Class {
        &CLASS
    }
}

impl Watched for Listener {
    const READ_READY: &'static str = "_accept_connection";

    /// Connections wait.
    fn readable(listener: &Native<Self>) -> ControlFlow<Exit> {
        match accept(listener) {
            Ok(()) => ControlFlow::Continue(()),
            Err(Raised) => ControlFlow::Break(Exit::Raised(restore(take_exception()))),
        }
    }
}

/// `start_serving(loop, protocol_factory, sock, server, backlog, tls=None)`: accepts what comes,
/// until the socket is removed from the loop. `tls` is a tuple of a context and the timeouts of
/// handshake and shutdown.
fn start_serving(_: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = [
        "loop",
        "protocol_factory",
        "sock",
        "server",
        "backlog",
        "tls",
    ];
    let given = args.parse("start_serving", parameters, 6, 5)?;
    let [event_loop, protocol_factory, sock, server, backlog, tls] =
        given.map(|argument| argument.unwrap_or(none()));
    let Some(core) = LoopCore::of(event_loop) else {
        return runtime_error("the loop is not a rondel.EventLoop");
    };
    check_closed(core)?;
    let fd = sock.call_method(&names().fileno, &[])?.to_isize()?;
    if fd < 0 {
        // Closed while it waited for resources.
        return Ok(Owned::none());
    }
    // SAFETY: zeroed fields are valid.
    let this = unsafe { OwnedNative::<Listener>::new(allocate(CLASS.as_ptr())?) };
    this.event_loop.set(event_loop.own());
    this.protocol_factory.set(protocol_factory.own());
    this.sock.set(sock.own());
    this.server.set(server.own());
    if !tls.is_none() {
        if !tls.is_tuple() || tuple_len(tls) != 3 {
            return type_error("tls must be a tuple of a context and two timeouts");
        }
        this.tls.set(tls.own());
    }
    this.context.set(context::copy_current()?);
    this.backlog.set(backlog.to_isize()?.max(1) as usize);
    this.fd.set(fd as RawFd);
    match core
        .engine()
        .add_reader(fd as RawFd, Source::Transport(this.into_owned()))
    {
        Ok(before) => drop(before),
        Err(error) => return raise_os_error(&error),
    }
    Ok(Owned::none())
}

/// Whether the listener is still the one that the loop watches its descriptor for. If it is not,
/// the number may be somebody else's by now.
fn is_watched(listener: &Native<Listener>, core: &LoopCore) -> bool {
    !core.is_closed()
        && core.engine().with_sources(listener.fd.get(), |reader, _| {
            reader.is_some_and(|source| listener.is(source.object()))
        })
}

fn accept(this: &Native<Listener>) -> Res<()> {
    let event_loop = this.event_loop.or_none();
    let Some(core) = LoopCore::of(&event_loop) else {
        return Ok(());
    };
    let mut batch = accept_batch(this.fd.get(), this.backlog.get());
    while is_watched(this, core) {
        match batch.next() {
            None => break,
            Some(Ok((fd, peer))) => {
                let mut protocol = None;
                let connected = connect_in_context(this, &event_loop, fd, peer, &mut protocol);
                if let Err(Raised) = connected {
                    let exception = take_unless_exit()?;
                    if core.is_debug() {
                        report(&event_loop, &exception, protocol.as_deref())?;
                    }
                }
            }
            Some(Err(AcceptError::Exhausted(error))) => {
                let exception = os_error(&error)?;
                let sock = imports().transport_socket.call(&[&*this.sock.or_none()])?;
                let rest = [(c"exception", &*exception), (c"socket", &*sock)];
                let message = "socket.accept() out of system resource";
                call_exception_handler(&event_loop, message, &rest)?;
                drop(core.engine().remove_reader(this.fd.get()));
                return try_again_later(this, &event_loop);
            }
            Some(Err(AcceptError::Failed(error))) => {
                let exception = os_error(&error)?;
                let rest = [(c"exception", &*exception)];
                return call_exception_handler(&event_loop, ACCEPT_FAILED, &rest);
            }
        }
    }
    Ok(())
}

/// `call_later(ACCEPT_RETRY_DELAY, self._start_serving, …)`.
fn try_again_later(this: &Listener, event_loop: &Object) -> Res<()> {
    let constants = import("asyncio.constants")?;
    let delay = constants.getattr(&*Owned::from_str("ACCEPT_RETRY_DELAY")?)?;
    let start = event_loop.getattr(&names().start_serving)?;
    let (factory, sock, server) = (
        this.protocol_factory.or_none(),
        this.sock.or_none(),
        this.server.or_none(),
    );
    let backlog = Owned::from_u64(this.backlog.get() as u64)?;
    // In the listener's own context, which the loop copies for the call.
    let own = this.context.or_none();
    context::enter(&own)?;
    let tls = this.tls.cloned();
    let parts: Vec<&Object> = tls
        .iter()
        .flat_map(|tls| (0..tuple_len(tls)).map(|index| tuple_item(tls, index)))
        .collect();
    let (context, timeouts) = match parts.split_first() {
        Some((context, timeouts)) => (*context, timeouts),
        None => (none(), &[][..]),
    };
    let mut args: Vec<&Object> = vec![&delay, &start, &factory, &sock, context, &server, &backlog];
    args.extend(timeouts);
    let result = event_loop
        .getattr(&names().call_later)
        .and_then(|call_later| call_later.call(&args));
    context::exit(&own).and(result).map(drop)
}

fn report(event_loop: &Object, exception: &Object, protocol: Option<&Object>) -> Res<()> {
    let mut rest = vec![(c"exception", exception)];
    if let Some(protocol) = protocol {
        rest.push((c"protocol", protocol));
    }
    let message = "Error on transport creation for incoming connection";
    call_exception_handler(event_loop, message, &rest)
}

/// Makes protocol and transport. The program's protocol is left in `protocol` as soon as there is
/// one.
fn connect_in_context(
    this: &Listener,
    event_loop: &Object,
    fd: OwnedFd,
    peer: Address,
    protocol: &mut Option<Owned>,
) -> Res<()> {
    let factory = this.protocol_factory.or_none();
    let shared = this.context.or_none();
    let own = match above::is_native(&factory) {
        // None of the program's code runs in it before it is copied.
        true => shared,
        false => context::copy(&shared)?,
    };
    let logged = match is_debug(event_loop)? {
        true => Some(log_connection(this, &fd, &peer)?),
        false => None,
    };
    let descriptor = match logged.clone() {
        // The object owns it from now on.
        Some(sock) => Descriptor::Python(fd.into_raw_fd(), sock),
        None => Descriptor::Ours(fd),
    };
    context::enter(&own)?;
    let given = (cfg!(Py_3_15) && !above::is_native(&factory)).then_some(&*own);
    let result = connect(
        this, event_loop, &factory, given, descriptor, peer, protocol,
    );
    let result = context::exit(&own).and(result);
    match (result, logged) {
        (Err(Raised), Some(sock)) => Err(with_exception_kept(|| {
            sock.call_method(&names().close, &[]).map(drop)
        })),
        (result, _) => result,
    }
}

/// Debug mode: makes the connection's `socket.socket` and logs it. If this succeeds, the socket
/// object owns the descriptor.
fn log_connection(this: &Listener, fd: &OwnedFd, peer: &Address) -> Res<Owned> {
    let listening = this.sock.or_none();
    let [family, kind, proto] = ["family", "type", "proto"]
        .map(|name| Owned::from_str(name).and_then(|name| listening.getattr(&name)));
    let number = Owned::from_i64(fd.as_raw_fd().into())?;
    let sock = imports()
        .socket
        .call(&[&*family?, &*kind?, &*proto?, &*number])?;
    let logged = log_socket(this, &sock, peer);
    if let Err(Raised) = logged {
        // The descriptor is still `fd`'s.
        return Err(with_exception_kept(|| {
            let detach = Owned::from_str("detach")?;
            sock.call_method(&detach, &[]).map(drop)
        }));
    }
    Ok(sock)
}

fn log_socket(this: &Listener, sock: &Object, peer: &Address) -> Res<()> {
    let address = address::to_python(peer)?.unwrap_or_else(Owned::none);
    let format = "%r got a new connection from %r: %r";
    debug_in_log(format, &[&this.server.or_none(), &address, sock])?;
    let setblocking = Owned::from_str("setblocking")?;
    sock.call_method(&setblocking, &[&*Owned::from_bool(false)])
        .map(drop)
}

fn connect(
    this: &Listener,
    event_loop: &Object,
    protocol_factory: &Object,
    context: Option<&Object>,
    descriptor: Descriptor,
    peer: Address,
    made: &mut Option<Owned>,
) -> Res<()> {
    let mut protocol = above::make_protocol(protocol_factory)?;
    *made = Some(protocol.clone());
    if let Some(tls) = this.tls.cloned() {
        let [context, handshake, shutdown] = [0, 1, 2].map(|index| tuple_item(&tls, index));
        protocol = event_loop.call_method(
            &names().accept_tls,
            &[&protocol, context, handshake, shutdown],
        )?;
    }
    let server = this.server.or_none();
    let transport = socket::make(
        event_loop,
        descriptor,
        &protocol,
        Given {
            server: Some(&server),
            context,
            ..Given::default()
        },
        Some(peer),
    )?;
    match this.tls.is_empty() {
        true => Ok(()),
        false => watch_handshake(event_loop, &protocol, transport.object()),
    }
}

/// Starts a task that waits for the handshake. If the program's task factory fails, the error is
/// reported as in asyncio, and the transport closes the socket.
fn watch_handshake(event_loop: &Object, protocol: &Object, transport: &Object) -> Res<()> {
    let Err(Raised) = event_loop.call_method(&names().watch_handshake, &[protocol]) else {
        return Ok(());
    };
    let exception = take_unless_exit()?;
    call_exception_handler(event_loop, ACCEPT_FAILED, &[(c"exception", &*exception)])?;
    transport.call_method(&names().abort, &[]).map(drop)
}

/// `make_socket_transport(loop, sock, protocol, waiter, extra, server, context=None)`.
fn make_socket_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = [
        "loop", "sock", "protocol", "waiter", "extra", "server", "context",
    ];
    let given = args.parse("make_socket_transport", parameters, 7, 3)?;
    let [event_loop, sock, protocol, waiter, extra, server, context] = given;
    let (event_loop, sock, protocol) = (
        event_loop.unwrap_or(none()),
        sock.unwrap_or(none()),
        protocol.unwrap_or(none()),
    );
    let fd = sock.call_method(&names().fileno, &[])?.to_isize()? as RawFd;
    let descriptor = Descriptor::Python(fd, sock.own());
    let given = Given {
        waiter,
        extra,
        server,
        context,
    };
    let transport = socket::make(event_loop, descriptor, protocol, given, None)?;
    Ok(transport.into_owned())
}

/// A listener is not a transport: asyncio's check whether a transport uses the descriptor has to
/// find that it is closing.
fn is_closing(_: &Native<Listener>) -> Res<Owned> {
    Ok(Owned::from_bool(true))
}

/// Makes the class, and what the module exports.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let class = TypeBuilder::new::<Listener>(c"rondel._rondel.Listener", None, Listener::offset())
        .not_instantiable()
        .collected::<Listener>()
        .methods([method!(noargs c"is_closing" is_closing, c"True: a listener is no transport.")])
        .build()?;
    CLASS.set(&class);
    Ok(vec![
        (
            "start_serving",
            method::function(
                method!(fast c"start_serving(loop, protocol_factory, sock, server, backlog, tls=None)" start_serving,
                c"Accepts connections of a listening socket."),
            )?,
        ),
        (
            "make_socket_transport",
            method::function(
                method!(fast c"make_socket_transport(loop, sock, protocol, waiter=None, extra=None, server=None, context=None)" make_socket_transport,
                c"Creates a transport for a connected socket."),
            )?,
        ),
    ])
}
