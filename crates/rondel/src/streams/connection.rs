//! A connection as the Rust face has it: what a `StreamReader` and a `StreamWriter` share.
//!
//! [`Connection`] is the host of one [`Stream`] (`transport/stream.rs`): it registers with the reactor what the
//! stream wants watched, wakes who waits, and closes the socket.
//!
//! # The way of a byte
//! In: the reactor reports the descriptor. If a task waits to read, it is woken and receives by itself, straight
//! into the reader's own buffer. If nobody waits, the bytes are received here, into `arrived`, where the reader
//! finds them, until there is twice the limit of them; then the descriptor is muted (asyncio pauses its transport
//! there). Out: a write queues a chunk; the queue is flushed by `drain`, or when the step of the task is over
//! (`runtime.rs`), or when the descriptor can be written again.

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
use crate::transport::stream::{Close, Drained, Sent, Stream, Written};

/// The shared half of a reader and a writer.
pub(crate) struct Connection {
    runtime: Rc<Runtime>,
    fd: RawFd,
    stream: RefCell<Stream<OwnedFd, Chunk>>,
    /// What came while nobody was waiting to read.
    arrived: RefCell<ReadBuffer<Chunk>>,
    /// How much may arrive unread, in bytes: half of what mutes the descriptor.
    limit: usize,
    /// The reactor has said that there is something to receive, and nobody has found the end of it.
    readable: Cell<bool>,
    /// `arrived` isn't empty.
    has_arrived: Cell<bool>,
    /// Reading is paused, because too much has arrived.
    paused: Cell<bool>,
    /// No more will arrive.
    eof: Cell<bool>,
    /// The connection is over and the socket closed.
    lost: Cell<bool>,
    /// Why, if not by a `close`.
    failure: RefCell<Option<io::Error>>,
    reading: Cell<Option<Waiter>>,
    draining: RefCell<Vec<Waiter>>,
    closing: RefCell<Vec<Waiter>>,
    /// In the runtime's list of connections to flush.
    listed: Cell<bool>,
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
            readable: Cell::new(false),
            has_arrived: Cell::new(false),
            paused: Cell::new(false),
            eof: Cell::new(false),
            lost: Cell::new(false),
            failure: RefCell::new(None),
            reading: Cell::new(None),
            draining: RefCell::new(Vec::new()),
            closing: RefCell::new(Vec::new()),
            listed: Cell::new(false),
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

    fn watch_reading(self: &Rc<Self>) -> io::Result<()> {
        let source = Source::Stream(Rc::clone(self));
        let before = self.runtime.event_loop.add_reader(self.fd, source)?;
        drop(before);
        Ok(())
    }

    // What the reactor reports. It is borrowed meanwhile, so nothing is done here but noting and waking.

    #[inline]
    pub(crate) fn readable(self: &Rc<Self>) -> Option<Item> {
        self.readable.set(true);
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
        if !self.readable.get() || !self.stream.borrow().is_reading() {
            return;
        }
        let mut arrived = self.arrived.borrow_mut();
        self.receive(&mut arrived);
        let full = arrived.len() > self.limit.saturating_mul(2);
        self.has_arrived.set(!arrived.is_empty());
        drop(arrived);
        if full && self.stream.borrow_mut().pause_reading() {
            self.paused.set(true);
            drop(self.runtime.event_loop.mute_reader(self.fd));
        }
        if let Some(reader) = self.reading.take() {
            reader.wake();
        }
    }

