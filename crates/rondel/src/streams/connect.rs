//! Making connections.
//!
//! The addresses of a name are tried one after the other, as asyncio does without `happy_eyeballs_delay`. A
//! connect that can't be done at once is finished when the descriptor can be written.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;

use socket2::{Domain, SockAddr, Socket, Type};

use super::connection::Connection;
use super::{StreamReader, StreamWriter};
use crate::resolver::HostPort;
use crate::runtime::{self, Item, Runtime, Source};
use crate::task::Waiter;
use rondel_engine::read_buffer::DEFAULT_LIMIT;

/// Connects to a TCP server.
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

/// As [`open_connection`], with the reader's limit in bytes: the longest line, and half of what is buffered
/// before the peer has to wait.
///
/// # Errors
/// As [`open_connection`].
pub async fn open_connection_with_limit(
    address: impl Into<HostPort>,
    limit: usize,
) -> io::Result<(StreamReader, StreamWriter)> {
    let mut failures = Vec::new();
    for address in address.into().resolve().await? {
        match connect(&address.into()).await {
            Ok(socket) => {
                // A socket that refuses the option works all the same, as asyncio has it.
                let _ = socket.set_tcp_nodelay(true);
                let peer = SockAddr::from(address).into();
                return streams(&runtime::current(), socket.into(), Some(peer), limit);
            }
            Err(error) => failures.push(Failure { address, error }),
        }
    }
    Err(ConnectError(failures).into())
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
    let socket = connect(&address).await?;
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

async fn connect(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::from(i32::from(address.family())),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
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
