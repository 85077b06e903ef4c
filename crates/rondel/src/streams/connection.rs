//! A connection as the Rust face has it: what a `StreamReader` and a `StreamWriter` share.
//!
//! [`Connection`] is the host of one [`Stream`] (`transport/stream.rs`): it registers with the reactor what the
//! stream wants watched, wakes who waits, and closes the socket.
//!
//! # The way of a byte
//! In: the reactor reports the descriptor. If a task waits to read, it is woken and receives by itself, straight
//! into the reader's own buffer. If nobody waits, the bytes are received here, into `arrived`, where the reader
//! finds them, until there is twice the limit of them; then the descriptor is muted (asyncio pauses its transport
//! there). Out: a write stages its bytes (`outbox.rs`) or queues a chunk; both are sent by `drain`, or when the step of
//! the task is over, and a queue goes on when the descriptor can be written again.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::task::Context;

use super::chunk::Chunk;
use super::read_buffer::ReadBuffer;
use super::server::Serving;
use crate::runtime::{Item, Runtime, Source};
use crate::task::Waiter;
use crate::transport::address::Address;
use crate::transport::recv_size::Received;
use crate::transport::stream::{Close, Drained, FLUSH_AT_ONCE, Sent, Stream, Written};

/// The reactor has said that there is something to receive, and nobody has found the end of it.
const READABLE: u8 = 1;
/// `arrived` isn't empty.
const ARRIVED: u8 = 2;
/// Reading is paused, because too much has arrived.
const PAUSED: u8 = 4;
/// No more will arrive.
const EOF: u8 = 8;
/// The connection is over and the socket closed.
const LOST: u8 = 16;

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
    state: Cell<u8>,
    /// Why, if not by a `close`.
    failure: RefCell<Option<io::Error>>,
    reading: Cell<Option<Waiter>>,
    draining: RefCell<Vec<Waiter>>,
    closing: RefCell<Vec<Waiter>>,
    /// In the outbox's list of connections to flush.
    listed: Cell<bool>,
    /// The bytes that are staged in the outbox are this connection's; then nothing is queued.
    staged: Cell<bool>,
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

    pub(crate) fn set_server(&self, server: Weak<Serving>, key: usize) {
        *self.server.borrow_mut() = Some((server, key));
    }

    /// Applies `f` to the socket, if it is still open.
    pub(crate) fn with_socket<R>(&self, f: impl FnOnce(&OwnedFd) -> R) -> Option<R> {
        self.stream.borrow().socket().map(f)
    }

    #[inline]
    fn is(&self, bit: u8) -> bool {
        self.state.get() & bit != 0
    }

    #[inline]
    fn note(&self, bit: u8, on: bool) {
        let others = self.state.get() & !bit;
        self.state.set(if on { others | bit } else { others });
    }

    fn watch_reading(self: &Rc<Self>) -> io::Result<()> {
        let source = Source::Stream(Rc::clone(self));
        let before = self.runtime.event_loop.add_reader(self.fd, source)?;
        drop(before);
        Ok(())
    }

    // What the reactor reports. It is borrowed meanwhile, so nothing is done here but noting and waking.

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
        if !self.is(READABLE) || !self.stream.borrow().is_reading() {
            return;
        }
        let mut arrived = self.arrived.borrow_mut();
        self.receive(&mut arrived);
        let full = arrived.len() > self.limit.saturating_mul(2);
        self.note(ARRIVED, !arrived.is_empty());
        drop(arrived);
        if full && self.stream.borrow_mut().pause_reading() {
            self.note(PAUSED, true);
            drop(self.runtime.event_loop.mute_reader(self.fd));
        }
        if let Some(reader) = self.reading.take() {
            reader.wake();
        }
    }

    /// Receives once into `buffer`, and again as long as it fills all the room there is. `true`: bytes or the end came.
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
                    buffer.feed(chunk);
                    total += count;
                    if count == size && total < Stream::<OwnedFd, Chunk>::MAX_RECV {
                        continue;
                    }
                    // If it filled up there may be more; else a recv would only say that there is not.
                    self.note(READABLE, count == size);
                    return true;
                }
                Received::Blocked => {
                    self.note(READABLE, false);
                    return total > 0;
                }
                Received::Eof => {
                    self.note(READABLE, false);
                    self.note(EOF, true);
                    // asyncio leaves the writing side open; the kernel would report the end for ever.
                    drop(self.runtime.event_loop.remove_reader(self.fd));
                }
                Received::Failed(error) => self.fail(error),
            }
            return true;
        }
    }

    /// Moves what has arrived to the reader's buffer; receives if that is promising. `false`: there is nothing,
    /// and whoever polls will be woken.
    ///
    /// A waiter that stays behind because its read was given up is harmless: it is woken for nothing once, and the
    /// bytes, still there, are reported again.
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
        if self.is(READABLE) {
            let received = self.receive(buffer);
            self.check()?;
            if received {
                return Ok(true);
            }
        }
        drop(self.reading.replace(Some(Waiter::new(context))));
        Ok(false)
    }

    /// What a fill does unless the stream simply goes on. `None`: it does.
    #[inline(never)]
    fn fill_otherwise(self: &Rc<Self>, buffer: &mut ReadBuffer<Chunk>) -> io::Result<Option<bool>> {
        if self.is(EOF) && !self.is(ARRIVED) {
            return Ok(Some(true));
        }
        self.check()?;
        if self.is(ARRIVED) {
            self.note(ARRIVED, false);
            let mut arrived = self.arrived.borrow_mut();
            let chunk = arrived.take(usize::MAX, Chunk::try_copy_of)?;
            buffer.feed(chunk);
            return Ok(Some(true));
        }
        if self.is(PAUSED) {
            self.note(PAUSED, false);
            if self.stream.borrow_mut().resume_reading() {
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

    /// The reader is gone: what comes is nobody's.
    pub(crate) fn reader_dropped(&self) {
        drop(self.reading.take());
        if self.stream.borrow_mut().pause_reading() {
            drop(self.runtime.event_loop.mute_reader(self.fd));
        }
    }

    /// The error that has ended the connection, if one has.
    #[inline]
    pub(crate) fn check(&self) -> io::Result<()> {
        if !self.is(LOST) {
            return Ok(());
        }
        match &*self.failure.borrow() {
            Some(failure) => Err(copy_of(failure)),
            None => Ok(()),
        }
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
        if self.staged.replace(false) {
            let staged = self.runtime.outbox.unstage(Chunk::copy_of);
            self.queue(staged);
        }
        self.queue(Chunk::copy_of(bytes));
    }

    fn queue(self: &Rc<Self>, chunk: Chunk) {
        let mut stream = self.stream.borrow_mut();
        match stream.write(chunk) {
            Written::Queued => {}
            Written::FlushLater => {
                if !self.listed.replace(true) {
                    self.runtime.outbox.list(Rc::clone(self));
                }
            }
            Written::FlushNow => {
                drop(stream);
                self.flush();
            }
            Written::Waiting => {
                let waiting = stream.queue().len();
                stream.flow.pauses_at(waiting);
            }
            Written::Lost { warn: true } => eprintln!("socket.send() raised exception."),
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
            Sent::Failed(error) => self.fail(error),
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
            Err(error) => self.fail(error),
        }
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
        if resumed {
            wake_all(&self.draining);
        }
        match drained {
            Some(Drained::Close) => self.connection_lost(None),
            Some(Drained::Eof(Err(error))) => self.fail(error),
            Some(Drained::Open | Drained::Eof(Ok(()))) | None => {}
        }
    }

    /// Whether a writer has to wait; then whoever polls will be woken.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(crate) fn must_drain(&self, context: &Context<'_>) -> io::Result<bool> {
        if self.is(LOST) {
            self.check()?;
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "Connection lost",
            ));
        }
        let paused = self.stream.borrow().flow.is_paused();
        if paused {
            wait_with(&self.draining, context);
        }
        Ok(paused)
    }

    #[inline]
    fn is_dirty(&self) -> bool {
        self.staged.get() || self.stream.borrow().is_dirty()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.stream.borrow().is_closing()
    }

    /// How many bytes wait to be sent.
    pub(crate) fn write_buffer_size(&self) -> usize {
        match self.staged.get() {
            true => self.runtime.outbox.staged_len(),
            false => self.stream.borrow().queue().len(),
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

    pub(crate) fn write_eof(self: &Rc<Self>) -> io::Result<()> {
        self.flush();
        self.stream.borrow_mut().write_eof()
    }

    // The end

    /// Closes when everything is sent.
    pub(crate) fn close(self: &Rc<Self>) {
        self.flush();
        let close = self.stream.borrow_mut().close();
        match close {
            Close::Already => {}
            Close::WhenDrained => {
                drop(self.runtime.event_loop.remove_reader(self.fd));
                self.end_of_input();
            }
            Close::Now => self.connection_lost(None),
        }
    }

    /// Closes without sending what waits.
    pub(crate) fn abort(self: &Rc<Self>) {
        if self.staged.replace(false) {
            self.runtime.outbox.unstage(|_| ());
        }
        let unsent = self.stream.borrow_mut().force_close();
        if unsent.is_some() {
            self.connection_lost(None);
        }
    }

    #[cold]
    fn fail(self: &Rc<Self>, error: io::Error) {
        if self.staged.replace(false) {
            self.runtime.outbox.unstage(|_| ());
        }
        let unsent = self.stream.borrow_mut().force_close();
        if unsent.is_some() {
            self.connection_lost(Some(error));
        }
    }

    /// The one place where a connection ends: the socket is closed and everyone who waits is told.
    fn connection_lost(self: &Rc<Self>, failure: Option<io::Error>) {
        // `self` may be held by the reactor alone.
        let _keep = Rc::clone(self);
        self.note(LOST, true);
        *self.failure.borrow_mut() = failure;
        drop(self.runtime.event_loop.remove_reader(self.fd));
        drop(self.runtime.event_loop.remove_writer(self.fd));
        drop(self.stream.borrow_mut().take_socket());
        self.end_of_input();
        wake_all(&self.draining);
        wake_all(&self.closing);
        if let Some((server, key)) = self.server.take()
            && let Some(server) = server.upgrade()
        {
            server.detach(key);
        }
    }

    fn end_of_input(&self) {
        self.note(READABLE, false);
        self.note(EOF, true);
        if let Some(reader) = self.reading.take() {
            reader.wake();
        }
    }

    /// Whether the connection is over; if not, whoever polls will be woken.
    ///
    /// # Errors
    /// The failure that has ended it.
    pub(crate) fn is_closed(&self, context: &Context<'_>) -> io::Result<bool> {
        if self.is(LOST) {
            return self.check().map(|()| true);
        }
        wait_with(&self.closing, context);
        Ok(false)
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

fn wait_with(waiters: &RefCell<Vec<Waiter>>, context: &Context<'_>) {
    let mut waiters = waiters.borrow_mut();
    if !waiters.iter().any(|waiter| waiter.is(context)) {
        waiters.push(Waiter::new(context));
    }
}

fn wake_all(waiters: &RefCell<Vec<Waiter>>) {
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
