//! The byte-moving half of asyncio's transports.
//!
//! Everything here is state and system calls; nothing calls back. A host asks ("the descriptor is
//! readable", "the program closes") and does what the answer says: register a reader, tell the
//! protocol, schedule `connection_lost`. So both faces drive the same code, and tests need no loop.
//!
//! * `stream.rs`: a connected stream socket, asyncio's `_SelectorSocketTransport` without its
//!   callbacks.
//! * `write_queue.rs`: what waits to be sent, and the system calls that send it.
//! * `send_batch.rs`: several streams' sending by one system call.
//! * `flow_control.rs`: when a writer is paused and resumed.
//! * `intake.rs`: whether what comes is wanted.
//! * `recv_size.rs`: how much room a peer's next bytes get, and the system call that receives them.
//! * `datagram.rs`: a datagram socket; `recv_batch.rs` receives for it.
//! * `pipe.rs`: either end of a pipe, a terminal or the like.
//! * `listener.rs`: accepting connections.
//! * `bare_calls.rs`: the system calls that are made for each message.
//! * `address.rs`: a peer's address in as little memory as it takes.

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
