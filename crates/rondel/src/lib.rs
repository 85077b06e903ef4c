//! asyncio, in Rust.
//!
//! This crate is two things. It is the **engine** that the Python package `rondel` runs on: the event
//! loop's turn, its ready ring, timers, cross-thread inbox and reactor, and the byte-moving half of
//! transports and streams. And it is a **face** of its own: asyncio's vocabulary for Rust programs
//! ([`run`], [`create_task`], [`gather`], [`sleep`], …), built on the same engine.
//!
//! The engine knows nothing of Python and nothing of Rust futures. It is generic over a
//! [`Host`](event_loop::Host): the items that it queues and the code that runs them.
//!
//! | module | what it owns |
//! |---|---|
//! | [`event_loop`] | one turn of the loop, ready items, timers, the inbox, the clock |
//! | [`reactor`] | readiness of descriptors: the contract, its epoll backend, the wake-up |
//! | [`transport`] | connected stream sockets, listeners, write queues, flow control |
//! | [`streams`] | what a stream reader has buffered, and how reads take it |
//! | `runtime` | the Rust face's host: [`run`], what its loops queue |
//! | `task` | Rust futures as tasks: [`create_task`], [`gather`], [`task_group`] |
//! | `time` | [`sleep`], [`timeout`] |
//! | `blocking` | threads for work that blocks: [`spawn_blocking`] |
//! | `signal` | Ctrl-C |

mod blocking;
pub mod event_loop;
pub mod reactor;
mod resolver;
mod runtime;
mod signal;
pub mod streams;
mod sync;
mod task;
mod time;
pub mod transport;

pub use blocking::{BlockingTask, spawn_blocking};
pub use resolver::{HostPort, getaddrinfo};
pub use runtime::{Builder, RunError, run};
pub use streams::{
    HandlerOutput, IncompleteReadError, LimitOverrunError, ReadError, Server, ServerOptions,
    StreamReader, StreamWriter, open_connection, open_connection_with_limit, open_unix_connection,
    start_server, start_server_with, start_unix_server,
};
pub use task::{
    CancelHandle, CancelledError, ExceptionGroup, Gather, GatherFuture, JoinError, Task,
    TaskFailure, TaskGroup, TimeoutError, create_task, current_task, gather, task_group,
};
pub use time::{Instant, Sleep, Timeout, sleep, sleep_until, timeout, timeout_at, yield_now};
