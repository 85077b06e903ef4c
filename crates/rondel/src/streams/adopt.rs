//! Sockets that others have made, as streams, and streams as sockets again.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::binding;
use super::connect::streams;
use super::{StreamReader, StreamWriter};
use crate::runtime;
use rondel_engine::read_buffer::DEFAULT_LIMIT;
use rondel_engine::transport::address::Address;

/// The streams of a socket that is connected already: a `TcpStream` or `UnixStream` of the standard
/// library, or anything else that owns such a socket. asyncio's `open_connection(sock=…)`.
///
/// The socket is made non-blocking, for everybody who has a duplicate of it.
///
/// # Errors
/// `InvalidInput` if it is no stream socket; what registering it fails with. It is closed then.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let (one, other) = UnixStream::pair()?;
///     let (_reader, writer) = rondel::from_std(one)?;
///     let (mut reader, _writer) = rondel::from_std(other)?;
///     writer.write("hello\n");
///     assert_eq!(reader.readline().await?, b"hello\n");
///     Ok(())
/// })?
/// # }
/// ```
#[track_caller]
pub fn from_std(socket: impl Into<OwnedFd>) -> io::Result<(StreamReader, StreamWriter)> {
    let runtime = runtime::current();
    let socket = binding::adopted(socket.into())?;
    let peer = Address::of_peer(socket.as_raw_fd()).ok();
    streams(&runtime, socket, peer, DEFAULT_LIMIT)
}

/// What [`into_std`] gives back.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
///     let (reader, writer) = rondel::from_std(ours)?;
///     let adopted: rondel::Adopted = rondel::into_std(reader, writer).await?;
///     let _stream = std::os::unix::net::UnixStream::from(adopted.socket);
///     Ok(())
/// })?
/// # }
/// ```
pub struct Adopted {
    /// The socket, which still does not block: `set_nonblocking(false)` changes that.
    pub socket: OwnedFd,
    /// What has arrived and was not read.
    pub unread: Vec<u8>,
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopted")
            .field("socket", &self.socket)
            .field("unread", &self.unread.len())
            .finish()
    }
}

/// Gives the socket of a connection back, when everything that was written is sent, with what was
/// received and not read. Dropped before it is ready, it closes the connection, as dropping the two
/// halves does.
///
/// # Errors
/// What has broken the connection. `InvalidInput` if the halves are of two connections, or encrypt
/// what they carry.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
///
/// # fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// rondel::run(async {
///     let (mut reader, writer) = rondel::open_connection(address).await?;
///     let (mut peer, _) = listener.accept()?;
///     peer.write_all(b"one\ntwo\n")?;
///     assert_eq!(reader.readline().await?, b"one\n");
///
///     let adopted = rondel::into_std(reader, writer).await?;
///     let mut socket = TcpStream::from(adopted.socket);
///     socket.set_nonblocking(false)?;
///     assert_eq!(adopted.unread, b"two\n");
///     peer.write_all(b"three")?;
///     drop(peer);
///     let mut rest = String::new();
///     socket.read_to_string(&mut rest)?;
///     assert_eq!(rest, "three");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn into_std(mut reader: StreamReader, writer: StreamWriter) -> io::Result<Adopted> {
    if !std::rc::Rc::ptr_eq(reader.connection()?, writer.connection()?) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the reader and the writer are of two connections",
        ));
    }
    writer.flushed().await?;
    let mut unread = reader.take_buffered();
    let socket = reader.connection()?.detach(&mut unread)?;
    Ok(Adopted { socket, unread })
}
