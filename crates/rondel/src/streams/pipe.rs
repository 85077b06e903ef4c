//! Pipes as streams: what a [`StreamReader`] reads from and a [`StreamWriter`] writes to when it is
//! no socket but a pipe, a FIFO, a terminal or a file.
//!
//! Nothing is received before a read asks for it: the kernel's buffer is the limit. What is written
//! goes to the kernel at once, as with asyncio, because the other end may be another program's
//! terminal or log. What it does not take waits here, and goes on when somebody waits for it, or by
//! itself when the writer is dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::chunk::Chunk;
use super::connection::{wait_with, wake_all};
use super::{StreamReader, StreamWriter};
use crate::descriptor::{AsyncFd, Side};
use crate::exceptions::call_exception_handler;
use crate::runtime::{Runtime, with_current};
use crate::task::Waiter;
use rondel_engine::read_buffer::{DEFAULT_LIMIT, ReadBuffer};
use rondel_engine::transport::recv_size::{Received, Room};

/// How much is read at a time, in bytes: what a pipe holds.
const READ_SIZE: usize = 64 * 1024;
/// The limits of a writer, as those of a socket's.
const HIGH_WATER: usize = 64 * 1024;

/// Reads from the end of a pipe, FIFO, terminal or character device: asyncio's `connect_read_pipe`
/// with a `StreamReader`. It is made non-blocking, for everybody who shares it; dropping the reader
/// closes it.
///
/// # Errors
/// What making it non-blocking fails with.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::io::Write;
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let (read, mut write) = std::io::pipe()?;
///     let mut reader = rondel::open_read_pipe(read)?;
///     write.write_all(b"one\ntwo\n")?;
///     assert_eq!(reader.readline().await?, b"one\n");
///     drop(write);
///     assert_eq!(reader.read_to_end().await?, b"two\n");
///     Ok(())
/// })?
/// # }
/// ```
#[track_caller]
pub fn open_read_pipe(pipe: impl Into<OwnedFd>) -> io::Result<StreamReader> {
    let pipe = pipe.into();
    set_nonblocking(pipe.as_raw_fd())?;
    Ok(StreamReader::of_pipe(PipeSource {
        fd: AsyncFd::new(pipe),
        eof: Cell::new(false),
    }))
}

/// Writes to the end of a pipe, FIFO, terminal or character device: asyncio's `connect_write_pipe`
/// with a `StreamWriter`. It is made non-blocking, for everybody who shares it. It is closed when
/// the writer is, or is dropped, and everything is written.
///
/// # Errors
/// What making it non-blocking fails with.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::io::Read;
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let (mut read, write) = std::io::pipe()?;
///     let writer = rondel::open_write_pipe(write)?;
///     writer.write("hello");
///     writer.drain().await?;
///     drop(writer);
///     let mut all = String::new();
///     read.read_to_string(&mut all)?;
///     assert_eq!(all, "hello");
///     Ok(())
/// })?
/// # }
/// ```
#[track_caller]
pub fn open_write_pipe(pipe: impl Into<OwnedFd>) -> io::Result<StreamWriter> {
    let pipe = pipe.into();
    set_nonblocking(pipe.as_raw_fd())?;
    Ok(StreamWriter::of_pipe(Rc::new(PipeSink {
        fd: RefCell::new(Some(Rc::new(AsyncFd::new(pipe)))),
        unsent: RefCell::new(VecDeque::new()),
        limits: Cell::new((HIGH_WATER, HIGH_WATER / 4)),
        failure: RefCell::new(None),
        closing: Cell::new(false),
        goes_on: Cell::new(false),
        ending: RefCell::new(Vec::new()),
    })))
}

/// The program's standard input. A pipe, FIFO or terminal is opened anew, so that it stays a
/// blocking one for whoever shares it; of a file it is read at once.
///
/// # Errors
/// What opening it fails with.
///
/// ```no_run
/// rondel::run(async {
///     let mut input = rondel::stdin()?;
///     let output = rondel::stdout()?;
///     loop {
///         let line = input.readline().await?;
///         if line.is_empty() {
///             return Ok::<(), std::io::Error>(());
///         }
///         output.write(line);
///         output.drain().await?;
///     }
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn stdin() -> io::Result<StreamReader> {
    open_read_pipe(own(io::stdin().as_fd(), libc::O_RDONLY)?)
}

/// The program's standard output; see [`stdin`]. What `println!` has not written yet comes behind.
///
/// # Errors
/// What opening it fails with.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let output = rondel::stdout()?;
///     output.write("hello\n");
///     output.drain().await?;
///     Ok(())
/// })?
/// # }
/// ```
#[track_caller]
pub fn stdout() -> io::Result<StreamWriter> {
    open_write_pipe(own(io::stdout().as_fd(), libc::O_WRONLY)?)
}

