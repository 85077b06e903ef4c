//! `WritePipeTransport`: from the program to a pipe.

use std::cell::RefCell;
use std::ffi::CStr;

use rondel_engine::transport::flow_control::FlowControl;
use rondel_engine::transport::pipe::{Kind as PipeKind, Sent, WriteEnd, Written};
use rondel_engine::transport::stream::Close;

use super::{PipeEnd, close_pipe, make, pipe_attributes};
use crate::cpython::error::{Builtin, no_memory, os_error, raise};
use crate::cpython::method::{Args, GetSet, Method, attribute, function, method};
use crate::cpython::native::{Class, Native};
use crate::cpython::{Object, Owned, Raised, Res, names, none};
use crate::loop_core::is_debug;
use crate::transport::base::{
    self, End, Transport, WATCHED_FOR_READING, WATCHED_FOR_WRITING, polling, unwatch, watch,
};
use crate::transport::chunk::{Chunk, with_buffer};
use crate::transport::descriptor::Owner;
use crate::transport::ending::{call_connection_lost, close, fatal_error, force_close};
use crate::transport::flow::{self, Writes, maybe_pause, maybe_resume};
use crate::transport::loop_calls::{info_in_log, take_unless_exit, warn_in_log};
use crate::transport::methods;
use crate::transport::names::imports;

/// The end that is written.
pub(in crate::transport) struct Writing {
    end: RefCell<WriteEnd<Owner, Chunk>>,
    /// Whether the kernel says when the end that reads is gone.
    tells_of_its_reader: bool,
}

pub(in crate::transport) type WritePipe = Transport<Writing>;

static CLASS: Class = Class::new();

impl PipeEnd for Writing {
    const REFUSAL: &'static str = "Pipe transport is only for pipes, sockets and character devices";

