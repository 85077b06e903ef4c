//! `WritePipeTransport`: from the program to a pipe.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;
use rondel::transport::pipe::{Sent, WriteEnd, Written};

use super::{introduce, is_loop_closed, make_extra, prepare, unwatch_reading, watch_reading};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{
    guard_object, os_error, raise, raise_os_error, type_error, write_unraisable,
};
use crate::cpython::method::{Args, GetSet, Method, attribute, function, method};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, none};
use crate::event_loop::core::{LoopCore, is_debug};
use crate::event_loop::host::Source;
use crate::event_loop::running::check_closed;
use crate::transport::chunk::{Chunk, with_buffer};
use crate::transport::closing::log_with_traceback;
use crate::transport::flow::{self, Edge};
use crate::transport::loop_calls::{
    call_exception_handler, info_in_log, set_result_unless_cancelled, warn_in_log,
    warn_of_resource, with_exception_kept,
};
use crate::transport::names::{imports, names};
use crate::transport::owner::Owner;
use crate::transport::socket::call_soon;

/// A transport's fields, behind those of asyncio's class.
#[repr(C)]
pub(in crate::transport) struct WritePipe {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    end: RefCell<WriteEnd<Owner, Chunk>>,
    /// Empty once the end was told.
    event_loop: Slot,
    protocol: Slot,
    /// The dict of `get_extra_info`.
    extra: Slot,
    /// Done when `connection_made` was called.
    waiter: Slot,
    fd: Cell<RawFd>,
    /// Whether the kernel says when the end that reads is gone.
    tells_of_its_reader: Cell<bool>,
    /// The reactor is to say so.
    watched_for_its_end: Cell<bool>,
    watched_for_writing: Cell<bool>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static OFFSET: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the fields stand at that offset, filled by `make_write_pipe_transport`.
unsafe impl Collected for WritePipe {
    const FINALIZED: bool = true;

    #[inline]
    fn offset() -> usize {
        OFFSET.load(Ordering::Relaxed)
    }

    slots!(dict, event_loop, protocol, extra, waiter);

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        if let Ok(end) = self.end.try_borrow()
            && let Some(pipe) = end.pipe()
        {
            see(pipe.object());
        }
    }

    fn release_others(&self) {
        let pipe = self
            .end
            .try_borrow_mut()
            .ok()
            .and_then(|mut end| end.take_pipe());
        drop(pipe);
    }

    /// A transport that nobody has any more closes its pipe, and says that the program should have.
    fn finalize(transport: &Object) -> Res<()> {
        let this = fields(transport);
        if this.end.borrow().pipe().is_none() {
            return Ok(());
        }
        let text = format!("unclosed transport {}", describe(transport)?.to_text()?);
        if let Err(Raised) = warn_of_resource(&text, Some(transport)) {
            write_unraisable(Some(transport));
        }
        close_pipe(this)
    }
}

fn fields(object: &Object) -> &WritePipe {
    WritePipe::of(object)
}

#[inline]
pub(in crate::transport) fn is_write_pipe(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed))
}

/// The loop that a failing callback is reported to.
pub(in crate::transport) fn event_loop(transport: &Object) -> Option<Owned> {
    fields(transport).event_loop.cloned()
}

