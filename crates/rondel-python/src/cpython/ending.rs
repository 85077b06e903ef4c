//! Daemon threads during interpreter finalization.
//!
//! Up to CPython 3.13 a daemon thread that tries to take the GIL during finalization is terminated
//! by `pthread_exit`, which unwinds its stack. Rust frames must not be unwound that way: their
//! destructors would release objects without the GIL, and a `catch_unwind` would abort the process.
//! So every call that may wait for the GIL goes through [`may_end_here`], which stops the unwinding
//! at our first frame: the thread sleeps until the process exits. From 3.14 on the interpreter does
//! the same.

#[cfg(not(Py_3_14))]
mod hanging {
    /// Dropped only by unwinding.
    struct Unwound;

    impl Drop for Unwound {
        #[cold]
        fn drop(&mut self) {
            loop {
                // SAFETY: no preconditions. The thread has nothing left to do.
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

/// Makes a call that may wait for the GIL. It must be through a function pointer with the ABI
/// `C-unwind`, from [`unwinding!`]: the compiler assumes that other functions never unwind.
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
