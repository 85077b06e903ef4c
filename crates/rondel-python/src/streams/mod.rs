//! `StreamReader`, `StreamWriter`, `StreamReaderProtocol`: asyncio's streams, native.
//!
//! A transport receives bytes and feeds them to the reader (`reader.rs`), by the receiver in
//! `protocol.rs`. That completes the future that a `read()` (`read.rs`) waits on, and its task is
//! put on the ready ring. In the other direction, `writer.write()` (`writer.rs`) passes bytes to
//! the transport.
//!
//! | file | what it has |
//! |---|---|
//! | `reader.rs` | `StreamReader`: buffering and pausing |
//! | `read.rs` | what its `read…()` methods return |
//! | `writer.rs` | `StreamWriter` |
//! | `drain.rs` | what `drain()` and `wait_closed()` return |
//! | `protocol.rs` | `StreamReaderProtocol` |
//! | `handler.rs` | calling the handler of a server's connections |
//! | `attributes.rs` | attributes that stand for one field each |
//! | `factory.rs` | the protocol factory of `start_server` |

mod attributes;
mod drain;
mod factory;
mod handler;
mod protocol;
mod read;
mod reader;
mod writer;

use crate::cpython::{Owned, Res};
use crate::transport::{above, receiver};

/// The classes that the module exports, by name.
pub(crate) fn init_types() -> Res<Vec<(&'static str, Owned)>> {
    receiver::register(&protocol::RECEIVER);
    above::register_factories(&factory::FACTORIES);
    read::init_type()?;
    drain::init_types()?;
    Ok(vec![
        ("StreamReader", reader::init_type()?),
        ("StreamWriter", writer::init_type()?),
        ("StreamReaderProtocol", protocol::init_type()?),
        ("StreamFactory", factory::init_type()?),
    ])
}
