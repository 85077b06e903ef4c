//! A connected stream socket: asyncio's `_SelectorSocketTransport` without its callbacks.
//!
//! [`Stream`] holds the socket, the write queue (`write_queue.rs`), the flow control
//! (`flow_control.rs`) and the state flags. Its host owns everything else: the registrations with
//! the reactor, the protocol, the calls of `connection_lost`. Each method returns what the host
//! must do now, and the host does it before it calls the next one.
//!
//! # How a write is sent
//! [`write`](Stream::write) queues, and tells the host when to [`flush`](Stream::flush): at the end
//! of the step or turn, so that all its writes are sent together, or at once. asyncio always sends
//! at once. To keep the delay unobservable, the host also flushes before anything that would show
//! how much waits or whether sending fails. Where it can't act on the result of a flush, it
//! [flushes early](Stream::flush_early): the bytes are sent, and the flush that is due reports the
//! result.
//!
//! # The end
//! `conn_lost` is at least 1 when the call of `connection_lost` is certain: after
//! [`close`](Stream::close) once the queue is empty, after [`force_close`](Stream::force_close) at
//! once. The socket stays open until the host takes it with [`take_socket`](Stream::take_socket),
//! after `connection_lost` was called.

use std::collections::TryReserveError;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use super::flow_control::FlowControl;
use super::intake::Intake;
use super::recv_size::{self, MAX_RECV, Received, RecvSize, Room};
use super::write_queue::{self, Flushed, WriteQueue};

/// asyncio's `LOG_THRESHOLD_FOR_CONNLOST_WRITES`: from this many writes to a lost connection on,
/// each is logged as a warning.
pub const LOST_WRITES_THRESHOLD: u32 = 5;

/// More queued bytes than this are flushed at once.
pub const FLUSH_AT_ONCE: usize = 64 * 1024;

/// A connected stream socket `S` with chunks of type `C` to send.
#[derive(Debug)]
pub struct Stream<S, C> {
    socket: Option<S>,
    queue: WriteQueue<C>,
    /// When the writer is paused; the host calls the protocol.
    pub flow: FlowControl,
    recv_size: RecvSize,
    conn_lost: u32,
    /// Whether the transport reads; the host watches the descriptor accordingly.
    pub intake: Intake,
    eof: bool,
    /// The socket's send buffer is full: the descriptor is watched for writing.
    blocked: bool,
    /// The host was told to flush later and has not yet done so.
    dirty: bool,
    /// The error of an early flush, reported by the flush that is due.
    failed_early: Option<io::Error>,
}

/// The result of a write; see [`Stream::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Queued; a flush is due already.
    Queued,
    /// Queued: flush at the end of the running step or turn.
    FlushLater,
    /// Queued: flush now.
    FlushNow,
    /// Queued, and the send buffer is full: check whether the writer must pause.
    Waiting,
    /// Dropped, because the connection is lost.
    Lost {
        /// Whether to log asyncio's warning, because the program keeps writing.
        warn: bool,
    },
}

/// The result of a flush; see [`Stream::flush`].
#[derive(Debug)]
pub enum Sent {
    /// There was nothing to send.
    Nothing,
    /// Everything was sent. If the descriptor is watched for writing, tell the writer to resume,
    /// and then call [`Stream::drained`].
    All,
    /// Some is left, and the descriptor is not watched for writing yet: do so, then check whether
    /// the writer must pause.
    Watch,
    /// Some is left, and the descriptor is watched already.
    Some,
    /// The connection has failed.
    Failed(io::Error),
}

/// What to do when a blocked queue has drained; see [`Stream::drained`].
#[derive(Debug)]
pub enum Drained {
    /// Nothing more: the program may write again.
    Open,
    /// The program has closed the transport: call `connection_lost` now.
    Close,
    /// The program has ended its side; the result of `shutdown`.
    Eof(io::Result<()>),
}

/// What [`Stream::close`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Nothing: it was called before.
    Already,
    /// Stop watching for reading. The rest follows when the queue has drained.
    WhenDrained,
    /// Stop watching the descriptor and schedule `connection_lost`.
    Now,
}

impl<S: AsRawFd, C: AsRef<[u8]>> Stream<S, C> {
    /// Takes ownership of a connected, non-blocking socket.
    pub fn new(socket: S) -> Self {
        Self {
            socket: Some(socket),
            queue: WriteQueue::new(),
            flow: FlowControl::default(),
            recv_size: RecvSize::default(),
            conn_lost: 0,
            intake: Intake::default(),
            eof: false,
            blocked: false,
            dirty: false,
            failed_early: None,
        }
    }

    /// The socket, until it is taken.
    #[inline]
    pub fn socket(&self) -> Option<&S> {
        self.socket.as_ref()
    }

    /// Removes the socket for good; the host closes it.
    pub fn take_socket(&mut self) -> Option<S> {
        self.socket.take()
    }

    /// Removes the unsent queue of a stream that is no longer used, so that it can be dropped where
    /// foreign destructors may run.
    #[must_use]
    pub fn take_queue(&mut self) -> WriteQueue<C> {
        self.queue.take()
    }

