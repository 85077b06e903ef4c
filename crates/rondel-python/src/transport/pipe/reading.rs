//! `ReadPipeTransport`: from a pipe to the protocol.

use std::cell::RefCell;

use rondel_engine::transport::pipe::{Kind as PipeKind, ReadEnd};
use rondel_engine::transport::recv_size::MAX_RECV;

use super::{
    End, Pipe, Place, common_attributes, common_methods, end, fatal_error, introduce, is_os_error,
    make, make_class, schedule_connection_lost,
};

use crate::cpython::error::os_error;
use crate::cpython::method::{Args, GetSet, Method, attribute, function, method};
use crate::cpython::native::Fields;
use crate::cpython::{Object, Owned, Res, context, none};
use crate::loop_core::is_debug;
use crate::transport::descriptor::Owner;
use crate::transport::loop_calls::{call_soon_bare, debug_in_log, info_in_log};
use crate::transport::names::{imports, names};
use crate::transport::reading::{Brought, deliver_to, receive_by};

/// The end that is read.
struct Reading(RefCell<ReadEnd<Owner>>);

type ReadPipe = Pipe<Reading>;

static PLACE: Place = Place::new();

impl End for Reading {
    const REFUSAL: &'static str = "Pipe transport is for pipes/sockets only.";
    const NAME: &'static std::ffi::CStr = c"rondel.ReadPipeTransport";
    const DOC: &'static std::ffi::CStr =
        c"The end of a pipe that is read, as asyncio's pipe transport.";

    fn place() -> &'static Place {
        &PLACE
    }

    fn new(pipe: Owner, _: PipeKind) -> Self {
        Self(RefCell::new(ReadEnd::new(pipe)))
    }

    fn see_pipe(&self, see: &mut dyn FnMut(&Object)) {
        if let Ok(end) = self.0.try_borrow()
            && let Some(pipe) = end.pipe()
        {
            see(pipe.object());
        }
    }

    fn take_pipe(&self) -> Option<Owner> {
        self.0.try_borrow_mut().ok()?.take_pipe()
    }

    fn is_closing(&self) -> bool {
        self.0.borrow().is_closing()
    }

    /// A terminal whose other side is closed fails so: that is how it ends.
    fn expects(exception: &Object) -> Res<bool> {
        Ok(is_os_error(exception)?
            && exception
                .getattr(&names().errno)?
                .equals(&*Owned::from_i64(libc::EIO.into())?)?)
    }

    fn describe(this: &ReadPipe) -> Vec<String> {
        let state = if this.watched.get() {
            "polling"
        } else {
            "idle"
        };
        vec![state.to_owned()]
    }

    fn shut(this: &ReadPipe) -> bool {
        let first = this.end.0.borrow_mut().close();
        if first {
            this.unwatch();
        }
        first
    }
}

fn fields(object: &Object) -> &ReadPipe {
    ReadPipe::of(object)
}

#[inline]
pub(in crate::transport) fn is_read_pipe(object: &Object) -> bool {
    PLACE.is_of(object)
}

/// The loop that a failing callback is reported to.
pub(in crate::transport) fn event_loop(transport: &Object) -> Option<Owned> {
    fields(transport).event_loop.cloned()
}

fn make_read_pipe_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    let transport = make::<Reading>(args, "make_read_pipe_transport")?;
    let this = fields(&transport);
    this.context.set(context::copy_current()?);
    introduce(
        &this.event_loop.or_none(),
        &transport,
        &this.protocol.or_none(),
    )?;
    Ok(transport)
}

/// The deferred start: `connection_made` has been called, so bytes may come now.
pub(in crate::transport) fn start(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let started = start_reading(transport, this);
    this.tell_waiter()?;
    started
}

fn start_reading(transport: &Object, this: &ReadPipe) -> Res<()> {
    let is_reading = this.end.0.borrow().is_reading();
    match is_reading {
        true => this.watch(transport),
        false => Ok(()),
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
        let room = this.end.0.borrow().room();
        match receive_by(room, |memory| this.end.0.borrow_mut().read(memory))? {
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
                let message = Owned::from_str("Fatal read error on pipe transport")?;
                return fatal_error::<Reading>(transport, &*os_error(&error)?, &message);
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
    let first = this.end.0.borrow_mut().close();
    if !first {
        return Ok(());
    }
    this.unwatch();
    let eof_received = this.protocol.or_none().getattr(&names().eof_received)?;
    call_soon_bare(&event_loop, &eof_received)?;
    schedule_connection_lost(transport, this, none())
}

// ---- methods ----

fn close(transport: &Object) -> Res<Owned> {
    end::<Reading>(transport, none())?;
    Ok(Owned::none())
}

fn close_with(transport: &Object, exception: &Object) -> Res<Owned> {
    end::<Reading>(transport, exception)?;
    Ok(Owned::none())
}

fn is_reading(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).end.0.borrow().is_reading(),
    ))
}

fn is_paused(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).end.0.borrow().is_paused(),
    ))
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
    let paused = this.end.0.borrow_mut().pause_reading();
    if paused {
        this.unwatch();
        log_in_debug(this, "%r pauses reading", transport)?;
    }
    Ok(Owned::none())
}

fn resume_reading(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let resumed = this.end.0.borrow_mut().resume_reading();
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

fn methods() -> Vec<Method> {
    let mut methods = common_methods!(Reading);
    methods.extend([
        method!(noargs c"close" close, c"Closes the pipe."),
        method!(noargs c"is_reading" is_reading, c"Whether bytes that come are passed to the protocol."),
        method!(noargs c"pause_reading" pause_reading, c"Passes nothing to the protocol until resume_reading()."),
        method!(noargs c"resume_reading" resume_reading, c"Passes bytes to the protocol again."),
        method!(noargs c"_read_ready" read_ready_method, c"The pipe can be read."),
        method!(onearg c"_close" close_with, c"Closes the pipe, with an exception for the protocol."),
    ]);
    methods
}

fn attributes() -> Vec<GetSet> {
    let mut attributes = common_attributes!(Reading);
    attributes.push(attribute!(c"_paused" is_paused));
    attributes
}

pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let class = make_class::<Reading>(&imports().read_transport, methods(), attributes())?;
    let max_size = Owned::from_u64(MAX_RECV as u64)?;
    crate::cpython::types::set_type_attribute(&class, c"max_size", &max_size)?;
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
