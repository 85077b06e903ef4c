//! `StreamReader`: the object, and how bytes get into it. How they get out is in `read.rs`.
//!
//! A native transport feeds it without a Python call ([`feed`], [`feed_eof`]); others use its
//! methods. Feeding completes the future that a read waits on, which puts the reading task on the
//! ready ring.

use std::cell::{Cell, RefCell};
use std::ptr;

use pyo3::ffi;
use rondel_engine::read_buffer::{DEFAULT_LIMIT, ReadBuffer};

use super::attributes::{flag, object};
use super::read;
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{
    Builtin, guard_object, no_memory, raise, raised_matches, take_exception, value_error,
};
use crate::cpython::frame::source_traceback;
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::native::{Class, Fields, Native, NativeClass, OwnedNative};
use crate::cpython::object::check;
use crate::cpython::slots::{init_slot, unary_slot};
use crate::cpython::types::{TypeBuilder, allocate, derive_from, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, names, none};
use crate::loop_core::is_debug;
use crate::transport::chunk::{Chunk, with_buffer};
use crate::transport::loop_calls::{set_exception_unless_cancelled, set_result_unless_cancelled};
use crate::transport::names::imports;
use crate::transport::socket;

/// A reader's fields behind the object header.
#[repr(C)]
pub(crate) struct Reader {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    buffer: RefCell<ReadBuffer<Chunk>>,
    /// The `_buffer` attribute: a bytearray that is used instead of `buffer` once it exists.
    exposed: Slot,
    limit: Cell<usize>,
    pub(super) event_loop: Slot,
    pub(super) waiter: Slot,
    pub(super) exception: Slot,
    pub(super) transport: Slot,
    pub(super) source_traceback: Slot,
    pub(super) eof: Cell<bool>,
    paused: Cell<bool>,
}

static CLASS: Class = Class::new();
const OFFSET: usize = size_of::<ffi::PyObject>();

// SAFETY: the fields stand behind the header, filled by `tp_new`.
unsafe impl Fields for Reader {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Reader {
    slots!(
        dict,
        exposed,
        event_loop,
        waiter,
        exception,
        transport,
        source_traceback
    );
}

// SAFETY: instances of derived classes are made by the same `tp_new`.
unsafe impl NativeClass for Reader {
    #[inline]
    fn class() -> &'static Class {
        &CLASS
    }
}

/// An object that is a reader of ours, not of a subclass, none of whose methods is overridden on
/// the instance.
#[inline]
pub(crate) fn plain(object: &Object) -> Option<&Native<Reader>> {
    object.exact::<Reader>().filter(|this| this.dict.is_empty())
}

/// Whether an object is a reader of ours, of asyncio, or of a subclass.
pub(crate) fn is_any_reader(object: &Object) -> Res<bool> {
    Ok(CLASS.is_instance(object) || object.is_instance(&imports().stock_reader)?)
}

/// A new reader.
pub(crate) fn make(limit: usize, event_loop: &Object) -> Res<OwnedNative<Reader>> {
    let this = allocate_in(CLASS.as_ptr())?;
    this.limit.set(limit);
    this.event_loop.set(event_loop.own());
    note_origin(&this, event_loop)?;
    Ok(this)
}

fn allocate_in(class: *mut ffi::PyTypeObject) -> Res<OwnedNative<Reader>> {
    // SAFETY: the fields are filled before anyone sees the object; zeroed `dict` and `weakrefs` are
    // as they must be.
    unsafe {
        let object = allocate(class)?;
        let this = object.as_ptr().byte_add(OFFSET).cast::<Reader>();
        (&raw mut (*this).buffer).write(RefCell::new(ReadBuffer::new()));
        (*this).limit.set(DEFAULT_LIMIT);
        Ok(OwnedNative::new(object))
    }
}

/// In debug mode, notes where the reader was made.
fn note_origin(this: &Native<Reader>, event_loop: &Object) -> Res<()> {
    if is_debug(event_loop)? {
        this.source_traceback.set(source_traceback()?);
    }
    Ok(())
}

impl Reader {
    /// The limit in bytes.
    #[inline]
    pub(super) fn limit(&self) -> usize {
        self.limit.get()
    }

