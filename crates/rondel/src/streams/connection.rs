//! A connection as the Rust face has it: what a `StreamReader` and a `StreamWriter` share.
//!
//! [`Connection`] is the host of one [`Stream`] (`transport/stream.rs`): it registers with the
//! reactor what the stream wants watched, wakes who waits, and closes the socket.
//!
//! # The way of a byte
//! In: the reactor reports the descriptor. If a task waits to read, it is woken and receives by
//! itself, straight into the reader's own buffer. If nobody waits, the bytes are received here,
//! into `arrived`, where the reader finds them, until there is twice the limit of them; then the
//! descriptor is muted (asyncio pauses its transport there). Out: a write stages its bytes
//! (`outbox.rs`) or queues a chunk; both are sent by `drain`, or when the step of the task is over,
//! and a queue goes on when the descriptor can be written again.

mod ending;
#[cfg(feature = "rustls")]
mod secured;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::chunk::Chunk;
use super::server::Serving;
use crate::exceptions::warn;
use crate::runtime::{Item, Runtime, Source};
use crate::task::Waiter;
use rondel_engine::read_buffer::ReadBuffer;
use rondel_engine::transport::address::Address;
use rondel_engine::transport::recv_size::Received;
use rondel_engine::transport::stream::{Drained, FLUSH_AT_ONCE, Sent, Stream, Written};

/// The reactor has said that there is something to receive, and nobody has found the end of it.
const READABLE: u16 = 1;
/// `arrived` isn't empty.
const ARRIVED: u16 = 2;
/// Reading is paused, because too much has arrived.
const PAUSED: u16 = 4;
/// No more will arrive, and nothing is wrong with that.
const EOF: u16 = 8;
/// The connection is over and the socket closed.
const LOST: u16 = 16;
/// There is no reader, and none will come.
const READER_GONE: u16 = 32;
/// There is no writer, and none will come.
const WRITER_GONE: u16 = 64;
/// It is waited for at the end of the run.
const LINGERING: u16 = 128;
/// It was over before everything was sent.
const CUT_OFF: u16 = 256;
/// What goes over the socket is encrypted; see `connection/secured.rs`.
const SECURED: u16 = 512;

/// The shared half of a reader and a writer.
pub(crate) struct Connection {
    runtime: Rc<Runtime>,
    fd: RawFd,
    stream: RefCell<Stream<OwnedFd, Chunk>>,
    /// What came while nobody was waiting to read.
    arrived: RefCell<ReadBuffer<Chunk>>,
    /// How much may arrive unread, in bytes: half of what mutes the descriptor.
    limit: usize,
    /// What is known of the incoming side and of the end: `READABLE`, `ARRIVED`, …
    state: Cell<u16>,
    /// Why, if not by a `close`.
    failure: RefCell<Option<io::Error>>,
    reading: Cell<Option<Waiter>>,
    draining: RefCell<Vec<Waiter>>,
    closing: RefCell<Vec<Waiter>>,
    /// In the outbox's list of connections to flush.
    listed: Cell<bool>,
    /// The bytes that are staged in the outbox are this connection's; then nothing is queued.
    staged: Cell<bool>,
    #[cfg(feature = "rustls")]
    secured: RefCell<Option<Box<secured::Secured>>>,
    peer: Option<Address>,
    /// The server that accepted it, and its number there.
    server: RefCell<Option<(Weak<Serving>, usize)>>,
}

