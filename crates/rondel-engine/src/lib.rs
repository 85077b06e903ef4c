//! The engine of Rondel: an event loop and its transports, independent of their user.
//!
//! It knows neither Python nor Rust futures. It is generic over a [`Host`](event_loop::Host): the
//! items that it queues, and the code that runs them. The crate `rondel` is one host, whose items
//! are Rust tasks; the extension module of the Python package is another.
//!
//! The transports are state machines without callbacks. Each method does one thing and returns the
//! result; the host drives them and calls the program. So no borrow is held while a program's code
//! runs.
//!
//! | module | what it owns |
//! |---|---|
//! | [`event_loop`] | one turn of the loop, ready items, timers, the inbox, the clock |
//! | [`reactor`] | readiness of descriptors: the contract, its epoll backend, the wake-up |
//! | [`transport`] | sockets, listeners and pipes: receiving, sending, write queues, flow control |
//! | [`read_buffer`] | a stream reader's buffered bytes, and the result of each kind of read |
//! | [`literal`] | the answer of `getaddrinfo` for a literal address |
//! | `refused` | system calls that a filter refuses, and that older ones replace |
//! | `sync` | the standard library's locks and atomics, or loom's under model checking |

#[cfg(not(target_os = "linux"))]
compile_error!("Rondel runs on Linux only");

pub mod event_loop;
pub mod literal;
pub mod reactor;
pub mod read_buffer;
mod refused;
mod sync;
pub mod transport;