    fn new(pipe: Owner, kind: PipeKind) -> Self {
        Self {
            end: RefCell::new(WriteEnd::new(pipe)),
            tells_of_its_reader: kind.tells_of_its_reader(),
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
}

impl End for Writing {
    const NAME: &'static CStr = c"rondel.WritePipeTransport";
    const DOC: &'static CStr = c"The writing end of a pipe, as asyncio's pipe transport.";
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

    fn describe(this: &Native<WritePipe>) -> Vec<String> {
        let waiting = this.end.end.borrow().queue().len();
        let state = polling(this, WATCHED_FOR_WRITING).to_owned();
        vec![state, format!("bufsize={waiting}")]
    }

    /// The descriptor is watched for reading, as it can be read when the end that reads is gone.
    fn start(this: &Native<WritePipe>) -> Res<()> {
        let is_lost = this.end.end.borrow().is_lost();
        match this.end.tells_of_its_reader && !is_lost {
            true => watch(this, WATCHED_FOR_READING),
            false => Ok(()),
        }
    }

    /// The end that reads is gone.
    fn read_ready(this: &Native<WritePipe>) -> Res<()> {
        if !this.has(WATCHED_FOR_READING) {
            return Ok(());
        }
        if is_debug(&this.event_loop.or_none())? {
            info_in_log("%r was closed by peer", &[this.object()])?;
        }
        let lossless = this.end.end.borrow().queue().is_empty();
        if lossless {
            return force_close(this, none());
        }
        let broken = Builtin::BrokenPipe.class();
        force_close(this, &*broken.call(&[])?)
    }

    fn write_ready(this: &Native<WritePipe>) -> Res<()> {
        write_ready(this)
    }

    fn is_closed(&self) -> bool {
        self.end.borrow().pipe().is_none()
    }

    fn is_closing(&self) -> bool {
        self.end.borrow().is_closing()
    }

    fn conn_lost(&self) -> u32 {
        self.end.borrow().conn_lost()
    }

    fn close(this: &Native<WritePipe>) -> Close {
        match this.end.end.borrow_mut().write_eof() {
            true => Close::Now,
            // The end follows when everything is written.
            false => Close::Already,
        }
    }

    fn force_close(this: &Native<WritePipe>) -> Res<bool> {
        let ended = this.end.end.borrow_mut().close();
        Ok(ended.map(drop).is_some())
    }

    fn close_descriptor(this: &WritePipe) -> Res<()> {
        close_pipe(this)
    }
}

impl Writes for Writing {
    fn flow<R>(&self, look: impl FnOnce(&mut FlowControl, usize) -> R) -> R {
        let mut end = self.end.borrow_mut();
        let waiting = end.queue().len();
        look(&mut end.flow, waiting)
    }
}

fn make_write_pipe_transport(_: &Object, args: Args<'_>) -> Res<Owned> {
    make::<Writing>(args, "make_write_pipe_transport", |_| Ok(()))
}

/// `transport.write(data)`.
fn write(this: &Native<WritePipe>, data: &Object) -> Res<Owned> {
    if !data.is_bytes_like() {
        let class = Builtin::Assertion.class();
        return raise(class, &data.repr()?.to_text()?);
    }
    if !data.is_true()? {
        return Ok(Owned::none());
    }
    if let Some(core) = this.core() {
        core.flush_in_order();
        core.engine().poll_next_turn();
    }
    if this.end.end.borrow_mut().reserve().is_err() {
        return no_memory();
    }
    let written = match Chunk::exact(data) {
        Some(chunk) => write_bytes(this, chunk.as_ref(), Some(&chunk))?,
        None => match with_buffer(data, |bytes| write_bytes(this, bytes, None)) {
            Ok(written) => written?,
            // The buffer cannot be exported: `os.write()` would raise, so that asyncio ends the
            // transport.
            Err(Raised) => {
                write_failed(this, &*take_unless_exit()?)?;
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
            watch(this, WATCHED_FOR_WRITING)?;
            maybe_pause(this)?;
        }
        Written::Waiting => maybe_pause(this)?,
        Written::Failed(error) => write_failed(this, &*os_error(&error)?)?,
    }
    Ok(Owned::none())
}

/// Writes bytes. What the kernel does not take is kept: the object itself, if nothing was taken.
fn write_bytes(this: &WritePipe, bytes: &[u8], whole: Option<&Chunk>) -> Res<Written> {
    this.end.end.borrow_mut().write(bytes, |rest| match whole {
        Some(chunk) if rest.len() == bytes.len() => Ok(chunk.clone()),
        _ => Chunk::copy(rest),
    })
}

/// The descriptor can be written.
fn write_ready(this: &Native<WritePipe>) -> Res<()> {
    if !this.has(WATCHED_FOR_WRITING) {
        return Ok(());
    }
    let sent = this.end.end.borrow_mut().write_ready();
    match sent {
        Sent::Some => Ok(()),
        Sent::Failed(error) => {
            unwatch(this, WATCHED_FOR_WRITING);
            write_failed(this, &*os_error(&error)?)
        }
        Sent::All => {
            unwatch(this, WATCHED_FOR_WRITING);
            maybe_resume(this)?;
            let over = this.end.end.borrow_mut().is_over();
            if over {
                unwatch(this, WATCHED_FOR_READING);
                unwatch(this, WATCHED_FOR_WRITING);
                call_connection_lost(this, none())?;
            }
            Ok(())
        }
    }
}

#[cold]
fn write_failed(this: &Native<WritePipe>, exception: &Object) -> Res<()> {
    fatal_error(this, exception, "Fatal write error on pipe transport")
}

// ---- methods and attributes ----

/// asyncio's `WriteTransport.writelines`: joined, and written as one.
fn writelines(this: &Native<WritePipe>, lines: &Object) -> Res<Owned> {
    let joined = imports().empty_bytes.call_method(&names().join, &[lines])?;
    this.object().call_method(&names().write, &[&joined])
}

fn close_with(this: &Native<WritePipe>, args: Args<'_>) -> Res<Owned> {
    let [exception] = args.parse("_close", ["exc"], 1, 0)?;
    force_close(this, exception.unwrap_or(none()))?;
    Ok(Owned::none())
}

/// What waits to be written, as a copy.
fn get_buffer(this: &Native<WritePipe>) -> Res<Owned> {
    let waiting: Vec<u8> = {
        let end = this.end.end.borrow();
        end.queue().iter().flatten().copied().collect()
    };
    let joined = Owned::from_bytes(&waiting)?;
    joined.to_bytearray()
}

fn methods() -> Vec<Method> {
    vec![
        method!(named c"write" ("data") write, c"Writes bytes, without waiting."),
        method!(named c"writelines" ("list_of_data") writelines, c"Writes several bytes objects, without waiting."),
        method!(noargs c"write_eof" close::<Writing>, c"Closes once everything is written."),
        method!(noargs c"can_write_eof" methods::get_true::<Writing>, c"True."),
        method!(fast c"get_extra_info(name, default=None)" methods::get_extra_info::<Writing>, c"Returns optional information about the pipe."),
        method!(fast c"_close(exc=None)" close_with, c"Closes at once; the protocol gets the exception."),
    ]
}

fn attributes() -> Vec<GetSet> {
    let mut attributes = methods::attributes!(Writing);
    attributes.extend(flow::writing_attributes!(Writing));
    attributes.extend(pipe_attributes!(Writing));
    attributes.push(attribute!(c"_buffer" get_buffer));
    attributes
}

pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let methods = [
        methods::methods!(
            Writing,
            c"_fatal_error(exc, message='Fatal error on pipe transport')"
        ),
        flow::writing_methods!(Writing),
        methods(),
    ];
    let class = base::make_class::<Writing>(&[&imports().transport], methods, attributes())?;
    Ok(vec![
        ("WritePipeTransport", class),
        (
            "make_write_pipe_transport",
            function(
                method!(fast c"make_write_pipe_transport" make_write_pipe_transport,
                c"Creates a transport for the writing end of a pipe."),
            )?,
        ),
    ])
}
