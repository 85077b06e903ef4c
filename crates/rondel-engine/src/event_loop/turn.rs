//! One iteration of the loop. Read this first.
//!
//! The order is asyncio's (`BaseEventLoop._run_once`): poll the reactor and queue what became
//! ready; queue the timers that are due; queue what other threads sent; then run exactly the items
//! that were queued at that moment. Items queued by these run in the next turn, so neither I/O nor
//! callbacks can starve.
//!
//! One thing differs, but does not change the order of ready items: while items or timers keep
//! coming, the reactor is not polled in *every* turn. `epoll_wait` with a zero timeout costs more
//! than running a callback, so it is skipped for at most [`MAX_UNPOLLED_TURNS`] turns and at most
//! one tick of the coarse clock (1–10 ms, the kernel's `CONFIG_HZ`). The turn after one in which a
//! descriptor began to be watched, or in which the host says that something may have been sent,
//! always polls: where both ends of a connection are on one loop, as in tests, what is sent in one
//! turn arrives in the next. With a virtual clock, which real time must not influence, the reactor
//! is polled in every turn; so it is where the host polls instead of the loop ([`Host::select`]).
//!
//! An item may run a nested turn. The outer turn then skips the items that the nested one has run.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::RawFd;

use super::clock::{COARSE_SLACK, Clock, Jump, coarse_now};
use super::timers::Timer;
use super::{EventLoop, Host};
use crate::reactor::{Events, Interest};

/// The most items that one turn takes from the inbox: other threads may send faster than the loop
/// runs.
const MAX_MAIL: usize = 1024;

/// How many turns may pass without polling the reactor while items are ready.
const MAX_UNPOLLED_TURNS: u32 = 64;

impl<H: Host> EventLoop<H> {
    /// Runs turns until [`stop`](Self::stop) is called or an item returns `Break`.
    ///
    /// # Errors
    /// The host's reason to end the run, or an error of the reactor, converted to it.
    pub fn run_forever(&self) -> Result<(), H::Exit> {
        // The first turn of a run always polls the reactor: programs that run single turns rely on
        // it.
        self.poll_next_turn();
        loop {
            self.turn()?;
            if self.stopping.get() {
                self.stopping.set(false);
                return Ok(());
            }
        }
    }

    /// Runs one turn.
    ///
    /// # Errors
    /// As [`run_forever`](Self::run_forever).
    pub fn turn(&self) -> Result<(), H::Exit> {
        let idle = self.ready.is_empty() && !self.stopping.get();
        let until_due = if idle { self.time_to_wait() } else { Some(0) };
        if until_due != Some(0) || self.poll_is_overdue() {
            self.poll(idle, until_due)?;
        }
        self.run_ready(idle)
    }

    /// Runs one turn that polls the reactor without waiting, for a loop that another one drives.
    ///
    /// # Errors
    /// As [`run_forever`](Self::run_forever).
    pub fn turn_without_waiting(&self) -> Result<(), H::Exit> {
        self.poll(false, Some(0))?;
        self.run_ready(true)
    }

    /// The rest of a turn: queues due timers and mail from other threads, and runs the queued
    /// items.
    #[inline]
    fn run_ready(&self, idle: bool) -> Result<(), H::Exit> {
        self.queue_due_timers(idle);
        self.queue_mail();
        for _ in 0..self.ready.len() {
            let Some(item) = self.ready.pop() else { break };
            if let ControlFlow::Break(exit) = self.host.run(item) {
                return Err(exit);
            }
        }
        self.host.after_turn();
        Ok(())
    }

    /// Queues what other threads have sent.
    #[inline]
    pub fn queue_mail(&self) {
        if self.inbox.has_mail() {
            self.take_mail();
        }
    }

    #[inline(never)]
    fn take_mail(&self) {
        for remote in self.inbox.take(MAX_MAIL) {
            if let Some(item) = self.host.received(remote) {
                self.ready.push(item);
            }
        }
    }

    /// Makes the next turn poll the reactor, because descriptors may become ready.
    #[inline]
    pub fn poll_next_turn(&self) {
        self.unpolled_turns.set(MAX_UNPOLLED_TURNS);
    }

