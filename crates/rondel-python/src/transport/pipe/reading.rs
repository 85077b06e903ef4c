//! `ReadPipeTransport`: from a pipe to the protocol.

use std::cell::RefCell;
use std::ffi::CStr;

use rondel_engine::transport::intake::Intake;
use rondel_engine::transport::pipe::{Kind as PipeKind, ReadEnd};
use rondel_engine::transport::recv_size::MAX_RECV;
use rondel_engine::transport::stream::Close;

use super::{PipeEnd, close_pipe, make, pipe_attributes};
use crate::cpython::error::os_error;
use crate::cpython::method::{Args, GetSet, Method, attribute, function, method};
use crate::cpython::native::{Class, Native};
use crate::cpython::{Object, Owned, Res, context, names, none};
use crate::loop_core::is_debug;
use crate::transport::base::{
    self, End, Reads, Transport, WATCHED_FOR_READING, in_context, polling, unwatch,
};
use crate::transport::descriptor::Owner;
use crate::transport::ending::{
    fatal_error, force_close_method, is_os_error, schedule_connection_lost,
};
use crate::transport::loop_calls::{call_soon_bare, info_in_log};
use crate::transport::methods;
use crate::transport::names::imports;
use crate::transport::reading::{Brought, deliver, receive_by};

/// The end that is read.
pub(in crate::transport) struct Reading(RefCell<ReadEnd<Owner>>);

pub(in crate::transport) type ReadPipe = Transport<Reading>;

static CLASS: Class = Class::new();

impl PipeEnd for Reading {
    const REFUSAL: &'static str = "Pipe transport is for pipes/sockets only.";

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
}

impl End for Reading {
    const NAME: &'static CStr = c"rondel.ReadPipeTransport";
    const DOC: &'static CStr = c"The reading end of a pipe, as asyncio's pipe transport.";
    const FATAL_ERROR: &'static str = "Fatal error on pipe transport";
    const DESCRIBED_AS_PIPE: bool = true;

    fn class() -> &'static Class {
        &CLASS
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.see_pipe(see);
    }

    fn release_others(&self) {
        drop(self.take_pipe());
    }

    fn describe(this: &Native<ReadPipe>) -> Vec<String> {
        vec![polling(this, WATCHED_FOR_READING).to_owned()]
    }

    fn start(this: &Native<ReadPipe>) -> Res<()> {
        base::start_reading(this)
    }

    fn read_ready(this: &Native<ReadPipe>) -> Res<()> {
        match this.has(WATCHED_FOR_READING) {
            true => in_context(this.context.cloned(), || read(this)),
            false => Ok(()),
        }
    }

    fn is_closed(&self) -> bool {
        self.0.borrow().pipe().is_none()
    }

    fn is_closing(&self) -> bool {
        self.0.borrow().is_closing()
    }

    fn conn_lost(&self) -> u32 {
        self.is_closing().into()
    }

    fn close(this: &Native<ReadPipe>) -> Close {
        match this.end.0.borrow_mut().close() {
            true => Close::Now,
            false => Close::Already,
        }
    }

    fn force_close(this: &Native<ReadPipe>) -> Res<bool> {
        Ok(this.end.0.borrow_mut().close())
    }

    fn close_descriptor(this: &ReadPipe) -> Res<()> {
        close_pipe(this)
    }

    /// `EIO` is the end of a terminal whose other side was closed.
    fn is_expected(exception: &Object) -> Res<bool> {
        if !is_os_error(exception)? {
            return Ok(false);
        }
        let number = exception.getattr(&names().errno)?;
        number.equals(&*Owned::from_i64(libc::EIO.into())?)
    }
}

impl Reads for Reading {
    fn intake<R>(&self, look: impl FnOnce(&mut Intake) -> R) -> R {
        look(&mut self.0.borrow_mut().intake)
    }
}

fn make_read_pipe_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    make::<Reading>(args, "make_read_pipe_transport", |this| {
        this.context.set(context::copy_current()?);
        Ok(())
    })
}

fn read(this: &Native<ReadPipe>) -> Res<()> {
    let mut brought_len = 0;
    loop {
        let room = this.end.0.borrow().room();
        match receive_by(room, |memory| this.end.0.borrow_mut().read(memory))? {
            Brought::Chunk(chunk, more) => {
                brought_len += chunk.as_ref().len();
                deliver(this, this.receiver.get(), chunk)?;
                if !more || brought_len >= MAX_RECV || !this.has(WATCHED_FOR_READING) {
                    return Ok(());
                }
            }
            Brought::Nothing => return Ok(()),
            Brought::Eof => return eof(this),
            Brought::Failed(error) => {
                let message = "Fatal read error on pipe transport";
                return fatal_error(this, &*os_error(&error)?, message);
            }
        }
    }
}

/// Nobody writes any more.
fn eof(this: &Native<ReadPipe>) -> Res<()> {
    let event_loop = this.event_loop.or_none();
    if is_debug(&event_loop)? {
        info_in_log("%r was closed by peer", &[this.object()])?;
    }
    let first = this.end.0.borrow_mut().close();
    if !first {
        return Ok(());
    }
    unwatch(this, WATCHED_FOR_READING);
    let eof_received = this.protocol.or_none().getattr(&names().eof_received)?;
    call_soon_bare(&event_loop, &eof_received)?;
    schedule_connection_lost(this, none())
}

// ---- methods and attributes ----

fn read_ready_method(this: &Native<ReadPipe>) -> Res<Owned> {
    read(this)?;
    Ok(Owned::none())
}

fn methods() -> Vec<Method> {
    vec![
        method!(fast c"get_extra_info(name, default=None)" methods::get_extra_info::<Reading>, c"Returns optional information about the pipe."),
        method!(noargs c"_read_ready" read_ready_method, c"The pipe can be read."),
        method!(onearg c"_close(exc, /)" force_close_method::<Reading>, c"Closes the pipe; the protocol gets the exception."),
    ]
}

fn attributes() -> Vec<GetSet> {
    let mut attributes = methods::attributes!(Reading);
    attributes.extend(pipe_attributes!(Reading));
    attributes.push(attribute!(c"_paused" methods::get_paused::<Reading>));
    attributes
}

pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let methods = [
        methods::methods!(
            Reading,
            c"_fatal_error(exc, message='Fatal error on pipe transport')"
        ),
        methods::reading_methods!(Reading),
        methods(),
    ];
    let class = base::make_class::<Reading>(&[&imports().read_transport], methods, attributes())?;
    base::set_max_size(&class)?;
    Ok(vec![
        ("ReadPipeTransport", class),
        (
            "make_read_pipe_transport",
            function(
                method!(fast c"make_read_pipe_transport" make_read_pipe_transport,
                c"Creates a transport for the reading end of a pipe."),
            )?,
        ),
    ])
}
