//! Limits the recursion of native code: by the free space of the thread's stack, and by the
//! interpreter's own counter.
//!
//! Programs nest coroutines that await native awaitables, tasks that wait for each other, and eager
//! tasks to any depth, and each level uses some of the C stack. Up to 3.13 the interpreter counts
//! levels regardless of the stack size (a thread may have 256 KiB), and it does not count purely
//! native levels. So native code that may recurse checks here first, and raises `RecursionError`
//! while there is stack left.

use std::cell::Cell;
use std::mem::MaybeUninit;

use pyo3::ffi;

use super::error::raise;
use super::{Object, Raised, Res};

/// The stack that one more level needs, with what it calls that does not recurse.
const MARGIN: usize = 96 * 1024;
/// A stack without a limit is taken to be as large as this.
const UNLIMITED: usize = 256 * 1024 * 1024;

/// A thread's stack, once it was looked at.
#[derive(Clone, Copy)]
struct Bounds {
    /// The first address of the stack: it grows down to here.
    low: usize,
    /// Below this address little is left.
    short: usize,
    /// Below this one there is not even enough to report an exception.
    last: usize,
}

thread_local! {
    static BOUNDS: Cell<Bounds> = const {
        Cell::new(Bounds {
            low: 0,
            short: usize::MAX,
            last: usize::MAX,
        })
    };
}

/// Whether no more of this thread's stack is left than `limit` says.
#[inline]
fn is_short(limit: fn(&Bounds) -> usize) -> bool {
    let here = MaybeUninit::<u8>::uninit();
    let here = std::hint::black_box(&raw const here).addr();
    here < limit(&BOUNDS.with(Cell::get)) && is_really_short(here, limit)
}

/// The stack is nearly used up, or not known yet; or a library has switched to a stack of its own.
#[cold]
fn is_really_short(here: usize, limit: fn(&Bounds) -> usize) -> bool {
    let mut bounds = BOUNDS.get();
    if bounds.short == usize::MAX {
        bounds = find();
        BOUNDS.set(bounds);
    }
    (bounds.low..limit(&bounds)).contains(&here)
}

/// Asks the C library for this thread's stack.
fn find() -> Bounds {
    const UNKNOWN: Bounds = Bounds {
        low: 0,
        short: 0,
        last: 0,
    };
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the calls fill what they are given; what is read was filled.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return UNKNOWN;
        }
        let result = libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if result != 0 {
            return UNKNOWN;
        }
    }
    let high = low.addr() + size;
    // The main thread's stack grows as it is used: musl tells what it has now. How far it may grow
    // is a limit of the process.
    if let Some(limit) = main_thread_limit() {
        size = limit;
    }
    let low = high.saturating_sub(size);
    let margin = MARGIN.min(size / 4);
    Bounds {
        low,
        short: low + margin,
        last: low + margin / 2,
    }
}

/// How large the stack may become, of the main thread.
fn main_thread_limit() -> Option<usize> {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: system calls without preconditions; the limit is read only if it was filled.
    let limit = unsafe {
        if libc::getpid() != libc::gettid()
            || libc::getrlimit(libc::RLIMIT_STACK, limit.as_mut_ptr()) != 0
        {
            return None;
        }
        limit.assume_init()
    };
    Some(match limit.rlim_cur {
        libc::RLIM_INFINITY => UNLIMITED,
        limit => usize::try_from(limit).unwrap_or(UNLIMITED),
    })
}

/// Raises `RecursionError` if little is left of this thread's stack.
#[inline]
pub(crate) fn check_stack() -> Res<()> {
    if is_short(|bounds| bounds.short) {
        too_deep()
    } else {
        Ok(())
    }
}

/// As [`check_stack`], with a lower limit: for code that may be called to report the error of
/// `check_stack`.
#[inline]
pub(crate) fn check_rest_of_stack() -> Res<()> {
    if is_short(|bounds| bounds.last) {
        too_deep()
    } else {
        Ok(())
    }
}

#[cold]
fn too_deep() -> Res<()> {
    // SAFETY: a built-in class lives as long as the interpreter.
    let class = unsafe { Object::from_ptr(ffi::PyExc_RecursionError) };
    raise(
        class,
        "maximum recursion depth exceeded while calling a Python object",
    )
}

/// Leaves a recursion level that the interpreter counts.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        // SAFETY: the GIL is held; follows a successful `Py_EnterRecursiveCall`.
        unsafe { ffi::Py_LeaveRecursiveCall() };
    }
}

/// Makes a call that may come back here, where asyncio makes one that the interpreter counts: at
/// the interpreter's own limit, and before the stack ends, it raises `RecursionError`.
pub(crate) fn recurse<R>(call: impl FnOnce() -> Res<R>) -> Res<R> {
    check_stack()?;
    // SAFETY: the GIL is held, with a NUL-terminated text.
    if unsafe { ffi::Py_EnterRecursiveCall(c" while calling a Python object".as_ptr()) } != 0 {
        return Err(Raised);
    }
    let _counted = Counted;
    call()
}
