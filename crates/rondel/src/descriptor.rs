//! Descriptors that the loop watches for a program: [`AsyncFd`].
//!
//! The reactor is level-triggered: it reports a descriptor as long as it is ready. A [`Watched`] is
//! registered when somebody first waits, and stays so while somebody is told by each report; a
//! report that finds nobody mutes it. So nothing is registered anew for each wait, no readiness can
//! be lost (there is no flag to be cleared too early or too late), and a descriptor that is ready
//! and of no interest costs nothing.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::calls::Call;
use crate::runtime::{self, Item, Runtime, Source};
use crate::task::Waiter;

/// Reading or writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Reading,
    Writing,
}

/// One side of a watched descriptor.
#[derive(Default)]
struct Watch {
    /// The reactor has it.
    registered: Cell<bool>,
    /// How often it was reported while somebody waited: who waits compares.
    reports: Cell<u64>,
    waiters: RefCell<Vec<Waiter>>,
}

/// A descriptor as the reactor knows it.
pub(crate) struct Watched {
    fd: RawFd,
    reading: Watch,
    writing: Watch,
    /// It is the loop's own affair, which a virtual clock need not wait for.
    internal: bool,
}

impl Watched {
    fn watch(&self, side: Side) -> &Watch {
        match side {
            Side::Reading => &self.reading,
            Side::Writing => &self.writing,
        }
    }

    pub(crate) fn is_internal(&self) -> bool {
        self.internal
    }

    /// The reactor, which is borrowed meanwhile, reports a side.
    pub(crate) fn ready(self: &Rc<Self>, side: Side) -> Option<Item> {
        let watch = self.watch(side);
        let mut waiters = watch.waiters.borrow_mut();
        if waiters.len() == 1 {
            watch.reports.set(watch.reports.get() + 1);
            return waiters.pop()?.into_item();
        }
        // Several are woken, or nobody: not where no code of theirs may run.
        Some(Item::Ready(Rc::clone(self), side))
    }

    /// As [`ready`](Self::ready), when the reactor is not borrowed any more.
    pub(crate) fn tell(&self, side: Side, runtime: &Runtime) {
        let watch = self.watch(side);
        let waiters = watch.waiters.take();
        if waiters.is_empty() {
            self.mute(side, runtime);
            return;
        }
        watch.reports.set(watch.reports.get() + 1);
        for waiter in waiters {
            waiter.wake();
        }
    }

    /// Wakes all who wait: the side will not be reported any more.
    fn wake_all(&self, side: Side) {
        for waiter in self.watch(side).waiters.take() {
            waiter.wake();
        }
    }

    /// The run is over: drops what waits to be called, and what that owns. Nothing calls it any
    /// more.
    pub(crate) fn forget(&self) {
        drop(self.reading.waiters.take());
        drop(self.writing.waiters.take());
    }

    /// Nobody is interested: the next report takes it from what the kernel watches.
    fn mute(&self, side: Side, runtime: &Runtime) {
        if self.watch(side).registered.replace(false) {
            drop(match side {
                Side::Reading => runtime.event_loop.mute_reader(self.fd),
                // There is no muting of this side, which is nearly always ready.
                Side::Writing => runtime.event_loop.remove_writer(self.fd),
            });
        }
    }

    fn register(self: &Rc<Self>, side: Side, runtime: &Runtime) -> io::Result<()> {
        if self.watch(side).registered.get() {
            return Ok(());
        }
        let taken = runtime
            .event_loop
            .with_sources(self.fd, |reader, writer| match side {
                Side::Reading => reader.is_some(),
                Side::Writing => writer.is_some(),
            });
        if taken {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("file descriptor {} is watched already", self.fd),
            ));
        }
        let source = Source::Descriptor(Rc::clone(self));
        drop(match side {
            Side::Reading => runtime.event_loop.add_reader(self.fd, source)?,
            Side::Writing => runtime.event_loop.add_writer(self.fd, source)?,
        });
        self.watch(side).registered.set(true);
        Ok(())
    }
}