impl Connection {
    /// Takes a connected, non-blocking socket over and starts reading.
    ///
    /// # Errors
    /// What registering with the reactor fails with.
    pub(crate) fn new(
        runtime: Rc<Runtime>,
        socket: OwnedFd,
        peer: Option<Address>,
        limit: usize,
    ) -> io::Result<Rc<Self>> {
        let fd = socket.as_raw_fd();
        let connection = Rc::new(Self {
            runtime,
            fd,
            stream: RefCell::new(Stream::new(socket)),
            arrived: RefCell::new(ReadBuffer::new()),
            limit,
            state: Cell::new(0),
            failure: RefCell::new(None),
            reading: Cell::new(None),
            draining: RefCell::new(Vec::new()),
            closing: RefCell::new(Vec::new()),
            listed: Cell::new(false),
            staged: Cell::new(false),
            #[cfg(feature = "rustls")]
            secured: RefCell::new(None),
            peer,
            server: RefCell::new(None),
        });
        connection.watch_reading()?;
        Ok(connection)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn peer(&self) -> Option<&Address> {
        self.peer.as_ref()
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.peer.as_ref().and_then(Address::as_socket);
        peer.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.with_socket(|socket| Address::of_socket(socket.as_raw_fd()))
            .unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd
    }

    pub(crate) fn set_server(&self, server: Weak<Serving>, key: usize) {
        *self.server.borrow_mut() = Some((server, key));
    }

    /// Applies `f` to the socket, if it is still open.
    pub(crate) fn with_socket<R>(&self, f: impl FnOnce(&OwnedFd) -> R) -> Option<R> {
        self.stream.borrow().socket().map(f)
    }

    #[inline]
    fn is(&self, bit: u16) -> bool {
        self.state.get() & bit != 0
    }

    #[inline]
    fn note(&self, bit: u16, on: bool) {
        let others = self.state.get() & !bit;
        self.state.set(if on { others | bit } else { others });
    }

    fn watch_reading(self: &Rc<Self>) -> io::Result<()> {
        let source = Source::Stream(Rc::clone(self));
        let before = self.runtime.event_loop.add_reader(self.fd, source)?;
        drop(before);
        Ok(())
    }

    // What the reactor reports. It is borrowed meanwhile, so nothing is done here but noting and
    // waking.

    #[inline]
    pub(crate) fn readable(self: &Rc<Self>) -> Option<Item> {
        self.note(READABLE, true);
        match self.reading.take() {
            Some(reader) => reader.into_item(),
            None => Some(Item::Receive(Rc::clone(self))),
        }
    }

    #[inline]
    pub(crate) fn writable(self: &Rc<Self>) -> Option<Item> {
        Some(Item::Send(Rc::clone(self)))
    }

    // Reading

    /// Receives what came while nobody waits.
    pub(crate) fn receive_unasked(self: &Rc<Self>) {
        if !self.is(READABLE) || !self.stream.borrow().intake.is_reading() {
            return;
        }
        let mut arrived = self.arrived.borrow_mut();
        self.receive(&mut arrived);
        let full = arrived.len() > self.limit.saturating_mul(2);
        self.note(ARRIVED, !arrived.is_empty());
        drop(arrived);
        if self.is(SECURED) {
            // Nobody's step ends now, and it may have an answer of its own.
            self.flush();
        }
        if full && self.stream.borrow_mut().intake.pause() {
            self.note(PAUSED, true);
            drop(self.runtime.event_loop.mute_reader(self.fd));
        }
        if let Some(reader) = self.reading.take() {
            reader.wake();
        }
    }

    /// Receives once into `buffer`, and again as long as it fills all the room there is and a
    /// readiness may deliver more. `true`: bytes or the end came. A failure that comes behind bytes
    /// is for the next one who looks.
    #[inline]
    fn receive(self: &Rc<Self>, buffer: &mut ReadBuffer<Chunk>) -> bool {
        let mut total = 0;
        loop {
            let mut stream = self.stream.borrow_mut();
            let room = stream.room();
            let (chunk, received, size) = Chunk::receive(room, |room| stream.recv(room));
            drop(stream);
            match received {
                Received::Data(count) => {
                    if self.is(SECURED) {
                        if count < size {
                            self.note(READABLE, false);
                        }
                        return self.receive_secured(&chunk, buffer);
                    }
                    buffer.feed(chunk);
                    total += count;
                    if count == size && total < Stream::<OwnedFd, Chunk>::MAX_RECV {
                        continue;
                    }
                    // Either a recv would only say that there is no more, or this was enough for
                    // one readiness: the reactor, which others are waiting for, too, is to say that
                    // it goes on.
                    self.note(READABLE, false);
                    return true;
                }
                Received::Blocked => {
                    self.note(READABLE, false);
                    return total > 0;
                }
                Received::Eof => {
                    self.note(READABLE, false);
                    // asyncio leaves the writing side open; the kernel would report the end for
                    // ever.
                    drop(self.runtime.event_loop.remove_reader(self.fd));
                    if self.is(SECURED) {
                        return self.end_of_secured();
                    }
                    self.note(EOF, true);
                }
                Received::Failed(error) => {
                    self.fail(error);
                    return total > 0;
                }
            }
            return true;
        }
    }

    /// Moves what has arrived to the reader's buffer; receives if that is promising. `false`: there
    /// is nothing, and whoever polls will be woken.
    ///
    /// A waiter that stays behind because its read was given up is harmless: it is woken for
    /// nothing once, and the bytes, still there, are reported again.
    #[inline]
    pub(crate) fn fill(
        self: &Rc<Self>,
        buffer: &mut ReadBuffer<Chunk>,
        context: &Context<'_>,
    ) -> io::Result<bool> {
        if self.state.get() & !READABLE != 0
            && let Some(filled) = self.fill_otherwise(buffer)?
        {
            return Ok(filled);
        }
        // What is encrypted may come without there being anything to give.
        while self.is(READABLE) {
            if self.receive(buffer) {
                return Ok(true);
            }
            self.check()?;
        }
        if self.is(SECURED) {
            self.check_truncated()?;
        }
        self.check_loop()?;
        drop(self.reading.replace(Some(Waiter::new(context))));
        Ok(false)
    }

    /// What a fill does unless the stream simply goes on. `None`: it does.
    #[inline(never)]
    fn fill_otherwise(self: &Rc<Self>, buffer: &mut ReadBuffer<Chunk>) -> io::Result<Option<bool>> {
        // First what came before the end, then the end.
        if self.is(ARRIVED) {
            self.note(ARRIVED, false);
            let mut arrived = self.arrived.borrow_mut();
            let chunk = arrived.take(usize::MAX, Chunk::try_copy_of)?;
            buffer.feed(chunk);
            return Ok(Some(true));
        }
        if self.is(EOF) {
            return Ok(Some(true));
        }
        self.check()?;
        if self.is(PAUSED) {
            self.note(PAUSED, false);
            if self.stream.borrow_mut().intake.resume() {
                self.watch_reading()?;
            }
        }
        Ok(None)
    }

    #[inline]
    pub(crate) fn has_arrived(&self) -> bool {
        self.is(ARRIVED)
    }

    #[inline]
    pub(crate) fn is_eof(&self) -> bool {
        self.is(EOF)
    }

    // Writing

    /// Queues bytes to be sent.
    #[inline]
    pub(crate) fn write(self: &Rc<Self>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let stream = self.stream.borrow();
        assert!(
            !stream.eof_written(),
            "Cannot call write() after write_eof()"
        );
        if self.is(SECURED) {
            drop(stream);
            return self.write_secured(bytes);
        }
        // Beyond this it could be time for the writer to pause, which it learns from the queue.
        let limit = stream.flow.high().min(FLUSH_AT_ONCE);
        if stream.is_clear() && self.runtime.outbox.stage(self, bytes, limit) {
            self.staged.set(true);
            return;
        }
        drop(stream);
        self.write_queued(bytes);
    }

    #[inline(never)]
    fn write_queued(self: &Rc<Self>, bytes: &[u8]) {
        // Nobody would send them; an error of the next drain says so.
        let _ = self.check_loop();
        if self.staged.replace(false) {
            let write = |staged: &[u8]| self.write_copied(staged);
            let written = self.runtime.outbox.unstage(write);
            self.after_write(written);
        }
        let written = self.write_copied(bytes);
        self.after_write(written);
    }

    /// As [`write`](Self::write), without copying what is more than a small piece.
    pub(crate) fn write_owned(self: &Rc<Self>, bytes: Vec<u8>) {
        const SMALL: usize = 4 * 1024;
        if bytes.len() <= SMALL || self.is(SECURED) {
            return self.write(&bytes);
        }
        assert!(
            !self.stream.borrow().eof_written(),
            "Cannot call write() after write_eof()"
        );
        let _ = self.check_loop();
        if self.staged.replace(false) {
            let write = |staged: &[u8]| self.write_copied(staged);
            let written = self.runtime.outbox.unstage(write);
            self.after_write(written);
        }
        let written = self.stream.borrow_mut().write(Chunk::of(bytes));
        self.after_write(written);
    }

    /// Small pieces go into chunks together: each chunk is far larger than such a piece.
    fn write_copied(&self, bytes: &[u8]) -> Written {
        let mut stream = self.stream.borrow_mut();
        stream.write_copied(bytes, Chunk::extend, Chunk::growing_copy_of)
    }

    fn after_write(self: &Rc<Self>, written: Written) {
        match written {
            Written::Queued => {}
            Written::FlushLater => {
                if !self.listed.replace(true) {
                    self.runtime.outbox.list(Rc::clone(self));
                }
            }
            Written::FlushNow => self.flush(),
            Written::Waiting => {
                let mut stream = self.stream.borrow_mut();
                let waiting = stream.queue().len();
                stream.flow.pauses_at(waiting);
            }
            Written::Lost { warn: true } => warn("socket.send() raised exception."),
            Written::Lost { warn: false } => {}
        }
    }

    /// The step is over in which this was listed.
    pub(crate) fn flush_listed(self: &Rc<Self>) {
        self.listed.set(false);
        if self.is_dirty() {
            self.flush();
        }
    }

    /// Sends what is staged or queued, as far as the kernel takes it.
    pub(crate) fn flush(self: &Rc<Self>) {
        if self.staged.get() {
            self.send_staged();
            return;
        }
        if self.is(SECURED) {
            self.encrypt();
        }
        let sent = self.stream.borrow_mut().flush();
        self.note_sent(sent);
    }

    /// Sends what is staged. `true`: all of it.
    #[inline(always)]
    fn send_staged(self: &Rc<Self>) -> bool {
        self.staged.set(false);
        let mut stream = self.stream.borrow_mut();
        let send = |bytes: &[u8]| stream.send(bytes, Chunk::copy_of);
        let sent = self.runtime.outbox.unstage(send);
        drop(stream);
        if let Sent::All = sent {
            return true;
        }
        self.note_sent(sent);
        false
    }

    #[inline(never)]
    fn note_sent(self: &Rc<Self>, sent: Sent) {
        match sent {
            Sent::Nothing | Sent::All | Sent::Some => {}
            Sent::Watch => self.watch_writing(),
            Sent::Failed(error) => self.fail_sending(error),
        }
    }

    fn watch_writing(self: &Rc<Self>) {
        let mut stream = self.stream.borrow_mut();
        let waiting = stream.queue().len();
        stream.flow.pauses_at(waiting);
        drop(stream);
        let source = Source::Stream(Rc::clone(self));
        match self.runtime.event_loop.add_writer(self.fd, source) {
            Ok(before) => drop(before),
            Err(error) => self.fail_sending(error),
        }
    }

    /// To be asked by an operation that is ready, with what it gives; see `budget.rs`.
    #[inline(always)]
    pub(crate) fn ready<T>(&self, result: T, context: &Context<'_>) -> Poll<T> {
        if self.runtime.budget.take() {
            return Poll::Ready(result);
        }
        wake(context);
        Poll::Pending
    }

    /// As [`ready`](Self::ready), for what makes a system call each time: a step full of these is
    /// long enough for the reactor to be asked after it. `false`: the task has to give way.
    #[inline(always)]
    pub(crate) fn has_sent(&self) -> bool {
        let taken = self.runtime.budget.take();
        if !taken {
            self.runtime.event_loop.poll_next_turn();
        }
        taken
    }

    /// Sends what is queued. `true`: the writer may go on at once.
    #[inline]
    pub(crate) fn flush_and_go_on(self: &Rc<Self>) -> bool {
        // Only an open connection without anything in its way has bytes staged.
        if self.staged.get() && self.send_staged() {
            return true;
        }
        if self.is_dirty() {
            self.flush();
        }
        let stream = self.stream.borrow();
        !stream.is_closing() && !stream.flow.is_paused()
    }

    /// The descriptor can be written again.
    pub(crate) fn send_queued(self: &Rc<Self>) {
        if !self.stream.borrow().is_blocked() {
            return;
        }
        self.flush();
        let mut stream = self.stream.borrow_mut();
        if self.is(LOST) {
            return;
        }
        let waiting = stream.queue().len();
        let resumed = stream.flow.resumes_at(waiting);
        let drained = stream.drained();
        drop(stream);
        if drained.is_some() {
            drop(self.runtime.event_loop.remove_writer(self.fd));
        }
        if resumed || drained.is_some() {
            wake_all(&self.draining);
        }
        match drained {
            Some(Drained::Close) => self.connection_lost(None),
            Some(Drained::Eof(Err(error))) => self.fail_sending(error),
            Some(Drained::Open | Drained::Eof(Ok(()))) | None => {}
        }
    }

    /// Whether a writer has to wait; then whoever polls will be woken.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn must_drain(&self, context: &Context<'_>) -> io::Result<bool> {
        self.check_open()?;
        let paused = self.stream.borrow().flow.is_paused();
        if paused {
            wait_with(&self.draining, context);
        }
        Ok(paused)
    }