/// `make_write_pipe_transport(loop, pipe, protocol, waiter, extra)`.
fn make_write_pipe_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = ["loop", "pipe", "protocol", "waiter", "extra"];
    let given = args.parse("make_write_pipe_transport", parameters, 5, 3)?;
    let [event_loop, pipe, protocol, waiter, extra] =
        given.map(|argument| argument.unwrap_or(none()));
    let extra = make_extra(extra, pipe)?;
    let refusal = "Pipe transport is only for pipes, sockets and character devices";
    let (owner, kind) = prepare(pipe, refusal)?;
    let fd = owner.as_raw_fd();
    // SAFETY: the fields are filled before anyone sees the object.
    let transport = unsafe {
        let object = allocate(CLASS.load(Ordering::Relaxed))?;
        let this = object
            .as_ptr()
            .byte_add(OFFSET.load(Ordering::Relaxed))
            .cast::<WritePipe>();
        this.write(WritePipe {
            dict: Slot::default(),
            weakrefs: Cell::new(ptr::null_mut()),
            end: RefCell::new(WriteEnd::new(owner)),
            event_loop: Slot::default(),
            protocol: Slot::default(),
            extra: Slot::default(),
            waiter: Slot::default(),
            fd: Cell::new(fd),
            tells_of_its_reader: Cell::new(kind.tells_of_its_reader()),
            watched_for_its_end: Cell::new(false),
            watched_for_writing: Cell::new(false),
        });
        object
    };
    let this = fields(&transport);
    this.event_loop.set(event_loop.own());
    this.protocol.set(protocol.own());
    this.extra.set(extra);
    if !waiter.is_none() {
        this.waiter.set(waiter.own());
    }
    introduce(event_loop, &transport, protocol)?;
    Ok(transport)
}

/// The deferred start: `connection_made` has been called.
pub(in crate::transport) fn start(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let started = match this.tells_of_its_reader.get() && !this.end.borrow().is_lost() {
        true => watch_reading(&this.event_loop, this.fd.get(), transport),
        false => Ok(()),
    };
    this.watched_for_its_end
        .set(started.is_ok() && this.tells_of_its_reader.get());
    if let Some(waiter) = this.waiter.take() {
        set_result_unless_cancelled(&waiter, none())?;
    }
    started
}

fn start_writing(transport: &Object, this: &WritePipe) -> Res<()> {
    let Some(event_loop) = this.event_loop.cloned() else {
        return Ok(());
    };
    let Some(core) = LoopCore::of(&event_loop) else {
        return Ok(());
    };
    check_closed(core)?;
    let source = Source::Transport(transport.own());
    match core.engine().add_writer(this.fd.get(), source) {
        Ok(before) => drop(before),
        Err(error) => return raise_os_error(&error),
    }
    this.watched_for_writing.set(true);
    Ok(())
}

fn stop_writing(this: &WritePipe) {
    if this.watched_for_writing.replace(false)
        && let Some(event_loop) = this.event_loop.cloned()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        drop(core.engine().remove_writer(this.fd.get()));
    }
}

fn stop_watching(this: &WritePipe) {
    stop_writing(this);
    if this.watched_for_its_end.replace(false) {
        unwatch_reading(&this.event_loop, this.fd.get());
    }
}

/// The descriptor can be read, which one that is written can only when the end that reads is gone.
pub(in crate::transport) fn read_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.watched_for_its_end.get() {
        return Ok(());
    }
    let event_loop = this.event_loop.or_none();
    if is_debug(&event_loop)? {
        info_in_log("%r was closed by peer", &[transport])?;
    }
    let lossless = this.end.borrow().queue().is_empty();
    if lossless {
        return end(transport, none());
    }
    // SAFETY: a built-in class lives as long as the interpreter.
    let broken = unsafe { Object::from_ptr(ffi::PyExc_BrokenPipeError) };
    let exception = broken.call(&[])?;
    end(transport, &exception)
}

/// `transport.write(data)`.
fn write(transport: &Object, data: &Object) -> Res<Owned> {
    // SAFETY: a live object.
    let is_bytes_like = unsafe {
        ffi::PyBytes_Check(data.as_ptr()) != 0
            || ffi::PyByteArray_Check(data.as_ptr()) != 0
            || ffi::PyMemoryView_Check(data.as_ptr()) != 0
    };
    if !is_bytes_like {
        // SAFETY: a built-in class lives as long as the interpreter.
        let class = unsafe { Object::from_ptr(ffi::PyExc_AssertionError) };
        return raise(class, &data.repr()?.to_text()?);
    }
    if !data.is_true()? {
        return Ok(Owned::none());
    }
    let this = fields(transport);
    let written = match Chunk::exact(data) {
        Some(chunk) => write_bytes(this, chunk.as_ref(), Some(&chunk))?,
        None => with_buffer(data, |bytes| write_bytes(this, bytes, None))??,
    };
    match written {
        Written::All | Written::Lost { warn: false } => {}
        Written::Lost { warn: true } => {
            warn_in_log("pipe closed by peer or os.write(pipe, data) raised exception.")?;
        }
        Written::Watch => {
            start_writing(transport, this)?;
            maybe_pause(transport, this)?;
        }
        Written::Waiting => maybe_pause(transport, this)?,
        Written::Failed(error) => write_failed(transport, &*os_error(&error)?)?,
    }
    Ok(Owned::none())
}