/// A file descriptor of the program's own, to be waited for: a device, an inotify instance, a
/// socket of a C library.
///
/// It owns `inner`, which must not block: its `O_NONBLOCK` flag is set by who makes it. Regular
/// files cannot be waited for (`PermissionDenied`), and of one descriptor there can be one
/// `AsyncFd` only (`AlreadyExists`). Any number of tasks may wait; each is woken by what follows
/// its call.
///
/// Waiting takes nothing from the descriptor, so dropping a future that waits loses nothing. There
/// is no readiness to be cleared, as tokio's `AsyncFd` has it: what is ready is reported again as
/// long as it is.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let (ours, mut theirs) = UnixStream::pair()?;
///     ours.set_nonblocking(true)?;
///     let ours = rondel::AsyncFd::new(ours);
///     theirs.write_all(b"hello")?;
///
///     let mut memory = [0; 10];
///     let count = ours.read_with(|mut socket| socket.read(&mut memory)).await?;
///     assert_eq!(&memory[..count], b"hello");
///     Ok(())
/// })?
/// # }
/// ```
pub struct AsyncFd<T: AsFd> {
    inner: Option<T>,
    watched: Rc<Watched>,
    runtime: Rc<Runtime>,
}

impl<T: AsFd> AsyncFd<T> {
    /// Takes a descriptor over. Nothing is registered before somebody waits.
    ///
    /// # Panics
    /// If no loop runs on this thread.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     ours.set_nonblocking(true)?;
    ///     rondel::AsyncFd::new(ours).writable().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    #[track_caller]
    pub fn new(inner: T) -> Self {
        Self::with_kind(inner, false)
    }

    /// One that a virtual clock does not wait for.
    pub(crate) fn internal(inner: T) -> Self {
        Self::with_kind(inner, true)
    }

    #[track_caller]
    fn with_kind(inner: T, internal: bool) -> Self {
        let watched = Rc::new(Watched {
            fd: inner.as_fd().as_raw_fd(),
            reading: Watch::default(),
            writing: Watch::default(),
            internal,
        });
        Self {
            inner: Some(inner),
            watched,
            runtime: runtime::current(),
        }
    }

