//! The monitor's thread: how it begins, looks, sleeps and ends.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pyo3::ffi;
use rondel_engine::event_loop::clock::Clock;

use super::{LIMIT, PERIOD, QUIET, Watched};
use crate::cpython::detach::detached;

/// Which monitor there is, and whether it is awake: its number, shifted, and [`ASLEEP`] in the
/// lowest bit.
pub(super) static STATE: AtomicU32 = AtomicU32::new(NONE);
/// There is no monitor.
const NONE: u32 = 0;
const ASLEEP: u32 = 1;
/// No state that a monitor ever has.
pub(super) const NEVER: u32 = u32::MAX;

/// How long a thread that was asked has to act before the interpreter is asked for.
const ASKED: Duration = Duration::from_micros(300);
/// Enough for OpenSSL, which may be called; only what is used is ever real memory.
const STACK: usize = 256 * 1024;

/// What the threads of a process share of the monitor.
#[derive(Default)]
struct Shared {
    watches: Vec<Arc<Watched>>,
    monitor: Option<Monitor>,
    /// How many were begun.
    begun: u32,
    /// A thread was refused.
    refused: bool,
    /// The interpreter ends.
    ended: bool,
}

struct Monitor {
    thread: JoinHandle<()>,
    told: Arc<Told>,
}

/// What the monitor is told, and tells.
#[derive(Default)]
struct Told {
    to_stop: AtomicBool,
    /// The kernel's number of the thread.
    id: AtomicI32,
}

/// Replaced in the child of a fork, as a thread that the child does not have may hold the lock.
static SHARED: AtomicPtr<Mutex<Shared>> = AtomicPtr::new(ptr::null_mut());

fn shared() -> MutexGuard<'static, Shared> {
    let mut mutex = SHARED.load(Ordering::Acquire);
    if mutex.is_null() {
        let new = Box::into_raw(Box::<Mutex<Shared>>::default());
        mutex = match SHARED.compare_exchange(mutex, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => {
                // SAFETY: made above, and not shared with anybody.
                drop(unsafe { Box::from_raw(new) });
                other
            }
        };
    }
    // SAFETY: made as above, and never freed.
    unsafe { &*mutex }
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// In the child of any fork, also one that the interpreter does not know of.
extern "C" fn forked() {
    STATE.store(NONE, Ordering::Relaxed);
    SHARED.store(ptr::null_mut(), Ordering::Relaxed);
}

/// Has the monitor know of a watch and be awake. False if there is none and can't be.
pub(super) fn watch(watched: &Arc<Watched>) -> bool {
    let mut shared = shared();
    if shared.ended || shared.refused {
        return false;
    }
    if shared.monitor.is_none() {
        shared.begun = shared.begun % (NEVER >> 2) + 1;
        match begin(shared.begun) {
            Ok(monitor) => shared.monitor = Some(monitor),
            Err(_no_thread) => {
                shared.refused = true;
                return false;
            }
        }
    }
    let awake = shared.begun << 1;
    if watched.listed.load(Ordering::Relaxed) != awake {
        watched.listed.store(awake, Ordering::Relaxed);
        shared.watches.push(watched.clone());
    }
    STATE.store(awake, Ordering::SeqCst);
    if let Some(monitor) = &shared.monitor {
        monitor.thread.thread().unpark();
    }
    true
}

/// The watches that are armed. The GIL is held.
pub(super) fn armed() -> Vec<Arc<Watched>> {
    let shared = shared();
    let armed = shared.watches.iter().filter(|it| it.is_armed());
    armed.cloned().collect()
}

