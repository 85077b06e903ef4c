//! Making connections.
//!
//! The addresses of a name are tried side by side (`race.rs`), or one after the other, as asyncio
//! does without `happy_eyeballs_delay`. A connect that can't be done at once is finished when the
//! descriptor can be written.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
#[cfg(feature = "rustls")]
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::connection::Connection;
use super::race::{interleaved, race};
use super::{StreamReader, StreamWriter};
use crate::resolver::HostPort;
use crate::runtime::{self, Item, Runtime, Source};
use crate::task::Waiter;
use rondel_engine::read_buffer::DEFAULT_LIMIT;

/// Connects to a TCP server. The addresses of a name are tried by happy eyeballs: see
/// [`ConnectionOptions::happy_eyeballs_delay`]. Dropped before it is ready, it leaves no
/// connection.
///
/// # Errors
/// If the name is not known; if no address can be connected to: then the kind is the system's
/// (`ConnectionRefused`, …) and the text asyncio's.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(async |_, writer| writer.write("hi"), ("127.0.0.1", 0)).await?;
///     let port = server.addresses()[0].port();
///
///     let (mut reader, writer) = rondel::open_connection(("127.0.0.1", port)).await?;
///     assert_eq!(reader.read_to_end().await?, b"hi");
///     assert_eq!(writer.peername().unwrap().port(), port);
///     Ok(())
/// })?
/// # }
/// ```
pub async fn open_connection(
    address: impl Into<HostPort>,
) -> io::Result<(StreamReader, StreamWriter)> {
    open_connection_with_limit(address, DEFAULT_LIMIT).await
}

/// As [`open_connection`], with the reader's limit in bytes: the longest line, and half of what is
/// buffered before the peer has to wait.
///
/// # Errors
/// As [`open_connection`].
pub async fn open_connection_with_limit(
    address: impl Into<HostPort>,
    limit: usize,
) -> io::Result<(StreamReader, StreamWriter)> {
    let options = ConnectionOptions {
        limit,
        ..ConnectionOptions::default()
    };
    open_connection_with(address, options).await
}

/// How a connection is made; [`open_connection`] takes the defaults.
///
/// ```
/// let mut options = rondel::ConnectionOptions::default();
/// options.limit = 1 << 20;
/// options.happy_eyeballs_delay = None;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionOptions {
    /// The reader's limit, in bytes: 64 KiB. The longest line, and half of what is buffered before
    /// the peer has to wait.
    pub limit: usize,
    /// How long an address of a name that has several is tried before the next one is tried beside
    /// it, families in turn: 250 ms, as RFC 8305 recommends. `None`: one after the other, as
    /// asyncio does unless it is told otherwise.
    pub happy_eyeballs_delay: Option<Duration>,
    /// What the own end is bound to: nothing. Addresses of another family are not tried then.
    pub local_addr: Option<SocketAddr>,
    /// How the connection is encrypted: not at all. The certificate is checked for the host's name,
    /// unless there is a [`server_hostname`](Self::server_hostname).
    #[cfg(feature = "rustls")]
    pub ssl: Option<Arc<rustls::ClientConfig>>,
    /// Whom the server's certificate has to be for, if not for the host that is connected to.
    #[cfg(feature = "rustls")]
    pub server_hostname: Option<rustls::pki_types::ServerName<'static>>,
    /// How long the handshake may take: a minute, as with asyncio.
    #[cfg(feature = "rustls")]
    pub ssl_handshake_timeout: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            happy_eyeballs_delay: Some(HAPPY_EYEBALLS_DELAY),
            local_addr: None,
            #[cfg(feature = "rustls")]
            ssl: None,
            #[cfg(feature = "rustls")]
            server_hostname: None,
            #[cfg(feature = "rustls")]
            ssl_handshake_timeout: super::tls::HANDSHAKE_TIMEOUT,
        }
    }
}

const HAPPY_EYEBALLS_DELAY: Duration = Duration::from_millis(250);

/// As [`open_connection`], with options.
///
/// # Errors
/// As [`open_connection`]; what binding to the local address fails with.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(async |_, writer| writer.write("hi"), ("127.0.0.1", 0)).await?;
///     let mut options = rondel::ConnectionOptions::default();
///     options.local_addr = Some(([127, 0, 0, 2], 0).into());
///     let (mut reader, _writer) = rondel::open_connection_with(server.addresses()[0], options).await?;
///     assert_eq!(reader.local_addr()?.ip().to_string(), "127.0.0.2");
///     assert_eq!(reader.read_to_end().await?, b"hi");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn open_connection_with(
    address: impl Into<HostPort>,
    options: ConnectionOptions,
) -> io::Result<(StreamReader, StreamWriter)> {
    let local = options.local_addr;
    let host = address.into();
    #[cfg(feature = "rustls")]
    let tls = match options.ssl {
        None => None,
        Some(config) => {
            let name = options
                .server_hostname
                .map_or_else(|| host.server_name(), Ok)?;
            Some(super::Tls::Client(config, name))
        }
    };
    let mut addresses = host.resolve().await?;
    if let Some(local) = local {
        addresses.retain(|address| address.is_ipv6() == local.is_ipv6());
    }
    let attempt = async |address: SocketAddr| match connect(&address.into(), local).await {
        Ok(socket) => Ok((address, socket)),
        Err(error) => Err(Failure { address, error }),
    };
    let connected = match (&*addresses, options.happy_eyeballs_delay) {
        ([_, _, ..], Some(delay)) => race(interleaved(addresses), delay, attempt).await,
        _ => one_after_the_other(addresses, attempt).await,
    };
    let (address, socket) = connected.map_err(ConnectError)?;
    // A socket that refuses the option works all the same, as asyncio has it.
    let _ = socket.set_tcp_nodelay(true);
    let peer = SockAddr::from(address).into();
    let runtime = runtime::current();
    let (reader, writer) = streams(&runtime, socket.into(), Some(peer), options.limit)?;
    #[cfg(feature = "rustls")]
    if let Some(tls) = tls {
        return super::tls::secured(reader, writer, tls, options.ssl_handshake_timeout).await;
    }
    Ok((reader, writer))
}

