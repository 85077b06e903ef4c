//! The engine of Rondel: an event loop and what moves its bytes, without a word on who uses it.
//!
//! It knows neither Python nor Rust futures. It is generic over a [`Host`](event_loop::Host): the
//! items that it queues, and the code that runs them. The crate `rondel` is one host, whose items
//! are Rust tasks; the extension module of the Python package is another.
//!
//! The parts that move bytes are state machines without callbacks. They do one thing and say what
//! came of it; the host drives them and decides whom to tell. So no borrow lasts while a program's
//! code runs.
//!
//! | module | what it owns |
//! |---|---|
//! | [`event_loop`] | one turn of the loop, ready items, timers, the inbox, the clock |
//! | [`reactor`] | readiness of descriptors: the contract, its epoll backend, the wake-up |
//! | [`transport`] | sockets, listeners and pipes: receiving, sending, write queues, flow control |
//! | [`read_buffer`] | what a stream reader has buffered, and what each kind of read makes of it |
//! | [`literal`] | what `getaddrinfo` answers for a literal address |
//! | `refused` | which system calls a filter refuses, so that older ones are used from then on |
//! | `sync` | locks and atomics of the standard library, or loom's where threads are model-checked |

#[cfg(not(target_os = "linux"))]
compile_error!("Rondel runs on Linux only");

pub mod event_loop;
pub mod literal;
pub mod reactor;
pub mod read_buffer;
mod refused;
mod sync;
pub mod transport;