    /// How many bytes are buffered.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self.exposed.get() {
            None => self.buffer.borrow().len(),
            // SAFETY: only a bytearray is ever put into `exposed`.
            Some(exposed) => unsafe { ffi::PyByteArray_Size(exposed.as_ptr()) as usize },
        }
    }

    /// Calls `body`, which must run no Python code, with what is buffered.
    #[inline]
    pub(super) fn with_bytes<R>(&self, body: impl FnOnce(&[u8]) -> R) -> R {
        match self.exposed.get() {
            None => body(self.buffer.borrow().as_slice()),
            // SAFETY: only a bytearray is ever put into `exposed`; its memory stays put while no
            // Python code runs.
            Some(exposed) => unsafe {
                let len = ffi::PyByteArray_Size(exposed.as_ptr()) as usize;
                let data = ffi::PyByteArray_AsString(exposed.as_ptr()).cast();
                body(std::slice::from_raw_parts(data, len))
            },
        }
    }

    /// Takes the first `n` bytes, or all if there are fewer, as an exact `bytes`.
    #[inline]
    pub(super) fn take(&self, n: usize) -> Res<Owned> {
        if self.exposed.is_empty() {
            let taken = self.buffer.borrow_mut().take(n, Chunk::copy)?;
            return Ok(taken.into_object());
        }
        let taken = self.with_bytes(|bytes| Owned::from_bytes(&bytes[..n.min(bytes.len())]))?;
        self.discard(n)?;
        Ok(taken)
    }

    /// Discards the first `n` bytes, or all if there are fewer.
    pub(super) fn discard(&self, n: usize) -> Res<()> {
        match self.exposed.cloned() {
            None => {
                self.buffer.borrow_mut().discard(n);
                Ok(())
            }
            // SAFETY: a live bytearray.
            Some(exposed) => check(unsafe {
                let n = isize::try_from(n).unwrap_or(isize::MAX);
                ffi::PySequence_DelSlice(exposed.as_ptr(), 0, n)
            }),
        }
    }

    /// The bytearray that replaces the buffer from now on.
    fn expose(&self) -> Res<Owned> {
        if let Some(exposed) = self.exposed.cloned() {
            return Ok(exposed);
        }
        let array = self.with_bytes(Owned::bytearray)?;
        *self.buffer.borrow_mut() = ReadBuffer::new();
        self.exposed.set(array.clone());
        Ok(array)
    }

    /// Completes the future that a read waits on.
    #[inline]
    pub(super) fn wake(&self) -> Res<()> {
        match self.waiter.take() {
            Some(waiter) => set_result_unless_cancelled(&waiter, none()),
            None => Ok(()),
        }
    }

    /// Something was fed: wakes the read that waits, and pauses the transport if too much is
    /// buffered.
    #[inline]
    fn fed(&self) -> Res<()> {
        self.wake()?;
        if self.paused.get() || self.len() <= self.limit().saturating_mul(2) {
            return Ok(());
        }
        let Some(transport) = self.transport.cloned() else {
            return Ok(());
        };
        let paused = match socket::plain(&transport) {
            Some(socket) => socket::pause_reading(socket),
            None => transport.call_method(&names().pause_reading, &[]),
        };
        let not_implemented = Builtin::NotImplemented.class();
        match paused {
            Ok(_) => self.paused.set(true),
            Err(Raised) if raised_matches(not_implemented) => {
                // It cannot be paused, so everything has to be buffered.
                drop(take_exception());
                self.transport.clear();
            }
            Err(Raised) => return Err(Raised),
        }
        Ok(())
    }

    /// Something was taken: resumes a paused transport, if little is buffered.
    #[inline]
    pub(super) fn maybe_resume(&self) -> Res<()> {
        if self.paused.get() && self.len() <= self.limit() {
            return self.resume();
        }
        Ok(())
    }

    /// A transport that was paused goes on.
    #[inline]
    pub(super) fn resume(&self) -> Res<()> {
        if !self.paused.replace(false) {
            return Ok(());
        }
        let transport = self.transport.or_none();
        match socket::plain(&transport) {
            Some(socket) => socket::resume_reading(socket).map(drop),
            None => transport
                .call_method(&names().resume_reading, &[])
                .map(drop),
        }
    }
}

fn check_open(this: &Reader) -> Res<()> {
    if this.eof.get() {
        return assertion_error("feed_data after feed_eof");
    }
    Ok(())
}

#[cold]
pub(super) fn assertion_error<T>(message: &str) -> Res<T> {
    raise(Builtin::Assertion.class(), message)
}

