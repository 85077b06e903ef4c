//! `TLSProtocolCore`: the native base of `rondel._tls.SSLProtocol`, whose other base is asyncio's
//! `SSLProtocol`.
//!
//! asyncio's class does what is done once per connection: the handshake, its timeouts, the end, and
//! reporting failures. This one does what is done per message. Both share their state: the
//! attributes that the data path needs are these fields ([`super::attributes`]).
//!
//! No borrow of `queue` is ever held while Python code runs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use pyo3::ffi;

use super::names::imports;
use super::session::Direct;
use super::{attributes, reading, writing};
use crate::cpython::collected::Collected;
use crate::cpython::error::{Builtin, guard_object};
use crate::cpython::flags::Flags;
use crate::cpython::native::{Class, Fields, Native, NativeClass};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Res, Slot, names};
use crate::loop_core::LoopCore;
use crate::transport::loop_calls::take_unless_exit;
use crate::transport::receiver::{self, Receiver};
use crate::transport::socket;
use crate::transport::unsent::{Unsent, release_views};

/// `SSLProtocolState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unwrapped = 0,
    DoHandshake = 1,
    Wrapped = 2,
    Flushing = 3,
    Shutdown = 4,
}

/// A limit of flow control: the number that the program gave, and the number of bytes that it is
/// compared as.
#[derive(Default)]
pub(super) struct Limit {
    pub(super) given: Slot,
    pub(super) bytes: Cell<usize>,
}

/// A protocol's fields behind the object header.
#[repr(C)]
pub(crate) struct Tls {
    /// `_state`, and which one it is.
    pub(super) state_object: Slot,
    pub(super) state: Cell<State>,
    pub(super) app_protocol: Slot,
    /// How events reach it.
    pub(super) receiver: Cell<&'static Receiver>,
    /// The transport below, until the connection is lost.
    pub(super) transport: Slot,
    pub(super) event_loop: Slot,
    pub(super) sslcontext: Slot,
    /// The `ssl.SSLObject`.
    pub(super) sslobj: Slot,
    /// What reads and writes: the `_ssl._SSLSocket` in an `ssl.SSLObject`, or an object of another
    /// class itself.
    pub(super) socket: Slot,
    pub(super) incoming: Slot,
    pub(super) outgoing: Slot,
    /// See [`direct`](Self::direct).
    pointers: Cell<Option<Direct>>,
    /// What was written and is not encrypted yet, and how many bytes that is.
    pub(super) queue: RefCell<VecDeque<Unsent>>,
    pub(super) queued: Cell<usize>,
    /// How many bytes of the first piece are encrypted.
    pub(super) sent_of_first: Cell<usize>,
    /// asyncio's `_conn_lost`: writes to a connection that is lost.
    pub(super) conn_lost: Cell<u32>,
    pub(super) outgoing_high: Limit,
    pub(super) outgoing_low: Limit,
    pub(super) incoming_high: Limit,
    pub(super) incoming_low: Limit,
    flags: Flags<u16>,
}

/// The transport below takes no more for now.
pub(super) const BELOW_PAUSED: u16 = 1;
/// The program wants no bytes for now.
pub(super) const APP_READING_PAUSED: u16 = 2;
/// The transport below was told to read no more for now.
pub(super) const READING_PAUSED: u16 = 4;
/// The peer's side of the connection below has ended.
pub(super) const EOF_RECEIVED: u16 = 8;
/// The program was told to write no more for now.
pub(super) const APP_WRITING_PAUSED: u16 = 16;
/// The program's protocol is a `BufferedProtocol`.
pub(super) const BUFFERED: u16 = 32;
/// Something was written in the running turn, and is encrypted and sent when that is over.
pub(super) const DIRTY: u16 = 64;
/// It was encrypted and sent early. The result is reported at the end of the turn.
pub(super) const SENT_EARLY: u16 = 128;
/// Something is being encrypted, which may let other threads run.
pub(super) const ENCRYPTING: u16 = 256;

pub(super) static CORE: Class = Class::new();
/// `rondel._tls.SSLProtocol`.
static CLASS: Class = Class::new();

// SAFETY: the fields stand behind the header, filled by `new`.
unsafe impl Fields for Tls {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Tls {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        for slot in [
            &self.state_object,
            &self.app_protocol,
            &self.transport,
            &self.event_loop,
            &self.sslcontext,
            &self.sslobj,
            &self.socket,
            &self.incoming,
            &self.outgoing,
            &self.outgoing_high.given,
            &self.outgoing_low.given,
            &self.incoming_high.given,
            &self.incoming_low.given,
        ] {
            see(slot);
        }
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        if let Ok(queue) = self.queue.try_borrow() {
            queue.iter().filter_map(Unsent::collected).for_each(see);
        }
    }

    fn release_others(&self) {
        drop(
            self.queue
                .try_borrow_mut()
                .map(|mut queue| std::mem::take(&mut *queue)),
        );
        release_views();
    }
}