    /// Whether the reactor must be polled although there are items to run.
    #[inline]
    fn poll_is_overdue(&self) -> bool {
        let turns = self.unpolled_turns.get();
        if turns >= MAX_UNPOLLED_TURNS || self.every_turn.get() {
            return true;
        }
        self.unpolled_turns.set(turns + 1);
        !self.reactor.borrow().is_empty() && coarse_now() != self.polled_at.get()
    }

    /// Polls the reactor, waiting until the next timer is due in `until_due` nanoseconds, and
    /// queues an item for each side of each ready descriptor.
    fn poll(&self, idle: bool, until_due: Option<u64>) -> Result<(), H::Exit> {
        self.unpolled_turns.set(0);
        self.ready.shrink();
        self.timers.borrow_mut().shrink();
        if idle && let ControlFlow::Break(exit) = self.host.before_wait() {
            return Err(exit);
        }
        let jump = self.clock.jump();
        // A clock that only the program moves does not limit the wait.
        let until_due = match jump {
            Some(Jump::Manual) if until_due != Some(0) => None,
            _ => until_due,
        };
        if let Some(flow) = self.host.select(until_due) {
            return match flow {
                ControlFlow::Continue(true) => Ok(()),
                ControlFlow::Continue(false) => {
                    self.clock.advance(until_due.unwrap_or(0));
                    Ok(())
                }
                ControlFlow::Break(exit) => Err(exit),
            };
        }
        // Virtual time does not pass while the kernel waits: poll without waiting, and jump if
        // nothing is ready. But pending events must not be overtaken: then the loop waits in real
        // time.
        let timeout = match (jump, until_due) {
            (Some(Jump::Idle), Some(due)) if due > 0 && self.is_expecting() => Some(due),
            (Some(Jump::Idle | Jump::Always), Some(_)) => Some(0),
            (_, other) => other,
        };
        let began = jump.map(|_| Clock::Monotonic.now());
        let mut events = self.events.borrow_mut();
        let may_jump = jump == Some(Jump::Idle) && until_due.is_some();
        match self.wait(&mut events, timeout, may_jump) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                drop(events);
                return self.interrupted();
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(began) = began {
            self.pass(timeout, until_due, began, events.is_empty());
        }
        if events.is_empty() {
            return Ok(());
        }
        let mut reactor = self.reactor.borrow_mut();
        for event in events.iter() {
            let Some((reader, writer)) = reactor.dispatch(event) else {
                continue;
            };
            if let Some(item) = reader.and_then(|source| self.host.readable(source)) {
                self.ready.push(item);
            }
            if let Some(item) = writer.and_then(|source| self.host.writable(source)) {
                self.ready.push(item);
            }
        }
        if reactor.take_signalled() {
            drop((events, reactor));
            return self.interrupted();
        }
        Ok(())
    }

    /// Moves a virtual clock after a poll or a wait.
    #[cold]
    fn pass(&self, timeout: Option<u64>, until_due: Option<u64>, began: u64, nothing: bool) {
        let due = until_due.unwrap_or(u64::MAX);
        match (self.clock.jump(), timeout) {
            (None | Some(Jump::Manual), _) => {}
            // Polled: if nothing is ready and nothing is expected, the timer is the next event.
            (Some(jump), Some(0)) => {
                if nothing && until_due.is_some() {
                    // The thread that was expected to send something may just have done so.
                    if jump == Jump::Always || !self.inbox.has_mail() {
                        self.clock.advance(due);
                    }
                }
            }
            // Waited in real time.
            (Some(_), _) => {
                let passed = Clock::Monotonic.now().saturating_sub(began);
                self.clock.advance(passed.min(due));
            }
        }
    }

    /// Whether an event from outside the loop is expected.
    fn is_expecting(&self) -> bool {
        self.host.is_expecting()
            || self
                .reactor
                .borrow()
                .sources()
                .any(|source| !self.host.is_internal(source))
    }