    /// Replaces the socket by another owner of the same descriptor.
    pub fn replace_socket(&mut self, exchange: impl FnOnce(S) -> S) {
        self.socket = self.socket.take().map(exchange);
    }

    #[inline]
    fn fd(&self) -> RawFd {
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether the program has closed the transport, or the connection is lost.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.intake.is_closing()
    }

    /// Zero while the connection lives; then one, plus one for each write.
    #[inline]
    pub fn conn_lost(&self) -> u32 {
        self.conn_lost
    }

    /// Whether the program has ended its side.
    #[inline]
    pub fn eof_written(&self) -> bool {
        self.eof
    }

    /// Whether the send buffer was full at the last attempt, so that writes wait for the
    /// descriptor.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether a flush is due at the end of the step or turn.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the connection has failed, so that sending would. Costs a system call, which is
    /// cheaper than a send.
    pub fn has_failed(&self) -> bool {
        if self.failed_early.is_some() {
            return true;
        }
        let mut asked = libc::pollfd {
            fd: self.fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: one valid `pollfd`; `poll` ignores the -1 of a taken socket. The timeout is 0.
        let count = unsafe { libc::poll(&raw mut asked, 1, 0) };
        count != 0
    }

    /// The queue of unsent data.
    #[inline]
    pub fn queue(&self) -> &WriteQueue<C> {
        &self.queue
    }

    // Reading

    /// Where to receive the next bytes.
    #[inline]
    pub fn room(&self) -> Room {
        self.recv_size.room()
    }

    /// Receives once into `room`. If `room` was filled, the host may call again at once, if
    /// [`Intake::is_reading`](super::intake::Intake::is_reading) still holds and it has received
    /// less than [`MAX_RECV`] in this readiness event.
    #[inline]
    pub fn recv(&mut self, room: &mut [MaybeUninit<u8>]) -> Received {
        let received = recv_size::recv(self.fd(), room);
        if let Received::Data(count) = received {
            self.recv_size.note(count, room.len());
        }
        received
    }

    /// The most that is received per readiness event, in bytes.
    pub const MAX_RECV: usize = MAX_RECV;

    // Writing

    /// Reserves memory for one more [`write`](Self::write).
    ///
    /// # Errors
    /// If there is no memory.
    #[inline]
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.queue.reserve()
    }

