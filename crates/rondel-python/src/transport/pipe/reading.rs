//! `ReadPipeTransport`: from a pipe to the protocol.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;
use rondel::transport::pipe::ReadEnd;
use rondel::transport::recv_size::MAX_RECV;

use super::{introduce, is_loop_closed, make_extra, prepare, unwatch_reading, watch_reading};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{guard_object, os_error, type_error, write_unraisable};
use crate::cpython::method::{Args, GetSet, Method, attribute, function, method};
use crate::cpython::types::{TypeBuilder, allocate, slot_fn};
use crate::cpython::{Object, Owned, Raised, Res, Slot, context, none};
use crate::event_loop::core::is_debug;
use crate::transport::closing::log_with_traceback;
use crate::transport::loop_calls::{
    call_exception_handler, call_soon_bare, debug_in_log, info_in_log, set_result_unless_cancelled,
    warn_of_resource, with_exception_kept,
};
use crate::transport::names::{imports, names};
use crate::transport::owner::Owner;
use crate::transport::reading::{Brought, deliver_to, receive_by};
use crate::transport::socket::call_soon;

/// A transport's fields, behind those of `asyncio.ReadTransport`.
#[repr(C)]
pub(in crate::transport) struct ReadPipe {
    /// The instance's dict, once there is one.
    dict: Slot,
    weakrefs: Cell<*mut ffi::PyObject>,
    end: RefCell<ReadEnd<Owner>>,
    /// Empty once the end was told.
    event_loop: Slot,
    protocol: Slot,
    /// The dict of `get_extra_info`.
    extra: Slot,
    /// Done when reading has started.
    waiter: Slot,
    /// What `data_received` runs in.
    context: Slot,
    fd: Cell<RawFd>,
    watched: Cell<bool>,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static OFFSET: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the fields stand at that offset, filled by `make_read_pipe_transport`.
unsafe impl Collected for ReadPipe {
    const FINALIZED: bool = true;

    #[inline]
    fn offset() -> usize {
        OFFSET.load(Ordering::Relaxed)
    }

    slots!(dict, event_loop, protocol, extra, waiter, context);

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

fn fields(object: &Object) -> &ReadPipe {
    ReadPipe::of(object)
}

#[inline]
pub(in crate::transport) fn is_read_pipe(object: &Object) -> bool {
    ptr::eq(object.type_ptr(), CLASS.load(Ordering::Relaxed))
}

/// The loop that a failing callback is reported to.
pub(in crate::transport) fn event_loop(transport: &Object) -> Option<Owned> {
    fields(transport).event_loop.cloned()
}

/// `make_read_pipe_transport(loop, pipe, protocol, waiter, extra)`.
fn make_read_pipe_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = ["loop", "pipe", "protocol", "waiter", "extra"];
    let given = args.parse("make_read_pipe_transport", parameters, 5, 3)?;
    let [event_loop, pipe, protocol, waiter, extra] =
        given.map(|argument| argument.unwrap_or(none()));
    let extra = make_extra(extra, pipe)?;
    let (owner, _) = prepare(pipe, "Pipe transport is for pipes/sockets only.")?;
    let fd = owner.as_raw_fd();
    // SAFETY: the fields are filled before anyone sees the object.
    let transport = unsafe {
        let object = allocate(CLASS.load(Ordering::Relaxed))?;
        let this = object
            .as_ptr()
            .byte_add(OFFSET.load(Ordering::Relaxed))
            .cast::<ReadPipe>();
        this.write(ReadPipe {
            dict: Slot::default(),
            weakrefs: Cell::new(ptr::null_mut()),
            end: RefCell::new(ReadEnd::new(owner)),
            event_loop: Slot::default(),
            protocol: Slot::default(),
            extra: Slot::default(),
            waiter: Slot::default(),
            context: Slot::default(),
            fd: Cell::new(fd),
            watched: Cell::new(false),
        });
        object
    };
    let this = fields(&transport);
    this.event_loop.set(event_loop.own());
    this.protocol.set(protocol.own());
    this.extra.set(extra);
    this.context.set(context::copy_current()?);
    if !waiter.is_none() {
        this.waiter.set(waiter.own());
    }
    introduce(event_loop, &transport, protocol)?;
    Ok(transport)
}

/// The deferred start: `connection_made` has been called, so bytes may come now.
pub(in crate::transport) fn start(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let started = start_reading(transport, this);
    if let Some(waiter) = this.waiter.take() {
        set_result_unless_cancelled(&waiter, none())?;
    }
    started
}

fn start_reading(transport: &Object, this: &ReadPipe) -> Res<()> {
    if this.end.borrow().is_reading() {
        watch_reading(&this.event_loop, this.fd.get(), transport)?;
        this.watched.set(true);
    }
    Ok(())
}

fn stop_reading(this: &ReadPipe) {
    if this.watched.replace(false) {
        unwatch_reading(&this.event_loop, this.fd.get());
    }
}

/// The descriptor can be read.
pub(in crate::transport) fn read_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.watched.get() {
        return Ok(());
    }
    match this.context.cloned() {
        None => read(transport, this),
        Some(own) => {
            context::enter(&own)?;
            let result = read(transport, this);
            context::exit(&own).and(result)
        }
    }
}

