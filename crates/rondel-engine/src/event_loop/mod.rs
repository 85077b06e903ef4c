//! The event loop: what it holds, and the contract of its host.
//!
//! [`EventLoop`] is generic over a [`Host`]: the host says what a queued item is and runs it, the
//! loop says when. Read `turn.rs` first: it is one iteration, in asyncio's order. Around it stand
//! `ready.rs` (items that run next), `timers.rs` (items that run later), `inbox.rs` (items from
//! other threads), `clock.rs` (what time it is) and `../reactor` (descriptors).
//!
//! All methods take `&self`, because items that run on the loop call back into it. No borrow of the
//! loop's state is ever held while host code runs.

pub mod clock;
pub mod inbox;
pub mod ready;
pub mod timers;
mod turn;

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use crate::reactor::{Events, Reactor, Wake};
use clock::Clock;
use inbox::{Inbox, WakeUp};
use ready::Ready;
use timers::{Timer, Timers};

/// What an event loop works for: the items that it queues and the code that runs them.
///
/// Nothing is boxed and nothing is dispatched dynamically per item; the loop is compiled once for
/// each host.
pub trait Host: Sized {
    /// One entry of the ready ring.
    type Item;
    /// What a descriptor is registered with: turned into an item each time the descriptor is ready.
    type Source;
    /// What waits in the timer heap.
    type Timer: Timer;
    /// What other threads send in.
    type Remote: Send;
    /// Why the loop ends before it was told to stop.
    type Exit: From<io::Error>;

    /// Runs one item. `Break` ends the turn at once and leaves the items behind it queued.
    fn run(&self, item: Self::Item) -> ControlFlow<Self::Exit>;
    /// The descriptor can be read, or has failed or hung up.
    fn readable(&self, source: &Self::Source) -> Option<Self::Item>;
    /// The descriptor can be written, or has failed or hung up.
    fn writable(&self, source: &Self::Source) -> Option<Self::Item>;
    /// The timer has left the heap because it is due. `None` if it was cancelled meanwhile.
    fn due(&self, timer: Self::Timer) -> Option<Self::Item>;
    /// Something has come in from another thread.
    fn received(&self, remote: Self::Remote) -> Option<Self::Item>;

    /// The loop's time in nanoseconds; a host whose users may move the time overrides it.
    fn now(&self, clock: &Clock) -> u64 {
        clock.now()
    }
    /// The time until which timers are due now: [`now`](Self::now), or a little later for a host
    /// whose clock is coarse.
    fn due_until(&self, clock: &Clock) -> u64 {
        self.now(clock)
    }
    /// Whether [`now`](Self::now) may differ from the clock. Then it is asked in every turn that
    /// has timers.
    fn moves_time(&self) -> bool {
        false
    }
    /// All items of a turn have run, and none of them broke out.
    fn after_turn(&self) {}
    /// The loop is about to wait. `Break` ends the run instead.
    fn before_wait(&self) -> ControlFlow<Self::Exit> {
        ControlFlow::Continue(())
    }
    /// Whether something is under way outside that will come in by itself, other than by a
    /// descriptor: a virtual clock is not to overtake it. When that is no longer so without
    /// anything having come in, the inbox is to be woken.
    fn is_expecting(&self) -> bool {
        false
    }
    /// Whether a registered descriptor is the host's own affair, which nothing is expected from.
    fn is_internal(&self, _source: &Self::Source) -> bool {
        false
    }
    /// Asks the reactor in the loop's stead, by [`EventLoop::select`] and [`EventLoop::report`],
    /// waiting for so many nanoseconds. Answers whether anything was reported; `None` leaves it to
    /// the loop. See [`EventLoop::poll_every_turn`].
    fn select(&self, _timeout: Option<u64>) -> Option<ControlFlow<Self::Exit, bool>> {
        None
    }
    /// Wraps a wait that may block, e.g. to let other interpreter threads run.
    fn park<R>(&self, wait: impl FnOnce() -> R) -> R {
        wait()
    }
    /// A signal has interrupted the wait, or has written to [`EventLoop::signal_fd`].
    fn interrupted(&self) -> ControlFlow<Self::Exit> {
        ControlFlow::Continue(())
    }
}

/// One thread's event loop.
pub struct EventLoop<H: Host> {
    /// The host. Public so that a host can be reached from the loop that it is embedded in.
    pub host: H,
    ready: Ready<H::Item>,
    timers: RefCell<Timers<H::Timer>>,
    inbox: Arc<Inbox<H::Remote, Wake>>,
    reactor: RefCell<Reactor<H::Source>>,
    events: RefCell<Events>,
    clock: Clock,
    stopping: Cell<bool>,
    /// Turns since the reactor was last asked; see `turn.rs`.
    unpolled_turns: Cell<u32>,
    /// The reactor is asked in every turn.
    every_turn: Cell<bool>,
    /// Coarse clock reading of the last poll, in nanoseconds.
    polled_at: Cell<u64>,
}