    /// Reserves memory for `more` writes.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn reserve_many(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.queue.reserve_many(more)
    }

    /// Queues a chunk, which should not be empty. Must not be called after
    /// [`write_eof`](Self::write_eof).
    #[inline]
    pub fn write(&mut self, chunk: C) -> Written {
        if self.conn_lost > 0 {
            let warn = self.conn_lost >= LOST_WRITES_THRESHOLD;
            self.conn_lost = self.conn_lost.saturating_add(1);
            return Written::Lost { warn };
        }
        self.queue.push(chunk);
        self.queued()
    }

    /// What to do after data was queued.
    #[inline]
    fn queued(&mut self) -> Written {
        if self.blocked {
            Written::Waiting
        } else if self.queue.len() > self.flow.high().min(FLUSH_AT_ONCE) {
            // Above the high-water mark the writer may have to pause, and must be told now.
            Written::FlushNow
        } else if self.dirty {
            Written::Queued
        } else {
            self.dirty = true;
            Written::FlushLater
        }
    }

    /// As [`write`](Self::write), for bytes that are copied: `extend` copies as many of them as fit
    /// into the last queued chunk and returns how many; `make` makes a chunk of the rest and is
    /// told how many bytes are queued before it.
    pub fn write_copied(
        &mut self,
        bytes: &[u8],
        extend: impl FnOnce(&mut C, &[u8]) -> usize,
        make: impl FnOnce(&[u8], usize) -> C,
    ) -> Written {
        let added = self.queue.extend_last(|chunk| extend(chunk, bytes));
        if added == bytes.len() {
            return self.queued();
        }
        let chunk = make(&bytes[added..], self.queue.len());
        self.write(chunk)
    }

    /// Queues a chunk that is followed at once by a [`write`](Self::write), whose result is for
    /// both.
    #[inline]
    pub fn write_next(&mut self, chunk: C) {
        if self.conn_lost == 0 {
            self.queue.push(chunk);
        }
    }

    /// Sends the queue. Must be called when [`write`](Self::write) says so and when the descriptor
    /// is writable.
    #[inline]
    pub fn flush(&mut self) -> Sent {
        self.dirty = false;
        if self.conn_lost > 0 {
            return Sent::Nothing;
        }
        if let Some(error) = self.failed_early.take() {
            return Sent::Failed(error);
        }
        if self.queue.is_empty() {
            return Sent::Nothing;
        }
        let flushed = self.queue.flush(self.fd());
        self.after(flushed)
    }

    /// Sends the queue before the flush that is due, where the host can't act on the result. If
    /// everything is sent, that flush is not due any more. Otherwise it reports that the send
    /// buffer is full or that the connection has failed.
    pub fn flush_early(&mut self) {
        if !self.dirty || self.blocked || self.conn_lost > 0 || self.failed_early.is_some() {
            return;
        }
        match self.queue.flush(self.fd()) {
            Flushed::Drained => self.dirty = false,
            Flushed::Blocked => {}
            Flushed::Failed(error) => self.failed_early = Some(error),
        }
    }

    /// Makes the flush that is due fail, because data that should have been sent early is lost.
    pub fn fail_early(&mut self, error: io::Error) {
        self.dirty = true;
        self.failed_early = Some(error);
    }

    /// Queues a chunk and [flushes early](Self::flush_early). If something is left, a flush is due.
    pub fn write_early(&mut self, chunk: C) {
        if self.conn_lost > 0 {
            return;
        }
        self.queue.push(chunk);
        self.dirty |= !self.blocked;
        self.flush_early();
    }

    /// The descriptor to send the queue on, if there is data and the send buffer is not known to be
    /// full.
    #[inline]
    pub(super) fn offers(&self) -> Option<RawFd> {
        let ready = !self.queue.is_empty()
            && !self.blocked
            && self.conn_lost == 0
            && self.failed_early.is_none();
        ready.then(|| self.fd())
    }

    /// Records the result of a send that offered the whole queue to the kernel.
    pub(super) fn flushed(&mut self, result: io::Result<usize>) -> Sent {
        self.dirty = false;
        let flushed = self.queue.flushed(result);
        self.after(flushed)
    }

    #[inline]
    fn after(&mut self, flushed: Flushed) -> Sent {
        match flushed {
            Flushed::Drained => {
                self.blocked = false;
                Sent::All
            }
            Flushed::Blocked if self.blocked => Sent::Some,
            Flushed::Blocked => {
                self.blocked = true;
                Sent::Watch
            }
            Flushed::Failed(error) => Sent::Failed(error),
        }
    }

    /// Whether the queue is empty and the connection not lost, so that bytes sent now are the next
    /// that the peer receives.
    #[inline]
    pub fn is_clear(&self) -> bool {
        self.queue.is_empty() && !self.blocked && self.conn_lost == 0
    }

    /// Sends the host's bytes without queueing them. Requires [`is_clear`](Self::is_clear). What
    /// the kernel does not take is queued as the chunk that `make` returns. Never returns
    /// [`Sent::Nothing`] or [`Sent::Some`].
    #[inline]
    pub fn send(&mut self, bytes: &[u8], make: impl FnOnce(&[u8]) -> C) -> Sent {
        debug_assert!(self.is_clear());
        let sent = match write_queue::send(self.fd(), bytes) {
            Ok(sent) if sent == bytes.len() => return Sent::All,
            Ok(sent) => sent,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => 0,
                _ => return Sent::Failed(error),
            },
        };
        self.queue.push(make(&bytes[sent..]));
        self.blocked = true;
        Sent::Watch
    }

    /// Must be called after a flush if the descriptor was watched for writing, once the writer was
    /// told to resume and what it then wrote was flushed. `None`: something is left. Otherwise stop
    /// watching for writing, and do what the result says.
    pub fn drained(&mut self) -> Option<Drained> {
        if !self.queue.is_empty() {
            return None;
        }
        self.blocked = false;
        if self.intake.is_closing() {
            self.conn_lost += 1;
            return Some(Drained::Close);
        }
        Some(match self.eof {
            true => Drained::Eof(self.shut_down()),
            false => Drained::Open,
        })
    }

    /// Ends this side once everything is sent. The host must have flushed before.
    ///
    /// # Errors
    /// Errors of `shutdown`, if the queue is empty.
    pub fn write_eof(&mut self) -> io::Result<()> {
        if self.intake.is_closing() || self.eof {
            return Ok(());
        }
        self.eof = true;
        if self.queue.is_empty() {
            self.shut_down()
        } else {
            Ok(())
        }
    }

    fn shut_down(&self) -> io::Result<()> {
        // SAFETY: a system call without pointers; a bad descriptor is an error.
        if unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    // The end

    /// Closes once everything is sent. The host must have flushed before.
    pub fn close(&mut self) -> Close {
        if !self.intake.close() {
            return Close::Already;
        }
        if !self.queue.is_empty() {
            return Close::WhenDrained;
        }
        self.conn_lost += 1;
        self.blocked = false;
        Close::Now
    }

    /// Ends the connection without sending the queue, which is returned to be dropped. `Some`: stop
    /// watching the descriptor and schedule `connection_lost`. `None`: that was done before.
    #[must_use]
    pub fn force_close(&mut self) -> Option<WriteQueue<C>> {
        if self.conn_lost > 0 {
            return None;
        }
        self.intake.close();
        self.blocked = false;
        self.dirty = false;
        self.failed_early = None;
        self.conn_lost += 1;
        Some(self.queue.take())
    }
}

#[cfg(test)]
mod tests;
