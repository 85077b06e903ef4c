//! `WritePipeTransport`: from the program to a pipe.

use std::cell::{Cell, RefCell};

use pyo3::ffi;
use rondel_engine::transport::pipe::{Kind as PipeKind, Sent, WriteEnd, Written};

use super::{
    End, Pipe, Place, call_connection_lost, common_attributes, common_methods, end, introduce,
    is_os_error, make, make_class, schedule_connection_lost,
};
use crate::cpython::error::{os_error, raise, raise_os_error};
use crate::cpython::method::{Args, GetSet, Method, attribute, function, method};
use crate::cpython::native::Fields;
use crate::cpython::{Object, Owned, Raised, Res, none};
use crate::loop_core::check_closed;
use crate::loop_core::item::Source;
use crate::loop_core::{LoopCore, is_debug};
use crate::transport::chunk::{Chunk, with_buffer};
use crate::transport::descriptor::Owner;
use crate::transport::flow::{self, Edge};
use crate::transport::loop_calls::{info_in_log, take_unless_exit, warn_in_log};
use crate::transport::names::{imports, names};

/// The end that is written.
struct Writing {
    end: RefCell<WriteEnd<Owner, Chunk>>,
    /// Whether the kernel says when the end that reads is gone.
    tells_of_its_reader: bool,
    watched_for_writing: Cell<bool>,
}

type WritePipe = Pipe<Writing>;

static PLACE: Place = Place::new();

impl End for Writing {
    const REFUSAL: &'static str = "Pipe transport is only for pipes, sockets and character devices";
    const NAME: &'static std::ffi::CStr = c"rondel.WritePipeTransport";
    const DOC: &'static std::ffi::CStr =
        c"The end of a pipe that is written, as asyncio's pipe transport.";

    fn place() -> &'static Place {
        &PLACE
    }

    fn new(pipe: Owner, kind: PipeKind) -> Self {
        Self {
            end: RefCell::new(WriteEnd::new(pipe)),
            tells_of_its_reader: kind.tells_of_its_reader(),
            watched_for_writing: Cell::new(false),
        }
    }

    fn see_pipe(&self, see: &mut dyn FnMut(&Object)) {
        if let Ok(end) = self.end.try_borrow()
            && let Some(pipe) = end.pipe()
        {
            see(pipe.object());
        }
    }

    fn take_pipe(&self) -> Option<Owner> {
        self.end.try_borrow_mut().ok()?.take_pipe()
    }

    fn is_closing(&self) -> bool {
        self.end.borrow().is_closing()
    }

    /// The system's failures are the protocol's business.
    fn expects(exception: &Object) -> Res<bool> {
        is_os_error(exception)
    }

    fn describe(this: &WritePipe) -> Vec<String> {
        let polling = this.end.watched_for_writing.get();
        let state = if polling { "polling" } else { "idle" };
        let waiting = this.end.end.borrow().queue().len();
        vec![state.to_owned(), format!("bufsize={waiting}")]
    }

    /// What waits is not written.
    fn shut(this: &WritePipe) -> bool {
        let ended = this.end.end.borrow_mut().close();
        let first = ended.is_some();
        drop(ended);
        if first {
            stop_watching(this);
        }
        first
    }
}

fn fields(object: &Object) -> &WritePipe {
    WritePipe::of(object)
}

#[inline]
pub(in crate::transport) fn is_write_pipe(object: &Object) -> bool {
    PLACE.is_of(object)
}

/// The loop that a failing callback is reported to.
pub(in crate::transport) fn event_loop(transport: &Object) -> Option<Owned> {
    fields(transport).event_loop.cloned()
}

fn make_write_pipe_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    let transport = make::<Writing>(args, "make_write_pipe_transport")?;
    let this = fields(&transport);
    introduce(
        &this.event_loop.or_none(),
        &transport,
        &this.protocol.or_none(),
    )?;
    Ok(transport)
}

/// The deferred start: `connection_made` has been called.
pub(in crate::transport) fn start(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let is_lost = this.end.end.borrow().is_lost();
    let started = match this.end.tells_of_its_reader && !is_lost {
        true => this.watch(transport),
        false => Ok(()),
    };
    this.tell_waiter()?;
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
    this.end.watched_for_writing.set(true);
    Ok(())
}

fn stop_writing(this: &WritePipe) {
    if this.end.watched_for_writing.replace(false)
        && let Some(event_loop) = this.event_loop.cloned()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        drop(core.engine().remove_writer(this.fd.get()));
    }
}

fn stop_watching(this: &WritePipe) {
    stop_writing(this);
    this.unwatch();
}

/// The descriptor can be read, which one that is written can only when the end that reads is gone.
pub(in crate::transport) fn read_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.watched.get() {
        return Ok(());
    }
    let event_loop = this.event_loop.or_none();
    if is_debug(&event_loop)? {
        info_in_log("%r was closed by peer", &[transport])?;
    }
    let lossless = this.end.end.borrow().queue().is_empty();
    if lossless {
        return end::<Writing>(transport, none());
    }
    // SAFETY: a built-in class lives as long as the interpreter.
    let broken = unsafe { Object::from_ptr(ffi::PyExc_BrokenPipeError) };
    let exception = broken.call(&[])?;
    end::<Writing>(transport, &exception)
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
    if let Some(core) = this.event_loop.get().and_then(LoopCore::of) {
        core.flush_in_order();
        core.engine().poll_next_turn();
    }
    let written = match Chunk::exact(data) {
        Some(chunk) => write_bytes(this, chunk.as_ref(), Some(&chunk))?,
        None => match with_buffer(data, |bytes| write_bytes(this, bytes, None)) {
            Ok(written) => written?,
            // `os.write()` would have to be given a buffer, and asyncio gives the pipe up if none can be had.
            Err(Raised) => {
                let exception = take_unless_exit()?;
                write_failed(transport, &exception)?;
                return Ok(Owned::none());
            }
        },
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
    this.end.end.borrow_mut().write(bytes, |rest| match whole {
        Some(chunk) if rest.len() == bytes.len() => Ok(chunk.clone()),
        _ => Chunk::copy(rest),
    })
}

