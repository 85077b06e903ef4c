//! Transports: native classes that are asyncio's (`asyncio.Transport`) to whoever looks.
//!
//! The loop queues a transport itself, without a handle, and calls it by its class's [`ways`]. The
//! state behind is the engine's (`rondel_engine::transport`); what is here is the callbacks around
//! it, to asyncio's letter.
//!
//! The way of a byte in: `reading.rs` → a [`receiver`]: a protocol, or what stands above this
//! folder. Out: `writing.rs`, queued, and sent when the turn is over (`loop_core/written.rs`).
//!
//! | file | what it has |
//! |---|---|
//! | `base.rs`, `methods.rs`, `ending.rs`, `flow.rs` | what all transports have in common |
//! | `ways.rs` | what the loop calls, by class |
//! | `receiver.rs`, `above.rs` | who hears of what comes; what the folders above register |
//! | `socket.rs` | `SocketTransport` |
//! | `reading.rs`, `writing.rs` | what happens to it |
//! | `extra.rs`, `attributes.rs`, `address.rs` | what can be asked of it |
//! | `datagram/` | `DatagramTransport` |
//! | `pipe/` | `ReadPipeTransport`, `WritePipeTransport` |
//! | `descriptor.rs` | a Python object that owns the descriptor |
//! | `listener.rs` | accepting connections |
//! | `chunk.rs`, `unsent.rs` | bytes objects as the engine's chunks; what else waits to be sent |
//! | `loop_calls.rs`, `names.rs` | what these and the streams need of Python |

pub(crate) mod above;
pub(crate) mod address;
mod attributes;
mod base;
pub(crate) mod chunk;
mod datagram;
mod descriptor;
pub(crate) mod ending;
mod extra;
pub(crate) mod flow;
mod listener;
pub(crate) mod loop_calls;
mod methods;
pub(crate) mod names;
mod pipe;
pub(crate) mod reading;
pub(crate) mod receiver;
pub(crate) mod socket;
pub(crate) mod unsent;
pub(crate) mod ways;
pub(crate) mod writing;

use crate::cpython::{Owned, Res};

/// The classes and functions that the module exports, by name.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    names::init()?;
    let mut exports = vec![("SocketTransport", socket::init_type()?)];
    exports.extend(datagram::init()?);
    exports.extend(pipe::init()?);
    exports.extend(listener::init()?);
    Ok(exports)
}