/// Feeds a received chunk, without copying it if the buffer is empty.
#[inline]
pub(crate) fn feed(this: &Native<Reader>, chunk: Chunk) -> Res<()> {
    check_open(this)?;
    match this.exposed.cloned() {
        None => {
            let fed = this.buffer.borrow_mut().try_feed(chunk);
            if fed.is_err() {
                return no_memory();
            }
        }
        Some(exposed) => drop(exposed.call_method(&names().extend, &[chunk.object()])?),
    }
    this.fed()
}

/// Notes that nothing more will come.
pub(crate) fn feed_eof(this: &Native<Reader>) -> Res<Owned> {
    this.eof.set(true);
    this.wake()?;
    Ok(Owned::none())
}

/// Has every read raise `exception`, including the one that waits.
pub(crate) fn set_exception(this: &Native<Reader>, exception: &Object) -> Res<Owned> {
    let given = (!exception.is_none()).then(|| exception.own());
    drop(this.exception.replace(given));
    if let Some(waiter) = this.waiter.take() {
        set_exception_unless_cancelled(&waiter, exception)?;
    }
    Ok(Owned::none())
}

/// Sets the transport that is paused when too much is buffered.
pub(crate) fn set_transport(this: &Native<Reader>, transport: &Object) -> Res<Owned> {
    if !this.transport.is_empty() {
        return assertion_error("Transport already set");
    }
    this.transport.set(transport.own());
    Ok(Owned::none())
}

// ---- methods ----

fn feed_data(this: &Native<Reader>, data: &Object) -> Res<Owned> {
    check_open(this)?;
    if let Some(chunk) = Chunk::exact(data) {
        if !chunk.as_ref().is_empty() {
            feed(this, chunk)?;
        }
        return Ok(Owned::none());
    }
    if !data.is_true()? {
        return Ok(Owned::none());
    }
    // SAFETY: a live object.
    if unsafe { ffi::PyObject_CheckBuffer(data.as_ptr()) } != 0 {
        let chunk = with_buffer(data, Chunk::copy)??;
        feed(this, chunk)?;
    } else {
        // Anything that `bytearray.extend` accepts.
        let array = Owned::bytearray(&[])?;
        array.call_method(&names().extend, &[data])?;
        feed(this, with_buffer(&array, Chunk::copy)??)?;
    }
    Ok(Owned::none())
}

fn exception(this: &Native<Reader>) -> Res<Owned> {
    Ok(this.exception.or_none())
}

fn at_eof(this: &Native<Reader>) -> Res<Owned> {
    Ok(Owned::from_bool(this.eof.get() && this.len() == 0))
}

fn wakeup_waiter(this: &Native<Reader>) -> Res<Owned> {
    this.wake()?;
    Ok(Owned::none())
}

fn maybe_resume_transport(this: &Native<Reader>) -> Res<Owned> {
    this.maybe_resume()?;
    Ok(Owned::none())
}

fn describe(this: &Native<Reader>) -> Res<Owned> {
    let mut info = vec!["StreamReader".to_owned()];
    if this.len() > 0 {
        info.push(format!("{} bytes", this.len()));
    }
    if this.eof.get() {
        info.push("eof".to_owned());
    }
    if this.limit() != DEFAULT_LIMIT {
        info.push(format!("limit={}", this.limit()));
    }
    for (name, slot) in [
        ("waiter", &this.waiter),
        ("exception", &this.exception),
        ("transport", &this.transport),
    ] {
        if let Some(value) = slot.cloned() {
            info.push(format!("{name}={}", value.repr()?.to_text()?));
        }
    }
    if this.paused.get() {
        info.push("paused".to_owned());
    }
    Owned::from_str(&format!("<{}>", info.join(" ")))
}

// ---- attributes ----

fn get_buffer(this: &Native<Reader>) -> Res<Owned> {
    this.expose()
}

fn set_buffer(this: &Native<Reader>, value: Option<&Object>) -> Res<()> {
    let value = value.unwrap_or(none());
    // SAFETY: a live object.
    let array = unsafe {
        match ffi::PyByteArray_Check(value.as_ptr()) {
            0 => Owned::steal(ffi::PyByteArray_FromObject(value.as_ptr()))?,
            _ => value.own(),
        }
    };
    *this.buffer.borrow_mut() = ReadBuffer::new();
    this.exposed.set(array);
    Ok(())
}

fn get_limit(this: &Native<Reader>) -> Res<Owned> {
    Owned::from_u64(this.limit() as u64)
}

fn set_limit(this: &Native<Reader>, value: Option<&Object>) -> Res<()> {
    this.limit.set(limit_of(value.unwrap_or(none()))?);
    Ok(())
}