fn read(transport: &Object, this: &ReadPipe) -> Res<()> {
    let mut brought_len = 0;
    loop {
        let room = this.end.borrow().room();
        match receive_by(room, |memory| this.end.borrow_mut().read(memory))? {
            Brought::Chunk(chunk, more) => {
                brought_len += chunk.as_ref().len();
                deliver_to(&this.protocol, chunk)?;
                if !more || brought_len >= MAX_RECV || !this.watched.get() {
                    return Ok(());
                }
            }
            Brought::Nothing => return Ok(()),
            Brought::Eof => return eof(transport, this),
            Brought::Failed(error) => {
                let is_io = error.raw_os_error() == Some(libc::EIO);
                return fatal_error(
                    transport,
                    &*os_error(&error)?,
                    is_io,
                    "Fatal read error on pipe transport",
                );
            }
        }
    }
}

/// Nobody writes any more.
fn eof(transport: &Object, this: &ReadPipe) -> Res<()> {
    let event_loop = this.event_loop.or_none();
    if is_debug(&event_loop)? {
        info_in_log("%r was closed by peer", &[transport])?;
    }
    let first = this.end.borrow_mut().close();
    if !first {
        return Ok(());
    }
    stop_reading(this);
    let eof_received = this.protocol.or_none().getattr(&names().eof_received)?;
    call_soon_bare(&event_loop, &eof_received)?;
    schedule_connection_lost(transport, this, none())
}

fn schedule_connection_lost(transport: &Object, this: &ReadPipe, exception: &Object) -> Res<()> {
    let callback = transport.getattr(&names().call_connection_lost)?;
    call_soon(&this.event_loop.or_none(), &callback, exception, None)
}

/// A terminal whose other side is closed fails with `EIO`: that is how it ends. All else is reported.
#[cold]
fn fatal_error(transport: &Object, exception: &Object, is_io: bool, message: &str) -> Res<()> {
    let this = fields(transport);
    if let Some(event_loop) = this.event_loop.cloned() {
        if !is_io {
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

fn end(transport: &Object, exception: &Object) -> Res<()> {
    let this = fields(transport);
    let first = this.end.borrow_mut().close();
    if first {
        stop_reading(this);
        schedule_connection_lost(transport, this, exception)?;
    }
    Ok(())
}

fn close_pipe(this: &ReadPipe) -> Res<()> {
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
        this.context.clear();
        this.event_loop.clear();
        Ok(())
    };
    match told {
        Ok(_) => let_go().map(|()| Owned::none()),
        Err(Raised) => Err(with_exception_kept(let_go)),
    }
}

// ---- methods ----

fn close(transport: &Object) -> Res<Owned> {
    end(transport, none())?;
    Ok(Owned::none())
}

fn close_with(transport: &Object, exception: &Object) -> Res<Owned> {
    end(transport, exception)?;
    Ok(Owned::none())
}

fn is_closing(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).end.borrow().is_closing(),
    ))
}

