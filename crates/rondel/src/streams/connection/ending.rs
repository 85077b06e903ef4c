//! How a connection ends.
//!
//! A connection is over when the program closes or aborts it, when it fails, when both of its
//! halves are dropped, or when its loop ends. All ways lead to
//! [`connection_lost`](Connection::connection_lost), where the socket is closed.
//!
//! * Of what is written, everything is sent first, except after a failure or an `abort`. Nobody is
//!   left to wait for that once both halves are gone, so the peer has to take something within each
//!   linger time then.
//! * Of what has arrived, everything can be read, whatever the end; only then do reads say how it
//!   ended.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Context;

use super::{
    ARRIVED, CUT_OFF, Connection, EOF, LINGERING, LOST, READABLE, READER_GONE, SECURED,
    WRITER_GONE, copy_of, wait_with, wake_all,
};
use crate::streams::chunk::Chunk;
use crate::streams::linger;
use rondel_engine::transport::recv_size::Received;
use rondel_engine::transport::stream::Close;

impl Connection {
    /// Closes when everything is sent.
    pub(crate) fn close(self: &Rc<Self>) {
        if self.is(SECURED) {
            self.notify_of_end();
        }
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
        self.end_at_once(None);
    }

    /// A handshake has failed, or was given up: what it has still to say is sent, as far as the
    /// kernel takes it.
    #[cfg(feature = "rustls")]
    pub(crate) fn close_failed(self: &Rc<Self>) {
        if !self.is(LOST) {
            self.flush();
        }
        self.abort();
    }

