//! From the program to the socket: data is kept until the end of the turn, then encrypted, small
//! pieces together in one record, and sent by one system call.
//!
//! asyncio encrypts and sends each write at once. So that programs see no difference, whatever
//! shows how much waits, or ends the connection, flushes first ([`flush_if_dirty`]).

use super::protocol::{
    APP_WRITING_PAUSED, BELOW_PAUSED, DIRTY, ENCRYPTING, SENT_EARLY, State, Tls, fail,
};
use super::scratch;
use super::session::Got;
use crate::cpython::error::{Builtin, raise, restore, take_exception};
use crate::cpython::finalize::finalizing;
use crate::cpython::method::{Method, method};
use crate::cpython::native::Native;
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Object, Owned, Raised, Res, names};
use crate::loop_core::written::Sends;
use crate::transport::flow::Edge;
use crate::transport::loop_calls::{call_exception_handler, warn_in_log};
use crate::transport::unsent::{Unsent, release_views};
use crate::transport::{socket, writing as below};

/// The largest record, in bytes of the program's.
const RECORD: usize = 16 * 1024;
/// This many bytes are sent before the end of the turn.
const FLUSH_AT_ONCE: usize = 64 * 1024;
/// asyncio's `LOG_THRESHOLD_FOR_CONNLOST_WRITES`.
const LOST_WRITES_THRESHOLD: u32 = 5;

/// Whether the connection is open. Writes to one that has ended are counted, and warned of.
#[inline]
fn is_open(this: &Tls) -> Res<bool> {
    if matches!(this.state.get(), State::Wrapped | State::DoHandshake) {
        return Ok(true);
    }
    if this.conn_lost.get() >= LOST_WRITES_THRESHOLD {
        warn_in_log("SSL connection is closed")?;
    }
    this.conn_lost.set(this.conn_lost.get().saturating_add(1));
    Ok(false)
}

fn push(this: &Tls, chunk: Unsent) {
    let len = chunk.as_ref().len();
    this.queued.set(this.queued.get() + len);
    this.queue.borrow_mut().push_back(chunk);
}

/// Takes one piece.
#[inline]
pub(super) fn write(this: &Native<Tls>, chunk: Unsent) -> Res<()> {
    if !is_open(this)? {
        return Ok(());
    }
    before_more(this);
    push(this, chunk);
    written(this)
}

/// What others wrote after the last write to this one is sent before the next.
#[inline]
fn before_more(this: &Native<Tls>) {
    if this.has(DIRTY)
        && let Some(core) = this.core()
    {
        core.before_more(this.object());
    }
}

/// Something was written: it is sent now or at the end of the turn.
#[inline]
fn written(this: &Native<Tls>) -> Res<()> {
    if this.state.get() != State::Wrapped {
        return Ok(());
    }
    let core = this.core();
    let at_once = this.outgoing_high.bytes.get().min(FLUSH_AT_ONCE);
    if this.queued.get() >= at_once || this.has(BELOW_PAUSED) {
        if let Some(core) = core {
            core.flush_in_order();
        }
        return flush(this);
    }
    if this.has(DIRTY) {
        return Ok(());
    }
    // An early flush may run no Python code, so it needs OpenSSL itself. Otherwise data is
    // encrypted now, and the transport below delays the sending.
    let noted = core.is_some_and(|core| {
        let noted = this.direct().is_some() && core.note_written(this);
        if !noted && !this.has_socket_below() {
            core.flush_in_order();
        }
        noted
    });
    match noted {
        true => {
            this.set(DIRTY, true);
            Ok(())
        }
        false => flush(this),
    }
}

/// asyncio's `_write_appdata`.
pub(super) fn write_appdata(this: &Native<Tls>, list: &Object) -> Res<Owned> {
    if !is_open(this)? {
        return Ok(Owned::none());
    }
    let list = list.to_tuple()?;
    before_more(this);
    let mut chunks = Vec::new();
    for index in 0..tuple_len(&list) {
        match Unsent::of_buffer(tuple_item(&list, index)) {
            Ok(chunk) if chunk.as_ref().is_empty() => {}
            Ok(chunk) => chunks.push(chunk),
            Err(Raised) => {
                let exception = take_exception();
                give_up(this, chunks, lengths(&list, index)?)?;
                let Raised = restore(exception);
                return fail(this).map(|()| Owned::none());
            }
        }
    }
    for chunk in chunks {
        push(this, chunk);
    }
    written(this)?;
    Ok(Owned::none())
}

/// asyncio notices a piece that is not a buffer when it encrypts it: the pieces before it are
/// encrypted, but not sent, and `left` bytes count as waiting.
#[cold]
fn give_up(this: &Native<Tls>, chunks: Vec<Unsent>, left: usize) -> Res<()> {
    flush_if_dirty(this)?;
    for chunk in chunks {
        push(this, chunk);
    }
    if this.state.get() == State::Wrapped {
        encrypt(this)?;
    }
    this.queued.set(this.queued.get() + left);
    Ok(())
}

