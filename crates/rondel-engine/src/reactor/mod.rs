//! The reactor: which descriptors are ready.
//!
//! [`Reactor`] keeps the registrations of each descriptor (`interest.rs`) and passes them to the
//! kernel through a backend (`epoll.rs`). `wake.rs` ends its wait from another thread,
//! `signal_pipe.rs` from a signal handler.
//!
//! # What a backend must do
//! * `add`, `modify`, `delete` a descriptor with an [`Interest`] and a `u64` token; errors are
//!   those of `epoll_ctl`.
//! * Level-triggered: a descriptor is reported as long as it is ready.
//! * `wait(events, timeout)`: the timeout is in nanoseconds and never ends early; `EINTR` is
//!   reported.
//! * Failure and hang-up count as readable *and* writable, as with Python's `selectors` on epoll.
//!
//! Nothing outside this folder may assume epoll.
//!
//! # Fork
//! A forked child shares the parent's epoll instance and eventfd: its registrations and removals
//! would take effect in the parent. [`Reactor::forked`] marks the reactor; from then on the
//! inherited instances are not used. The first use that needs the kernel makes new ones, under the
//! same descriptor numbers, and registers the table's contents. A child that only closes its loop,
//! or never uses it, pays nothing.

mod epoll;
mod interest;
mod signal_pipe;
mod uses;
mod wake;

pub use epoll::{Events, Poller};
pub use interest::Interest;
pub use wake::Wake;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use epoll::{Epoll, Event};
use interest::{Registry, Slot};
use signal_pipe::SignalPipe;

use crate::refused::is_refusal;

/// The token of the wake-up's descriptor; no registered descriptor's token is this large (see
/// `interest.rs`).
const WAKE_TOKEN: u64 = u64::MAX;
/// The token of the signal pipe's read end.
const SIGNAL_TOKEN: u64 = u64::MAX - 1;

/// Watched descriptors and the sources to queue when they are ready.
pub struct Reactor<S> {
    epoll: Epoll,
    registry: Registry<S>,
    wake: Wake,
    /// Made on the first call of [`signal_fd`](Self::signal_fd).
    signal_pipe: Option<SignalPipe>,
    /// A handler has written to the signal pipe.
    signalled: bool,
    /// After a fork: the backend and the wake-up are still shared with the parent.
    inherited: bool,
}