async fn one_after_the_other<T, E>(
    addresses: Vec<SocketAddr>,
    attempt: impl AsyncFn(SocketAddr) -> Result<T, E>,
) -> Result<T, Vec<E>> {
    let mut failures = Vec::new();
    for address in addresses {
        match attempt(address).await {
            Ok(connected) => return Ok(connected),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures)
}

/// Connects to a server on a Unix socket.
///
/// # Errors
/// What `socket` and `connect` fail with: `NotFound`, `ConnectionRefused`, …
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let path = std::env::temp_dir().join(format!("rondel-doc-{}.sock", std::process::id()));
/// rondel::run(async {
///     let server = rondel::start_unix_server(async |_, writer| writer.write("hi"), &path).await?;
///     let (mut reader, _writer) = rondel::open_unix_connection(&path).await?;
///     assert_eq!(reader.read_to_end().await?, b"hi");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn open_unix_connection(
    path: impl AsRef<Path>,
) -> io::Result<(StreamReader, StreamWriter)> {
    let address = SockAddr::unix(path)?;
    let socket = connect(&address, None).await?;
    streams(
        &runtime::current(),
        socket.into(),
        Some(address.into()),
        DEFAULT_LIMIT,
    )
}

/// The pair of streams for a connected socket.
pub(super) fn streams(
    runtime: &Rc<Runtime>,
    socket: OwnedFd,
    peer: Option<rondel_engine::transport::address::Address>,
    limit: usize,
) -> io::Result<(StreamReader, StreamWriter)> {
    let connection = Connection::new(Rc::clone(runtime), socket, peer, limit)?;
    Ok((
        StreamReader::new(Rc::clone(&connection)),
        StreamWriter::new(connection),
    ))
}

async fn connect(address: &SockAddr, local: Option<SocketAddr>) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::from(i32::from(address.family())),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    if let Some(local) = local {
        socket.bind(&local.into())?;
    }
    match socket.connect(address) {
        Ok(()) => {
            runtime::current().budget.taken().await;
            return Ok(socket);
        }
        Err(error) if in_progress(&error) => {}
        Err(error) => return Err(error),
    }
    wait_writable(socket.as_raw_fd()).await?;
    match socket.take_error()? {
        None => Ok(socket),
        Some(error) => Err(error),
    }
}

/// An interrupted connect goes on by itself; a full Unix backlog (`EAGAIN`) does not.
fn in_progress(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR))
}

/// Someone who waits for a descriptor to become writable, once.
pub(crate) struct Connecting {
    ready: Cell<bool>,
    waiter: Cell<Option<Waiter>>,
}

impl Connecting {
    pub(crate) fn writable(&self) -> Option<Item> {
        self.ready.set(true);
        self.waiter.take()?.into_item()
    }
}

async fn wait_writable(fd: RawFd) -> io::Result<()> {
    struct Registered(Rc<Runtime>, RawFd);
    impl Drop for Registered {
        fn drop(&mut self) {
            drop(self.0.event_loop.remove_writer(self.1));
        }
    }

    let connecting = Rc::new(Connecting {
        ready: Cell::new(false),
        waiter: Cell::new(None),
    });
    let runtime = runtime::current();
    let source = Source::Connecting(Rc::clone(&connecting));
    drop(runtime.event_loop.add_writer(fd, source)?);
    let _registered = Registered(runtime, fd);
    poll_fn(|context| {
        if connecting.ready.get() {
            return Poll::Ready(Ok(()));
        }
        drop(connecting.waiter.replace(Some(Waiter::new(context))));
        Poll::Pending
    })
    .await
}

/// Why none of a host's addresses could be connected to.
#[derive(Debug)]
struct ConnectError(Vec<Failure>);

#[derive(Debug)]
struct Failure {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.error.raw_os_error().unwrap_or(0);
        let (host, port) = (self.address.ip(), self.address.port());
        write!(f, "[Errno {code}] Connect call failed ('{host}', {port})")
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [failure] => failure.fmt(f),
            failures => {
                f.write_str("Multiple exceptions: ")?;
                for (index, failure) in failures.iter().enumerate() {
                    write!(f, "{}{failure}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        if error.0.is_empty() {
            return Self::new(
                io::ErrorKind::AddrNotAvailable,
                "no matching local address with the host's family found",
            );
        }
        // asyncio: the exception's own type if all are of one, OSError otherwise.
        let mut kinds = error.0.iter().map(|failure| failure.error.kind());
        let first = kinds.next().unwrap_or(io::ErrorKind::Other);
        let kind = if kinds.all(|kind| kind == first) {
            first
        } else {
            io::ErrorKind::Other
        };
        Self::new(kind, error)
    }
}
