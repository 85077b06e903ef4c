//! asyncio, in Rust.
//!
//! asyncio's vocabulary for Rust programs ([`run`], [`create_task`], [`gather`], [`sleep`], …), on
//! the engine that the Python package `rondel` runs on, too. The engine is a crate of its own,
//! `rondel-engine`.
//!
//! # A program
//! ```
//! use rondel::{StreamReader, StreamWriter};
//!
//! async fn echo(mut reader: StreamReader, writer: StreamWriter) -> std::io::Result<()> {
//!     loop {
//!         let data = reader.read(100).await?;
//!         if data.is_empty() {
//!             return Ok(());
//!         }
//!         writer.write(data);
//!         writer.drain().await?;
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     rondel::run(async {
//!         let server = rondel::start_server(echo, ("127.0.0.1", 0)).await?;
//!         let client = rondel::create_task(rondel::open_connection(server.addresses()[0]));
//!         let (mut reader, writer) = client.await??;
//!         writer.write("hello\n");
//!         assert_eq!(reader.readline().await?, b"hello\n");
//!         Ok(())
//!     })?
//! }
//! ```
//!
//! One thread runs a loop; its futures need not be `Send`, and wakers work from any thread. Names,
//! order and rules are asyncio's wherever Rust allows it. What differs:
//!
//! | asyncio | here |
//! |---|---|
//! | `CancelledError` is raised at an `await` | the future is dropped there: [`Task`] |
//! | `loop.set_exception_handler()` | [`set_exception_handler`] |
//! | an exception of a task | a `Result` is its output; a panic is a [`JoinError`] for who awaits it |
//! | `asyncio.run` raises `KeyboardInterrupt` | [`run`] gives [`RunError::KeyboardInterrupt`] |
//! | `await reader.read()` gives `bytes` | a slice of the reader's buffer, good until the next read |
//! | a `StreamWriter` that is forgotten is closed by the collector | dropping it ends its direction when all is sent; dropping reader and writer closes the connection |
//! | an error of the connection hides what has arrived before it | that is read first, then the error |
//! | what is unsent when the loop ends is lost | it is sent for as long as [`Builder::linger`] says |
//! | `drain`, `read` and `readline` never wait if they need not | now and then they let other tasks run first |
//! | `writer.start_tls()`, `ssl=` | the feature `rustls`: `start_tls`, `ConnectionOptions::ssl`, `ServerOptions::ssl` |
//! | `create_subprocess_exec(program, *arguments)` | [`create_subprocess_exec`], of the standard library's `Command` |
//! | `create_datagram_endpoint(protocol)` | [`create_datagram_endpoint`], whose [`DatagramEndpoint`] sends and receives |
//! | `loop.add_reader()`, `add_writer()` | [`AsyncFd`] |
//! | `async with TaskGroup()` | [`task_group`] with an async closure |
//! | `async with asyncio.timeout() as cm` | [`timeout`], [`timeout_at`], and [`timeout_scope`] for `cm` |
//! | `asyncio.to_thread`, `run_in_executor` | [`spawn_blocking`] |
//!
//! # Its parts
//! | module | what it owns |
//! |---|---|
//! | `runtime` | the engine's host for Rust: [`run`], what its loops queue |
//! | `streams` | readers, writers, servers, and the connections that they share |
//! | `task` | Rust futures as tasks: [`create_task`], [`gather`], [`task_group`] |
//! | `sync` | [`Lock`], [`Event`], [`Condition`], [`Semaphore`], [`Barrier`], [`Queue`] |
//! | `time`, `time_limit` | [`sleep`], [`timeout`] |
//! | `resolver` | names to addresses: [`getaddrinfo`] |
//! | `exceptions` | failures that reach nobody: [`set_exception_handler`] |
//! | `blocking` | threads for work that blocks: [`spawn_blocking`] |
//! | `budget` | how much a step may do before it gives way |
//! | [`fs`] | files, by these threads |
//! | `descriptor` | descriptors of the program's own: [`AsyncFd`] |
//! | `process` | children: [`create_subprocess_exec`] |
//! | `datagram` | UDP: [`create_datagram_endpoint`] |
//! | `duplex`, `hyper` | the traits of other crates: [`Duplex`] |
//! | `signal` | Ctrl-C; `signals`: any other signal: [`signal()`] |
//! | `channels` | [`oneshot`], [`mpsc`], [`broadcast`], [`watch`] |
//! | `future`, `calls`, `loop_handle` | [`Future`]; [`call_soon`] and its like; the loop for other threads: [`LoopHandle`] |
//! | `context` | values of a task and those that it creates: [`ContextVar`] |
//! | `runner`, `debug` | [`Runner`]; slow steps |
//! | `spans` | spans and events for the crate `tracing` |
//! | `primitives` | locks and atomics of the standard library, or loom's where threads are model-checked |

#[cfg(not(target_os = "linux"))]
compile_error!("Rondel runs on Linux only");

#[doc(hidden)]
#[path = "macros.rs"]
pub mod __macros;
mod blocking;
mod budget;
mod calls;
mod channels;
mod context;
mod datagram;
mod debug;
mod descriptor;
mod duplex;
mod exceptions;
pub mod fs;
mod future;
mod guest;
#[cfg(feature = "hyper")]
mod hyper;
mod interval;
mod loop_handle;
mod primitives;
mod process;
mod resolver;
mod runner;
mod runtime;
mod signal;
mod signals;
mod spans;
mod streams;
mod sync;
mod task;
mod time;
mod time_limit;

pub use blocking::{BlockingTask, spawn_blocking};
pub use calls::{Handle, TimerHandle, call_at, call_later, call_soon};
pub use channels::{broadcast, mpsc, oneshot, watch};
pub use context::{Context, ContextVar, Token, copy_context};
pub use datagram::{DatagramEndpoint, create_datagram_endpoint};
pub use debug::{SlowStep, set_slow_step_reporter};
pub use descriptor::AsyncFd;
pub use duplex::Duplex;
pub use exceptions::{
    ExceptionContext, call_exception_handler, default_exception_handler, set_exception_handler,
};
pub use future::{Future, FutureError, FutureWait, InvalidStateError, create_future};
pub use guest::Guest;
#[cfg(feature = "hyper")]
pub use hyper::{RondelExecutor, RondelTimer};
pub use interval::{Interval, MissedTicks, interval, interval_at};
pub use loop_handle::{
    ConcurrentFuture, LoopClosedError, LoopHandle, ResultError, get_running_loop, stop,
};
pub use process::{Process, create_subprocess_exec, create_subprocess_shell, shell};
pub use resolver::{HostPort, getaddrinfo, getnameinfo};
pub use rondel_engine::event_loop::clock::Jump;
/// Makes a program's `main` of an async function: it is [`run`]. What it gives is nothing, or a
/// `Result` whose error can be made of a [`RunError`], as `std::io::Error` and `Box<dyn Error>`
/// can.
///
/// ```
/// #[rondel::main]
/// async fn main() -> std::io::Result<()> {
///     rondel::sleep(std::time::Duration::from_millis(1)).await;
///     Ok(())
/// }
/// ```
pub use rondel_macros::main;
/// Makes a test of an async function. It has a [virtual clock](Builder::virtual_clock), so that
/// sleeping takes no time, unless it is `#[rondel::test(real_clock)]`.
///
/// ```
/// #[rondel::test]
/// async fn an_hour_passes() {
///     let start = rondel::Instant::now();
///     rondel::sleep(std::time::Duration::from_secs(3600)).await;
///     assert_eq!(start.elapsed().as_secs(), 3600);
/// }
/// ```
pub use rondel_macros::test;
pub use runner::Runner;
pub use runtime::{Builder, RunError, run};
pub use signals::{SignalHandler, Signals, add_signal_handler, ctrl_c, signal};
pub use streams::{
    Adopted, ConnectionOptions, HandlerOutput, IncompleteReadError, LimitOverrunError, ReadError,
    Server, ServerOptions, StreamListener, StreamReader, StreamWriter, from_std, into_std, listen,
    listen_fds, listen_unix, open_connection, open_connection_with, open_connection_with_limit,
    open_read_pipe, open_unix_connection, open_write_pipe, start_server, start_server_on,
    start_server_with, start_unix_server, start_unix_server_with, stderr, stdin, stdout,
};
#[cfg(feature = "rustls")]
pub use streams::{Tls, start_tls};
pub use sync::{
    Barrier, BoundedSemaphore, BrokenBarrierError, Condition, ConditionGuard, Event,
    GetNowaitError, LifoQueue, Lock, LockGuard, PriorityQueue, PutError, PutNowaitError, Queue,
    QueueShutDown, ReleaseError, Semaphore, SemaphorePermit, TaskDoneError,
};
pub use task::{
    AsCompleted, Awaitable, CancelHandle, CancelledError, ExceptionGroup, Gather, GatherFuture,
    GatherResults, JoinError, Panic, ReturnWhen, ScopedTask, Shield, Task, TaskBuilder,
    TaskFailure, TaskGroup, TaskScope, TimeoutError, TryGatherError, Wait, all_tasks, as_completed,
    build_task, create_task, current_task, gather, gather_scoped, shield, task_group, task_scope,
    try_gather, try_gather_scoped, wait,
};
pub use time::{Instant, Sleep, advance, sleep, sleep_until, yield_now};
pub use time_limit::{Timeout, TimeoutHandle, timeout, timeout_at, timeout_scope};

/// Runs the Rust programs of README and documentation. Some show what features give.
#[cfg(all(doctest, feature = "hyper", feature = "rustls"))]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../../../docs/rust.md")]
struct Documents;
