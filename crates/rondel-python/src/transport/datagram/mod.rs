//! `DatagramTransport`: asyncio's `_SelectorDatagramTransport`, on the engine's `Datagrams`.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | the object and its life |
//! | `receiving.rs` | from the kernel to `datagram_received` |
//! | `sending.rs` | `sendto`, and what the kernel does not take at once |
//! | `destination.rs` | Python's addresses as the engine's |
//! | `attributes.rs` | what can be asked of it |
//!
//! It is made for IP and Unix sockets (`python/rondel/_datagrams.py`). For other families, and for
//! a subclass of `socket.socket`, which may receive and send in its own way, asyncio's own
//! transport works on the native loop.
//!
//! The `socket.socket` that the transport was made with owns the descriptor until the end.

mod attributes;
mod destination;
mod receiving;
mod sending;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::AsRawFd;

use rondel_engine::transport::datagram::Datagrams;
use rondel_engine::transport::flow_control::FlowControl;
use rondel_engine::transport::intake::Intake;
use rondel_engine::transport::stream::Close;

use self::destination::{Destination, Host};
use super::base::{
    self, End, OWN_FLAG, Reads, Transport, WATCHED_FOR_READING, WATCHED_FOR_WRITING, polling,
};
use super::chunk::Chunk;
use super::descriptor::Owner;
use super::flow::Writes;
use super::methods;
use super::names::imports;
use crate::cpython::error::{Builtin, raised_matches, runtime_error, take_exception};
use crate::cpython::method::{Args, function, method};
use crate::cpython::native::{Class, Native};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, names, none};
use crate::loop_core::LoopCore;

/// A datagram socket.
pub(super) struct DatagramSocket {
    datagrams: RefCell<Datagrams<Owner, Chunk, Destination>>,
    /// Received, but not delivered, because reading was paused or a callback left the loop.
    undelivered: RefCell<VecDeque<(Owned, Owned)>>,
    /// The address that was given as `remote_addr`, or None.
    address: Slot,
    /// The address of the last peer.
    host: Host,
    family: Cell<libc::c_int>,
}

pub(super) type Datagram = Transport<DatagramSocket>;

/// The socket is connected.
const CONNECTED: u16 = OWN_FLAG;
/// `address` is true in Python's sense.
const HAS_ADDRESS: u16 = OWN_FLAG << 1;
/// A deferred item will deliver what was received.
const DELIVERING: u16 = OWN_FLAG << 2;

static CLASS: Class = Class::new();

impl End for DatagramSocket {
    const NAME: &'static CStr = c"rondel.DatagramTransport";
    const DOC: &'static CStr = c"A datagram socket, as asyncio's datagram transport.";
    const FATAL_ERROR: &'static str = "Fatal error on transport";
    const WRITE_READY: &'static str = "_sendto_ready";
    const DEFERRED: &'static str = "_read_ready";

    fn class() -> &'static Class {
        &CLASS
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.address);
        see(self.host.slot());
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

    fn describe(this: &Native<Datagram>) -> Vec<String> {
        let size = this.end.datagrams.borrow().size();
        vec![
            format!("read={}", polling(this, WATCHED_FOR_READING)),
            format!(
                "write=<{}, bufsize={size}>",
                polling(this, WATCHED_FOR_WRITING)
            ),
        ]
    }

    fn start(this: &Native<Datagram>) -> Res<()> {
        base::start_reading(this)
    }

    #[inline]
    fn read_ready(this: &Native<Datagram>) -> Res<()> {
        receiving::read_ready(this)
    }

    fn write_ready(this: &Native<Datagram>) -> Res<()> {
        sending::write_ready(this)
    }

    fn deferred(this: &Native<Datagram>) -> Res<()> {
        receiving::deliver_kept(this)
    }

    fn is_closed(&self) -> bool {
        self.datagrams.borrow().socket().is_none()
    }

    fn is_closing(&self) -> bool {
        self.datagrams.borrow().is_closing()
    }

    #[inline]
    fn conn_lost(&self) -> u32 {
        self.datagrams.borrow().conn_lost()
    }

    fn close(this: &Native<Datagram>) -> Close {
        this.end.datagrams.borrow_mut().close()
    }

    fn force_close(this: &Native<Datagram>) -> Res<bool> {
        // asyncio would have sent it before.
        Self::settle(this)?;
        let ended = this.end.datagrams.borrow_mut().force_close();
        Ok(ended.map(drop).is_some())
    }

    fn close_descriptor(this: &Datagram) -> Res<()> {
        let socket = this.end.datagrams.borrow_mut().take_socket();
        socket.map_or(Ok(()), Owner::close)
    }

    fn let_go(this: &Native<Datagram>) -> Res<()> {
        let unsent = this.end.datagrams.borrow_mut().take_queue();
        let undelivered = this.end.undelivered.take();
        drop((unsent, undelivered));
        Ok(())
    }

    #[inline]
    fn settle(this: &Native<Datagram>) -> Res<()> {
        sending::flush_if_dirty(this)
    }
}

impl Reads for DatagramSocket {
    #[inline]
    fn intake<R>(&self, look: impl FnOnce(&mut Intake) -> R) -> R {
        look(&mut self.datagrams.borrow_mut().intake)
    }

    fn resumed(this: &Native<Datagram>) -> Res<()> {
        receiving::resumed(this)
    }
}

impl Writes for DatagramSocket {
    #[inline]
    fn flow<R>(&self, look: impl FnOnce(&mut FlowControl, usize) -> R) -> R {
        let mut datagrams = self.datagrams.borrow_mut();
        let waiting = datagrams.size();
        look(&mut datagrams.flow, waiting)
    }
}

/// A result, or None in place of an `OSError`.
fn unless_os_error(result: Res<Owned>) -> Res<Owned> {
    let os_error = Builtin::Os.class();
    match result {
        Err(Raised) if raised_matches(os_error) => {
            drop(take_exception());
            Ok(Owned::none())
        }
        other => other,
    }
}

/// `make_datagram_transport(loop, sock, protocol, address, waiter, extra)`. Schedules
/// `connection_made`, then the start of reading, then the waiter, as asyncio's does.
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
    let end = DatagramSocket {
        datagrams: RefCell::new(Datagrams::new(owner, imports().datagram_header)),
        undelivered: RefCell::default(),
        address: Slot::default(),
        host: Host::default(),
        family: Cell::new(family),
    };
    let this = base::make(event_loop, fd, end, connected | has_address)?;
    DatagramSocket::set_protocol(&this, protocol)?;
    this.end.address.set(address.own());
    this.extra.set(extra);
    this.context.set(context::copy_current()?);
    if !waiter.is_none() {
        this.waiter.set(waiter.own());
    }
    base::introduce(&this, core, || Ok(()))?;
    Ok(this.into_owned())
}

/// Makes the class, and what the module exports.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let mut bases = vec![&*imports().transport];
    bases.extend(imports().datagram_transport.as_deref());
    let methods = [
        methods::methods!(
            DatagramSocket,
            c"_fatal_error(exc, message='Fatal error on transport')"
        ),
        methods::reading_methods!(DatagramSocket),
        super::flow::writing_methods!(DatagramSocket),
        receiving::methods(),
        sending::methods(),
        attributes::methods(),
    ];
    let class = base::make_class::<DatagramSocket>(&bases, methods, attributes::attributes())?;
    base::set_max_size(&class)?;
    Ok(vec![
        ("DatagramTransport", class),
        (
            "make_datagram_transport",
            function(
                method!(fast c"make_datagram_transport" make_datagram_transport,
                c"Creates a transport for a datagram socket."),
            )?,
        ),
    ])
}
