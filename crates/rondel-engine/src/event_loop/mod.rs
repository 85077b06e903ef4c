//! The event loop: its state, and the contract of its host.
//!
//! [`EventLoop`] is generic over a [`Host`]: the host defines what a queued item is and runs it;
//! the loop decides when. Read `turn.rs` first: it is one iteration, in asyncio's order. Around it
//! stand `ready.rs` (items that run next), `timers.rs` (items that run later), `inbox.rs` (items
//! from other threads), `clock.rs` (the time) and `../reactor` (descriptors).
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

/// The user of an event loop: the items that it queues and the code that runs them.
///
/// Items are neither boxed nor dispatched dynamically; the loop is compiled once for each host.
pub trait Host: Sized {
    /// One entry of the ready ring.
    type Item;
    /// What a descriptor is registered with. It yields an item each time the descriptor is ready.
    type Source;
    /// One entry of the timer heap.
    type Timer: Timer;
    /// What other threads send.
    type Remote: Send;
    /// Why a run ends other than by [`EventLoop::stop`].
    type Exit: From<io::Error>;

    /// Runs one item. `Break` ends the turn at once and leaves the following items queued.
    fn run(&self, item: Self::Item) -> ControlFlow<Self::Exit>;
    /// The descriptor is readable, or has failed or hung up. `None` queues nothing.
    fn readable(&self, source: &Self::Source) -> Option<Self::Item>;
    /// The descriptor is writable, or has failed or hung up. `None` queues nothing.
    fn writable(&self, source: &Self::Source) -> Option<Self::Item>;
    /// The timer has left the heap because it is due. `None` if it was cancelled meanwhile.
    fn due(&self, timer: Self::Timer) -> Option<Self::Item>;
    /// Something has arrived from another thread.
    fn received(&self, remote: Self::Remote) -> Option<Self::Item>;

    /// The loop's time in nanoseconds; overridden by a host whose users may change the time.
    fn now(&self, clock: &Clock) -> u64 {
        clock.now()
    }
    /// Timers with a deadline up to this time are due: [`now`](Self::now), or a little later for a
    /// host whose clock is coarse.
    fn due_until(&self, clock: &Clock) -> u64 {
        self.now(clock)
    }
    /// Whether [`now`](Self::now) may differ from the clock. It is then called in every turn that
    /// has timers.
    fn moves_time(&self) -> bool {
        false
    }
    /// Called after all items of a turn have run, unless one returned `Break`.
    fn after_turn(&self) {}
    /// Called before the loop waits. `Break` ends the run instead.
    fn before_wait(&self) -> ControlFlow<Self::Exit> {
        ControlFlow::Continue(())
    }
    /// Whether an event from outside is pending, other than through a descriptor, that a virtual
    /// clock must not overtake. If that ends without anything being sent, the host must wake the
    /// inbox.
    fn is_expecting(&self) -> bool {
        false
    }
    /// Whether a registered descriptor is internal to the host, so that a virtual clock need not
    /// wait for it.
    fn is_internal(&self, _source: &Self::Source) -> bool {
        false
    }
    /// Polls the reactor instead of the loop, with [`EventLoop::select`] and [`EventLoop::report`],
    /// for at most `timeout` nanoseconds. Returns whether anything was reported; `None` leaves it
    /// to the loop. See [`EventLoop::poll_every_turn`].
    fn select(&self, _timeout: Option<u64>) -> Option<ControlFlow<Self::Exit, bool>> {
        None
    }
    /// Wraps a wait that may block, e.g. to release the GIL.
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
    /// The host.
    pub host: H,
    ready: Ready<H::Item>,
    timers: RefCell<Timers<H::Timer>>,
    inbox: Arc<Inbox<H::Remote, Wake>>,
    reactor: RefCell<Reactor<H::Source>>,
    events: RefCell<Events>,
    clock: Clock,
    stopping: Cell<bool>,
    /// Turns since the reactor was last polled; see `turn.rs`.
    unpolled_turns: Cell<u32>,
    /// The reactor is polled in every turn.
    every_turn: Cell<bool>,
    /// Coarse clock reading of the last poll, in nanoseconds.
    polled_at: Cell<u64>,
}

impl<H: Host> EventLoop<H> {
    /// A loop on the given clock.
    ///
    /// # Errors
    /// Errors of `epoll_create1` and `eventfd`: `EMFILE`, `ENFILE`, `ENOMEM`.
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

    /// Queues an item behind all ready items.
    #[inline]
    pub fn call_soon(&self, item: H::Item) {
        self.ready.push(item);
    }

    /// As [`call_soon`](Self::call_soon), but fallible if memory runs out.
    ///
    /// # Errors
    /// The item, if there is no memory for it.
    #[inline]
    pub fn try_call_soon(&self, item: H::Item) -> Result<(), H::Item> {
        self.ready.try_push(item)
    }

    /// As [`call_at`](Self::call_at), but fallible if memory runs out.
    ///
    /// # Errors
    /// The timer, if there is no memory for it.
    #[inline]
    pub fn try_call_at(&self, deadline: u64, timer: H::Timer) -> Result<(), H::Timer> {
        self.timers.borrow_mut().try_push(deadline, timer)
    }

    /// Queues an item before all ready items.
    pub fn call_first(&self, item: H::Item) {
        self.ready.push_front(item);
    }

    /// Removes the item that would run next.
    pub fn take_ready(&self) -> Option<H::Item> {
        self.ready.pop()
    }

    /// Sets whether the reactor is polled in every turn. With a virtual clock it always is.
    pub fn poll_every_turn(&self, every_turn: bool) {
        self.every_turn.set(every_turn || !self.clock.is_real());
    }

