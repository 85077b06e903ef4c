//! Functions that run in threads: `to_thread`, and `run_in_executor` with the loop's default
//! executor.
//!
//! asyncio makes a `concurrent.futures.Future` for each call, and chains it to a future of the
//! loop. Here the call is a [`job`] that holds the loop's future: the thread that has run it posts
//! the outcome to the loop's inbox.
//!
//! | file | what it has |
//! |---|---|
//! | `job.rs` | one call: running it in the thread, notifying the loop |
//! | `queue.rs` | the queue from which the threads take jobs, and waiting for it |
//! | `submit.rs` | `run_in_executor`: checking the executor, and queueing the job |
//! | `to_thread.rs` | the awaitable of `to_thread` |
//!
//! The executor is `python/rondel/_executor.py`: a `ThreadPoolExecutor` whose threads wait in this
//! queue.

pub(crate) mod job;
mod queue;
pub(crate) mod submit;
mod to_thread;

use crate::cpython::{Owned, Res};

/// The objects that the module exports, by name.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    job::init_type()?;
    Ok(vec![
        ("WorkQueue", queue::init_type()?),
        ("to_thread", to_thread::init()?),
    ])
}