/// The total length of the pieces from `first` on.
#[cold]
fn lengths(list: &Object, first: usize) -> Res<usize> {
    let mut sum = 0;
    for index in first..tuple_len(list) {
        sum += tuple_item(list, index).len()?;
    }
    Ok(sum)
}

/// Encrypts and sends what was written in the running turn, if anything.
#[inline]
pub(crate) fn flush_if_dirty(this: &Native<Tls>) -> Res<()> {
    if !this.is_dirty() {
        return Ok(());
    }
    if let Some(core) = this.core() {
        core.flush_in_order();
    }
    match this.is_dirty() {
        true => flush(this),
        false => Ok(()),
    }
}

/// Encrypts and sends what waits.
pub(crate) fn flush(this: &Native<Tls>) -> Res<()> {
    this.set(DIRTY, false);
    if this.has(SENT_EARLY) {
        this.set(SENT_EARLY, false);
        if let Some(transport) = this.transport.cloned()
            && let Some(socket) = socket::plain(&transport)
        {
            below::flush_if_dirty(socket)?;
        }
    }
    if !matches!(this.state.get(), State::Wrapped | State::Flushing) {
        return Ok(());
    }
    match encrypt_and_send(this) {
        Ok(()) => Ok(()),
        Err(Raised) => fail(this),
    }
}

/// asyncio's `_do_write`.
pub(super) fn encrypt_and_send(this: &Native<Tls>) -> Res<()> {
    encrypt(this)?;
    process_outgoing(this)
}

/// Encrypts what waits.
#[inline]
fn encrypt(this: &Tls) -> Res<()> {
    while !this.queue.borrow().is_empty() {
        this.set(ENCRYPTING, true);
        let encrypted = encrypt_next(this);
        this.set(ENCRYPTING, false);
        match encrypted? {
            Got::Bytes(count) => consume(this, count),
            Got::Later | Got::End => break,
        }
    }
    release_views();
    Ok(())
}

impl Sends for Tls {
    #[inline]
    fn flush(this: &Native<Self>) {
        if this.is_dirty() {
            finalizing(this.object(), || flush(this));
        }
    }

    fn flush_early(this: &Native<Self>) {
        send_early(this);
    }

    #[inline]
    fn waiting_len(this: &Native<Self>) -> usize {
        this.queued.get()
    }
}

/// Encrypts and sends what was written in the running turn, as far as that goes without Python
/// code.
fn send_early(this: &Native<Tls>) {
    if !this.has(DIRTY) || this.has(ENCRYPTING | BELOW_PAUSED) || this.state.get() != State::Wrapped
    {
        return;
    }
    let Some(transport) = this.transport.get() else {
        return;
    };
    let Some(socket) = socket::plain(transport) else {
        return;
    };
    let Ok(mut below) = socket.stream().try_borrow_mut() else {
        return;
    };
    while !this.queue.borrow().is_empty() {
        match encrypt_first(this, |bytes| this.write_directly(bytes)) {
            Some(Got::Bytes(count)) => consume(this, count),
            // The flush that is due asks again.
            Some(Got::Later | Got::End) | None => break,
        }
    }
    let _sent = this.with_outgoing(|bytes| below::write_early(&mut below, bytes));
    this.set(SENT_EARLY, true);
    if this.queue.borrow().is_empty() {
        this.set(DIRTY, false);
    }
}

/// Encrypts the first piece, or the first ones together if they are small.
fn encrypt_next(this: &Tls) -> Res<Got> {
    let queue = this.queue.borrow();
    let Some(first) = queue.front() else {
        return Ok(Got::Later);
    };
    if joins(this, first, queue.len()) {
        drop(queue);
        return encrypt_first(this, |bytes| this.write_joined(bytes));
    }
    let (first, offset) = (first.clone(), this.sent_of_first.get());
    drop(queue);
    this.write_bytes(&first, offset)
}

/// Whether the first of so many pieces is encrypted together with those behind it.
fn joins(this: &Tls, first: &Unsent, count: usize) -> bool {
    count > 1 && first.as_ref().len() - this.sent_of_first.get() < RECORD
}

/// Has `write` encrypt the first piece, or the first ones together if they are small. There is one.
fn encrypt_first<R>(this: &Tls, write: impl FnOnce(&[u8]) -> R) -> R {
    let offset = this.sent_of_first.get();
    let alone = {
        let queue = this.queue.borrow();
        let first = queue
            .front()
            .filter(|first| !joins(this, first, queue.len()));
        first.cloned()
    };
    if let Some(first) = alone {
        return write(&first.as_ref()[offset..]);
    }
    scratch::with(|scratch| {
        let mut len = 0;
        for (index, chunk) in this.queue.borrow().iter().enumerate() {
            let bytes = chunk.as_ref();
            let bytes = if index == 0 { &bytes[offset..] } else { bytes };
            let part = bytes.len().min(RECORD - len);
            // SAFETY: within the scratch memory, which is larger than a record, and from other
            // memory.
            unsafe {
                let place = scratch.as_mut_ptr().add(len).cast();
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, part);
            }
            len += part;
            if len == RECORD {
                break;
            }
        }
        // SAFETY: so many bytes were copied there.
        write(unsafe { std::slice::from_raw_parts(scratch.as_ptr().cast(), len) })
    })
}

