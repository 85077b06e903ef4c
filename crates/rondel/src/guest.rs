//! A loop that is driven by another one: in an application that has a loop already (a GUI's, an
//! interpreter's, a plain `poll`), on the same thread.
//!
//! [`Guest`] is a [`Runtime`] that never waits. Its reactor's descriptor is readable when there is
//! something to do: a descriptor of the guest's is ready, another thread has sent something (the
//! reactor's eventfd), a timer is due (a timerfd), or something is ready to run. The host watches
//! that one descriptor and calls [`Guest::turn`] whenever it is readable.
//!
//! Between turns the guest's inbox counts as parked, so that whoever sends something writes to the
//! eventfd. What becomes ready on the thread itself, in [`Guest::enter`], is announced when the
//! outermost `enter` ends.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use rondel_engine::event_loop::clock::{Clock, NANOS_PER_SEC};
use rondel_engine::event_loop::inbox::WakeUp;

use crate::runtime::{Runtime, Source, Visit};

/// How many turns [`Guest::turn`] makes, while there is something ready, before it lets the host go
/// on.
const MAX_TURNS: usize = 16;

/// An event loop that another loop drives, on the same thread.
///
/// Everything of this crate works in it: tasks, timers, streams, servers, threads. The host does
/// two things: it watches the guest's descriptor for reading, level-triggered, and calls
/// [`turn`](Self::turn) when it is readable. Code that creates tasks, or polls futures of this
/// crate itself, runs in [`enter`](Self::enter).
///
/// Dropping the guest drops its tasks and closes its connections, without waiting for anything.
/// What its tasks have left behind (a [`Task`](crate::Task), a stream) may be dropped later;
/// dropped outside of `enter` it cancels nothing that still runs.
///
/// ```
/// use std::os::fd::AsRawFd;
/// use std::time::Duration;
///
/// let guest = rondel::Guest::new()?;
/// let task = guest.enter(|| rondel::create_task(async {
///     rondel::sleep(Duration::from_millis(5)).await;
///     42
/// }));
/// // The host's loop, as simple as one can be.
/// while !task.done() {
///     let mut fds = [libc::pollfd { fd: guest.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
///     unsafe { libc::poll(fds.as_mut_ptr(), 1, -1) };
///     guest.turn()?;
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Guest {
    runtime: Rc<Runtime>,
    /// The reactor's own descriptor. It belongs to the runtime.
    fd: RawFd,
    timer: TimerFd,
    /// How many calls of `enter` and `turn` are going on within each other.
    depth: Cell<u32>,
    /// Called when something is ready, instead of making the descriptor readable.
    on_ready: RefCell<Option<Rc<dyn Fn()>>>,
    /// It was called, and no turn has come since.
    announced: Cell<bool>,
}

impl Guest {
    /// A guest that has nothing to do yet.
    ///
    /// # Errors
    /// What `epoll_create1`, `eventfd` and `timerfd_create` fail with.
    ///
    /// ```
    /// let guest = rondel::Guest::new()?;
    /// let task = guest.enter(|| rondel::create_task(async { 42 }));
    /// while !task.done() {
    ///     guest.turn()?;
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new() -> io::Result<Self> {
        let runtime = Rc::new(Runtime::new(Clock::Monotonic, Duration::ZERO)?);
        let timer = TimerFd::new()?;
        let fd = runtime.event_loop.select_fd()?;
        let timer_fd = timer.fd.as_raw_fd();
        runtime
            .event_loop
            .add_reader(timer_fd, Source::TimerFd(timer_fd))?;
        let guest = Self {
            runtime,
            fd,
            timer,
            depth: Cell::new(0),
            on_ready: RefCell::default(),
            announced: Cell::new(false),
        };
        guest.leave();
        Ok(guest)
    }

    /// Has `announce` called when something is ready to run that came up on this thread: in
    /// [`enter`](Self::enter), or because [`turn`](Self::turn) has left something for the next one.
    /// It is called once until the next turn, and is to see to it that one comes: by its loop's
    /// `call_soon`, say. Without it the guest's descriptor becomes readable, which costs two system
    /// calls.
    pub fn on_ready(&self, announce: impl Fn() + 'static) {
        drop(self.on_ready.replace(Some(Rc::new(announce))));
    }

