//! [`StreamListener`]: a listening socket whose connections are accepted one by one.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::binding::{self, UnixPath};
use super::connect::streams;
use super::{ServerOptions, StreamReader, StreamWriter};
use crate::descriptor::{AsyncFd, Side};
use crate::resolver::HostPort;
use crate::runtime;
use crate::time::{Instant, sleep_until};
use rondel_engine::transport::address::Address;
use rondel_engine::transport::listener::{ACCEPT_RETRY_DELAY, AcceptError, accept_batch};

/// Listens on a TCP address; who wants a connection [accepts](StreamListener::accept) it.
/// [`start_server`](crate::start_server) has a loop around that.
///
/// A name may have several addresses: this listens on the first that can be bound.
///
/// # Errors
/// As [`start_server`](crate::start_server).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let listener = rondel::listen(("127.0.0.1", 0), rondel::ServerOptions::default()).await?;
///     let client = rondel::create_task(rondel::open_connection(listener.local_addr()?));
///     let (mut reader, _writer) = listener.accept().await?;
///     let (_, writer) = client.await??;
///     writer.write("hello\n");
///     assert_eq!(reader.readline().await?, b"hello\n");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn listen(
    address: impl Into<HostPort>,
    options: ServerOptions,
) -> io::Result<StreamListener> {
    let mut failure = None;
    for address in address.into().resolve_passive().await? {
        match binding::bind(address, &options) {
            Ok(socket) => return Ok(StreamListener::new(socket.into(), &options, None)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// As [`listen`], on a Unix socket; see [`start_unix_server`](crate::start_unix_server) for its
/// path.
///
/// # Errors
/// As [`start_unix_server`](crate::start_unix_server).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let path = format!("\0rondel-listen-{}", std::process::id());
///     let listener = rondel::listen_unix(&path, rondel::ServerOptions::default())?;
///     let (_reader, writer) = rondel::open_unix_connection(&path).await?;
///     writer.write("hello\n");
///     let (mut reader, _writer) = listener.accept().await?;
///     assert_eq!(reader.readline().await?, b"hello\n");
///     Ok(())
/// })?
/// # }
/// ```
pub fn listen_unix(path: impl AsRef<Path>, options: ServerOptions) -> io::Result<StreamListener> {
    let (socket, unlink) = binding::bind_unix(path.as_ref(), &options)?;
    Ok(StreamListener::new(socket.into(), &options, unlink))
}

/// A listening socket, of [`listen`] or [`from_std`](Self::from_std). Dropping it ends the
/// listening.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let options = rondel::ServerOptions::default();
///     let listener: rondel::StreamListener = rondel::listen(("127.0.0.1", 0), options).await?;
///     let (_reader, writer) = rondel::open_connection(listener.local_addr()?).await?;
///     writer.write("hello\n");
///     let (mut reader, _writer) = listener.accept().await?;
///     assert_eq!(reader.readline().await?, b"hello\n");
///     Ok(())
/// })?
/// # }
/// ```
pub struct StreamListener {
    socket: AsyncFd<OwnedFd>,
    limit: usize,
    unlink: Option<UnixPath>,
    /// The process was out of descriptors or memory: not before this.
    retry_at: Cell<Option<Instant>>,
}

impl StreamListener {
    fn new(socket: OwnedFd, options: &ServerOptions, unlink: Option<UnixPath>) -> Self {
        Self {
            socket: AsyncFd::new(socket),
            limit: options.limit,
            unlink,
            retry_at: Cell::new(None),
        }
    }

    /// Takes over a socket that listens: a `TcpListener` or `UnixListener` of the standard library,
    /// or one of [`listen_fds`](crate::listen_fds).
    ///
    /// # Errors
    /// What making it non-blocking fails with.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    ///     let listener = rondel::StreamListener::from_std(listener)?;
    ///     let _client = rondel::open_connection(listener.local_addr()?).await?;
    ///     let (_reader, _writer) = listener.accept().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn from_std(listener: impl Into<OwnedFd>) -> io::Result<Self> {
        let socket = binding::adopted(listener.into())?;
        Ok(Self::new(socket, &ServerOptions::default(), None))
    }

    /// Waits for a connection. Dropped before it is ready, it has accepted none.
    ///
    /// # Errors
    /// What `accept` fails with. When descriptors or memory are used up (`EMFILE`, `ENFILE`, …),
    /// the call after that first waits for a second, so that a loop which only reports errors does
    /// not spin.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let options = rondel::ServerOptions::default();
    ///     let listener = rondel::listen(("127.0.0.1", 0), options).await?;
    ///     let (reader, _writer) = rondel::open_connection(listener.local_addr()?).await?;
    ///     let (accepted, _) = listener.accept().await?;
    ///     assert_eq!(accepted.peer_addr()?, reader.local_addr()?);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn accept(&self) -> io::Result<(StreamReader, StreamWriter)> {
        if let Some(at) = self.retry_at.get() {
            sleep_until(at).await;
            self.retry_at.set(None);
        }
        let accepted = self.socket.with(Side::Reading, |socket| {
            match accept_batch(socket.as_raw_fd(), 1).next() {
                Some(Ok(accepted)) => Ok(accepted),
                None => Err(io::ErrorKind::WouldBlock.into()),
                Some(Err(AcceptError::Failed(error))) => Err(error),
                Some(Err(AcceptError::Exhausted(error))) => {
                    let delay = Duration::from_nanos(ACCEPT_RETRY_DELAY);
                    self.retry_at.set(Some(Instant::now() + delay));
                    Err(error)
                }
            }
        });
        let (socket, peer) = accepted.await?;
        if matches!(peer, Address::V4(_) | Address::V6(_)) {
            let _ = socket2::SockRef::from(&socket).set_tcp_nodelay(true);
        }
        streams(&runtime::current(), socket, Some(peer), self.limit)
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// `Unsupported` for a Unix socket.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let options = rondel::ServerOptions::default();
    ///     let listener = rondel::listen(("127.0.0.1", 0), options).await?;
    ///     assert_ne!(listener.local_addr()?.port(), 0);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Address::of_socket(self.socket.as_fd().as_raw_fd())?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

impl AsFd for StreamListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for StreamListener {
    fn drop(&mut self) {
        if let Some(unlink) = self.unlink.take() {
            unlink.remove();
        }
    }
}

impl fmt::Debug for StreamListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamListener")
            .field("local_addr", &self.local_addr().ok())
            .finish_non_exhaustive()
    }
}