impl<S> Reactor<S> {
    /// A reactor that watches only its own wake-up.
    ///
    /// # Errors
    /// Errors of making an epoll instance and a wake-up.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = Wake::new()?;
        epoll.add(wake.fd().unwrap_or(-1), Interest::READABLE, WAKE_TOKEN)?;
        Ok(Self {
            epoll,
            registry: Registry::new(),
            wake,
            signal_pipe: None,
            signalled: false,
            inherited: false,
        })
    }

    /// Whether no descriptor is registered.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.registry.is_empty()
    }

    /// The wake-up, to be sent to other threads.
    pub fn wake(&self) -> Wake {
        Wake::clone(&self.wake)
    }

    /// The descriptor to which a signal handler writes a byte to end the wait. It belongs to the
    /// reactor.
    ///
    /// # Errors
    /// Errors of `pipe2` and `epoll_ctl`; `EBADF` if the reactor is closed.
    pub fn signal_fd(&mut self) -> io::Result<RawFd> {
        self.own()?;
        if let Some(pipe) = &self.signal_pipe {
            return Ok(pipe.write_end());
        }
        let pipe = SignalPipe::new()?;
        self.epoll
            .add(pipe.read_end(), Interest::READABLE, SIGNAL_TOKEN)?;
        Ok(self.signal_pipe.insert(pipe).write_end())
    }

    /// Whether a signal handler has written since the last call.
    pub(crate) fn take_signalled(&mut self) -> bool {
        std::mem::take(&mut self.signalled)
    }

    /// Closes the backend and the wake-up. Registering fails from now on, removing does nothing.
    pub fn close(&mut self) {
        self.epoll.close();
        self.wake.close();
        self.signal_pipe = None;
    }

    /// Must be called in the child of a fork, before the reactor is used otherwise.
    pub fn forked(&mut self) {
        self.inherited = true;
    }

    /// The poller, which can wait for events without a borrow of the reactor.
    ///
    /// # Errors
    /// `EBADF` if the reactor is closed; the first time after a fork, errors of making a backend.
    pub fn poller(&mut self) -> io::Result<Arc<Poller>> {
        let poller = self.epoll.poller()?;
        self.own()?;
        Ok(poller)
    }

    /// See [`EventLoop::add_reader`](crate::event_loop::EventLoop::add_reader).
    ///
    /// # Errors
    /// Errors of the backend's registration; nothing has changed then.
    pub fn add_reader(&mut self, fd: RawFd, source: S) -> io::Result<Option<S>> {
        Ok(self.want(fd, Interest::READABLE)?.reader.replace(source))
    }

    /// See [`EventLoop::add_writer`](crate::event_loop::EventLoop::add_writer).
    ///
    /// # Errors
    /// Errors of the backend's registration; nothing has changed then.
    pub fn add_writer(&mut self, fd: RawFd, source: S) -> io::Result<Option<S>> {
        Ok(self.want(fd, Interest::WRITABLE)?.writer.replace(source))
    }

    /// Stops watching for reading.
    pub fn remove_reader(&mut self, fd: RawFd) -> Option<S> {
        let source = self.registry.get(fd)?.reader.take();
        self.unwant(fd, Interest::READABLE);
        source
    }

    /// Stops watching for writing.
    pub fn remove_writer(&mut self, fd: RawFd) -> Option<S> {
        let source = self.registry.get(fd)?.writer.take();
        self.unwant(fd, Interest::WRITABLE);
        source
    }

    /// Stops watching for reading; the kernel is told only when data arrives.
    pub fn mute_reader(&mut self, fd: RawFd) -> Option<S> {
        self.registry.get(fd)?.reader.take()
    }

    /// The reader and the writer registered for a descriptor.
    pub fn registered(&self, fd: RawFd) -> (Option<&S>, Option<&S>) {
        self.registry.sources_of(fd)
    }

    /// The descriptors that are registered.
    pub fn watched(&self) -> Vec<RawFd> {
        self.registry.watched()
    }

    /// All sources.
    pub fn sources(&self) -> impl Iterator<Item = &S> {
        self.registry.iter()
    }

    /// Removes all descriptors without telling the kernel, and returns their sources.
    pub fn take_sources(&mut self) -> Vec<S> {
        self.registry.take()
    }

    /// The sources that an event is for.
    pub(crate) fn dispatch(&mut self, event: Event) -> Option<(Option<&S>, Option<&S>)> {
        let (fd, ready) = self.ready_sides(event)?;
        let (reader, writer) = self.registry.sources_of(fd);
        Some((
            reader.filter(|_| ready.contains(Interest::READABLE)),
            writer.filter(|_| ready.contains(Interest::WRITABLE)),
        ))
    }

    /// The descriptor that an event is for, and the sides that are ready. A side without a source
    /// is removed from the kernel's interest.
    #[inline]
    pub(crate) fn ready_sides(&mut self, event: Event) -> Option<(RawFd, Interest)> {
        if event.token() == WAKE_TOKEN {
            self.wake.acknowledge();
            return None;
        }
        if event.token() == SIGNAL_TOKEN {
            self.signalled = true;
            if let Some(pipe) = &self.signal_pipe {
                pipe.acknowledge();
            }
            return None;
        }
        let fd = self.registry.fd_of(event.token())?;
        let ready = event.readiness();
        let (reader, writer) = self.registry.sources_of(fd);
        let mut wanted = Interest::NONE;
        if reader.is_some() {
            wanted |= Interest::READABLE;
        }
        if writer.is_some() {
            wanted |= Interest::WRITABLE;
        }
        if !wanted.contains(ready & self.registry.registered(fd)) || wanted.is_empty() {
            self.settle(fd, wanted);
        }
        Some((fd, ready & wanted))
    }

    /// Ensures that the backend and the wake-up belong to this process.
    fn own(&mut self) -> io::Result<()> {
        if self.inherited {
            self.renew()?;
        }
        Ok(())
    }

    #[cold]
    fn renew(&mut self) -> io::Result<()> {
        self.wake.renew()?;
        // The signal handlers of this process no longer write to it; `signal_fd` makes a new one.
        self.signal_pipe = None;
        self.epoll.renew()?;
        if let Some(fd) = self.wake.fd() {
            self.epoll.add(fd, Interest::READABLE, WAKE_TOKEN)?;
        }
        for fd in self.registry.watched() {
            let (interest, token) = (self.registry.registered(fd), self.registry.token(fd));
            if self.epoll.add(fd, interest, token).is_err() {
                // Closed since the fork. Without a fork the kernel would have removed it.
                self.registry.set_registered(fd, Interest::NONE);
            }
        }
        self.inherited = false;
        Ok(())
    }

    /// Adds a side to what the kernel watches. The table grows only after the kernel has accepted
    /// the descriptor.
    fn want(&mut self, fd: RawFd, side: Interest) -> io::Result<&mut Slot<S>> {
        let before = self.registry.registered(fd);
        if !before.contains(side) {
            self.watch(fd, before, side)?;
        }
        let slot = self.registry.get(fd);
        slot.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn watch(&mut self, fd: RawFd, before: Interest, side: Interest) -> io::Result<()> {
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let (token, after) = (self.registry.token(fd), before | side);
        self.own()?;
        let result = if before.is_empty() {
            self.epoll.add(fd, after, token)
        } else {
            self.epoll.modify(fd, after, token)
        };
        match result.as_ref().err().and_then(io::Error::raw_os_error) {
            // The descriptor was closed without being removed here, and its number has been reused.
            Some(libc::ENOENT) => {
                let token = self.registry.renew(fd);
                self.epoll.add(fd, side, token)?;
                self.registry.set_registered(fd, side);
                return Ok(());
            }
            // Still registered through a duplicate that this table does not know.
            Some(libc::EEXIST) => self.epoll.modify(fd, after, token)?,
            _ => result?,
        }
        if let Err(error) = self.registry.make_room(fd) {
            let _ = self.epoll.delete(fd); // undo the registration
            return Err(error);
        }
        self.registry.set_registered(fd, after);
        Ok(())
    }

    /// Removes a side from what the kernel watches.
    fn unwant(&mut self, fd: RawFd, side: Interest) {
        let registered = self.registry.registered(fd);
        if registered.contains(side) {
            self.settle(fd, registered & !side);
        }
    }

    fn settle(&mut self, fd: RawFd, wanted: Interest) {
        let token = self.registry.token(fd);
        // A failure means that the descriptor is closed; the kernel has removed it then.
        let _ = if self.inherited {
            Ok(()) // the parent's epoll; `renew` registers the table
        } else if wanted.is_empty() {
            self.epoll.delete(fd)
        } else {
            self.epoll.modify(fd, wanted, token)
        };
        self.registry.set_registered(fd, wanted);
    }
}

