//! Channels: values from tasks to tasks of one loop.
//!
//! | module | from | to | what |
//! |---|---|---|---|
//! | [`oneshot`] | one | one | one value |
//! | [`mpsc`] | many | one | each value, in order |
//! | [`broadcast`] | many | many | each value to each receiver |
//! | [`watch`] | many | many | the newest value |
//!
//! asyncio has none of them (it has [`Queue`](crate::Queue)); names and rules are those of tokio's
//! `sync`, which programs know. They are made of the same lists of waiters as the primitives
//! (`sync/wait_list.rs`): one thread, no atomics, first come, first served. What comes from another
//! thread comes by [`LoopHandle`](crate::LoopHandle).

pub mod broadcast;
mod errors;
pub mod mpsc;
pub mod oneshot;
pub mod watch;
