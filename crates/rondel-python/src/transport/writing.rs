//! Writing: the methods, and what happens when the descriptor can be written.
//!
//! What is written in one turn of the loop is sent by one system call at the end of the turn:
//! `write` puts the transport on the loop's list, and the loop calls [`Sends::flush`]
//! (`loop_core/written.rs` says why, and when it is sent earlier). Whatever could show that asyncio
//! sends at once flushes first ([`flush_if_dirty`]).

use std::cell::RefCell;
use std::io;

use rondel_engine::transport::send_batch::SendBatch;
use rondel_engine::transport::stream::{Drained, Sent, Stream, Written};

use super::base::{WATCHED_FOR_WRITING, in_context, unwatch, watch};
use super::chunk::{Chunk, with_buffer};
use super::ending::{call_connection_lost, fatal_error, force_close_method};
use super::flow::{maybe_pause, maybe_resume};
use super::loop_calls::{create_future, take_unless_exit, warn_in_log};
use super::names::imports;
use super::socket::{Descriptor, Socket, StreamSocket};
use super::unsent::{Unsent, View, release_views, small};
use crate::cpython::error::{
    no_memory, os_error, raise_os_error, restore, runtime_error, take_exception, type_error,
};
use crate::cpython::finalize::finalizing;
use crate::cpython::method::{Method, method};
use crate::cpython::native::Native;
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Object, Owned, Raised, Res, names, none};
use crate::loop_core::written::{FlushTogether, Sends};

/// `transport.write(data)`.
#[inline]
pub(crate) fn write(this: &Native<Socket>, data: &Object) -> Res<Owned> {
    match Chunk::exact(data) {
        Some(chunk) => {
            check_writable(this)?;
            if !chunk.as_ref().is_empty() {
                queue(this, chunk.into())?;
            }
        }
        None => {
            check_bytes_like(data)?;
            check_writable(this)?;
            if !data.is_true()? {
                return Ok(Owned::none());
            }
            match with_buffer(data, small) {
                Ok(Ok(Some(chunk))) if chunk.as_ref().is_empty() => {}
                Ok(Ok(Some(chunk))) => queue(this, chunk.into())?,
                Ok(Ok(None)) => write_large(this, data)?,
                Ok(Err(Raised)) => return Err(Raised),
                Err(Raised) => cannot_be_sent(this)?,
            }
        }
    }
    Ok(Owned::none())
}

#[inline]
fn check_writable(this: &Socket) -> Res<()> {
    if this.end.stream.borrow().eof_written() {
        return runtime_error("Cannot call write() after write_eof()");
    }
    if !this.end.empty_waiter.is_empty() {
        return runtime_error("unable to write; sendfile is in progress");
    }
    Ok(())
}

/// Writes a large mutable buffer: it is sent at once, and the rest is held by a view.
#[cold]
fn write_large(this: &Native<Socket>, data: &Object) -> Res<()> {
    let view = View::of(data)?;
    flush_in_order(this);
    let clear = this.end.stream.borrow().is_clear();
    let written = match clear {
        true => {
            let sent = send_or(this, view.bytes(), |rest| {
                Unsent::of_view(view.clone(), view.bytes().len() - rest.len())
            })?;
            poll_next_turn(this);
            self::sent(this, sent)
        }
        false => queue(this, Unsent::of_view(view.clone(), 0)?),
    };
    drop(view);
    release_views();
    written
}

#[cold]
fn check_bytes_like(data: &Object) -> Res<()> {
    if !data.is_bytes_like() {
        let class = data
            .class()
            .getattr(&*Owned::from_str("__name__")?)?
            .repr()?
            .to_text()?;
        let expected = imports().expected_data;
        return type_error(&format!("data argument must be a {expected}, not {class}"));
    }
    Ok(())
}

/// The buffer cannot be exported, for example because it is not contiguous. `socket.send()` would
/// raise, so that asyncio ends the connection.
#[cold]
fn cannot_be_sent(this: &Native<Socket>) -> Res<()> {
    let exception = take_unless_exit()?;
    flush_if_dirty(this)?;
    match this.is_lost() {
        true => Ok(()),
        false => fatal_error(this, &exception, "Fatal write error on socket transport"),
    }
}

/// Keeps the order across transports: what others wrote after this one's last write is sent first.
#[inline]
fn before_more(this: &Native<Socket>) {
    if this.is_dirty()
        && let Some(core) = this.core()
    {
        core.before_more(this.object());
    }
}