/// The program's standard error; see [`stdin`].
///
/// # Errors
/// What opening it fails with.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let errors = rondel::stderr()?;
///     errors.write("no failure, an example\n");
///     errors.drain().await?;
///     Ok(())
/// })?
/// # }
/// ```
#[track_caller]
pub fn stderr() -> io::Result<StreamWriter> {
    open_write_pipe(own(io::stderr().as_fd(), libc::O_WRONLY)?)
}

/// A descriptor with an open file description of its own, whose flags nobody shares, where that can
/// be had: not of a socket, nor of a file that is appended to or written by others at the same
/// offset.
fn own(shared: std::os::fd::BorrowedFd<'_>, access: libc::c_int) -> io::Result<OwnedFd> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let copy = File::from(shared.try_clone_to_owned()?);
    let kind = copy.metadata()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return Ok(copy.into());
    }
    let opened = File::options()
        .read(access == libc::O_RDONLY)
        .write(access == libc::O_WRONLY)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    Ok(opened.unwrap_or(copy).into())
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: asks for the flags of a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: sets them.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a reader of a pipe reads from.
pub(super) struct PipeSource {
    fd: AsyncFd<OwnedFd>,
    eof: Cell<bool>,
}

impl PipeSource {
    pub(super) const LIMIT: usize = DEFAULT_LIMIT;

    pub(super) fn is_eof(&self) -> bool {
        self.eof.get()
    }

    /// Reads into `buffer`. `false`: there is nothing, and whoever polls will be woken.
    pub(super) fn fill(
        &self,
        buffer: &mut ReadBuffer<Chunk>,
        context: &Context<'_>,
    ) -> io::Result<bool> {
        if self.eof.get() {
            return Ok(true);
        }
        let read = self
            .fd
            .poll_with(Side::Reading, &mut None, context, &mut |fd| {
                let (chunk, received, _) = Chunk::receive(Room::Direct(READ_SIZE), |room| {
                    // SAFETY: so much room may be written to.
                    let count =
                        unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
                    match usize::try_from(count) {
                        Ok(0) => Received::Eof,
                        Ok(count) => Received::Data(count),
                        Err(_) => Received::Failed(io::Error::last_os_error()),
                    }
                });
                match received {
                    Received::Data(_) => Ok(Some(chunk)),
                    Received::Failed(error) => Err(error),
                    Received::Eof | Received::Blocked => Ok(None),
                }
            });
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(Some(chunk))) => {
                buffer.feed(chunk);
                Ok(true)
            }
            Poll::Ready(Ok(None)) => {
                self.eof.set(true);
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }
}

/// What a writer of a pipe writes to.
pub(super) struct PipeSink {
    /// `None` once it is closed.
    fd: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    unsent: RefCell<VecDeque<u8>>,
    limits: Cell<(usize, usize)>,
    failure: RefCell<Option<io::Error>>,
    closing: Cell<bool>,
    /// The loop goes on sending when the kernel takes more.
    goes_on: Cell<bool>,
    /// Who waits until it is closed.
    ending: RefCell<Vec<Waiter>>,
}

impl PipeSink {
    pub(super) fn write(self: &Rc<Self>, bytes: &[u8]) {
        assert!(!self.closing.get(), "Cannot call write() after write_eof()");
        if self.fd.borrow().is_none() {
            return;
        }
        let mut unsent = self.unsent.borrow_mut();
        let was_empty = unsent.is_empty();
        unsent.extend(bytes);
        drop(unsent);
        if was_empty {
            self.go_on();
        }
    }

    /// Sends what waits. What the kernel doesn't take now, the loop sends when it does.
    fn go_on(self: &Rc<Self>) {
        match self.send() {
            Ok(true) if self.closing.get() => self.end(),
            // A failure is the next drain's to tell.
            Ok(true) | Err(_) => {}
            Ok(false) => {
                let fd = self.fd.borrow().clone();
                let Some(fd) = fd else { return };
                if self.goes_on.replace(true) {
                    return;
                }
                let sink = Rc::clone(self);
                let called = fd.call_when(Side::Writing, move || {
                    sink.goes_on.set(false);
                    sink.go_on();
                });
                // After the end of the run; see `drop`.
                self.goes_on.set(called.is_ok());
            }
        }
    }

    /// Writes what waits, as far as the kernel takes it. `true`: all of it.
    fn send(&self) -> io::Result<bool> {
        let fd = self.fd.borrow().clone();
        let Some(fd) = fd else {
            return Err(self.lost());
        };
        let sent = self.send_to(fd.get_ref());
        match sent {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => {
                let told = copy(&error);
                *self.failure.borrow_mut() = Some(error);
                self.end();
                Err(told)
            }
        }
    }