    /// Waits for events, for at most `timeout` nanoseconds; not at all if the clock may jump and
    /// nothing is expected any more.
    fn wait(&self, events: &mut Events, timeout: Option<u64>, may_jump: bool) -> io::Result<()> {
        // No borrow of the reactor is held during the wait: `park` may let other interpreter
        // threads run, and the kernel sees what they register at once.
        let poller = self.reactor.borrow_mut().poller()?;
        let waited = if timeout == Some(0) {
            poller.wait(events, timeout)
        } else if self.inbox.prepare_to_park() {
            // Checked after parking: a thread that ends from now on without sending wakes the
            // inbox.
            let timeout = match may_jump && !self.is_expecting() {
                true => Some(0),
                false => timeout,
            };
            let waited = self.host.park(|| poller.wait(events, timeout));
            self.inbox.unpark();
            waited
        } else {
            poller.wait(events, Some(0))
        };
        self.polled_at.set(coarse_now());
        waited
    }

    /// Polls the reactor, waiting for at most `timeout` nanoseconds, and returns the ready
    /// descriptors and sides without queueing anything. For hosts that do a turn in several steps,
    /// with [`report`](Self::report) and [`queue_mail`](Self::queue_mail). Wake-ups and stale
    /// events are reported with the descriptor -1.
    ///
    /// # Errors
    /// The host's reason to end the run, or an error of the reactor, converted to it.
    pub fn select(&self, timeout: Option<u64>) -> Result<Vec<(RawFd, Interest)>, H::Exit> {
        let mut events = Events::with_capacity(1024);
        match self.wait(&mut events, timeout, false) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.interrupted()?;
                return Ok(Vec::new());
            }
            Err(error) => return Err(error.into()),
        }
        let mut reactor = self.reactor.borrow_mut();
        let mut found = Vec::new();
        for event in events.iter() {
            found.push(match reactor.ready_sides(event) {
                Some(descriptor) => descriptor,
                None => (-1, Interest::READABLE),
            });
        }
        if reactor.take_signalled() {
            drop(reactor);
            self.interrupted()?;
        }
        Ok(found)
    }

    /// Queues an item for each side of a descriptor that is ready and watched, as a turn does after
    /// polling.
    pub fn report(&self, fd: RawFd, ready: Interest) {
        let reactor = self.reactor.borrow();
        let (reader, writer) = reactor.registered(fd);
        if let Some(source) = reader.filter(|_| ready.contains(Interest::READABLE))
            && let Some(item) = self.host.readable(source)
        {
            self.ready.push(item);
        }
        if let Some(source) = writer.filter(|_| ready.contains(Interest::WRITABLE))
            && let Some(item) = self.host.writable(source)
        {
            self.ready.push(item);
        }
    }

    fn interrupted(&self) -> Result<(), H::Exit> {
        match self.host.interrupted() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(exit) => Err(exit),
        }
    }

    /// How long the reactor may wait, in nanoseconds: until the first timer that is not cancelled
    /// is due; `None` if there is none.
    fn time_to_wait(&self) -> Option<u64> {
        let deadline = self.next_deadline()?;
        Some(deadline.saturating_sub(self.now()))
    }

    /// When the first timer that is not cancelled is due, in nanoseconds of this loop's clock;
    /// `None` if there is none.
    pub fn next_deadline(&self) -> Option<u64> {
        loop {
            let mut timers = self.timers.borrow_mut();
            let (deadline, head) = timers.first()?;
            if !head.is_cancelled() {
                return Some(deadline);
            }
            let cancelled = timers.pop();
            drop(timers);
            drop(cancelled); // after the borrow: a foreign destructor may use the heap
        }
    }

    /// Moves due timers to the ready ring.
    #[inline]
    fn queue_due_timers(&self, idle: bool) {
        let Some(deadline) = self.timers.borrow().first().map(|(deadline, _)| deadline) else {
            return;
        };
        // With items ready, turns are short, and reading the precise clock would be a large part of
        // each.
        if !idle
            && self.clock.is_real()
            && !self.host.moves_time()
            && deadline > coarse_now().saturating_add(COARSE_SLACK)
        {
            return;
        }
        let now = self.host.due_until(&self.clock);
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(timer) = timers.pop_due(now) else {
                return;
            };
            drop(timers);
            if let Some(item) = self.host.due(timer) {
                self.ready.push(item);
            }
        }
    }
}