/// The descriptor can be written.
pub(in crate::transport) fn write_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.end.watched_for_writing.get() {
        return Ok(());
    }
    let sent = this.end.end.borrow_mut().write_ready();
    match sent {
        Sent::Some => Ok(()),
        Sent::Failed(error) => {
            stop_writing(this);
            write_failed(transport, &*os_error(&error)?)
        }
        Sent::All => {
            stop_writing(this);
            maybe_resume(transport, this)?;
            let over = this.end.end.borrow_mut().is_over();
            if over {
                stop_watching(this);
                call_connection_lost::<Writing>(transport, none())?;
            }
            Ok(())
        }
    }
}

#[cold]
fn write_failed(transport: &Object, exception: &Object) -> Res<()> {
    let message = Owned::from_str("Fatal write error on pipe transport")?;
    super::fatal_error::<Writing>(transport, exception, &message)
}

// ---- flow control ----

fn maybe_pause(transport: &Object, this: &WritePipe) -> Res<()> {
    let pauses = {
        let mut end = this.end.end.borrow_mut();
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
        let mut end = this.end.end.borrow_mut();
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
    let over = this.end.end.borrow_mut().write_eof();
    if over {
        stop_watching(this);
        schedule_connection_lost(transport, this, none())?;
    }
    Ok(Owned::none())
}

fn abort(transport: &Object) -> Res<Owned> {
    end::<Writing>(transport, none())?;
    Ok(Owned::none())
}

fn close_with(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let [exception] = args.parse("_close", ["exc"], 1, 0)?;
    end::<Writing>(transport, exception.unwrap_or(none()))?;
    Ok(Owned::none())
}

fn can_write_eof(_: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(true))
}

fn get_write_buffer_size(transport: &Object) -> Res<Owned> {
    Owned::from_u64(fields(transport).end.end.borrow().queue().len() as u64)
}

fn get_write_buffer_limits(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limits(&this.end.end.borrow().flow, &this.limits)
}

fn get_high_water(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limit(&this.end.end.borrow().flow, &this.limits, 1)
}

fn get_low_water(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limit(&this.end.end.borrow().flow, &this.limits, 0)
}

fn set_write_buffer_limits(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let this = fields(transport);
    flow::set_limits(args, &this.limits, |high, low| {
        let set = this.end.end.borrow_mut().flow.set_limits(high, low);
        set.map_err(|error| error.to_string())
    })?;
    maybe_pause(transport, this)?;
    Ok(Owned::none())
}

fn get_conn_lost(transport: &Object) -> Res<Owned> {
    Owned::from_u64(fields(transport).end.end.borrow().conn_lost().into())
}

/// What waits to be written, as a copy.
fn get_buffer(transport: &Object) -> Res<Owned> {
    let waiting: Vec<u8> = {
        let end = fields(transport).end.end.borrow();
        end.queue().iter().flatten().copied().collect()
    };
    let joined = Owned::from_bytes(&waiting)?;
    // SAFETY: a live object.
    unsafe { Owned::steal(ffi::PyByteArray_FromObject(joined.as_ptr())) }
}

fn get_protocol_paused(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).end.end.borrow().flow.is_paused(),
    ))
}

fn methods() -> Vec<Method> {
    let mut methods = common_methods!(Writing);
    methods.extend([
        method!(named c"write" ("data") write, c"Writes bytes, without waiting."),
        method!(named c"writelines" ("list_of_data") writelines, c"Writes several bytes objects, without waiting."),
        method!(noargs c"write_eof" write_eof, c"Closes once everything is written."),
        method!(noargs c"can_write_eof" can_write_eof, c"True."),
        method!(noargs c"close" write_eof, c"Closes once everything is written."),
        method!(noargs c"abort" abort, c"Closes at once; what waits is not written."),
        method!(noargs c"get_write_buffer_size" get_write_buffer_size, c"How many bytes wait to be written."),
        method!(noargs c"get_write_buffer_limits" get_write_buffer_limits, c"The low and the high water mark, in bytes."),
        method!(fast c"set_write_buffer_limits(high=None, low=None)" set_write_buffer_limits, c"Sets the high and the low water mark, in bytes."),
        method!(fast c"_close" close_with, c"Closes at once, with an exception for the protocol."),
    ]);
    methods
}

fn attributes() -> Vec<GetSet> {
    let mut attributes = common_attributes!(Writing);
    attributes.extend([
        attribute!(c"_conn_lost" get_conn_lost),
        attribute!(c"_protocol_paused" get_protocol_paused),
        attribute!(c"_high_water" get_high_water),
        attribute!(c"_low_water" get_low_water),
        attribute!(c"_buffer" get_buffer),
    ]);
    attributes
}

pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let class = make_class::<Writing>(&imports().transport, methods(), attributes())?;
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