impl Tls {
    /// OpenSSL's pointers, if OpenSSL is called directly. They are valid while `socket` lives,
    /// which owns the BIOs as well.
    #[inline]
    pub(super) fn direct(&self) -> Option<Direct> {
        match self.socket.is_empty() {
            true => None,
            false => self.pointers.get(),
        }
    }

    #[inline]
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags.has(flag)
    }

    #[inline]
    pub(super) fn set(&self, flag: u16, on: bool) {
        self.flags.set(flag, on);
    }

    /// The core of the loop, if that is one of ours.
    #[inline]
    pub(super) fn core(&self) -> Option<&LoopCore> {
        self.event_loop.get().and_then(LoopCore::of)
    }

    /// Whether the transport below is one of ours.
    pub(super) fn has_socket_below(&self) -> bool {
        let below = self.transport.get();
        below.is_some_and(|below| socket::plain(below).is_some())
    }

    /// Whether something was written in the running turn.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        self.has(DIRTY | SENT_EARLY)
    }

    /// Takes note of `_state`.
    pub(super) fn note_state(&self, object: &Object) {
        const STATES: [State; 5] = [
            State::Unwrapped,
            State::DoHandshake,
            State::Wrapped,
            State::Flushing,
            State::Shutdown,
        ];
        let state = imports()
            .states
            .iter()
            .position(|state| state.is(object))
            .map_or(State::Unwrapped, |index| STATES[index]);
        self.state.set(state);
        if state == State::Wrapped
            && let Some(direct) = self.direct()
        {
            self.pointers.set(Some(direct.with_channel()));
        }
        if state == State::Unwrapped {
            // asyncio's `connection_lost` empties the BIO that this one replaced.
            self.with_outgoing(|_| ());
        }
        self.state_object.set(object.own());
    }
}

// SAFETY: instances of derived classes are made by the same `tp_new`; the bound class is derived.
unsafe impl NativeClass for Tls {
    fn class() -> &'static Class {
        &CORE
    }

    /// Whether it is exactly a `rondel._tls.SSLProtocol`.
    #[inline]
    fn is_exact(object: &Object) -> bool {
        CLASS.is_exact(object)
    }
}

/// Passes an exception of the data path to asyncio's code, as its own `except Exception` would.
#[cold]
pub(super) fn fail(this: &Native<Tls>) -> Res<()> {
    let exception = take_unless_exit()?;
    let ordinary = Builtin::Exception.class();
    if !crate::cpython::error::exception_matches(&exception, ordinary) {
        return Err(crate::cpython::error::restore(exception));
    }
    this.object()
        .call_method(&names().fail, &[&exception])
        .map(drop)
}

/// Calls a method of asyncio's, or of a subclass.
pub(super) fn call(this: &Native<Tls>, method: &Object) -> Res<()> {
    this.object().call_method(method, &[]).map(drop)
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: nobody sees the object before its fields are filled.
    guard_object(|| unsafe {
        let object = allocate(class)?;
        let this = object.as_ptr().byte_add(Tls::offset()).cast::<Tls>();
        this.write(Tls {
            state_object: Slot::default(),
            state: Cell::new(State::Unwrapped),
            app_protocol: Slot::default(),
            receiver: Cell::new(&receiver::METHODS),
            transport: Slot::default(),
            event_loop: Slot::default(),
            sslcontext: Slot::default(),
            sslobj: Slot::default(),
            socket: Slot::default(),
            incoming: Slot::default(),
            outgoing: Slot::default(),
            pointers: Cell::new(None),
            queue: RefCell::new(VecDeque::new()),
            queued: Cell::new(0),
            sent_of_first: Cell::new(0),
            conn_lost: Cell::new(0),
            outgoing_high: Limit::default(),
            outgoing_low: Limit::default(),
            incoming_high: Limit::default(),
            incoming_low: Limit::default(),
            flags: Flags::new(0),
        });
        Ok(object)
    })
}

/// Decides whether OpenSSL is called directly, after asyncio's `__init__` has made the connection.
pub(super) fn set_sslobj(this: &Native<Tls>, object: &Object) -> Res<()> {
    this.pointers.set(None);
    this.sslobj.set(object.own());
    if !object.class().is(&imports().ssl_object) {
        this.socket.set(object.own());
        return Ok(());
    }
    let socket = object.getattr(&names().sslobj)?;
    this.socket.set(socket.clone());
    let direct = Direct::of(
        &this.sslcontext.or_none(),
        &socket,
        &this.incoming.or_none(),
        &this.outgoing.or_none(),
    )?;
    this.pointers.set(direct);
    Ok(())
}

/// Makes the native base.
pub(super) fn init_type() -> Res<Owned> {
    let class = TypeBuilder::new::<Tls>(c"rondel._rondel.TLSProtocolCore", None, Tls::offset())
        .subclassable()
        .doc(c"The native half of the protocol between a socket and what speaks TLS over it.")
        .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
        .collected::<Tls>()
        .methods(reading::methods())
        .methods(writing::methods())
        .getset(attributes::attributes())
        .build()?;
    CORE.set(&class);
    Ok(class)
}

/// Takes note of the class that the data path is for.
pub(super) fn bind(class: &Object) {
    CLASS.set(class);
}
