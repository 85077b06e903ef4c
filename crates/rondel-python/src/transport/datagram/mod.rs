//! `DatagramTransport`: asyncio's `_SelectorDatagramTransport`, on the engine's `Datagrams`.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | the object and its life |
//! | `receiving.rs` | from the kernel to `datagram_received` |
//! | `sending.rs` | `sendto`, and what the kernel does not take at once |
//! | `destination.rs` | Python's addresses as the engine's |
//! | `closing.rs` | the end, however it comes |
//! | `attributes.rs` | what can be asked of it |
//!
//! It is made for IP and Unix sockets (`python/rondel/_datagrams.py`). For other families, and for a subclass of
//! `socket.socket`, which may receive and send in its own way, asyncio's own transport works on the native loop.
//!
//! The `socket.socket` owns the descriptor from the beginning to the end, as somebody has made it before. No borrow of
//! `datagrams` is ever held while Python code runs.

mod attributes;
mod closing;
mod destination;
mod receiving;
mod sending;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;
use rondel_engine::transport::datagram::Datagrams;

use self::destination::{Destination, Host};
use super::chunk::Chunk;
use super::descriptor::Owner;
use super::loop_calls::warn_of_resource;
use super::names::{imports, names};
use super::socket::call_soon;
use crate::cpython::collected::Collected;
use crate::cpython::error::{
    guard_object, raise_os_error, raised_matches, runtime_error, take_exception, write_unraisable,
};
use crate::cpython::method::{Args, method};
use crate::cpython::native::Fields;
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, none};
use crate::handle;
use crate::loop_core::LoopCore;
use crate::loop_core::check_closed;
use crate::loop_core::item::{Kind, Source};

pub(super) use self::closing::take_deferred;
pub(super) use self::receiving::read_ready;
pub(super) use self::sending::{flush_early, flush_turn, write_ready};

/// A transport's fields, behind those of asyncio's classes.
#[repr(C)]
pub(super) struct Datagram {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    datagrams: RefCell<Datagrams<Owner, Chunk, Destination>>,
    /// Received, but not delivered, because reading was paused or a callback left the loop.
    undelivered: RefCell<VecDeque<(Owned, Owned)>>,
    /// Empty once the end was told.
    event_loop: Slot,
    protocol: Slot,
    /// The address that was given as `remote_addr`, or None.
    address: Slot,
    /// The dict of `get_extra_info`.
    extra: Slot,
    /// The limits of the write buffer, if they are no plain integers.
    limits: Slot,
    /// Done when reading has started.
    waiter: Slot,
    /// What `datagram_received` and so on run in.
    context: Slot,
    /// Numbers and texts of the peer that was heard last.
    host: Host,
    fd: Cell<RawFd>,
    family: Cell<libc::c_int>,
    flags: Cell<u8>,
}

/// The reactor watches the descriptor for reading.
const WATCHED_FOR_READING: u8 = 1;
/// The reactor watches the descriptor for writing.
const WATCHED_FOR_WRITING: u8 = 2;
/// The deferred item that starts reading has not run yet.
const STARTING: u8 = 4;
/// The socket is connected.
const CONNECTED: u8 = 8;
/// `address` is true in Python's sense.
const HAS_ADDRESS: u8 = 16;
/// A deferred item will deliver what was received.
const DELIVERING: u8 = 32;

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static OFFSET: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the fields stand at that offset, filled by `make`.
unsafe impl Fields for Datagram {
    #[inline]
    fn offset() -> usize {
        OFFSET.load(Ordering::Relaxed)
    }
}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Datagram {
    const FINALIZED: bool = true;

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        for slot in [
            &self.dict,
            &self.event_loop,
            &self.protocol,
            &self.address,
            &self.extra,
            &self.limits,
            &self.waiter,
            &self.context,
            self.host.slot(),
        ] {
            see(slot);
        }
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        if let Ok(datagrams) = self.datagrams.try_borrow() {
            if let Some(socket) = datagrams.socket() {
                see(socket.object());
            }
            for (_, to) in datagrams.iter() {
                see(to.object());
            }
        }
        if let Ok(undelivered) = self.undelivered.try_borrow() {
            for (data, from) in undelivered.iter() {
                see(data);
                see(from);
            }
        }
    }

    fn release_others(&self) {
        if let Ok(mut datagrams) = self.datagrams.try_borrow_mut() {
            let (socket, queue) = (datagrams.take_socket(), datagrams.take_queue());
            drop(datagrams);
            drop((socket, queue));
        }
        let undelivered = self
            .undelivered
            .try_borrow_mut()
            .map(|mut it| std::mem::take(&mut *it));
        drop(undelivered);
    }

    /// A transport that nobody has any more closes its socket, and says that the program should have.
    fn finalize(transport: &Object) -> Res<()> {
        let this = fields(transport);
        if this.datagrams.borrow().socket().is_none() {
            return Ok(());
        }
        let text = format!("unclosed transport {}", describe(transport)?.to_text()?);
        // Where warnings are errors this one is reported, and the descriptor is closed all the same.
        if let Err(Raised) = warn_of_resource(&text, Some(transport)) {
            write_unraisable(Some(transport));
        }
        closing::close_socket(this)
    }
}