/// Offers bytes to the kernel; what it does not take is kept: the object itself, if it is all of it.
fn write_bytes(this: &WritePipe, bytes: &[u8], whole: Option<&Chunk>) -> Res<Written> {
    this.end.borrow_mut().write(bytes, |rest| match whole {
        Some(chunk) if rest.len() == bytes.len() => Ok(chunk.clone()),
        _ => Chunk::copy(rest),
    })
}

/// The descriptor can be written.
pub(in crate::transport) fn write_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.watched_for_writing.get() {
        return Ok(());
    }
    let sent = this.end.borrow_mut().write_ready();
    match sent {
        Sent::Some => Ok(()),
        Sent::Failed(error) => {
            stop_writing(this);
            write_failed(transport, &*os_error(&error)?)
        }
        Sent::All => {
            stop_writing(this);
            maybe_resume(transport, this)?;
            let over = this.end.borrow_mut().is_over();
            if over {
                stop_watching(this);
                call_connection_lost(transport, none())?;
            }
            Ok(())
        }
    }
}

#[cold]
fn write_failed(transport: &Object, exception: &Object) -> Res<()> {
    fatal_error(transport, exception, "Fatal write error on pipe transport")
}

#[cold]
fn fatal_error(transport: &Object, exception: &Object, message: &str) -> Res<()> {
    let this = fields(transport);
    // SAFETY: a built-in class lives as long as the interpreter.
    let os_error = unsafe { Object::from_ptr(ffi::PyExc_OSError) };
    if let Some(event_loop) = this.event_loop.cloned() {
        if !exception.is_instance(os_error)? {
            let owner = this.protocol.or_none();
            let rest = [
                (c"exception", exception),
                (c"transport", transport),
                (c"protocol", &*owner),
            ];
            call_exception_handler(&event_loop, message, &rest)?;
        } else if is_debug(&event_loop)? {
            log_with_traceback(transport, exception, message)?;
        }
    }
    end(transport, exception)
}

/// Ends it at once; what waits is not written.
fn end(transport: &Object, exception: &Object) -> Res<()> {
    let this = fields(transport);
    let ended = this.end.borrow_mut().close();
    if let Some(unwritten) = ended {
        drop(unwritten);
        stop_watching(this);
        schedule_connection_lost(transport, this, exception)?;
    }
    Ok(())
}

fn schedule_connection_lost(transport: &Object, this: &WritePipe, exception: &Object) -> Res<()> {
    let callback = transport.getattr(&names().call_connection_lost)?;
    call_soon(&this.event_loop.or_none(), &callback, exception, None)
}

fn close_pipe(this: &WritePipe) -> Res<()> {
    let pipe = this.end.borrow_mut().take_pipe();
    pipe.map_or(Ok(()), Owner::close)
}

/// Tells the protocol, and lets go of everything.
fn call_connection_lost(transport: &Object, exception: &Object) -> Res<Owned> {
    let this = fields(transport);
    let told = match this.protocol.cloned() {
        Some(owner) => owner.call_method(&names().connection_lost, &[exception]),
        None => Ok(Owned::none()),
    };
    let let_go = || {
        close_pipe(this)?;
        this.protocol.clear();
        this.event_loop.clear();
        Ok(())
    };
    match told {
        Ok(_) => let_go().map(|()| Owned::none()),
        Err(Raised) => Err(with_exception_kept(let_go)),
    }
}

// ---- flow control ----