#[inline]
fn queue(this: &Native<Socket>, chunk: Unsent) -> Res<()> {
    before_more(this);
    if this.end.stream.borrow_mut().reserve().is_err() {
        return no_memory();
    }
    let core = this.core();
    let written = this.end.stream.borrow_mut().write(chunk);
    match written {
        Written::Queued => Ok(()),
        Written::FlushLater => match core.is_some_and(|core| core.note_written(this)) {
            true => Ok(()),
            false => flush_now(this),
        },
        Written::FlushNow => flush_now(this),
        Written::Waiting => maybe_pause(this),
        Written::Lost { warn: false } => Ok(()),
        Written::Lost { warn: true } => warn_in_log("socket.send() raised exception."),
    }
}

/// Whether nothing waits, which [`send`] requires.
#[inline]
pub(crate) fn is_clear(this: &Native<Socket>) -> bool {
    let stream = this.end.stream.borrow();
    stream.is_clear() && !stream.eof_written() && this.end.empty_waiter.is_empty()
}

/// Sends borrowed bytes at once; requires [`is_clear`]. The caller passes the result to [`sent`].
/// Runs no Python code.
#[inline]
pub(crate) fn send(this: &Native<Socket>, bytes: &[u8]) -> Res<Sent> {
    send_or(this, bytes, |rest| Chunk::copy(rest).map(Unsent::Bytes))
}

/// As [`send`]; `keep` makes a chunk of what the kernel did not take.
#[inline]
fn send_or(
    this: &Native<Socket>,
    bytes: &[u8],
    keep: impl FnOnce(&[u8]) -> Res<Unsent>,
) -> Res<Sent> {
    let mut raised = Ok(());
    let sent = this.end.stream.borrow_mut().send(bytes, |rest| {
        keep(rest).unwrap_or_else(|Raised| {
            // These bytes are lost, so the connection must not go on: the caller ends it.
            raised = Err(Raised);
            Chunk::empty().into()
        })
    });
    raised.map(|()| sent)
}

/// Sends borrowed bytes behind what waits, where errors cannot be reported. The caller calls
/// [`flush_if_dirty`] later.
pub(crate) fn write_early(stream: &mut Stream<Descriptor, Unsent>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    match Chunk::copy(bytes) {
        Ok(chunk) if stream.reserve().is_ok() => return stream.write_early(chunk.into()),
        Ok(_) => {}
        Err(Raised) => drop(take_exception()),
    }
    stream.fail_early(io::Error::from_raw_os_error(libc::ENOMEM));
}

/// Sends what waits, after what other transports wrote before it.
#[inline]
pub(crate) fn flush_now(this: &Native<Socket>) -> Res<()> {
    let was_dirty = this.is_dirty();
    if let Some(core) = this.core() {
        core.flush_before(this.object());
    }
    match was_dirty && !this.is_dirty() {
        true => Ok(()),
        false => flush_own(this),
    }
}

/// Sends what waits.
#[inline]
pub(super) fn flush_own(this: &Native<Socket>) -> Res<()> {
    let sent = this.end.stream.borrow_mut().flush();
    poll_next_turn(this);
    self::sent(this, sent)
}

/// Polls in the next turn: if the other end is on this loop too, it sees the data, or the end, as
/// soon as in asyncio.
pub(super) fn poll_next_turn(this: &Socket) {
    if let Some(core) = this.core() {
        core.engine().poll_next_turn();
    }
}

/// Sends what all transports wrote in the running turn, before something else reaches the kernel.
#[inline]
fn flush_in_order(this: &Socket) {
    if let Some(core) = this.core() {
        core.flush_in_order();
    }
}

/// Something was sent.
#[inline]
pub(crate) fn sent(this: &Native<Socket>, sent: Sent) -> Res<()> {
    match sent {
        Sent::Nothing | Sent::All => Ok(()),
        Sent::Watch => {
            watch(this, WATCHED_FOR_WRITING)?;
            maybe_pause(this)
        }
        Sent::Some => maybe_pause(this),
        Sent::Failed(error) => fatal_error(
            this,
            &*os_error(&error)?,
            "Fatal write error on socket transport",
        ),
    }
}

/// Sends what was written in the running turn, before the connection ends.
pub(super) fn flush_before_end(this: &Native<Socket>) -> Res<()> {
    flush_in_order(this);
    flush_if_dirty(this)
}

/// Sends what was written in the running turn, if anything.
#[inline]
pub(crate) fn flush_if_dirty(this: &Native<Socket>) -> Res<()> {
    match this.is_dirty() {
        true => flush_now(this),
        false => Ok(()),
    }
}