    /// Sends what waits. Whether something is left; then whoever polls will be woken.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn is_unsent(self: &Rc<Self>, context: &Context<'_>) -> io::Result<bool> {
        if self.is_dirty() {
            self.flush();
        }
        let unsent = self.write_buffer_size() > 0;
        if self.is(CUT_OFF) {
            self.check_open()?;
        }
        if unsent {
            wait_with(&self.draining, context);
        }
        Ok(unsent)
    }

    fn check_open(&self) -> io::Result<()> {
        if !self.is(LOST) {
            return Ok(());
        }
        self.check()?;
        Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "Connection lost",
        ))
    }

    #[inline]
    fn is_dirty(&self) -> bool {
        self.staged.get()
            || self.stream.borrow().is_dirty()
            || self.is(SECURED) && self.has_unencrypted()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.stream.borrow().is_closing()
    }

    /// How many bytes wait to be sent.
    pub(crate) fn write_buffer_size(&self) -> usize {
        match self.staged.get() {
            true => self.runtime.outbox.staged_len(),
            false => self.stream.borrow().queue().len() + self.unencrypted(),
        }
    }

    pub(crate) fn set_write_buffer_limits(&self, high: usize, low: usize) -> io::Result<()> {
        let limit = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.stream
            .borrow_mut()
            .flow
            .set_limits(Some(limit(high)), Some(limit(low)))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    pub(crate) fn is_secured(&self) -> bool {
        self.is(SECURED)
    }

    pub(crate) fn eof_written(&self) -> bool {
        self.stream.borrow().eof_written()
    }

    pub(crate) fn write_eof(self: &Rc<Self>) -> io::Result<()> {
        if self.is(SECURED) {
            self.notify_of_end();
        }
        self.flush();
        self.stream.borrow_mut().write_eof()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Reached with an open socket only when the loop was closed over its head.
        if !self.is(LOST) {
            drop(self.runtime.event_loop.remove_reader(self.fd));
            drop(self.runtime.event_loop.remove_writer(self.fd));
        }
    }
}