fn maybe_pause(transport: &Object, this: &WritePipe) -> Res<()> {
    let pauses = {
        let mut end = this.end.borrow_mut();
        let waiting = end.queue().len();
        end.flow.pauses_at(waiting)
    };
    match pauses {
        true => flow::tell(transport, &this.protocol, &this.event_loop, Edge::Pause),
        false => Ok(()),
    }
}

fn maybe_resume(transport: &Object, this: &WritePipe) -> Res<()> {
    let resumes = {
        let mut end = this.end.borrow_mut();
        let waiting = end.queue().len();
        end.flow.resumes_at(waiting)
    };
    match resumes {
        true => flow::tell(transport, &this.protocol, &this.event_loop, Edge::Resume),
        false => Ok(()),
    }
}

// ---- methods ----

/// asyncio's `WriteTransport.writelines`: joined, and written as one.
fn writelines(transport: &Object, lines: &Object) -> Res<Owned> {
    let joined = imports().empty_bytes.call_method(&names().join, &[lines])?;
    transport.call_method(&names().write, &[&joined])
}

fn write_eof(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let over = this.end.borrow_mut().write_eof();
    if over {
        stop_watching(this);
        schedule_connection_lost(transport, this, none())?;
    }
    Ok(Owned::none())
}

fn abort(transport: &Object) -> Res<Owned> {
    end(transport, none())?;
    Ok(Owned::none())
}

fn close_with(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let [exception] = args.parse("_close", ["exc"], 1, 0)?;
    end(transport, exception.unwrap_or(none()))?;
    Ok(Owned::none())
}

fn can_write_eof(_: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(true))
}

fn is_closing(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).end.borrow().is_closing(),
    ))
}

fn get_write_buffer_size(transport: &Object) -> Res<Owned> {
    Owned::from_u64(fields(transport).end.borrow().queue().len() as u64)
}

fn get_write_buffer_limits(transport: &Object) -> Res<Owned> {
    flow::limits(&fields(transport).end.borrow().flow)
}

fn set_write_buffer_limits(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let this = fields(transport);
    flow::set_limits(args, |high, low| {
        let set = this.end.borrow_mut().flow.set_limits(high, low);
        set.map_err(|error| error.to_string())
    })?;
    maybe_pause(transport, this)?;
    Ok(Owned::none())
}

fn get_protocol(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).protocol.or_none())
}

fn set_protocol(transport: &Object, protocol: &Object) -> Res<Owned> {
    fields(transport).protocol.set(protocol.own());
    Ok(Owned::none())
}

fn get_extra_info(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let [name, default] = args.parse("get_extra_info", ["name", "default"], 2, 1)?;
    fields(transport).extra.or_none().call_method(
        &names().get,
        &[name.unwrap_or(none()), default.unwrap_or(none())],
    )
}

fn get_extra(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).extra.or_none())
}

fn get_loop(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).event_loop.or_none())
}

fn get_pipe(transport: &Object) -> Res<Owned> {
    Ok(match fields(transport).end.borrow().pipe() {
        Some(pipe) => pipe.object().own(),
        None => Owned::none(),
    })
}

/// `transport._pipe = None`: from then on the pipe is the program's to close.
fn set_pipe(transport: &Object, value: Option<&Object>) -> Res<()> {
    if !value.unwrap_or(none()).is_none() {
        return type_error("the pipe of a transport can only be taken away");
    }
    let pipe = fields(transport).end.borrow_mut().take_pipe();
    drop(pipe);
    Ok(())
}

fn get_fileno(transport: &Object) -> Res<Owned> {
    Owned::from_i64(fields(transport).fd.get().into())
}

fn get_conn_lost(transport: &Object) -> Res<Owned> {
    Owned::from_u64(fields(transport).end.borrow().conn_lost().into())
}

/// What waits to be written, as a copy.
fn get_buffer(transport: &Object) -> Res<Owned> {
    let waiting: Vec<u8> = {
        let end = fields(transport).end.borrow();
        end.queue().iter().flatten().copied().collect()
    };
    let joined = Owned::from_bytes(&waiting)?;
    // SAFETY: a live object.
    unsafe { Owned::steal(ffi::PyByteArray_FromObject(joined.as_ptr())) }
}