/// The first `count` bytes are encrypted.
fn consume(this: &Tls, mut count: usize) {
    this.queued.set(this.queued.get().saturating_sub(count));
    let mut done = Vec::new();
    {
        let mut queue = this.queue.borrow_mut();
        while let Some(first) = queue.front() {
            let left = first.as_ref().len() - this.sent_of_first.get();
            if count < left {
                this.sent_of_first.set(this.sent_of_first.get() + count);
                break;
            }
            count -= left;
            this.sent_of_first.set(0);
            done.extend(queue.pop_front());
        }
    }
    drop(done);
}

/// asyncio's `_process_outgoing`.
pub(super) fn process_outgoing(this: &Native<Tls>) -> Res<()> {
    if !this.has(BELOW_PAUSED) && this.pending_out()? > 0 {
        send(this)?;
    }
    control_writing(this)
}

/// Sends what is encrypted.
fn send(this: &Tls) -> Res<()> {
    let Some(transport) = this.transport.cloned() else {
        return Ok(());
    };
    let Some(socket) = socket::plain(&transport) else {
        let data = this.take_outgoing()?;
        return transport.call_method(&names().write, &[&data]).map(drop);
    };
    if below::is_clear(socket)
        && let Some(sent) = this.with_outgoing(|bytes| below::send(socket, bytes))
    {
        return below::sent(socket, sent?);
    }
    below::write(socket, &*this.take_outgoing()?).map(drop)
}

/// asyncio's `_control_app_writing`.
#[inline]
fn control_writing(this: &Native<Tls>) -> Res<()> {
    let size = this.pending_out()? + this.queued.get();
    let paused = this.has(APP_WRITING_PAUSED);
    let change = if size >= this.outgoing_high.bytes.get() && !paused {
        true
    } else if paused && size <= this.outgoing_low.bytes.get() {
        false
    } else {
        return Ok(());
    };
    this.set(APP_WRITING_PAUSED, change);
    let owner = this.app_protocol.or_none();
    let edge = match change {
        true => Edge::Pause,
        false => Edge::Resume,
    };
    if let Some((exception, message)) = edge.tell(this.receiver.get(), &owner)? {
        let transport = this.object().getattr(&names().app_transport)?;
        let rest = [
            (c"exception", &*exception),
            (c"transport", &*transport),
            (c"protocol", this.object()),
        ];
        call_exception_handler(&this.event_loop.or_none(), message, &rest)?;
    }
    Ok(())
}

// ---- methods ----

fn do_write_method(this: &Native<Tls>) -> Res<Owned> {
    this.set(DIRTY, false);
    encrypt_and_send(this)?;
    Ok(Owned::none())
}

fn process_outgoing_method(this: &Native<Tls>) -> Res<Owned> {
    process_outgoing(this)?;
    Ok(Owned::none())
}

fn control_writing_method(this: &Native<Tls>) -> Res<Owned> {
    flush_if_dirty(this)?;
    control_writing(this)?;
    Ok(Owned::none())
}

fn get_write_buffer_size(this: &Native<Tls>) -> Res<Owned> {
    flush_if_dirty(this)?;
    Owned::from_u64((this.pending_out()? + this.queued.get()) as u64)
}

fn flush_written(this: &Native<Tls>) -> Res<Owned> {
    flush_if_dirty(this)?;
    Ok(Owned::none())
}

fn assertion_error<T>() -> Res<T> {
    raise(Builtin::Assertion.class(), "")
}

/// The transport below takes no more for now.
fn pause_writing(this: &Native<Tls>) -> Res<Owned> {
    if this.has(BELOW_PAUSED) {
        return assertion_error();
    }
    this.set(BELOW_PAUSED, true);
    Ok(Owned::none())
}

/// The transport below takes more again.
fn resume_writing(this: &Native<Tls>) -> Res<Owned> {
    if !this.has(BELOW_PAUSED) {
        return assertion_error();
    }
    this.set(BELOW_PAUSED, false);
    process_outgoing(this)?;
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(onearg c"_write_appdata" write_appdata, c"Queues data to be encrypted and sent."),
        method!(noargs c"_do_write" do_write_method, c"Encrypts and sends the queued data."),
        method!(noargs c"_process_outgoing" process_outgoing_method, c"Sends the encrypted data."),
        method!(noargs c"_control_app_writing" control_writing_method, c"Has the program pause or go on writing."),
        method!(noargs c"_get_write_buffer_size" get_write_buffer_size, c"The number of bytes that wait to be encrypted or sent."),
        method!(noargs c"_flush_written" flush_written, c"Sends the data written in the running turn."),
        method!(noargs c"pause_writing" pause_writing, c"The transport below takes no more for now."),
        method!(noargs c"resume_writing" resume_writing, c"The transport below takes more again."),
    ]
}
