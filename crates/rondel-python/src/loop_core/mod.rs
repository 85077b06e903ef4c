//! A loop's state, what it queues, and which loop runs.
//!
//! | file | what it has |
//! |---|---|
//! | `core.rs` | the object: the engine and the loop's state |
//! | `item.rs` | what the engine queues for Python |
//! | `current_task/` | which task `asyncio.current_task()` gives |
//! | `task_list.rs` | the tasks that are not done |
//! | `files.rs` | the file objects that `add_reader` was given |
//! | `written.rs` | what a turn has written, until it is sent |
//! | `running_loop.rs` | which loop runs in this thread |
//!
//! How items run, and the methods that programs call, are in `event_loop/`, above.

pub(crate) mod core;
pub(crate) mod current_task;
pub(crate) mod files;
pub(crate) mod item;
pub(crate) mod running_loop;
pub(crate) mod task_list;
pub(crate) mod written;

pub(crate) use core::{
    LoopCore, Notify, check_closed, check_step, check_thread, is_debug, nanos, not_queued,
    this_thread,
};
