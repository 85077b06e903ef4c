//! Releasing the GIL while this thread waits for the kernel.

use pyo3::ffi;

use super::ending::{may_end_here, unwinding};

/// Runs `wait` with the GIL released. `wait` must not touch any object; it may only move references
/// that it owns.
pub(crate) fn detached<R>(wait: impl FnOnce() -> R) -> R {
    /// Takes the GIL again, even if the wait panics: the panic guard raises an exception.
    struct Detached(*mut ffi::PyThreadState);
    impl Drop for Detached {
        fn drop(&mut self) {
            let restore = unwinding!(ffi::PyEval_RestoreThread as fn(*mut ffi::PyThreadState));
            // SAFETY: the state that was saved, on this thread.
            may_end_here(|| unsafe { restore(self.0) });
        }
    }
    // SAFETY: the GIL is held here, and `wait` touches no object.
    let _detached = Detached(unsafe { ffi::PyEval_SaveThread() });
    wait()
}
