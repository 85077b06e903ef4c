//! The synchronisation primitives that cross-thread parts use: the standard library's, or loom's under
//! `--cfg loom`, so that `inbox.rs` is model-checked as it stands.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