/// A limit in bytes. Larger numbers than a size are clipped.
pub(super) fn limit_of(value: &Object) -> Res<usize> {
    // SAFETY: a live object; without an exception class, numbers out of range are clipped.
    let limit = unsafe {
        if ffi::PyFloat_Check(value.as_ptr()) != 0 {
            ffi::PyFloat_AS_DOUBLE(value.as_ptr()).ceil() as isize
        } else {
            let limit = ffi::PyNumber_AsSsize_t(value.as_ptr(), ptr::null_mut());
            if limit == -1 && !ffi::PyErr_Occurred().is_null() {
                return Err(Raised);
            }
            limit
        }
    };
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => value_error("Limit cannot be <= 0"),
    }
}

flag!(Reader: get_eof, set_eof, eof);
flag!(Reader: get_paused, set_paused, paused);
object!(Reader: get_loop, set_loop, event_loop);
object!(Reader: get_waiter, set_waiter, waiter);
object!(Reader: get_exception, set_exception_attribute, exception);
object!(Reader: get_transport, set_transport_attribute, transport);
object!(Reader: get_source_traceback, set_source_traceback, source_traceback);

// ---- the type ----

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| allocate_in(class).map(OwnedNative::into_owned))
}

fn init(this: &Native<Reader>, args: Args<'_>) -> Res<()> {
    let [limit, event_loop] = args.parse("StreamReader.__init__", ["limit", "loop"], 2, 0)?;
    if let Some(limit) = limit {
        this.limit.set(limit_of(limit)?);
    }
    let event_loop = match event_loop.filter(|given| !given.is_none()) {
        Some(event_loop) => event_loop.own(),
        None => imports().get_event_loop.call(&[])?,
    };
    this.event_loop.set(event_loop.clone());
    note_origin(this, &event_loop)
}

fn aiter(this: &Native<Reader>) -> Res<Owned> {
    Ok(this.own().into_owned())
}

fn methods() -> Vec<Method> {
    let mut methods = vec![
        method!(noargs c"exception" exception, c"The exception that reading raises, or None."),
        method!(named c"set_exception" ("exc") set_exception, c"Sets the exception that reads raise."),
        method!(named c"set_transport" ("transport") set_transport, c"Sets the transport, which is paused when the buffer is over its limit."),
        method!(noargs c"feed_eof" feed_eof, c"Marks the end of the data."),
        method!(noargs c"at_eof" at_eof, c"Whether feed_eof was called and everything is read."),
        method!(named c"feed_data" ("data") feed_data, c"Adds received data to the buffer."),
        method!(noargs c"_wakeup_waiter" wakeup_waiter, c"Wakes the read that waits."),
        method!(noargs c"_maybe_resume_transport" maybe_resume_transport, c"Resumes a transport that was paused."),
    ];
    methods.extend(read::methods());
    methods
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_buffer" get_buffer, set_buffer),
        attribute!(c"_limit" get_limit, set_limit),
        attribute!(c"_eof" get_eof, set_eof),
        attribute!(c"_paused" get_paused, set_paused),
        attribute!(c"_loop" get_loop, set_loop),
        attribute!(c"_waiter" get_waiter, set_waiter),
        attribute!(c"_exception" get_exception, set_exception_attribute),
        attribute!(c"_transport" get_transport, set_transport_attribute),
        attribute!(c"_source_traceback" get_source_traceback, set_source_traceback),
    ]
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    let dict = OFFSET + std::mem::offset_of!(Reader, dict);
    let weakrefs = OFFSET + std::mem::offset_of!(Reader, weakrefs);
    let class = TypeBuilder::new::<Reader>(c"rondel.StreamReader", None, OFFSET)
        .subclassable()
        .doc(c"StreamReader(limit=65536, loop=None)\n--\n\nThe reading half of a stream, as asyncio.StreamReader.")
        .dict(dict)
        .weaklist(weakrefs)
        .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
        .slot(ffi::Py_tp_init, init_slot!(init))
        .slot(ffi::Py_tp_repr, unary_slot!(describe))
        .slot(ffi::Py_am_aiter, unary_slot!(aiter))
        .slot(ffi::Py_am_anext, unary_slot!(read::next_line))
        .collected::<Reader>()
        .methods(methods())
        .getset(attributes())
        .build()?;
    derive_from(&class, &imports().stock_reader)?;
    CLASS.set(&class);
    Ok(class)
}