/// The fields of an object that is known to be a datagram transport of ours.
#[inline]
fn fields(object: &Object) -> &Datagram {
    Datagram::of(object)
}

#[inline]
pub(super) fn is_datagram(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed))
}

/// The loop that a failing callback is reported to.
pub(super) fn event_loop(transport: &Object) -> Option<Owned> {
    fields(transport).event_loop()
}

/// Whether the deferred item is the one that starts reading.
pub(super) fn is_starting(object: &Object) -> bool {
    fields(object).has(STARTING)
}

impl Datagram {
    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    #[inline]
    fn set(&self, flag: u8, on: bool) {
        let rest = self.flags.get() & !flag;
        self.flags.set(if on { rest | flag } else { rest });
    }

    /// The loop, until the end was told.
    #[inline]
    fn event_loop(&self) -> Option<Owned> {
        self.event_loop.cloned()
    }

    /// Whether `connection_lost` is certain.
    #[inline]
    fn is_lost(&self) -> bool {
        self.datagrams.borrow().conn_lost() > 0
    }
}

/// The result of a method that may fail with an `OSError`, which means None.
fn unless_os_error(result: Res<Owned>) -> Res<Owned> {
    // SAFETY: a built-in class lives as long as the interpreter.
    let os_error = unsafe { Object::from_ptr(ffi::PyExc_OSError) };
    match result {
        Err(Raised) if raised_matches(os_error) => {
            drop(take_exception());
            Ok(Owned::none())
        }
        other => other,
    }
}

/// `make_datagram_transport(loop, sock, protocol, address, waiter, extra)`. Schedules `connection_made`, then the start of
/// reading, then the waiter, as asyncio's does.
fn make_datagram_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = ["loop", "sock", "protocol", "address", "waiter", "extra"];
    let given = args.parse("make_datagram_transport", parameters, 6, 3)?;
    let [event_loop, sock, protocol, address, waiter, extra] =
        given.map(|argument| argument.unwrap_or(none()));
    let Some(core) = LoopCore::of(event_loop) else {
        return runtime_error("the loop is not a rondel.EventLoop");
    };
    let names = names();
    let extra = match extra.is_none() {
        true => Owned::dict()?,
        false => extra.own(),
    };
    extra.set(&names.socket, &*imports().transport_socket.call(&[sock])?)?;
    let sockname = unless_os_error(sock.call_method(&names.getsockname, &[]))?;
    extra.set(&names.sockname, &sockname)?;
    let mut peername = extra.call_method(&names.get, &[&names.peername])?;
    if peername.is_none() {
        peername = unless_os_error(sock.call_method(&names.getpeername, &[]))?;
        extra.set(&names.peername, &peername)?;
    }
    let owner = Owner::new(sock)?;
    let fd = owner.as_raw_fd();
    let family = sock.getattr(&names.family)?.to_isize()? as libc::c_int;
    let connected = if peername.is_true()? { CONNECTED } else { 0 };
    let has_address = if address.is_true()? { HAS_ADDRESS } else { 0 };
    let datagrams = Datagrams::new(owner, imports().datagram_header);
    // SAFETY: the fields are filled before anyone sees the object.
    let transport = unsafe {
        let object = allocate(CLASS.load(Ordering::Relaxed))?;
        let this = object
            .as_ptr()
            .byte_add(OFFSET.load(Ordering::Relaxed))
            .cast::<Datagram>();
        this.write(Datagram {
            dict: Slot::default(),
            weakrefs: Cell::new(ptr::null_mut()),
            datagrams: RefCell::new(datagrams),
            undelivered: RefCell::new(VecDeque::new()),
            event_loop: Slot::default(),
            protocol: Slot::default(),
            address: Slot::default(),
            extra: Slot::default(),
            limits: Slot::default(),
            waiter: Slot::default(),
            context: Slot::default(),
            host: Host::default(),
            fd: Cell::new(fd),
            family: Cell::new(family),
            flags: Cell::new(STARTING | connected | has_address),
        });
        object
    };
    let this = fields(&transport);
    this.event_loop.set(event_loop.own());
    this.protocol.set(protocol.own());
    this.address.set(address.own());
    this.extra.set(extra);
    this.context.set(context::copy_current()?);
    if !waiter.is_none() {
        this.waiter.set(waiter.own());
    }
    let connection_made = protocol.getattr(&names.connection_made)?;
    check_closed(core)?;
    if core.calls_directly() && !core.is_debug() {
        let handle = handle::new_handle(event_loop, &connection_made, &[&transport], None)?;
        core.push(Kind::Handle, handle.into_owned())?;
    } else {
        call_soon(event_loop, &connection_made, &transport, None)?;
    }
    core.push(Kind::Deferred, transport.clone())?;
    Ok(transport)
}

