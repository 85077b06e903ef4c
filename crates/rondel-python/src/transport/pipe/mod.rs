//! `ReadPipeTransport` and `WritePipeTransport`: asyncio's `_UnixReadPipeTransport` and `_UnixWritePipeTransport`, on the
//! engine's `ReadEnd` and `WriteEnd`.
//!
//! | file | what it has |
//! |---|---|
//! | `mod.rs` | what both ends have: how they are made, what they are registered for |
//! | `reading.rs` | the end that is read |
//! | `writing.rs` | the end that is written |
//!
//! The file object owns the descriptor from the beginning to the end, as the program has made it before, and is closed once.

pub(super) mod reading;
pub(super) mod writing;

use std::os::fd::AsRawFd;

use rondel::transport::pipe::Kind as PipeKind;

use super::names::names;
use super::owner::Owner;
use super::socket::call_soon;
use crate::cpython::error::{raise_os_error, runtime_error, value_error};
use crate::cpython::{Object, Owned, Res, Slot};
use crate::event_loop::core::LoopCore;
use crate::event_loop::host::{Kind, Source};
use crate::event_loop::running::check_closed;
use crate::handle;

/// Looks at a pipe that a transport is to be made for, and makes it non-blocking. `refusal` is the text for what can't be
/// waited for.
fn prepare(pipe: &Object, refusal: &str) -> Res<(Owner, PipeKind)> {
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
    Ok((owner, kind))
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

/// Schedules `connection_made`, and then the transport's own start.
fn introduce(event_loop: &Object, transport: &Object, protocol: &Object) -> Res<()> {
    let Some(core) = LoopCore::of(event_loop) else {
        return runtime_error("the loop is not a rondel.EventLoop");
    };
    let connection_made = protocol.getattr(&names().connection_made)?;
    check_closed(core)?;
    if core.calls_directly() && !core.is_debug() {
        let handle = handle::new_handle(event_loop, &connection_made, &[transport], None)?;
        core.push(Kind::Handle, handle);
    } else {
        call_soon(event_loop, &connection_made, transport, None)?;
    }
    core.push(Kind::Deferred, transport.own());
    Ok(())
}

/// Has the reactor tell the transport when the descriptor can be read, or when the other end is gone.
fn watch_reading(event_loop: &Slot, fd: i32, transport: &Object) -> Res<()> {
    let Some(event_loop) = event_loop.cloned() else {
        return Ok(());
    };
    let Some(core) = LoopCore::of(&event_loop) else {
        return Ok(());
    };
    check_closed(core)?;
    let source = Source::Transport(transport.own());
    match core.engine().add_reader(fd, source) {
        Ok(before) => drop(before),
        Err(error) => return raise_os_error(&error),
    }
    Ok(())
}

fn unwatch_reading(event_loop: &Slot, fd: i32) {
    if let Some(event_loop) = event_loop.cloned()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        drop(core.engine().remove_reader(fd));
    }
}

/// The beginning of a `repr`: the class, the state, the descriptor.
fn describe(transport: &Object, closed: bool, closing: bool, fd: i32) -> Res<Vec<String>> {
    let class = transport
        .class()
        .getattr(&*Owned::from_str("__name__")?)?
        .to_text()?;
    let mut info = vec![class];
    if closed {
        info.push("closed".to_owned());
    } else if closing {
        info.push("closing".to_owned());
    }
    info.push(format!("fd={fd}"));
    Ok(info)
}

/// Whether the loop watches nothing any more, which a `repr` shows as `open` instead of what is watched.
fn is_loop_closed(event_loop: &Slot) -> bool {
    event_loop
        .get()
        .and_then(LoopCore::of)
        .is_none_or(LoopCore::is_closed)
}

/// The classes and functions that the module exports.
pub(super) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let mut exports = reading::init()?;
    exports.extend(writing::init()?);
    Ok(exports)
}
