//! The synchronisation primitives that cross-thread parts use: the standard library's, or loom's
//! under `--cfg loom`, so that `inbox.rs` and `reactor/uses.rs` are model-checked as they stand.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