impl<H: Host> EventLoop<H> {
    /// A loop on the given clock.
    ///
    /// # Errors
    /// What `epoll_create1` and `eventfd` fail with: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new(host: H, clock: Clock) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        let wake = reactor.wake();
        let every_turn = Cell::new(!clock.is_real());
        Ok(Self {
            host,
            ready: Ready::new(),
            timers: RefCell::new(Timers::new()),
            inbox: Arc::new(Inbox::new(wake)),
            reactor: RefCell::new(reactor),
            events: RefCell::new(Events::with_capacity(1024)),
            clock,
            stopping: Cell::new(false),
            unpolled_turns: Cell::new(0),
            every_turn,
            polled_at: Cell::new(0),
        })
    }

    /// Queues an item behind those that are ready already.
    #[inline]
    pub fn call_soon(&self, item: H::Item) {
        self.ready.push(item);
    }

    /// As [`call_soon`](Self::call_soon), for a host that has a way to say that there is no memory.
    ///
    /// # Errors
    /// The item, if there is none for one more.
    #[inline]
    pub fn try_call_soon(&self, item: H::Item) -> Result<(), H::Item> {
        self.ready.try_push(item)
    }

    /// As [`call_at`](Self::call_at), for a host that has a way to say that there is no memory.
    ///
    /// # Errors
    /// The timer, if there is none for one more.
    #[inline]
    pub fn try_call_at(&self, deadline: u64, timer: H::Timer) -> Result<(), H::Timer> {
        self.timers.borrow_mut().try_push(deadline, timer)
    }

    /// Queues an item before those that are ready already.
    pub fn call_first(&self, item: H::Item) {
        self.ready.push_front(item);
    }

    /// Takes the item that would run next.
    pub fn take_ready(&self) -> Option<H::Item> {
        self.ready.pop()
    }

    /// Has the reactor be asked in every turn, or as always. On a virtual clock it is asked in
    /// every turn anyway.
    pub fn poll_every_turn(&self, every_turn: bool) {
        self.every_turn.set(every_turn || !self.clock.is_real());
    }

    /// Queues a timer; `deadline` is in nanoseconds of this loop's clock.
    /// Equal deadlines fire in the order of these calls.
    #[inline]
    pub fn call_at(&self, deadline: u64, timer: H::Timer) {
        self.timers.borrow_mut().push(deadline, timer);
    }

    /// To be called after a queued timer was marked as cancelled. `is_it` recognises it.
    ///
    /// Constant time: the newest entry is taken out at once, any other is left until it comes up or
    /// until cancelled timers are the greater part of the heap.
    #[inline]
    pub fn timer_cancelled(&self, is_it: impl Fn(&H::Timer) -> bool) {
        let dropped = self.timers.borrow_mut().cancelled(is_it);
        drop(dropped);
    }

    /// The loop's time in nanoseconds, as its timers see it.
    pub fn now(&self) -> u64 {
        self.host.now(&self.clock)
    }

    /// The clock this loop was made with.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Lets the current turn be the last one of the run.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Sets or takes back what [`stop`](Self::stop) sets.
    pub fn set_stopping(&self, stopping: bool) {
        self.stopping.set(stopping);
    }

    /// Whether [`stop`](Self::stop) was called in this run or before it.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The way in for other threads.
    pub fn inbox(&self) -> &Arc<Inbox<H::Remote, Wake>> {
        &self.inbox
    }

    /// How many items are ready.
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// How many timers wait, cancelled ones that are still in the heap included.
    pub fn timers_len(&self) -> usize {
        self.timers.borrow().len()
    }

    /// Calls `f` for each queued item, e.g. for a garbage collector's traversal.
    pub fn for_each_ready(&self, f: impl FnMut(&H::Item)) {
        self.ready.for_each(f);
    }

    /// Calls `f` for each timer in the heap.
    pub fn for_each_timer(&self, mut f: impl FnMut(&H::Timer)) {
        self.timers.borrow().iter().for_each(&mut f);
    }

    /// Takes the timers out that come first, as long as `f` says so of the one that does.
    pub fn discard_timers(&self, mut f: impl FnMut(&H::Timer) -> bool) {
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some((_, timer)) = timers.first() else {
                return;
            };
            if !f(timer) {
                return;
            }
            let timer = timers.pop();
            drop(timers);
            drop(timer); // with the heap free: a foreign destructor may use it
        }
    }

    /// Calls `f` for each registered source.
    pub fn for_each_source(&self, mut f: impl FnMut(&H::Source)) {
        self.reactor.borrow().sources().for_each(&mut f);
    }

    /// Watches `fd` for reading. Gives back the source that was registered before.
    ///
    /// # Errors
    /// What `epoll_ctl` fails with: `EBADF`, `EPERM` (a regular file), `ENOMEM`, `ENOSPC`.
    pub fn add_reader(&self, fd: RawFd, source: H::Source) -> io::Result<Option<H::Source>> {
        self.poll_next_turn();
        self.reactor.borrow_mut().add_reader(fd, source)
    }

    /// Watches `fd` for writing. Errors as [`add_reader`](Self::add_reader).
    ///
    /// # Errors
    /// What `epoll_ctl` fails with.
    pub fn add_writer(&self, fd: RawFd, source: H::Source) -> io::Result<Option<H::Source>> {
        self.poll_next_turn();
        self.reactor.borrow_mut().add_writer(fd, source)
    }

    /// Ends watching `fd` for reading; gives the source back.
    pub fn remove_reader(&self, fd: RawFd) -> Option<H::Source> {
        self.reactor.borrow_mut().remove_reader(fd)
    }

    /// Ends watching `fd` for writing; gives the source back.
    pub fn remove_writer(&self, fd: RawFd) -> Option<H::Source> {
        self.reactor.borrow_mut().remove_writer(fd)
    }

    /// Ends watching `fd` for reading, but tells the kernel only if data does arrive. For the owner
    /// of the descriptor, who will call [`remove_reader`](Self::remove_reader) before closing it.
    pub fn mute_reader(&self, fd: RawFd) -> Option<H::Source> {
        self.reactor.borrow_mut().mute_reader(fd)
    }

    /// The descriptors that are registered.
    pub fn watched(&self) -> Vec<RawFd> {
        self.reactor.borrow().watched()
    }

    /// Applies `f` to the reader and the writer registered for `fd`.
    pub fn with_sources<R>(
        &self,
        fd: RawFd,
        f: impl FnOnce(Option<&H::Source>, Option<&H::Source>) -> R,
    ) -> R {
        let reactor = self.reactor.borrow();
        let (reader, writer) = reactor.registered(fd);
        f(reader, writer)
    }

    /// The descriptor to which a signal handler, in whatever thread, writes a byte to end the
    /// loop's wait; [`Host::interrupted`] is called then. It is the loop's own.
    ///
    /// # Errors
    /// What making a pipe and watching it fail with; `EBADF` if the loop is closed.
    pub fn signal_fd(&self) -> io::Result<RawFd> {
        self.reactor.borrow_mut().signal_fd()
    }

    /// A descriptor that is readable when [`select`](Self::select) has something to report, for who
    /// waits by other means.
    ///
    /// # Errors
    /// `EBADF` if the loop is closed; what making a backend fails with, the first time after a
    /// fork.
    pub fn select_fd(&self) -> io::Result<RawFd> {
        Ok(self.reactor.borrow_mut().poller()?.as_raw_fd())
    }

    /// Makes the descriptor of [`select_fd`](Self::select_fd) readable, until the reactor is asked
    /// next.
    pub fn ring(&self) {
        self.wake().wake();
    }

    /// What makes that descriptor readable, from any thread.
    pub fn wake(&self) -> Wake {
        self.reactor.borrow().wake()
    }

    /// To be called in the child of a fork, for each loop: what the parent's loop is registered
    /// with is left alone from now on. The loop, should the child go on with it, gets descriptors
    /// of its own.
    pub fn forked(&self) {
        // Borrowed only by a thread that this process does not have.
        if let Ok(mut reactor) = self.reactor.try_borrow_mut() {
            reactor.forked();
        }
    }

    /// Closes the loop's own descriptors. It must not run any more; what is registered is not
    /// touched.
    pub fn close(&self) {
        self.reactor.borrow_mut().close();
    }

    /// Takes everything out that is queued, registered or sent in, so that the caller can drop it
    /// where running foreign destructors is safe.
    pub fn drain(&self) -> Drained<H> {
        Drained {
            ready: self.ready.take(),
            timers: self.timers.borrow_mut().take(),
            sources: self.reactor.borrow_mut().take_sources(),
            remotes: self.inbox.take(usize::MAX).into(),
        }
    }
}

/// What a loop held when it was closed; see [`EventLoop::drain`].
pub struct Drained<H: Host> {
    /// Items that did not run.
    pub ready: Vec<H::Item>,
    /// Timers that did not fire.
    pub timers: Vec<H::Timer>,
    /// Sources of the descriptors that were still registered.
    pub sources: Vec<H::Source>,
    /// What other threads had sent.
    pub remotes: Vec<H::Remote>,
}