    /// Gives the socket away: the connection is over without anything having happened to it. What
    /// has arrived is added to `unread`.
    pub(crate) fn detach(self: &Rc<Self>, unread: &mut Vec<u8>) -> io::Result<OwnedFd> {
        self.check()?;
        if self.is(SECURED) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "what goes over the socket is encrypted",
            ));
        }
        unread.extend_from_slice(self.arrived.take().as_slice());
        self.note(ARRIVED, false);
        let event_loop = &self.runtime.event_loop;
        drop(event_loop.remove_reader(self.fd));
        drop(event_loop.remove_writer(self.fd));
        let socket = self.stream.borrow_mut().take_socket();
        self.stream.borrow_mut().close();
        self.connection_lost(None);
        socket.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The reader is gone: what comes is nobody's.
    pub(crate) fn reader_dropped(self: &Rc<Self>) {
        self.note(READER_GONE, true);
        drop(self.reading.take());
        if self.is(WRITER_GONE) {
            self.close_unattended();
        } else if self.stream.borrow_mut().intake.pause() {
            drop(self.runtime.event_loop.mute_reader(self.fd));
        }
    }

    /// The writer is gone: no more will be written.
    pub(crate) fn writer_dropped(self: &Rc<Self>) {
        self.note(WRITER_GONE, true);
        if self.is(READER_GONE) {
            self.close_unattended();
        } else {
            // That the connection has failed, the reader will find by itself.
            let _ = self.write_eof();
        }
    }

    /// Closes when everything is sent, or when the peer takes nothing for too long.
    fn close_unattended(self: &Rc<Self>) {
        self.close();
        if !self.is(LOST) {
            linger::attend(&self.runtime, self);
        }
    }

    /// Ends the connection: neither reading nor writing makes sense any more.
    #[cold]
    pub(super) fn fail(self: &Rc<Self>, error: io::Error) {
        self.end_at_once(Some(error));
    }

    /// As [`fail`](Self::fail), for an error of the sending side: what the peer has sent before can
    /// still be read.
    #[cold]
    pub(super) fn fail_sending(self: &Rc<Self>, error: io::Error) {
        if !self.is(LOST | EOF | READER_GONE) && !self.is_closing() {
            self.receive_rest(&error);
        }
        self.fail(error);
    }

    /// Receives what waits in the kernel before the socket is closed.
    fn receive_rest(&self, error: &io::Error) {
        let mut left = self.with_socket(|socket| {
            let mut waiting: libc::c_int = 0;
            // SAFETY: the kernel writes one integer there.
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
            i64::from(waiting)
        });
        let mut arrived = self.arrived.borrow_mut();
        // Once more than there are bytes, to see whether the end is behind them; a peer that goes
        // on and on is not waited for.
        while let Some(waiting) = left {
            let mut stream = self.stream.borrow_mut();
            let room = stream.room();
            let (chunk, received, _) = Chunk::receive(room, |room| stream.recv(room));
            left = None;
            match received {
                Received::Data(count) => {
                    // What is encrypted ends here: the failure is told in place of what is behind
                    // it.
                    if !self.is(SECURED) {
                        arrived.feed(chunk);
                    }
                    left = waiting.checked_sub_unsigned(count as u64);
                    left = left.filter(|&left| left >= 0);
                }
                // The kernel fails sends with this only behind the peer's proper end; a reset has
                // another error, and looks like an end once that was reported.
                Received::Eof if error.raw_os_error() == Some(libc::EPIPE) => self.note(EOF, true),
                Received::Eof | Received::Blocked | Received::Failed(_) => {}
            }
        }
        self.note(ARRIVED, !arrived.is_empty());
    }

    /// Drops what is not sent.
    fn end_at_once(self: &Rc<Self>, failure: Option<io::Error>) {
        let staged = self.staged.replace(false);
        if staged {
            self.runtime.outbox.unstage(|_| ());
        }
        let unsent = self.stream.borrow_mut().force_close();
        if let Some(unsent) = unsent {
            let cut_off = failure.is_some() || staged || !unsent.is_empty();
            self.note(CUT_OFF, cut_off);
            self.connection_lost(failure);
        }
    }

    /// The one place where a connection ends: the socket is closed and everyone who waits is told.
    pub(super) fn connection_lost(self: &Rc<Self>, failure: Option<io::Error>) {
        // `self` may be held by the reactor alone.
        let _keep = Rc::clone(self);
        self.note(LOST, true);
        let failed = failure.is_some();
        *self.failure.borrow_mut() = failure;
        drop(self.runtime.event_loop.remove_reader(self.fd));
        drop(self.runtime.event_loop.remove_writer(self.fd));
        drop(self.stream.borrow_mut().take_socket());
        if failed {
            self.note(READABLE, false);
            self.wake_reader();
        } else {
            self.end_of_input();
        }
        wake_all(&self.draining);
        wake_all(&self.closing);
        if let Some((server, key)) = self.server.take()
            && let Some(server) = server.upgrade()
        {
            server.detach(key);
        }
    }

    /// What the peer, or the way to it, has ended the connection with, if it is how peers come and
    /// go: a reset, or an end that came while there was something to send.
    pub(in super::super) fn ordinary_loss(&self) -> Option<String> {
        let failure = self.failure.borrow();
        let failure = failure.as_ref().filter(|failure| {
            matches!(
                failure.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
            )
        })?;
        Some(failure.to_string())
    }

    fn end_of_input(&self) {
        self.note(READABLE, false);
        self.note(EOF, true);
        self.wake_reader();
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reading.take() {
            reader.wake();
        }
    }

    /// Whether the connection is over; if not, whoever polls will be woken.
    ///
    /// # Errors
    /// The failure that has ended it.
    pub(crate) fn is_closed(self: &Rc<Self>, context: &Context<'_>) -> io::Result<bool> {
        self.check_loop()?;
        if self.is(LOST) {
            return self.check().map(|()| true);
        }
        wait_with(&self.closing, context);
        Ok(false)
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

    // The end of the loop

    /// Fails if the connection's loop is over, where whoever waits would wait for ever.
    #[inline]
    pub(super) fn check_loop(self: &Rc<Self>) -> io::Result<()> {
        match self.runtime.is_over() {
            true => self.loop_is_over(),
            false => Ok(()),
        }
    }

    #[cold]
    fn loop_is_over(self: &Rc<Self>) -> io::Result<()> {
        self.end_with_loop();
        self.check()
    }

    /// The loop ends, and the connection with it.
    pub(crate) fn end_with_loop(self: &Rc<Self>) {
        self.end_at_once(Some(io::Error::other("Event loop is closed")));
    }

    /// Whether bytes wait for the descriptor to be writable.
    pub(crate) fn is_blocked(&self) -> bool {
        self.stream.borrow().is_blocked()
    }

    /// Notes that the end of the run waits for it. `false`: that was known.
    pub(crate) fn mark_lingering(&self) -> bool {
        let new = !self.is(LINGERING);
        self.note(LINGERING, true);
        new
    }

    /// How many bytes the peer has not taken yet, those that wait in the kernel included.
    pub(crate) fn untaken(&self) -> usize {
        let in_kernel = self.with_socket(|socket| {
            let mut waiting: libc::c_int = 0;
            // SAFETY: the kernel writes one integer there.
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
            usize::try_from(waiting).unwrap_or(0)
        });
        self.write_buffer_size() + in_kernel.unwrap_or(0)
    }
}
