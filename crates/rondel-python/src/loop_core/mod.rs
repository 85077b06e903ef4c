//! A loop's state, its queue items, and the running loop.
//!
//! | file | what it has |
//! |---|---|
//! | `core.rs` | the object: the engine and the loop's state |
//! | `item.rs` | the items that the engine queues for Python |
//! | `current_task/` | the result of `asyncio.current_task()` |
//! | `task_list.rs` | the tasks that are not done |
//! | `files.rs` | the file objects passed to `add_reader` and `add_writer` |
//! | `written.rs` | the writes of a turn until they are sent |
//! | `running_loop.rs` | the loop that runs in this thread |
//!
//! How items run, and the loop's methods, are in `event_loop/`.

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