// ---- the reactor ----

/// Watches for reading, if datagrams are wanted.
fn start_reading(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if this.datagrams.borrow().is_reading() {
        watch(transport, WATCHED_FOR_READING)?;
    }
    Ok(())
}

fn watch(transport: &Object, side: u8) -> Res<()> {
    let this = fields(transport);
    let Some(event_loop) = this.event_loop() else {
        return Ok(());
    };
    let Some(core) = LoopCore::of(&event_loop) else {
        return Ok(());
    };
    check_closed(core)?;
    let source = Source::Transport(transport.own());
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

fn unwatch(this: &Datagram, side: u8) {
    if !this.has(side) {
        return;
    }
    this.set(side, false);
    if let Some(event_loop) = this.event_loop()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        drop(match side {
            WATCHED_FOR_READING => core.engine().remove_reader(this.fd.get()),
            _ => core.engine().remove_writer(this.fd.get()),
        });
    }
}

/// The deferred start: `connection_made` has been called, so datagrams may come now.
pub(super) fn start(transport: &Object) -> Res<()> {
    let this = fields(transport);
    this.set(STARTING, false);
    let started = start_reading(transport);
    if let Some(waiter) = this.waiter.take() {
        super::loop_calls::set_result_unless_cancelled(&waiter, none())?;
    }
    started
}

// ---- the type ----

fn describe(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let class = transport
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()?;
    let mut info = vec![class];
    let (closed, closing, size) = {
        let datagrams = this.datagrams.borrow();
        (
            datagrams.socket().is_none(),
            datagrams.is_closing(),
            datagrams.size(),
        )
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

/// Makes the class, and what the module exports.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let base = &imports().transport;
    let mut bases = vec![&**base];
    bases.extend(imports().datagram_transport.as_deref());
    let offset = base.basicsize();
    OFFSET.store(offset, Ordering::Relaxed);
    let class = TypeBuilder::new::<Datagram>(c"rondel.DatagramTransport", Some(base), offset)
        .bases(&bases)
        .not_instantiable()
        .doc(c"A datagram socket, as asyncio's datagram transport.")
        .dict(offset + std::mem::offset_of!(Datagram, dict))
        .weaklist(offset + std::mem::offset_of!(Datagram, weakrefs))
        .slot(ffi::Py_tp_repr, slot_fn!(repr, ffi::reprfunc))
        .collected::<Datagram>()
        .methods(receiving::methods())
        .methods(sending::methods())
        .methods(closing::methods())
        .methods(attributes::methods())
        .getset(attributes::attributes())
        .build()?;
    let max_size = Owned::from_u64(rondel_engine::transport::recv_size::MAX_RECV as u64)?;
    crate::cpython::types::set_type_attribute(&class, c"max_size", &max_size)?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(vec![
        ("DatagramTransport", class),
        (
            "make_datagram_transport",
            crate::cpython::method::function(
                method!(fast c"make_datagram_transport" make_datagram_transport,
                c"A transport for a datagram socket."),
            )?,
        ),
    ])
}