fn is_reading(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).end.borrow().is_reading(),
    ))
}

fn is_paused(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(transport).end.borrow().is_paused()))
}

fn log_in_debug(this: &ReadPipe, format: &str, transport: &Object) -> Res<()> {
    if let Some(event_loop) = this.event_loop.cloned()
        && is_debug(&event_loop)?
    {
        debug_in_log(format, &[transport])?;
    }
    Ok(())
}

fn pause_reading(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let paused = this.end.borrow_mut().pause_reading();
    if paused {
        stop_reading(this);
        log_in_debug(this, "%r pauses reading", transport)?;
    }
    Ok(Owned::none())
}

fn resume_reading(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let resumed = this.end.borrow_mut().resume_reading();
    if resumed {
        this.context.set(context::copy_current()?);
        start_reading(transport, this)?;
        log_in_debug(this, "%r resumes reading", transport)?;
    }
    Ok(Owned::none())
}

fn read_ready_method(transport: &Object) -> Res<Owned> {
    read(transport, fields(transport))?;
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

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"close" close, c"Closes the pipe."),
        method!(noargs c"is_closing" is_closing, c"Whether it is closed or about to be."),
        method!(noargs c"is_reading" is_reading, c"Whether bytes that come are passed to the protocol."),
        method!(noargs c"pause_reading" pause_reading, c"Passes nothing to the protocol until resume_reading()."),
        method!(noargs c"resume_reading" resume_reading, c"Passes bytes to the protocol again."),
        method!(noargs c"get_protocol" get_protocol, c"The protocol."),
        method!(named c"set_protocol" ("protocol") set_protocol, c"Replaces the protocol."),
        method!(fast c"get_extra_info(name, default=None)" get_extra_info, c"Optional information on the pipe."),
        method!(noargs c"_read_ready" read_ready_method, c"The pipe can be read."),
        method!(onearg c"_close" close_with, c"Closes the pipe, with an exception for the protocol."),
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
        attribute!(c"_closing" is_closing),
        attribute!(c"_paused" is_paused),
    ]
}

fn describe(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let (closed, closing) = {
        let end = this.end.borrow();
        (end.pipe().is_none(), end.is_closing())
    };
    let mut info = super::describe(transport, closed, closing, this.fd.get())?;
    let state = match (closed, this.watched.get()) {
        (true, _) => "closed",
        (false, _) if is_loop_closed(&this.event_loop) => "open",
        (false, true) => "polling",
        (false, false) => "idle",
    };
    info.push(state.to_owned());
    Owned::from_str(&format!("<{}>", info.join(" ")))
}

unsafe extern "C" fn repr(transport: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes a live instance.
    guard_object(|| describe(unsafe { Object::from_ptr(transport) }))
}

pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let base = &imports().read_transport;
    let offset = base.basicsize();
    OFFSET.store(offset, Ordering::Relaxed);
    let class = TypeBuilder::new::<ReadPipe>(c"rondel.ReadPipeTransport", Some(base), offset)
        .not_instantiable()
        .doc(c"The end of a pipe that is read, as asyncio's pipe transport.")
        .dict(offset + std::mem::offset_of!(ReadPipe, dict))
        .weaklist(offset + std::mem::offset_of!(ReadPipe, weakrefs))
        .slot(ffi::Py_tp_repr, slot_fn!(repr, ffi::reprfunc))
        .collected::<ReadPipe>()
        .methods(methods())
        .getset(attributes())
        .build()?;
    let max_size = Owned::from_u64(MAX_RECV as u64)?;
    crate::cpython::types::set_type_attribute(&class, c"max_size", &max_size)?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(vec![
        ("ReadPipeTransport", class),
        (
            "make_read_pipe_transport",
            function(
                method!(fast c"make_read_pipe_transport" make_read_pipe_transport,
                c"A transport for the end of a pipe that is read."),
            )?,
        ),
    ])
}
