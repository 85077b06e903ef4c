//! Daemon threads at the end of the interpreter.
//!
//! Up to CPython 3.13 a thread that wants the interpreter while it ends is ended by `pthread_exit`,
//! which unwinds the thread's stack. Frames of Rust must not be unwound so: their destructors would
//! release objects without the interpreter, and what catches panics ends the process. Every call
//! that may wait for the interpreter is therefore made through [`may_end_here`], which stops the
//! unwinding where it comes to the first frame of ours: the thread sleeps until the process is
//! gone. That is what the interpreter itself does from 3.14 on.

#[cfg(not(Py_3_14))]
mod hanging {
    /// Dropped only by unwinding.
    struct Unwound;

    impl Drop for Unwound {
        #[cold]
        fn drop(&mut self) {
            loop {
                // SAFETY: no preconditions. The thread has nothing to do any more, not even to end.
                unsafe { libc::pause() };
            }
        }
    }

    #[inline]
    pub(crate) fn may_end_here<R>(call: impl FnOnce() -> R) -> R {
        let guard = Unwound;
        let result = call();
        std::mem::forget(guard);
        result
    }
}

#[cfg(not(Py_3_14))]
pub(crate) use hanging::may_end_here;

/// Makes a call that may wait for the interpreter. It must be of a function pointer with the ABI
/// `C-unwind`, from [`unwinding!`]: of any other the compiler knows that it never unwinds.
#[cfg(Py_3_14)]
#[inline]
pub(crate) fn may_end_here<R>(call: impl FnOnce() -> R) -> R {
    call()
}

/// A function of the C API as one that may unwind. The compiler is not to see which one it is, as
/// it is declared otherwise.
macro_rules! unwinding {
    ($function:path as fn($($argument:ty),* $(,)?) $(-> $result:ty)?) => {{
        type Plain = unsafe extern "C" fn($($argument),*) $(-> $result)?;
        type Unwinding = unsafe extern "C-unwind" fn($($argument),*) $(-> $result)?;
        let function: Plain = if cfg!(Py_3_14) { $function } else { std::hint::black_box($function) };
        // SAFETY: the same function by the same convention.
        unsafe { std::mem::transmute::<Plain, Unwinding>(function) }
    }};
}
pub(crate) use unwinding;