/// Without the feature nothing is ever encrypted.
#[cfg(not(feature = "rustls"))]
impl Connection {
    fn receive_secured(self: &Rc<Self>, _: &Chunk, _: &mut ReadBuffer<Chunk>) -> bool {
        false
    }
    fn end_of_secured(&self) -> bool {
        false
    }
    fn check_truncated(&self) -> io::Result<()> {
        Ok(())
    }
    fn write_secured(self: &Rc<Self>, _: &[u8]) {}
    fn encrypt(&self) {}
    fn has_unencrypted(&self) -> bool {
        false
    }
    fn unencrypted(&self) -> usize {
        0
    }
    fn notify_of_end(&self) {}
}

#[cold]
fn wake(context: &Context<'_>) {
    context.waker().wake_by_ref();
}

pub(super) fn wait_with(waiters: &RefCell<Vec<Waiter>>, context: &Context<'_>) {
    let mut waiters = waiters.borrow_mut();
    if !waiters.iter().any(|waiter| waiter.is(context)) {
        waiters.push(Waiter::new(context));
    }
}

pub(super) fn wake_all(waiters: &RefCell<Vec<Waiter>>) {
    for waiter in waiters.take() {
        waiter.wake();
    }
}

/// The same error once more: each read and write after a failure reports it.
fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