    /// What it owns.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let watched = rondel::AsyncFd::new(ours);
    ///     watched.get_ref().set_nonblocking(true)?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn get_ref(&self) -> &T {
        let Some(inner) = &self.inner else {
            unreachable!("only `into_inner`, which consumes, takes it")
        };
        inner
    }

    /// Gives the descriptor back, watched no more.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let ours: std::os::unix::net::UnixStream = rondel::AsyncFd::new(ours).into_inner();
    ///     ours.set_nonblocking(false)?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn into_inner(mut self) -> T {
        let inner = self.inner.take();
        let Some(inner) = inner else {
            unreachable!("it is taken here only")
        };
        inner
    }

    /// Waits until the descriptor is reported readable: also at its end, and when it has failed.
    /// Takes nothing.
    ///
    /// # Errors
    /// What registering fails with; that the loop is closed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Write;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let watched = rondel::AsyncFd::new(ours);
    ///     theirs.write_all(b"!")?;
    ///     watched.readable().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn readable(&self) -> io::Result<()> {
        self.wait(Side::Reading).await
    }

    /// Waits until the descriptor is reported writable: also when it has failed. Takes nothing.
    ///
    /// # Errors
    /// What registering fails with; that the loop is closed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     rondel::AsyncFd::new(ours).writable().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn writable(&self) -> io::Result<()> {
        self.wait(Side::Writing).await
    }

    /// Calls `f` until it no longer fails with `WouldBlock`, each time when there is something to
    /// read. The first time at once. Dropped before it is ready, it has taken nothing: `f` has done
    /// nothing but refuse.
    ///
    /// # Errors
    /// What `f` fails with; what waiting fails with.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::{Read, Write};
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     ours.set_nonblocking(true)?;
    ///     let watched = rondel::AsyncFd::new(ours);
    ///     theirs.write_all(b"hello")?;
    ///     let mut memory = [0; 10];
    ///     let count = watched.read_with(|mut stream| stream.read(&mut memory)).await?;
    ///     assert_eq!(&memory[..count], b"hello");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn read_with<R>(&self, f: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.with(Side::Reading, f).await
    }

    /// As [`read_with`](Self::read_with), for what writes.
    ///
    /// # Errors
    /// What `f` fails with; what waiting fails with.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     ours.set_nonblocking(true)?;
    ///     let ours = rondel::AsyncFd::new(ours);
    ///     assert_eq!(ours.write_with(|mut socket| socket.write(b"hello")).await?, 5);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn write_with<R>(&self, f: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.with(Side::Writing, f).await
    }

    async fn wait(&self, side: Side) -> io::Result<()> {
        let mut seen = None;
        poll_fn(|context| self.poll_ready(side, &mut seen, context)).await
    }

    pub(crate) async fn with<R>(
        &self,
        side: Side,
        mut f: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut seen = None;
        poll_fn(|context| self.poll_with(side, &mut seen, context, &mut f)).await
    }

    /// One poll of [`with`](Self::with). `seen` belongs to the call: `None` to begin with.
    pub(crate) fn poll_with<R>(
        &self,
        side: Side,
        seen: &mut Option<u64>,
        context: &Context<'_>,
        f: &mut impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        if !self.runtime.budget.take() {
            self.runtime.event_loop.poll_next_turn();
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match f(self.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => return Poll::Ready(result),
            }
            // Reported before it was looked at says nothing.
            *seen = None;
            return match self.poll_ready(side, seen, context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            };
        }
    }

    /// Has the loop call `function` once, when the side is reported.
    ///
    /// # Errors
    /// What registering fails with; that the run is over.
    pub(crate) fn call_when(
        &self,
        side: Side,
        function: impl FnOnce() + 'static,
    ) -> io::Result<()> {
        if self.runtime.is_closing() {
            return Err(closed());
        }
        self.watched.register(side, &self.runtime)?;
        let call = Waiter::Call(Call::new(Box::new(function)));
        self.watched.watch(side).waiters.borrow_mut().push(call);
        Ok(())
    }

    /// Wakes who waits for a side, as if it had been reported.
    pub(crate) fn wake_all(&self, side: Side) {
        self.watched.wake_all(side);
    }

    /// Whether the loop that it belongs to is closed.
    pub(crate) fn is_over(&self) -> bool {
        self.runtime.is_over()
    }

    fn poll_ready(
        &self,
        side: Side,
        seen: &mut Option<u64>,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let watch = self.watched.watch(side);
        let reports = watch.reports.get();
        if seen.is_some_and(|seen| seen != reports) {
            return Poll::Ready(Ok(()));
        }
        *seen = Some(reports);
        if self.runtime.is_over() {
            return Poll::Ready(Err(closed()));
        }
        if let Err(error) = self.watched.register(side, &self.runtime) {
            return Poll::Ready(Err(error));
        }
        let mut waiters = watch.waiters.borrow_mut();
        if !waiters.iter().any(|waiter| waiter.is(context)) {
            waiters.push(Waiter::new(context));
        }
        Poll::Pending
    }
}

fn closed() -> io::Error {
    io::Error::other("Event loop is closed")
}

impl<T: AsFd> Drop for AsyncFd<T> {
    fn drop(&mut self) {
        // Before the descriptor is closed: its number may be another's then.
        let event_loop = &self.runtime.event_loop;
        let fd = self.watched.fd;
        if self.watched.writing.registered.replace(false) {
            drop(event_loop.remove_writer(fd));
        }
        // If it is muted the kernel may still be watching; unless somebody else reads by now.
        let ours = event_loop.with_sources(fd, |reader, _| match reader {
            None => true,
            Some(Source::Descriptor(watched)) => Rc::ptr_eq(watched, &self.watched),
            Some(_) => false,
        });
        if ours {
            drop(event_loop.remove_reader(fd));
        }
    }
}

impl<T: AsFd> AsFd for AsyncFd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().as_fd()
    }
}

impl<T: AsFd + fmt::Debug> fmt::Debug for AsyncFd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncFd")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
