//! `ReadPipeTransport` and `WritePipeTransport`: asyncio's `_UnixReadPipeTransport` and
//! `_UnixWritePipeTransport`, on the engine's `ReadEnd` and `WriteEnd`.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | what both ends have: how they are made, and the file object |
//! | `reading.rs` | the end that is read |
//! | `writing.rs` | the end that is written |
//!
//! The file object that the transport was made with owns the descriptor until the end, and is
//! closed once.

mod reading;
mod writing;

use std::os::fd::{AsRawFd, RawFd};

use rondel_engine::transport::pipe::Kind as PipeKind;

pub(super) use self::reading::ReadPipe;
pub(super) use self::writing::WritePipe;
use super::base::{self, End, Transport};
use super::descriptor::Owner;
use crate::cpython::error::{raise_os_error, runtime_error, type_error, value_error};
use crate::cpython::method::Args;
use crate::cpython::native::{Native, OwnedNative};
use crate::cpython::{Object, Owned, Res, names, none};
use crate::loop_core::LoopCore;

/// What is one end's own about a pipe.
trait PipeEnd: End {
    /// The message for a descriptor that cannot be waited for.
    const REFUSAL: &'static str;

    fn new(pipe: Owner, kind: PipeKind) -> Self;
    /// Visits the file object, unless it was taken or is borrowed.
    fn see_pipe(&self, see: &mut dyn FnMut(&Object));
    /// Takes the file object, unless it is borrowed.
    fn take_pipe(&self) -> Option<Owner>;
}

/// Closes the file object.
fn close_pipe<E: PipeEnd>(this: &Transport<E>) -> Res<()> {
    // If the other end is on this loop too, it sees that in the next turn.
    if let Some(core) = this.core() {
        core.engine().poll_next_turn();
    }
    this.end.take_pipe().map_or(Ok(()), Owner::close)
}

/// Checks a pipe before its transport is made, and makes it non-blocking. `refusal` is the message
/// for one that cannot be waited for.
fn prepare(pipe: &Object, refusal: &str) -> Res<(Owner, RawFd, PipeKind)> {
    let owner = Owner::new(pipe)?;
    let fd = owner.as_raw_fd();
    let kind = match PipeKind::of(fd) {
        Ok(Some(kind)) => kind,
        Ok(None) => return value_error(refusal),
        Err(error) => return raise_os_error(&error),
    };
    // SAFETY: system calls without pointers; a bad descriptor gives an error.
    let failed = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0
    };
    if failed {
        return raise_os_error(&std::io::Error::last_os_error());
    }
    Ok((owner, fd, kind))
}

/// The dict of `get_extra_info`.
fn make_extra(extra: &Object, pipe: &Object) -> Res<Owned> {
    let extra = match extra.is_none() {
        true => Owned::dict()?,
        false => extra.own(),
    };
    extra.set(&names().pipe, pipe)?;
    Ok(extra)
}

/// `make_…_pipe_transport(loop, pipe, protocol, waiter=None, extra=None)`. `prepared` is called
/// with the new transport first.
fn make<E: PipeEnd>(
    args: Args<'_>,
    function: &str,
    prepared: impl FnOnce(&Native<Transport<E>>) -> Res<()>,
) -> Res<Owned> {
    let parameters = ["loop", "pipe", "protocol", "waiter", "extra"];
    let given = args.parse(function, parameters, 5, 3)?;
    let [event_loop, pipe, protocol, waiter, extra] =
        given.map(|argument| argument.unwrap_or(none()));
    let extra = make_extra(extra, pipe)?;
    let (owner, fd, kind) = prepare(pipe, E::REFUSAL)?;
    let this: OwnedNative<Transport<E>> = base::make(event_loop, fd, E::new(owner, kind), 0)?;
    E::set_protocol(&this, protocol)?;
    this.extra.set(extra);
    if !waiter.is_none() {
        this.waiter.set(waiter.own());
    }
    prepared(&this)?;
    let Some(core) = LoopCore::of(event_loop) else {
        return runtime_error("the loop is not a rondel.EventLoop");
    };
    base::introduce(&this, core, || Ok(()))?;
    Ok(this.into_owned())
}

// ---- attributes ----

fn get_pipe<E: PipeEnd>(this: &Native<Transport<E>>) -> Res<Owned> {
    let mut found = None;
    this.end.see_pipe(&mut |pipe| found = Some(pipe.own()));
    Ok(found.unwrap_or_else(Owned::none))
}

/// `transport._pipe = None`: from then on the pipe is the program's to close.
fn set_pipe<E: PipeEnd>(this: &Native<Transport<E>>, value: Option<&Object>) -> Res<()> {
    if !value.unwrap_or(none()).is_none() {
        return type_error("the pipe of a transport can only be taken away");
    }
    drop(this.end.take_pipe());
    Ok(())
}

/// The attributes that both ends have.
macro_rules! pipe_attributes {
    ($end:ty) => {
        [
            attribute!(c"_extra" methods::get_extra::<$end>),
            attribute!(c"_pipe" super::get_pipe::<$end>, super::set_pipe::<$end>),
            attribute!(c"_fileno" methods::get_fd::<$end>),
        ]
    };
}
use pipe_attributes;

/// The classes and functions that the module exports.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let mut exports = reading::init()?;
    exports.extend(writing::init()?);
    Ok(exports)
}
