//! Streams: bytes with asyncio's reads and writes. What each kind of read makes of the bytes that
//! have arrived is the engine's `read_buffer.rs`.
//!
//! * `connection.rs`: what a reader and a writer share: a transport's stream, driven by the
//!   reactor.
//! * `chunk.rs`: the buffers that go round.
//! * `connection/ending.rs`: how a connection ends; `linger.rs`: what is still to be sent when
//!   nobody waits for it.
//! * `outbox.rs`: what the running step has written and not sent yet.
//! * `reader.rs`, `writer.rs`: the two halves that programs have.
//! * `connect.rs`: connections that are made, `race.rs`: to several addresses at once. `adopt.rs`:
//!   sockets of others, and back.
//! * `server.rs`: connections that are accepted, `listener.rs`: one by one; `binding.rs`: the
//!   sockets that listen for them, `activation.rs`: those of a service manager.
//! * `pipe.rs`: readers and writers of what is no socket.
//! * `sendfile.rs`: files to sockets.
//! * `tls.rs`: handshakes; `connection/secured.rs`: connections that are encrypted.
//! * `errors.rs`: why a read has no result.

mod activation;
mod adopt;
mod binding;
mod chunk;
mod connect;
mod connection;
mod errors;
pub(crate) mod linger;
mod listener;
mod outbox;
mod pipe;
mod race;
mod reader;
mod sendfile;
mod server;
mod server_options;
#[cfg(feature = "rustls")]
mod tls;
mod writer;

pub use activation::listen_fds;
pub use adopt::{Adopted, from_std, into_std};
pub(crate) use connect::Connecting;
pub use connect::{
    ConnectionOptions, open_connection, open_connection_with, open_connection_with_limit,
    open_unix_connection,
};
pub(crate) use connection::Connection;
pub use errors::{IncompleteReadError, LimitOverrunError, ReadError};
pub use listener::{StreamListener, listen, listen_unix};
pub(crate) use outbox::Outbox;
pub use pipe::{open_read_pipe, open_write_pipe, stderr, stdin, stdout};
pub use reader::StreamReader;
pub(crate) use server::Listener;
pub use server::{
    Server, start_server, start_server_on, start_server_with, start_unix_server,
    start_unix_server_with,
};
pub use server_options::{HandlerOutput, ServerOptions};
#[cfg(feature = "rustls")]
pub use tls::{Tls, start_tls};
pub use writer::StreamWriter;
