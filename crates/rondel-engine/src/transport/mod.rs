//! The byte-moving half of asyncio's transports.
//!
//! Everything here is state and system calls, without callbacks. A host reports an event ("the
//! descriptor is readable", "the program closes") and does what the result says: register a reader,
//! call the protocol, schedule `connection_lost`. So both faces drive the same code, and tests need
//! no loop.
//!
//! * `stream.rs`: a connected stream socket, asyncio's `_SelectorSocketTransport` without its
//!   callbacks.
//! * `write_queue.rs`: the data that waits to be sent, and the system calls that send it.
//! * `send_batch.rs`: sends on several streams with one system call.
//! * `flow_control.rs`: when a writer is paused and resumed.
//! * `intake.rs`: whether a transport reads.
//! * `recv_size.rs`: the buffer size for the next receive, and the system call.
//! * `datagram.rs`: a datagram socket; `recv_batch.rs` receives for it.
//! * `pipe.rs`: either end of a pipe, a terminal or a similar device.
//! * `listener.rs`: accepting connections.
//! * `bare_calls.rs`: the system calls that are made for each message.
//! * `address.rs`: a peer's address in little memory.

pub mod address;
mod bare_calls;
pub mod datagram;
pub mod flow_control;
pub mod intake;
pub mod listener;
pub mod pipe;
pub mod recv_batch;
pub mod recv_size;
pub mod send_batch;
pub mod stream;
pub mod write_queue;