/// The descriptor can be written.
pub(super) fn write_ready(this: &Native<Socket>) -> Res<()> {
    if !this.has(WATCHED_FOR_WRITING) || this.is_lost() {
        return Ok(());
    }
    in_context(this.given_context(), || send_waiting(this))
}

fn send_waiting(this: &Native<Socket>) -> Res<()> {
    let sent = this.end.stream.borrow_mut().flush();
    release_views();
    if let Sent::Failed(error) = sent {
        unwatch(this, WATCHED_FOR_WRITING);
        let exception = os_error(&error)?;
        fatal_error(this, &exception, "Fatal write error on socket transport")?;
        if let Some(waiter) = this.end.empty_waiter.cloned() {
            waiter.call_method(&names().set_exception, &[&exception])?;
        }
        return Ok(());
    }
    maybe_resume(this)?;
    flush_if_dirty(this)?;
    let drained = match this.is_lost() {
        true => None,
        false => this.end.stream.borrow_mut().drained(),
    };
    let Some(drained) = drained else {
        return Ok(());
    };
    unwatch(this, WATCHED_FOR_WRITING);
    poll_next_turn(this);
    if let Some(waiter) = this.end.empty_waiter.cloned() {
        waiter.call_method(&names().set_result, &[none()])?;
    }
    match drained {
        Drained::Open | Drained::Eof(Ok(())) => Ok(()),
        Drained::Eof(Err(error)) => raise_os_error(&error),
        Drained::Close => call_connection_lost(this, none()).map(drop),
    }
}

// ---- when the turn is over ----

impl Sends for Socket {
    const TOGETHER: Option<FlushTogether> = Some(flush_together);

    #[inline]
    fn flush(this: &Native<Self>) {
        if this.is_dirty() {
            finalizing(this.object(), || flush_own(this));
        }
    }

    fn flush_early(this: &Native<Self>) {
        if let Ok(mut stream) = this.end.stream.try_borrow_mut() {
            stream.flush_early();
        }
    }

    #[inline]
    fn waiting_len(this: &Native<Self>) -> usize {
        let stream = this.end.stream.try_borrow();
        stream.map_or(0, |stream| stream.queue().len())
    }
}

/// As [`Sends::flush`], for several sockets, by one system call.
fn flush_together(transports: &[Owned], batch: &RefCell<SendBatch>) {
    let mut together = Vec::with_capacity(transports.len());
    let mut streams = Vec::with_capacity(transports.len());
    let sockets = || {
        transports
            .iter()
            .filter_map(|object| object.exact::<Socket>())
    };
    for socket in sockets() {
        // A transport that was flushed and then written to again is listed twice.
        if let Ok(stream) = socket.end.stream.try_borrow_mut()
            && stream.is_dirty()
        {
            together.push(socket);
            streams.push(stream);
        }
    }
    let mut sent = Vec::with_capacity(streams.len());
    batch.borrow_mut().flush(&mut streams, &mut sent);
    drop(streams);
    for (socket, sent) in together.into_iter().zip(sent) {
        if !matches!(sent, Sent::All | Sent::Nothing) {
            finalizing(socket.object(), || self::sent(socket, sent));
        }
    }
    // Those that were written to meanwhile.
    sockets().for_each(Socket::flush);
}

// ---- methods ----

/// Before 3.12 asyncio joins the lines and writes the result; from then on it queues each.
fn writelines(this: &Native<Socket>, lines: &Object) -> Res<Owned> {
    if cfg!(not(Py_3_12)) {
        let joined = imports().empty_bytes.call_method(&names().join, &[lines])?;
        return write(this, &joined);
    }
    if this.end.stream.borrow().eof_written() {
        return runtime_error("Cannot call writelines() after write_eof()");
    }
    if !this.end.empty_waiter.is_empty() {
        return runtime_error("unable to writelines; sendfile is in progress");
    }
    if !lines.is_true()? {
        return Ok(Owned::none());
    }
    let lines = lines.to_tuple()?;
    let mut pieces = Vec::new();
    if pieces.try_reserve_exact(tuple_len(&lines)).is_err() {
        return no_memory();
    }
    let collected = collect(&lines, &mut pieces).map_err(|Raised| take_exception());
    // Up to 3.14 all are looked at before any is queued: one that is no buffer leaves nothing
    // behind.
    if collected.is_ok() || cfg!(Py_3_15) {
        queue_all(this, pieces)?;
    }
    match collected {
        Ok(()) => Ok(Owned::none()),
        Err(exception) => Err(restore(exception)),
    }
}

/// A line that `writelines` was given.
enum Piece {
    Chunk(Chunk),
    /// Bytes that may change later, and are many: a memoryview.
    Large(Owned),
    /// A memoryview of what cannot be sent, and why.
    Refused(Owned),
}