    fn send_to(&self, fd: &OwnedFd) -> io::Result<()> {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.is_empty() {
            let bytes = unsent.as_slices().0;
            // SAFETY: so many bytes may be read.
            let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
            match usize::try_from(count) {
                Ok(count) => drop(unsent.drain(..count)),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Closes it, and tells everyone who waits.
    fn end(&self) {
        self.closing.set(true);
        self.unsent.borrow_mut().clear();
        if let Some(fd) = self.fd.take() {
            fd.wake_all(Side::Writing);
        }
        wake_all(&self.ending);
    }

    fn lost(&self) -> io::Error {
        match &*self.failure.borrow() {
            Some(failure) => copy(failure),
            None => io::Error::new(io::ErrorKind::ConnectionReset, "Connection lost"),
        }
    }

    /// Waits until no more than so many bytes are unsent.
    async fn until(&self, left: usize) -> io::Result<()> {
        poll_fn(|context| self.poll_until(left, context)).await
    }

    /// As [`until`](Self::until), in one poll.
    fn poll_until(&self, left: usize, context: &Context<'_>) -> Poll<io::Result<()>> {
        let fd = self.fd.borrow().clone();
        let Some(fd) = fd else {
            return Poll::Ready(Err(self.lost()));
        };
        fd.poll_with(
            Side::Writing,
            &mut None,
            context,
            &mut |_| match self.send()? || self.len() <= left {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            },
        )
    }

    /// Waits until it is appropriate to write.
    pub(super) fn poll_room(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.poll_until(self.limits.get().0, context)
    }

    /// Waits until everything is written.
    pub(super) fn poll_sent(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        match self.len() {
            0 if self.failure.borrow().is_none() => Poll::Ready(Ok(())),
            _ => self.poll_until(0, context),
        }
    }

    pub(super) async fn drain(&self) -> io::Result<()> {
        if let Some(failure) = &*self.failure.borrow() {
            return Err(copy(failure));
        }
        with_current(|runtime| runtime.event_loop.poll_next_turn());
        let (high, low) = self.limits.get();
        if self.len() > high || !self.send()? && self.len() > high {
            self.until(low).await?;
        }
        Ok(())
    }

    pub(super) async fn flushed(&self) -> io::Result<()> {
        if self.len() == 0 && self.failure.borrow().is_none() {
            return Ok(());
        }
        self.until(0).await
    }

    pub(super) fn len(&self) -> usize {
        self.unsent.borrow().len()
    }

    pub(super) fn set_limits(&self, high: usize, low: usize) -> io::Result<()> {
        if high < low {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("high ({high}) must be >= low ({low}) must be >= 0"),
            ));
        }
        self.limits.set((high, low));
        Ok(())
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Closes it when everything is written.
    pub(super) fn close(self: &Rc<Self>) {
        self.closing.set(true);
        if self.fd.borrow().is_none() {
            return;
        }
        self.go_on();
    }

    pub(super) fn abort(&self) {
        self.end();
    }

    /// Waits until it is closed.
    pub(super) async fn closed(&self) -> io::Result<()> {
        poll_fn(|context| {
            if let Some(fd) = &*self.fd.borrow() {
                if fd.is_over() {
                    return Poll::Ready(Err(io::Error::other("Event loop is closed")));
                }
                wait_with(&self.ending, context);
                return Poll::Pending;
            }
            Poll::Ready(match &*self.failure.borrow() {
                Some(failure) => Err(copy(failure)),
                None => Ok(()),
            })
        })
        .await
    }

    pub(super) fn with_fd<R>(&self, f: impl FnOnce(&OwnedFd) -> R) -> Option<R> {
        let fd = self.fd.borrow().clone();
        fd.map(|fd| f(fd.get_ref()))
    }
}

impl Drop for PipeSink {
    /// The end of the run: nobody goes on any more, so what is left is written here, for one linger
    /// time at most.
    fn drop(&mut self) {
        let Some(fd) = self.fd.take() else { return };
        let linger = crate::runtime::try_current(Runtime::linger).unwrap_or_default();
        let deadline = Instant::now().checked_add(linger);
        while let Err(error) = self.send_to(fd.get_ref()) {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let milliseconds = left.map_or(-1, |left| {
                i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
            });
            if error.kind() != io::ErrorKind::WouldBlock {
                return;
            }
            let mut asked = libc::pollfd {
                fd: fd.as_fd().as_raw_fd(),
                events: libc::POLLOUT,
                revents: 0,
            };
            // SAFETY: one descriptor is described.
            if unsafe { libc::poll(&raw mut asked, 1, milliseconds) } <= 0 {
                call_exception_handler(
                    "Pipe closed before everything was written",
                    &format_args!("{} bytes were not taken within the linger time", self.len()),
                );
                return;
            }
        }
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