/// Moves the descriptor `new` to the number `fd`, whose old file is closed.
fn replace(fd: RawFd, new: OwnedFd) -> io::Result<()> {
    // SAFETY: system calls without pointers. The caller owns `fd` and wants it replaced.
    unsafe {
        let mut result = libc::dup3(new.as_raw_fd(), fd, libc::O_CLOEXEC);
        let mut error = io::Error::last_os_error();
        if result < 0 && is_refusal(&error) {
            result = libc::dup2(new.as_raw_fd(), fd);
            error = io::Error::last_os_error();
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        if result < 0 { Err(error) } else { Ok(()) }
    }
}

/// Two connected non-blocking sockets. asyncio wakes its loops with such a pair, so it is available
/// wherever asyncio runs; cheaper means (eventfd, pipe) may be refused.
fn socket_pair() -> io::Result<[OwnedFd; 2]> {
    let kind = Type::STREAM.nonblocking();
    let (one, other) = Socket::pair(Domain::UNIX, kind, None)?;
    Ok([one.into(), other.into()])
}

/// Reads and discards everything in a non-blocking pipe or socket.
fn drain(fd: RawFd) {
    let mut bytes = [0_u8; 256];
    loop {
        // SAFETY: the buffer has room for `bytes.len()` bytes.
        let count = unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) };
        // Whatever is left after a failure is reported again.
        if count < bytes.len() as isize {
            return;
        }
    }
}