/// Queues pieces that leave together, unless one is large.
fn queue_all(this: &Native<Socket>, pieces: Vec<Piece>) -> Res<()> {
    // asyncio's one call for all of them fails.
    if let Some(exception) = pieces.iter().find_map(|piece| match piece {
        Piece::Refused(exception) => Some(exception),
        Piece::Chunk(_) | Piece::Large(_) => None,
    }) {
        let Raised = restore(exception.clone());
        return cannot_be_sent(this);
    }
    before_more(this);
    if pieces.len() > 64
        && this
            .end
            .stream
            .borrow_mut()
            .reserve_many(pieces.len())
            .is_err()
    {
        return no_memory();
    }
    let mut last = None;
    for piece in pieces {
        let chunk = match piece {
            _ if this.is_lost() => return Ok(()),
            Piece::Refused(_) => continue, // not here any more
            Piece::Large(view) => {
                queue_last(this, last.take())?;
                write_large(this, &view)?;
                continue;
            }
            Piece::Chunk(chunk) if chunk.as_ref().is_empty() => continue,
            Piece::Chunk(chunk) => chunk,
        };
        if let Some(before) = last.replace(chunk) {
            push(this, before);
        }
    }
    queue_last(this, last)
}

/// Queues a chunk behind which another follows at once.
fn push(this: &Socket, chunk: Chunk) {
    this.end.stream.borrow_mut().write_next(chunk.into());
}

fn queue_last(this: &Native<Socket>, chunk: Option<Chunk>) -> Res<()> {
    match chunk {
        Some(chunk) => queue(this, chunk.into()),
        None => Ok(()),
    }
}

/// What `writelines` was given, as far as it is bytes.
fn collect(lines: &Object, pieces: &mut Vec<Piece>) -> Res<()> {
    for index in 0..tuple_len(lines) {
        let line = tuple_item(lines, index);
        if imports().writelines_skips_empty && !line.is_true()? {
            continue;
        }
        pieces.push(match Chunk::exact(line) {
            Some(chunk) => Piece::Chunk(chunk),
            None => {
                // As asyncio does it, for the text of its TypeError.
                let view = line.to_memoryview()?;
                match with_buffer(&view, small) {
                    Ok(Ok(Some(chunk))) => Piece::Chunk(chunk),
                    Ok(Ok(None)) => Piece::Large(view),
                    Ok(Err(raised)) => return Err(raised),
                    Err(Raised) => Piece::Refused(take_exception()),
                }
            }
        });
    }
    Ok(())
}

fn write_eof(this: &Native<Socket>) -> Res<Owned> {
    flush_before_end(this)?;
    let ended = this.end.stream.borrow_mut().write_eof();
    poll_next_turn(this);
    match ended {
        Ok(()) => Ok(Owned::none()),
        Err(error) => raise_os_error(&error),
    }
}

fn can_write_eof(_: &Native<Socket>) -> Res<Owned> {
    Ok(Owned::from_bool(true))
}

fn make_empty_waiter(this: &Native<Socket>) -> Res<Owned> {
    if !this.end.empty_waiter.is_empty() {
        return runtime_error("Empty waiter is already set");
    }
    flush_if_dirty(this)?;
    let waiter = create_future(&this.event_loop.or_none())?;
    this.end.empty_waiter.set(waiter.clone());
    let is_empty = this.end.stream.borrow().queue().is_empty();
    if is_empty {
        waiter.call_method(&names().set_result, &[none()])?;
    }
    Ok(waiter)
}

fn reset_empty_waiter(this: &Native<Socket>) -> Res<Owned> {
    this.end.empty_waiter.clear();
    Ok(Owned::none())
}

fn write_ready_method(this: &Native<Socket>) -> Res<Owned> {
    write_ready(this)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(named c"write" ("data") write, c"Writes bytes, without waiting."),
        method!(named c"writelines" ("list_of_data") writelines, c"Writes several bytes objects, without waiting."),
        method!(onearg c"_force_close(exc, /)" force_close_method::<StreamSocket>, c"Closes at once; the protocol gets the exception."),
        method!(noargs c"write_eof" write_eof, c"Ends the writing half once everything is sent."),
        method!(noargs c"can_write_eof" can_write_eof, c"True."),
        method!(noargs c"_make_empty_waiter" make_empty_waiter, c"A future that is done when everything is sent."),
        method!(noargs c"_reset_empty_waiter" reset_empty_waiter, c"Allows writing again."),
        method!(noargs c"_write_ready" write_ready_method, c"The socket can be written."),
    ]
}