    /// Runs what is ready, without waiting for anything: what other threads have sent, timers that
    /// are due, descriptors that are ready, and the tasks that they wake. Within another `turn` or
    /// [`enter`](Self::enter) it does nothing.
    ///
    /// # Errors
    /// What `epoll_wait` fails with.
    ///
    /// ```
    /// let guest = rondel::Guest::new()?;
    /// let task = guest.enter(|| rondel::create_task(async {}));
    /// guest.turn()?;
    /// assert!(task.done());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn turn(&self) -> io::Result<()> {
        if self.depth.get() > 0 {
            return Ok(());
        }
        let inside = self.inside();
        self.announced.set(false);
        let event_loop = &self.runtime.event_loop;
        event_loop.inbox().unpark();
        let mut result = Ok(());
        for _ in 0..MAX_TURNS {
            result = event_loop.turn_without_waiting();
            if result.is_err() || event_loop.ready_len() == 0 && !event_loop.inbox().has_mail() {
                break;
            }
        }
        drop(inside);
        result
    }

    /// Calls `f` with this guest as the thread's running loop: it may create tasks, and poll
    /// futures of this crate. May be called within itself, and from what runs in
    /// [`turn`](Self::turn). The outermost call counts as one step: what it has written is sent
    /// when it ends, and operations that are ready at once give way after 128 of them.
    ///
    /// ```
    /// let guest = rondel::Guest::new()?;
    /// let now = guest.enter(rondel::Instant::now);
    /// assert!(guest.enter(rondel::Instant::now) >= now);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let _inside = self.inside();
        if self.depth.get() == 1 {
            self.runtime.budget.begin_step();
        }
        f()
    }

    /// What makes the guest's descriptor readable, from any thread: for a host that has something
    /// of its own to be done in its thread. It does nothing once the guest is gone.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::new(Ring(self.runtime.event_loop.wake())))
    }

    /// How long it is until the next timer is due; `None` if there is none. The guest's descriptor
    /// becomes readable then by itself.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let guest = rondel::Guest::new()?;
    /// guest.enter(|| rondel::call_later(Duration::from_secs(60), || ()));
    /// assert!(guest.next_deadline().is_some_and(|left| left <= Duration::from_secs(60)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn next_deadline(&self) -> Option<Duration> {
        let event_loop = &self.runtime.event_loop;
        let deadline = event_loop.next_deadline()?;
        Some(Duration::from_nanos(
            deadline.saturating_sub(event_loop.now()),
        ))
    }

    fn inside(&self) -> Inside<'_> {
        self.depth.set(self.depth.get() + 1);
        Inside {
            guest: self,
            _visit: Visit::new(Rc::clone(&self.runtime)),
        }
    }

    /// The outermost call ends: sends what was written, and sees to it that the host hears of what
    /// is left to do.
    fn leave(&self) {
        let event_loop = &self.runtime.event_loop;
        self.runtime.budget.end_step();
        self.runtime.outbox.flush();
        self.timer.set(event_loop.next_deadline());
        // While the inbox counts as parked, whoever sends something wakes the reactor.
        let mail = !event_loop.inbox().prepare_to_park();
        if mail || event_loop.ready_len() > 0 {
            self.announce();
        }
    }

    fn announce(&self) {
        let on_ready = self.on_ready.borrow().clone();
        match on_ready {
            Some(_) if self.announced.replace(true) => {}
            Some(announce) => announce(),
            None => self.runtime.event_loop.ring(),
        }
    }
}

/// The reactor's wake-up, as a waker.
struct Ring(rondel_engine::reactor::Wake);

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

/// The guest is the thread's running loop as long as this lives.
struct Inside<'a> {
    guest: &'a Guest,
    _visit: Visit,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let depth = self.guest.depth.get() - 1;
        self.guest.depth.set(depth);
        if depth == 0 {
            self.guest.leave();
        }
    }
}

impl AsRawFd for Guest {
    /// The descriptor that is readable when there is something to do. It is the guest's own: the
    /// host only watches it.
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the reactor's descriptor is open as long as the guest lives.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.on_ready.take());
        let _visit = Visit::new(Rc::clone(&self.runtime));
        self.runtime.close();
        // What outlives the guest (a stream, a waker) does not keep its descriptors.
        self.runtime.event_loop.close();
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("fd", &self.fd).finish()
    }
}

/// A timer of the kernel's, which makes the reactor's descriptor readable when the loop's next
/// timer is due.
struct TimerFd {
    fd: OwnedFd,
    /// What it is set to, in nanoseconds of the monotonic clock.
    deadline: Cell<Option<u64>>,
}

impl TimerFd {
    fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: a system call without pointers; the result is checked.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: it was just made and has no other owner.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            deadline: Cell::new(None),
        })
    }

    /// Sets the timer. One that is set too early is left: it costs a turn that does nothing, and
    /// timers that are cancelled (timeouts, mostly) cost no system call.
    fn set(&self, deadline: Option<u64>) {
        let Some(wanted) = deadline else { return };
        let now = Clock::Monotonic.now();
        match self.deadline.get() {
            Some(set) if set <= wanted && set > now => return,
            _ => {}
        }
        self.deadline.set(Some(wanted));
        // All zero would turn it off.
        let wanted = wanted.max(1);
        let value = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(wanted / NANOS_PER_SEC).unwrap_or(libc::time_t::MAX),
                tv_nsec: (wanted % NANOS_PER_SEC) as libc::c_long,
            },
        };
        // SAFETY: `value` outlives the call. It fails only for a wrong descriptor or value.
        unsafe {
            libc::timerfd_settime(
                self.fd.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &raw const value,
                ptr::null_mut(),
            );
        }
    }
}

/// A guest's timer has fired: resets it, so that it is not reported again.
pub(crate) fn acknowledge(fd: RawFd) {
    let mut count = 0_u64;
    // SAFETY: eight bytes of room for the counter. EAGAIN (nothing to read) is as good.
    unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
}
