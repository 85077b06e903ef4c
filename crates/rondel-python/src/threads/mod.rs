//! Functions that run in threads: `to_thread`, and `run_in_executor` where the executor is the
//! loop's own.
//!
//! asyncio wraps a `concurrent.futures.Future` for each call, and chains it to one of the loop's.
//! Here the call is a [`job`] that knows the loop's future: the thread that has run it puts the
//! outcome into the loop's inbox.
//!
//! | file | what it has |
//! |---|---|
//! | `job.rs` | one call: running it in the thread, telling the loop |
//! | `queue.rs` | the queue that the threads take jobs from, and the waiting |
//! | `submit.rs` | `run_in_executor`: whose executor it is, and the way into the queue |
//! | `to_thread.rs` | the awaitable |
//!
//! The executor is `python/rondel/_executor.py`: a `ThreadPoolExecutor` whose threads wait in this
//! queue.

pub(crate) mod job;
mod queue;
pub(crate) mod submit;
mod to_thread;

use crate::cpython::{Owned, Res};

/// What the module exports, by name.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    job::init_type()?;
    Ok(vec![
        ("WorkQueue", queue::init_type()?),
        ("to_thread", to_thread::init()?),
    ])
}