    /// Receives once into `buffer`, and again as long as it fills all the room there is.
    #[inline]
    fn receive(self: &Rc<Self>, buffer: &mut ReadBuffer<Chunk>) {
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
                    self.readable.set(count == size);
                }
                Received::Blocked => self.readable.set(false),
                Received::Eof => {
                    self.readable.set(false);
                    self.eof.set(true);
                    // asyncio leaves the writing side open; the kernel would report the end for ever.
                    drop(self.runtime.event_loop.remove_reader(self.fd));
                }
                Received::Failed(error) => self.fail(error),
            }
            return;
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
        if self.has_arrived.get() {
            self.has_arrived.set(false);
            let chunk = self
                .arrived
                .borrow_mut()
                .take(usize::MAX, Chunk::try_copy_of)?;
            buffer.feed(chunk);
            return Ok(true);
        }
        if self.eof.get() {
            return Ok(true);
        }
        if self.paused.replace(false) && self.stream.borrow_mut().resume_reading() {
            self.watch_reading()?;
        }
        if self.readable.get() {
            let before = buffer.len();
            self.receive(buffer);
            self.check()?;
            if buffer.len() > before || self.eof.get() {
                return Ok(true);
            }
        }
        let waiter = match self.reading.take() {
            Some(waiter) if waiter.is(context) => waiter,
            _ => Waiter::new(context),
        };
        self.reading.set(Some(waiter));
        Ok(false)
    }

    pub(crate) fn has_arrived(&self) -> bool {
        self.has_arrived.get()
    }

    pub(crate) fn is_eof(&self) -> bool {
        self.eof.get()
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
        if !self.lost.get() {
            return Ok(());
        }
        match &*self.failure.borrow() {
            Some(failure) => Err(copy_of(failure)),
            None => Ok(()),
        }
    }

    // Writing

    /// Queues bytes to be sent.
    pub(crate) fn write(self: &Rc<Self>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut stream = self.stream.borrow_mut();
        assert!(
            !stream.eof_written(),
            "Cannot call write() after write_eof()"
        );
        match stream.write(Chunk::copy_of(bytes)) {
            Written::Queued => {}
            Written::FlushLater => {
                if !self.listed.replace(true) {
                    self.runtime.flush_later(Rc::clone(self));
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
        if self.stream.borrow().is_dirty() {
            self.flush();
        }
    }

    /// Sends what is queued, as far as the kernel takes it.
    pub(crate) fn flush(self: &Rc<Self>) {
        let mut stream = self.stream.borrow_mut();
        match stream.flush() {
            Sent::Nothing | Sent::All | Sent::Some => {}
            Sent::Watch => {
                let waiting = stream.queue().len();
                stream.flow.pauses_at(waiting);
                drop(stream);
                let source = Source::Stream(Rc::clone(self));
                match self.runtime.event_loop.add_writer(self.fd, source) {
                    Ok(before) => drop(before),
                    Err(error) => self.fail(error),
                }
            }
            Sent::Failed(error) => {
                drop(stream);
                self.fail(error);
            }
        }
    }

    /// The descriptor can be written again.
    pub(crate) fn send_queued(self: &Rc<Self>) {
        if !self.stream.borrow().is_blocked() {
            return;
        }
        self.flush();
        let mut stream = self.stream.borrow_mut();
        if self.lost.get() {
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
        if self.lost.get() {
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

    pub(crate) fn is_dirty(&self) -> bool {
        self.stream.borrow().is_dirty()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.stream.borrow().is_closing()
    }

    /// How many bytes wait to be sent.
    pub(crate) fn write_buffer_size(&self) -> usize {
        self.stream.borrow().queue().len()
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
        let unsent = self.stream.borrow_mut().force_close();
        if unsent.is_some() {
            self.connection_lost(None);
        }
    }

    fn fail(self: &Rc<Self>, error: io::Error) {
        let unsent = self.stream.borrow_mut().force_close();
        if unsent.is_some() {
            self.connection_lost(Some(error));
        }
    }

    /// The one place where a connection ends: the socket is closed and everyone who waits is told.
    fn connection_lost(self: &Rc<Self>, failure: Option<io::Error>) {
        // `self` may be held by the reactor alone.
        let _keep = Rc::clone(self);
        self.lost.set(true);
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
        self.readable.set(false);
        self.eof.set(true);
        if let Some(reader) = self.reading.take() {
            reader.wake();
        }
    }

    /// Whether the connection is over; if not, whoever polls will be woken.
    ///
    /// # Errors
    /// The failure that has ended it.
    pub(crate) fn is_closed(&self, context: &Context<'_>) -> io::Result<bool> {
        if self.lost.get() {
            return self.check().map(|()| true);
        }
        wait_with(&self.closing, context);
        Ok(false)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Reached with an open socket only when the loop was closed over its head.
        if !self.lost.get() {
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
