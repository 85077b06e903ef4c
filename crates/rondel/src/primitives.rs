//! The synchronisation primitives that cross-thread parts use: the standard library's, or loom's
//! under `--cfg loom`, so that tasks' references and the pool of threads are model-checked as they
//! stand (`make test-loom`).

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread::{Builder as ThreadBuilder, JoinHandle},
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread::{Builder as ThreadBuilder, JoinHandle},
};

/// Whether a thread has ended. `false` may come too late: it is asked only to forget threads.
pub(crate) fn has_ended(thread: &JoinHandle<()>) -> bool {
    #[cfg(loom)]
    let has_ended = {
        let _ = thread;
        false
    };
    #[cfg(not(loom))]
    let has_ended = thread.is_finished();
    has_ended
}