fn get_protocol_paused(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).end.borrow().flow.is_paused(),
    ))
}

fn methods() -> Vec<Method> {
    vec![
        method!(named c"write" ("data") write, c"Writes bytes, without waiting."),
        method!(named c"writelines" ("list_of_data") writelines, c"Writes several bytes objects, without waiting."),
        method!(noargs c"write_eof" write_eof, c"Closes once everything is written."),
        method!(noargs c"can_write_eof" can_write_eof, c"True."),
        method!(noargs c"close" write_eof, c"Closes once everything is written."),
        method!(noargs c"abort" abort, c"Closes at once; what waits is not written."),
        method!(noargs c"is_closing" is_closing, c"Whether it is closed or about to be."),
        method!(noargs c"get_write_buffer_size" get_write_buffer_size, c"How many bytes wait to be written."),
        method!(noargs c"get_write_buffer_limits" get_write_buffer_limits, c"The low and the high water mark, in bytes."),
        method!(fast c"set_write_buffer_limits(high=None, low=None)" set_write_buffer_limits, c"Sets the high and the low water mark, in bytes."),
        method!(noargs c"get_protocol" get_protocol, c"The protocol."),
        method!(named c"set_protocol" ("protocol") set_protocol, c"Replaces the protocol."),
        method!(fast c"get_extra_info(name, default=None)" get_extra_info, c"Optional information on the pipe."),
        method!(fast c"_close" close_with, c"Closes at once, with an exception for the protocol."),
        method!(onearg c"_call_connection_lost" call_connection_lost, c"Tells the protocol and closes the pipe."),
    ]
}

fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_protocol" get_protocol),
        attribute!(c"_loop" get_loop),
        attribute!(c"_extra" get_extra),
        attribute!(c"_pipe" get_pipe, set_pipe),
        attribute!(c"_fileno" get_fileno),
        attribute!(c"_conn_lost" get_conn_lost),
        attribute!(c"_closing" is_closing),
        attribute!(c"_protocol_paused" get_protocol_paused),
        attribute!(c"_buffer" get_buffer),
    ]
}

fn describe(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let (closed, closing, size) = {
        let end = this.end.borrow();
        (end.pipe().is_none(), end.is_closing(), end.queue().len())
    };
    let mut info = super::describe(transport, closed, closing, this.fd.get())?;
    if closed {
        info.push("closed".to_owned());
    } else if is_loop_closed(&this.event_loop) {
        info.push("open".to_owned());
    } else {
        let polling = this.watched_for_writing.get();
        info.push(if polling { "polling" } else { "idle" }.to_owned());
        info.push(format!("bufsize={size}"));
    }
    Owned::from_str(&format!("<{}>", info.join(" ")))
}

unsafe extern "C" fn repr(transport: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    guard_object(|| describe(unsafe { Object::from_ptr(transport) }))
}

pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let base = &imports().transport;
    let offset = base.basicsize();
    OFFSET.store(offset, Ordering::Relaxed);
    let class = TypeBuilder::new::<WritePipe>(c"rondel.WritePipeTransport", Some(base), offset)
        .not_instantiable()
        .doc(c"The end of a pipe that is written, as asyncio's pipe transport.")
        .dict(offset + std::mem::offset_of!(WritePipe, dict))
        .weaklist(offset + std::mem::offset_of!(WritePipe, weakrefs))
        .slot(ffi::Py_tp_repr, slot_fn!(repr, ffi::reprfunc))
        .collected::<WritePipe>()
        .methods(methods())
        .getset(attributes())
        .build()?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(vec![
        ("WritePipeTransport", class),
        (
            "make_write_pipe_transport",
            function(
                method!(fast c"make_write_pipe_transport" make_write_pipe_transport,
                c"A transport for the end of a pipe that is written."),
            )?,
        ),
    ])
}
