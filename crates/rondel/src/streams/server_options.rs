//! What a server is told: how it listens, and what its handlers may give.

use std::fmt;
#[cfg(feature = "rustls")]
use std::sync::Arc;
#[cfg(feature = "rustls")]
use std::time::Duration;

use rondel_engine::read_buffer::DEFAULT_LIMIT;

/// How a server listens; [`start_server`](crate::start_server) takes the defaults, which are
/// those of asyncio.
///
/// ```
/// let mut options = rondel::ServerOptions::default();
/// options.backlog = 1000;
/// options.limit = 1 << 20;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// How many connections may wait to be accepted: 100.
    pub backlog: i32,
    /// The limit of the handlers' readers, in bytes: 64 KiB. The longest line, and half of what is
    /// buffered before the peer has to wait.
    pub limit: usize,
    /// Whether other sockets may listen on the same port and share its connections: no.
    pub reuse_port: bool,
    /// How connections are encrypted: not at all. The handshake is done before the handler runs; a
    /// peer that fails it is sent away without anybody's being told.
    #[cfg(feature = "rustls")]
    pub ssl: Option<Arc<rustls::ServerConfig>>,
    /// How long a handshake may take: a minute, as with asyncio.
    #[cfg(feature = "rustls")]
    pub ssl_handshake_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            backlog: 100,
            limit: DEFAULT_LIMIT,
            reuse_port: false,
            #[cfg(feature = "rustls")]
            ssl: None,
            #[cfg(feature = "rustls")]
            ssl_handshake_timeout: super::tls::HANDSHAKE_TIMEOUT,
        }
    }
}

/// What a handler may give: nothing, or a `Result` whose error the loop's [exception
/// handler](crate::set_exception_handler) is told of. That the peer has reset this connection, or
/// has closed it before everything was sent, is no news to anyone: an error that says just that is
/// not reported.
///
/// ```
/// use rondel::{StreamReader, StreamWriter};
///
/// async fn says_nothing(_: StreamReader, _: StreamWriter) {}
/// async fn may_fail(_: StreamReader, writer: StreamWriter) -> std::io::Result<()> {
///     writer.write("hello");
///     writer.drain().await
/// }
///
/// rondel::run(async {
///     let _one = rondel::start_server(says_nothing, ("127.0.0.1", 0)).await?;
///     let _other = rondel::start_server(may_fail, ("127.0.0.1", 0)).await?;
///     Ok::<(), std::io::Error>(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait HandlerOutput {
    /// What the handler has failed with, in words, if it has.
    fn failure(self) -> Option<String>;
}

impl HandlerOutput for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> HandlerOutput for Result<(), E> {
    fn failure(self) -> Option<String> {
        // The alternate form has the causes, too, with the error types that know them.
        self.err().map(|error| format!("{error:#}"))
    }
}