    /// Queues a timer; `deadline` is in nanoseconds of this loop's clock.
    /// Equal deadlines fire in the order of these calls.
    #[inline]
    pub fn call_at(&self, deadline: u64, timer: H::Timer) {
        self.timers.borrow_mut().push(deadline, timer);
    }

    /// Must be called after a queued timer was marked as cancelled. `is_it` recognises it.
    ///
    /// Constant time: the newest entry is removed at once, any other when it is due or when
    /// cancelled timers are more than half of the heap.
    #[inline]
    pub fn timer_cancelled(&self, is_it: impl Fn(&H::Timer) -> bool) {
        let dropped = self.timers.borrow_mut().cancelled(is_it);
        drop(dropped);
    }

    /// The loop's time in nanoseconds, as its timers see it.
    pub fn now(&self) -> u64 {
        self.host.now(&self.clock)
    }

    /// The loop's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Makes the current turn the last one of the run.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Sets or clears the flag of [`stop`](Self::stop).
    pub fn set_stopping(&self, stopping: bool) {
        self.stopping.set(stopping);
    }

    /// Whether [`stop`](Self::stop) was called during or before this run.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The queue through which other threads send to the loop.
    pub fn inbox(&self) -> &Arc<Inbox<H::Remote, Wake>> {
        &self.inbox
    }

    /// The number of ready items.
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The number of timers in the heap, including cancelled ones.
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

    /// Removes timers from the front of the heap as long as `f` returns true for the first one.
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
            drop(timer); // after the borrow: a foreign destructor may use the heap
        }
    }

    /// Calls `f` for each registered source.
    pub fn for_each_source(&self, mut f: impl FnMut(&H::Source)) {
        self.reactor.borrow().sources().for_each(&mut f);
    }

    /// Watches `fd` for reading. Returns the previous source.
    ///
    /// # Errors
    /// Errors of `epoll_ctl`: `EBADF`, `EPERM` (a regular file), `ENOMEM`, `ENOSPC`.
    pub fn add_reader(&self, fd: RawFd, source: H::Source) -> io::Result<Option<H::Source>> {
        self.poll_next_turn();
        self.reactor.borrow_mut().add_reader(fd, source)
    }

    /// Watches `fd` for writing. Returns the previous source.
    ///
    /// # Errors
    /// As [`add_reader`](Self::add_reader).
    pub fn add_writer(&self, fd: RawFd, source: H::Source) -> io::Result<Option<H::Source>> {
        self.poll_next_turn();
        self.reactor.borrow_mut().add_writer(fd, source)
    }

    /// Stops watching `fd` for reading; returns the source.
    pub fn remove_reader(&self, fd: RawFd) -> Option<H::Source> {
        self.reactor.borrow_mut().remove_reader(fd)
    }

    /// Stops watching `fd` for writing; returns the source.
    pub fn remove_writer(&self, fd: RawFd) -> Option<H::Source> {
        self.reactor.borrow_mut().remove_writer(fd)
    }

    /// Stops watching `fd` for reading, but tells the kernel only if data does arrive. Only for the
    /// owner of the descriptor, which must call [`remove_reader`](Self::remove_reader) before it
    /// closes it.
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

    /// The descriptor to which a signal handler, in any thread, writes a byte to end the loop's
    /// wait; [`Host::interrupted`] is called then. The loop owns it.
    ///
    /// # Errors
    /// Errors of making a pipe and watching it; `EBADF` if the loop is closed.
    pub fn signal_fd(&self) -> io::Result<RawFd> {
        self.reactor.borrow_mut().signal_fd()
    }

    /// A descriptor that is readable when [`select`](Self::select) has something to report, for
    /// callers that wait by other means.
    ///
    /// # Errors
    /// `EBADF` if the loop is closed; the first time after a fork, errors of making a backend.
    pub fn select_fd(&self) -> io::Result<RawFd> {
        Ok(self.reactor.borrow_mut().poller()?.as_raw_fd())
    }

    /// Makes the descriptor of [`select_fd`](Self::select_fd) readable until the next poll of the
    /// reactor.
    pub fn ring(&self) {
        self.wake().wake();
    }

    /// The wake-up, which makes that descriptor readable from any thread.
    pub fn wake(&self) -> Wake {
        self.reactor.borrow().wake()
    }

    /// Must be called in the child of a fork, for each loop: from then on the parent's epoll
    /// instance is not touched. If the child uses the loop, it gets its own descriptors.
    pub fn forked(&self) {
        // If it is borrowed, then by a thread that does not exist in this process.
        if let Ok(mut reactor) = self.reactor.try_borrow_mut() {
            reactor.forked();
        }
    }

    /// Closes the loop's own descriptors; registered ones stay open. The loop must not run any
    /// more.
    pub fn close(&self) {
        self.reactor.borrow_mut().close();
    }

    /// Removes everything that is queued, registered or sent, so that the caller can drop it where
    /// running foreign destructors is safe.
    pub fn drain(&self) -> Drained<H> {
        Drained {
            ready: self.ready.take(),
            timers: self.timers.borrow_mut().take(),
            sources: self.reactor.borrow_mut().take_sources(),
            remotes: self.inbox.take(usize::MAX).into(),
        }
    }
}

/// The contents of a closed loop; see [`EventLoop::drain`].
pub struct Drained<H: Host> {
    /// Items that did not run.
    pub ready: Vec<H::Item>,
    /// Timers that did not fire.
    pub timers: Vec<H::Timer>,
    /// Sources of the descriptors that were still registered.
    pub sources: Vec<H::Source>,
    /// Items that other threads had sent.
    pub remotes: Vec<H::Remote>,
}
