//! The monitor: a thread that acts when something of a loop's has lasted too long.
//!
//! An owner of something that must not wait for the end of the running step holds a [`Watch`] and
//! [arms](Watch::arm) it. When the reason is gone in time, the owner [disarms](Watch::disarm) it.
//! Both take a few nanoseconds and no system call, so that they can be done in every turn. A watch
//! that stays armed for [`LIMIT`] is *overdue*. At most [`PERIOD`] after it was armed, the owner's
//! function is called with the GIL held, and then once per [`LIMIT`] until the watch is disarmed.
//! The function is called
//!
//! - by the monitor, if it can take the GIL: the owner's thread waits for the kernel, or computes
//!   with the GIL released;
//! - by whichever thread runs Python code, as a pending call between two instructions. That is
//!   sooner than the thread would release the GIL, after its switch interval. On 3.11 only the main
//!   thread makes pending calls, and only for watches that it owns;
//! - by any caller of [`act_now`].
//!
//! The function runs no Python code and drops nothing that has a finalizer. Like a finalizer, it
//! may run between any two native steps of the owner: what is borrowed at that point is left alone.
//!
//! # The thread
//! There is one per process, started when a watch is first armed. It blocks all signals, takes the
//! GIL only to act, and holds no lock while it waits for the GIL. While watches are armed now and
//! then, it wakes once per period and looks at each watch: at its turn number, which is odd while
//! it is armed, and at the time when it was armed. If a watch has been armed for less than the
//! limit, the thread wakes again when the limit is reached. After [`QUIET`] looks without an armed
//! watch it sleeps until the next one is armed. A wake-up costs the process about ten microseconds,
//! so there are as few as the period allows.
//!
//! Before a fork the thread [stops](stop): the child has no such thread, and the interpreter warns
//! of forks with several threads. The next watch that is armed starts another. On finalization of
//! the interpreter it stops for good. If no thread can be started, `arm` returns false, and the
//! owner must not wait.

mod thread;

use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rondel_engine::event_loop::clock::Clock;

use crate::cpython::method::{function, method};
use crate::cpython::{Object, Owned, Res};

/// How often the monitor looks.
const PERIOD: Duration = Duration::from_micros(4400);
/// How long a watch may be armed before it is overdue.
const LIMIT: Duration = Duration::from_millis(2);
/// The monitor sleeps after this many looks at which nothing had been armed.
const QUIET: u32 = 4;

/// How many watches are armed. Changed with the GIL held.
static ARMED: AtomicUsize = AtomicUsize::new(0);

/// Watches over something of its owner's that must not last.
pub(crate) struct Watch(Arc<Watched>);

struct Watched {
    /// Turn number, odd while the watch is armed. Changed with the GIL held.
    turn: AtomicU32,
    /// When the watch was last armed, in nanoseconds of the monotonic clock.
    since: AtomicU64,
    /// `turn` at the monitor's last look. Used by the monitor only.
    seen: AtomicU32,
    /// The state of the awake monitor that lists this watch; see [`thread::STATE`].
    listed: AtomicU32,
    /// Whether the main thread owns it.
    of_main_thread: AtomicBool,
    /// A pending call was added and has not run yet.
    asked: AtomicBool,
    /// The argument of `act`; null once the owner is gone. Used with the GIL held.
    owner: AtomicPtr<()>,
    act: Act,
}

/// The owner's function. Its arguments are the owner and whether the watch is overdue.
pub(crate) type Act = unsafe fn(NonNull<()>, bool);

impl Watch {
    /// A watch that is not armed.
    ///
    /// # Safety
    /// Until the watch is dropped, `act` may be called with `owner` by any thread that holds the
    /// GIL. The watch is dropped with the GIL held.
    pub(crate) unsafe fn new(owner: NonNull<()>, act: Act) -> Self {
        Self(Arc::new(Watched {
            turn: AtomicU32::new(0),
            since: AtomicU64::new(0),
            seen: AtomicU32::new(0),
            listed: AtomicU32::new(thread::NEVER),
            of_main_thread: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            owner: AtomicPtr::new(owner.as_ptr()),
            act,
        }))
    }

    /// Sets whether the next steps run in the main thread.
    pub(crate) fn of_main_thread(&self, is: bool) {
        self.0.of_main_thread.store(is, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_armed(&self) -> bool {
        self.0.is_armed()
    }

    /// Arms the watch. Returns false if there is no monitor and none can be started; the owner must
    /// not wait then.
    #[inline]
    pub(crate) fn arm(&self) -> bool {
        if self.is_armed() {
            return true;
        }
        let turn = self.0.turn.load(Ordering::Relaxed);
        self.0
            .since
            .store(Clock::Monotonic.now(), Ordering::Relaxed);
        // SeqCst: either the monitor that falls asleep sees this turn, or its sleep is seen below.
        self.0.turn.swap(turn.wrapping_add(1), Ordering::SeqCst);
        ARMED.store(ARMED.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        thread::STATE.load(Ordering::SeqCst) == self.0.listed.load(Ordering::Relaxed)
            || self.begin()
    }

    /// The slow path: the monitor sleeps, does not list this watch, or does not run.
    #[cold]
    fn begin(&self) -> bool {
        let watched = thread::watch(&self.0);
        if !watched {
            self.disarm();
        }
        watched
    }

    /// Disarms the watch: the reason for it is gone.
    #[inline]
    pub(crate) fn disarm(&self) {
        self.0.disarm();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.disarm();
        self.0.owner.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

impl Watched {
    #[inline]
    fn is_armed(&self) -> bool {
        self.turn.load(Ordering::Relaxed) & 1 == 1
    }

    #[inline]
    fn disarm(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        if turn & 1 == 1 {
            self.turn.store(turn.wrapping_add(1), Ordering::Release);
            ARMED.store(ARMED.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        }
    }

    fn is_gone(&self) -> bool {
        self.owner.load(Ordering::Relaxed).is_null()
    }

    /// Calls the owner's function. The GIL is held.
    fn act(&self, overdue: bool) {
        if let Some(owner) = NonNull::new(self.owner.load(Ordering::Relaxed)) {
            // SAFETY: guaranteed by the creator of the watch, which has not been dropped.
            crate::cpython::error::guard_quiet(|| unsafe { (self.act)(owner, overdue) });
        }
    }
}

/// Whether any watch is armed. The GIL is held.
#[inline]
pub(crate) fn any_armed() -> bool {
    ARMED.load(Ordering::Relaxed) != 0
}

/// Calls the owners' functions of all armed watches. The GIL is held.
#[cold]
pub(crate) fn act_now() {
    for watched in thread::armed() {
        watched.act(false);
    }
}

/// Stops the monitor's thread until it is needed again.
pub(crate) fn pause() {
    // Nothing watches what is armed now.
    act_now();
    thread::stop();
}

fn stop(_: &Object) -> Res<Owned> {
    pause();
    Ok(Owned::none())
}

fn end(_: &Object) -> Res<Owned> {
    thread::end();
    Ok(Owned::none())
}

/// The functions that the module exports, by name.
pub(crate) fn functions() -> Res<Vec<(&'static str, Owned)>> {
    Ok(vec![
        (
            "stop_monitor",
            function(
                method!(noargs c"stop_monitor" stop, c"Before a fork: ends the monitor's thread, until it is needed again."),
            )?,
        ),
        (
            "end_monitor",
            function(
                method!(noargs c"end_monitor" end, c"At the interpreter's end: ends the monitor's thread for good."),
            )?,
        ),
    ])
}