fn begin(number: u32) -> std::io::Result<Monitor> {
    static AT_FORK: Once = Once::new();
    AT_FORK.call_once(|| {
        // SAFETY: the function is there as long as the process: extension modules are never
        // unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    });
    let told = Arc::<Told>::default();
    let of_thread = told.clone();
    let _blocked = SignalsBlocked::new();
    let thread = thread::Builder::new()
        .name("rondel-monitor".to_owned())
        .stack_size(STACK)
        .spawn(move || run(number << 1, &of_thread))?;
    Ok(Monitor { thread, told })
}

/// A thread that is made meanwhile has all signals blocked from its beginning: none of the
/// program's comes to it.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: both are filled by these calls, which don't fail with these arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set that was saved.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// The monitor.
fn run(awake: u32, told: &Told) {
    // SAFETY: takes nothing.
    told.id.store(unsafe { libc::gettid() }, Ordering::Release);
    be_let_in_at_once();
    let mut quiet = 0;
    let mut pause = Duration::ZERO;
    while !told.to_stop.load(Ordering::Acquire) {
        if quiet >= QUIET && falls_asleep(awake) {
            while STATE.load(Ordering::SeqCst) != awake && !told.to_stop.load(Ordering::Acquire) {
                thread::park();
            }
            quiet = 0;
        } else {
            thread::park_timeout(pause);
        }
        let seen = look();
        quiet = if seen.moved { 0 } else { quiet + 1 };
        pause = seen.pause;
        for (watched, turn) in seen.overdue {
            if !told.to_stop.load(Ordering::Acquire) {
                act(&watched, turn);
            }
        }
    }
}

/// The beginning of the kernel's `struct sched_attr`: as much as all versions have.
#[repr(C)]
#[derive(Default)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for short slices of the processor, which let a thread that wakes run before one that
/// computes: otherwise it may wait for 3 ms on the very processor of the step that lasts. Linux has
/// them from 6.12 on; where this is refused, the monitor is a thread as others.
fn be_let_in_at_once() {
    const SHORTEST: u64 = 100_000; // nanoseconds
    let mut wanted = Scheduling::default();
    let size = size_of::<Scheduling>() as u32;
    // SAFETY: the structure can be written and read for its size.
    unsafe {
        let wanted = &raw mut wanted;
        if libc::syscall(libc::SYS_sched_getattr, 0, wanted, size, 0) < 0 {
            return;
        }
        if (*wanted).policy != libc::SCHED_OTHER as u32 {
            return;
        }
        (*wanted).runtime = SHORTEST;
        libc::syscall(libc::SYS_sched_setattr, 0, wanted, 0);
    }
}

/// What a look has shown.
struct Seen {
    /// A watch was armed since the last time.
    moved: bool,
    /// Which are overdue, with their numbers.
    overdue: Vec<(Arc<Watched>, u32)>,
    /// How long nothing else will be.
    pause: Duration,
}

fn look() -> Seen {
    let mut shared = shared();
    let mut seen = Seen {
        moved: false,
        overdue: Vec::new(),
        pause: PERIOD,
    };
    shared.watches.retain(|watched| !watched.is_gone());
    let now = Clock::Monotonic.now();
    for watched in &shared.watches {
        let turn = watched.turn.load(Ordering::Acquire);
        let before = watched.seen.swap(turn, Ordering::Relaxed);
        seen.moved |= turn & 1 == 1 || turn != before;
        if turn & 1 == 0 {
            continue;
        }
        let since = watched.since.load(Ordering::Relaxed);
        let lasted = Duration::from_nanos(now.saturating_sub(since));
        seen.pause = seen.pause.min(if lasted < LIMIT {
            LIMIT - lasted
        } else {
            seen.overdue.push((watched.clone(), turn));
            LIMIT
        });
    }
    seen
}

/// Whether the monitor may sleep. A watch that is armed from now on wakes it.
fn falls_asleep(awake: u32) -> bool {
    let asleep = awake | ASLEEP;
    let order = (Ordering::SeqCst, Ordering::SeqCst);
    if STATE
        .compare_exchange(awake, asleep, order.0, order.1)
        .is_err()
    {
        // It was stopped.
        return false;
    }
    let shared = shared();
    let armed = |watched: &Arc<Watched>| watched.turn.load(Ordering::SeqCst) & 1 == 1;
    if shared.watches.iter().any(armed) {
        let _stopped = STATE.compare_exchange(asleep, awake, order.0, order.1);
        return false;
    }
    true
}

/// Has the owner of a watch act, in a thread that runs Python code if that is quicker.
fn act(watched: &Arc<Watched>, turn: u32) {
    let any_thread = pending::of_any_thread();
    if (any_thread.is_some() || watched.of_main_thread.load(Ordering::Relaxed))
        && !watched.asked.swap(true, Ordering::Relaxed)
    {
        let asked = Arc::into_raw(watched.clone()).cast_mut().cast();
        // SAFETY: may be called by any thread; the argument is released by the function.
        let taken = unsafe {
            match any_thread {
                Some(add) => add(ffi::PyInterpreterState_Main(), act_asked, asked, 0),
                None => ffi::Py_AddPendingCall(Some(act_asked), asked),
            }
        };
        if taken == 0 {
            thread::park_timeout(ASKED);
        } else {
            watched.asked.store(false, Ordering::Relaxed);
            // SAFETY: it was not taken.
            drop(unsafe { Arc::from_raw(asked.cast::<Watched>()) });
        }
    }
    if watched.turn.load(Ordering::Acquire) != turn {
        return;
    }
    // SAFETY: the interpreter lives: before it ends this thread is stopped. What was ensured is
    // released.
    unsafe {
        let state = ffi::PyGILState_Ensure();
        if watched.turn.load(Ordering::Relaxed) == turn {
            watched.act(true);
        }
        ffi::PyGILState_Release(state);
    }
}

/// Calls that a thread makes between two instructions of Python code.
mod pending {
    use std::ffi::{c_int, c_void};

    use pyo3::ffi;

    /// `_PyEval_AddPendingCall`. Where it takes no more, it gives something else than 0.
    pub(super) type Add = unsafe extern "C" fn(
        *mut ffi::PyInterpreterState,
        extern "C" fn(*mut c_void) -> c_int,
        *mut c_void,
        c_int,
    ) -> c_int;

    /// What has any thread make a call, which `Py_AddPendingCall` has only the main thread do.
    pub(super) fn of_any_thread() -> Option<Add> {
        #[cfg(Py_3_12)]
        return Some(crate::cpython::private::_PyEval_AddPendingCall);
        #[cfg(not(Py_3_12))]
        return None;
    }
}

/// A thread that runs Python code has come to act.
extern "C" fn act_asked(asked: *mut c_void) -> c_int {
    // SAFETY: the reference that was handed over by `act`, which is the only one to have this
    // called.
    let watched = unsafe { Arc::from_raw(asked.cast::<Watched>()) };
    watched.asked.store(false, Ordering::Relaxed);
    if watched.is_armed() {
        watched.act(true);
    }
    0
}

/// Stops the monitor, until a watch is armed again. When this returns the kernel does not count the
/// thread any more.
pub(crate) fn stop() {
    stop_and(|_| {});
}

/// Stops the monitor for good.
pub(crate) fn end() {
    stop_and(|shared| shared.ended = true);
}

fn stop_and(note: impl FnOnce(&mut Shared)) {
    let monitor = {
        let mut shared = shared();
        note(&mut shared);
        STATE.store(NONE, Ordering::SeqCst);
        for watched in shared.watches.drain(..) {
            watched.listed.store(NEVER, Ordering::Relaxed);
        }
        shared.monitor.take()
    };
    let Some(Monitor { thread, told }) = monitor else {
        return;
    };
    told.to_stop.store(true, Ordering::Release);
    thread.thread().unpark();
    detached(|| {
        // It may be waiting for the interpreter.
        let _panicked = thread.join();
        let id = told.id.load(Ordering::Acquire);
        // The kernel wakes who joins before it forgets the thread, and the interpreter asks the
        // kernel how many there are.
        // SAFETY: a system call without pointers; signal 0 is none.
        while unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, 0) } == 0 {
            thread::yield_now();
        }
    });
}
