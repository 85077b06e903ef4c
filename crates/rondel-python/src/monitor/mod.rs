//! The monitor: a thread that gets to act when something of a loop's has lasted too long.
//!
//! Who has something that must not wait for the running step's end holds a [`Watch`] and
//! [arms](Watch::arm) it; who is done with it in time [disarms](Watch::disarm) it. Both cost a few
//! nanoseconds and no system call, so that they may be done in every turn. A watch that stays armed
//! for [`LIMIT`] is *overdue*: at the latest when it has been armed for [`PERIOD`] the owner's
//! function is called, with the GIL held, and then once in each limit until the watch
//! is disarmed. It is called
//!
//! - from the monitor, if the interpreter can be had: the owner's thread waits for the kernel, or
//!   computes without it;
//! - from whichever thread runs Python code, between two instructions: sooner than it would let go,
//!   which takes its switch interval. On 3.11 only from the main thread, if that owns the watch;
//! - from whoever asks for it by [`act_now`].
//!
//! The function runs no Python code, drops nothing that has a finalizer, and finds the owner
//! between any two of its native steps, as a finalizer would: what is borrowed then is left alone.
//!
//! # The thread
//! One for the process, made when a watch is first armed. It has all signals blocked, takes the
//! interpreter only to act, and holds no lock while it waits for that. While watches are armed now
//! and then it wakes once in a period and looks at each: at its number, which is odd while it is
//! armed, and at when that was. For one that is armed, but not for long, it comes back when the
//! limit is reached. After [`QUIET`] looks without any it sleeps until it is woken by the next
//! watch that is armed. To wake costs some ten microseconds of the process's time, so it is done as
//! rarely as the period allows.
//!
//! Before a fork it [stops](stop): the child has none, and the interpreter warns of forks with
//! several threads. The next watch that is armed starts another. When the interpreter ends it stops
//! for good. Where no thread can be had, `arm` says no, and the owner must not wait.

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
/// How long a watch may be armed, if the monitor sees it.
const LIMIT: Duration = Duration::from_millis(2);
/// After so many looks at which nothing had been armed, the monitor sleeps.
const QUIET: u32 = 4;

/// How many watches are armed. Changed with the GIL held.
static ARMED: AtomicUsize = AtomicUsize::new(0);

/// Something of an owner's that must not last.
pub(crate) struct Watch(Arc<Watched>);

struct Watched {
    /// Odd while it is armed. Changed with the GIL held.
    turn: AtomicU32,
    /// When it was armed last, in nanoseconds of the monotonic clock.
    since: AtomicU64,
    /// What `turn` was when the monitor last looked. The monitor's own.
    seen: AtomicU32,
    /// The state of the monitor that knows of it and is awake; see [`thread::STATE`].
    listed: AtomicU32,
    /// The main thread owns it.
    of_main_thread: AtomicBool,
    /// A thread was asked to act, and has not come to it yet.
    asked: AtomicBool,
    /// What `act` gets; null once it is gone. Used with the GIL held.
    owner: AtomicPtr<()>,
    act: Act,
}

/// What is called when it is time: with the owner, and whether the watch is overdue.
pub(crate) type Act = unsafe fn(NonNull<()>, bool);

impl Watch {
    /// A watch that is not armed.
    ///
    /// # Safety
    /// `act` may be called with `owner`, by any thread with the GIL held, until the
    /// watch is dropped, and that happens with the GIL held.
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

    /// Whose thread the next steps run in.
    pub(crate) fn of_main_thread(&self, is: bool) {
        self.0.of_main_thread.store(is, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_armed(&self) -> bool {
        self.0.is_armed()
    }

    /// From now on it must not last. False: nobody can watch, and the owner must not wait.
    #[inline]
    pub(crate) fn arm(&self) -> bool {
        if self.is_armed() {
            return true;
        }
        let turn = self.0.turn.load(Ordering::Relaxed);
        self.0
            .since
            .store(Clock::Monotonic.now(), Ordering::Relaxed);
        // Either the monitor that goes to sleep sees this, or it is seen here that it sleeps.
        self.0.turn.swap(turn.wrapping_add(1), Ordering::SeqCst);
        ARMED.store(ARMED.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        thread::STATE.load(Ordering::SeqCst) == self.0.listed.load(Ordering::Relaxed)
            || self.begin()
    }

    /// The monitor sleeps, or does not know of this watch, or is not there.
    #[cold]
    fn begin(&self) -> bool {
        let watched = thread::watch(&self.0);
        if !watched {
            self.disarm();
        }
        watched
    }

    /// What it was armed for is over.
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

    /// Has the owner act. The GIL is held.
    fn act(&self, overdue: bool) {
        if let Some(owner) = NonNull::new(self.owner.load(Ordering::Relaxed)) {
            // SAFETY: by the word of who made the watch, as it is not dropped.
            crate::cpython::error::guard_quiet(|| unsafe { (self.act)(owner, overdue) });
        }
    }
}

/// Whether a watch is armed. The GIL is held.
#[inline]
pub(crate) fn any_armed() -> bool {
    ARMED.load(Ordering::Relaxed) != 0
}

/// Has the owners of all armed watches act. The GIL is held.
#[cold]
pub(crate) fn act_now() {
    for watched in thread::armed() {
        watched.act(false);
    }
}

/// Ends the monitor's thread, until it is needed again.
pub(crate) fn pause() {
    // Nobody watches what is armed now.
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

/// What the module exports, by name.
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
